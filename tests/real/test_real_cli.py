"""The command line from run to report, with real ranks of the reference stack and nothing else in the way."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch.processes import read_stat
from lanemark.measure.beacon import BeaconError, BeaconView, read_beacon
from lanemark.records.shards import header

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]
LANEMARK = [sys.executable, "-m", "lanemark"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of token shards that a user might have: the public layout, no manifest."""
    directory = tmp_path_factory.mktemp("shards")
    draw = random.Random(7)
    for number in range(2):
        tokens = [draw.randrange(4096) for _ in range(60_000)]
        body = struct.pack(f"<{len(tokens)}H", *tokens)
        (directory / f"text_train_{number:06d}.bin").write_bytes(header(len(tokens)) + body)
    return directory


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "LANEMARK_"))}
    return {**kept, "LANEMARK_HOME": str(home), **more}


def lanemark(home: Path, *args: str, prefix: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *LANEMARK, *args],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=environment(home, **more),
    )


def pages(home: Path, nproc: int) -> list[BeaconView] | None:
    """Every rank's beacon page once all of them are in the measured window."""
    try:
        found = [read_beacon(path) for path in home.glob("attempts/*/ranks/*/beacon.page")]
    except (OSError, BeaconError):
        return None
    return found if len(found) == nproc and all(page.phase == "window" and page.step > 3 for page in found) else None


def wait_for(what: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    end = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < end, "timed out waiting"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One good run, without git and without a network: (home, what `run --json` printed)."""
    home = tmp_path_factory.mktemp("home")
    bare = tmp_path_factory.mktemp("path")
    for tool in ("uname", "sh"):
        (bare / tool).symlink_to(shutil.which(tool) or "/bin/sh")
    isolated: tuple[str, ...] = ()
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if os.geteuid() == 0 and unshare and ip and subprocess.run([unshare, "-n", "true"], check=False).returncode == 0:
        isolated = (unshare, "-n", "/bin/sh", "-c", f'{ip} link set lo up && exec "$@"', "sh")
    done = lanemark(
        home, "run", "training", "--nproc", "2", "--steps", "8", "--warmup", "2", "--data", str(shards), "--json",
        prefix=isolated, PATH=str(bare),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_run_prints_one_json_document_and_the_record_verifies(finished: tuple[Path, dict[str, Any]]) -> None:
    home, said = finished
    assert (said["state"], said["receipt"], said["appended"]) == ("ok", True, True)
    assert Path(said["record_path"]).is_file()
    verified = lanemark(home, "verify", said["record_id"], said["record_path"], "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["verified"] is True


def test_the_record_says_what_was_observed(finished: tuple[Path, dict[str, Any]], shards: Path) -> None:
    home, said = finished
    shown = json.loads(lanemark(home, "show", said["run_id"], "--json").stdout)
    assert shown["record_id"] == said["record_id"]
    predicate = shown["statement"]["predicate"]
    assert predicate["source"]["commit"]["status"] == "unavailable", "there is no git, so nothing could be looked up"
    assert predicate["hardware"]["observed"]["device_class"]["value"] == "cpu"
    assert predicate["distributed"]["observed"]["mode"]["value"] == "fsdp2"
    assert predicate["distributed"]["observed"]["world_size"]["value"] == 2
    assert predicate["distributed"]["observed"]["backend"]["value"] == "gloo"
    assert predicate["data"]["path_class"]["value"] in ("local_disk", "page_cache", "ram")
    assert {Path(entry["name"]).name for entry in predicate["data"]["paths"]} <= {p.name for p in shards.iterdir()}
    assert predicate["data"]["token_parity"]["value"] is True
    training = predicate["training"]
    assert len(training["samples"]["measured"]) == 6
    assert len(training["samples"]["warmup"]) == 2
    mean_s = sum(training["samples"]["measured"]) / 6 / 1e9
    assert training["tokens_per_s"]["value"] == pytest.approx(training["tokens_per_step"] / mean_s)
    assert training["mfu"]["status"] == "unavailable"
    assert training["loss"]["finite"]["value"] is True
    assert training["memory"]["rss_peak_bytes"]["value"] > 50 * 2**20
    phases = {span["phase"] for span in training["ranks"][0]["phases"]}
    assert {"import", "init_process_group", "build", "shard", "warmup", "window"} <= phases


def test_show_reads_like_a_review_at_80_columns(finished: tuple[Path, dict[str, Any]]) -> None:
    home, said = finished
    shown = lanemark(home, "show", said["record_id"][7:20], COLUMNS="80")
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for words in ("tok/s", "fsdp2", "What this does not prove", "any → cpu", said["record_id"]):
        assert words in shown.stdout
    assert "\x1b" not in shown.stdout, "no colours into a pipe"


def test_list_in_every_format(finished: tuple[Path, dict[str, Any]]) -> None:
    home, said = finished
    as_json = json.loads(lanemark(home, "list", "--json", "--preset", "dense-nano", "--gpu", "cpu").stdout)
    assert [row["id"] for row in as_json["records"]] == [said["record_id"]]
    rows = list(csv.DictReader(io.StringIO(lanemark(home, "list", "--format", "csv").stdout)))
    assert rows[0]["id"] == said["record_id"]
    assert said["record_id"][7:19] in lanemark(home, "list").stdout
    assert json.loads(lanemark(home, "list", "--json", "--since", "2999").stdout)["records"] == []


def test_runs_report_and_index(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    home, said = finished
    runs = json.loads(lanemark(home, "runs", "--json").stdout)["runs"]
    assert [(run["run_id"], run["state"]) for run in runs] == [(said["run_id"], "ok")]
    page = tmp_path / "report.html"
    assert lanemark(home, "report", "-o", str(page)).returncode == 0
    assert said["record_id"][7:19] in page.read_text()
    for index in home.glob("ledger/index.sqlite*"):
        index.unlink()
    assert lanemark(home, "index", "sync").returncode == 0
    assert len(json.loads(lanemark(home, "list", "--json").stdout)["records"]) == 1


def test_collect_with_nothing_to_do_is_healthy(finished: tuple[Path, dict[str, Any]]) -> None:
    home, said = finished
    done = lanemark(home, "collect", said["run_id"], "--wait", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["runs"][0]["state"] == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only file system needs root")
def test_a_read_only_home_is_refused_and_still_readable(tmp_path: Path) -> None:
    made = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(made, check=False, capture_output=True).returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        refused = lanemark(tmp_path, "run", "training", "--data", "synthetic")
        assert (refused.returncode, "[home-unwritable]" in refused.stderr) == (4, True)
        assert "LANEMARK_HOME" in refused.stderr
        for verb in ("list", "runs", "collect"):
            assert lanemark(tmp_path, verb).returncode == 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def started(home: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LANEMARK, "run", "training", "--nproc", "2", "--data", "synthetic", "--steps", "2000", "--warmup", "1", *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home),
    )  # fmt: skip


def lives(pid: int) -> bool:
    """Whether a process runs. A zombie does not: whoever adopted it may take its time to collect its status."""
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


def test_a_killed_rank_of_the_real_stack_is_named_and_its_peer_is_not_blamed(tmp_path: Path) -> None:
    """Gloo makes the survivor complain of a closed connection; the record must not take its word."""
    process = started(tmp_path, "--json")
    victim = next(page for page in wait_for(lambda: pages(tmp_path, 2)) if page.rank == 1)
    os.kill(victim.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    said = json.loads(out)
    assert (said["first_cause"]["kind"], said["first_cause"]["rank"]) == ("rank_killed", 1)
    assert "[run-failed]" in err
    assert "Traceback" not in err
    shown = lanemark(tmp_path, "show", said["record_id"])
    assert "SIGKILL" in shown.stdout
    assert "tok/s over" not in shown.stdout


def test_ctrl_c_cancels_and_leaves_a_record(tmp_path: Path) -> None:
    process = started(tmp_path)
    seen = wait_for(lambda: pages(tmp_path, 2))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "[run-cancelled]" in err
    assert "Traceback" not in err
    assert "cancelled" in out
    for page in seen:
        assert not lives(page.pid)


def test_kill_9_of_the_command_is_sealed_by_the_next_runs(tmp_path: Path) -> None:
    process = started(tmp_path)
    seen = wait_for(lambda: pages(tmp_path, 2))
    process.kill()
    process.communicate()
    wait_for(lambda: not any(lives(page.pid) for page in seen), timeout_s=20)
    runs = lanemark(tmp_path, "runs", "--json")
    assert [run["state"] for run in json.loads(runs.stdout)["runs"]] == ["lost"]
    assert "sealed as lost" in runs.stderr
    records = json.loads(lanemark(tmp_path, "list", "--json").stdout)["records"]
    assert lanemark(tmp_path, "verify", records[0]["id"]).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_the_startup_state_is_observed_and_not_declared(tmp_path: Path, shards: Path) -> None:
    """One cold compilation, captured; then a seed from it, the same host again, and a cache that came from elsewhere."""
    archive, other = tmp_path / "seed.tar.zst", tmp_path / "other"
    compiled = ("run", "training", "--compile", "regional", "--steps", "5", "--warmup", "2", "--sequence", "64")

    def run(*more: str, home: Path = tmp_path) -> dict[str, Any]:
        done = lanemark(home, *compiled, "--data", str(shards), *more, "--json")
        assert done.returncode == 0, done.stderr
        shown = lanemark(home, "show", json.loads(done.stdout)["record_id"], "--json")
        predicate: dict[str, Any] = json.loads(shown.stdout)["statement"]["predicate"]
        assert value(predicate["data"]["token_parity"]) is True
        return predicate

    def value(seen: dict[str, Any]) -> Any:
        assert seen["status"] == "observed", seen
        return seen["value"]

    def start(predicate: dict[str, Any]) -> tuple[str, str, int]:
        part = predicate["startup"]
        new_files = value(predicate["training"]["ranks"][0]["cache"]["new_files"])
        return value(part["state"]), value(part["purpose"])["kind"], new_files

    refused = lanemark(tmp_path, *compiled, "--data", "synthetic", "--cache-policy", "require")
    assert (refused.returncode, "[cache-missing]" in refused.stderr) == (4, True)

    cold = run("--cache-policy", "cold", "--cache-to", str(archive))
    assert start(cold)[:2] == ("cold", "cold_measurement")
    assert start(cold)[2] > 10
    assert value(cold["training"]["ranks"][0]["cache"]["used"])["binaries"] > 0
    assert archive.is_file()
    assert not Path(value(cold["startup"]["cache_directory"])).exists(), "nobody finds a cold start's cache"

    seeded = run(
        "--cache-policy", "require", "--cache-from", str(tmp_path / "none.tar.zst"), "--cache-from", str(archive)
    )
    assert start(seeded) == ("seeded", "benchmark", 0)
    assert [layer["outcome"] for layer in value(seeded["startup"]["layers"])] == ["unreachable", "used"]
    assert value(seeded["startup"]["coverage_before"])["covered"] is True

    again = run("--cache-policy", "require")
    assert start(again) == ("long_lived", "benchmark", 0)
    assert again["startup"]["clocks"]["earlier_run"]["value"] == seeded["run_id"]
    assert again["plan_digest"] == seeded["plan_digest"], "where a cache comes from is no part of the question"
    assert again["plan_digest"] != cold["plan_digest"], "the policy is"

    shutil.copytree(tmp_path / "cache", other / "cache", ignore=shutil.ignore_patterns("coverage"))
    carried = run(home=other)
    assert start(carried) == ("warm", "seeding_pass", 0)
    assert "seeding_pass" in {finding["kind"] for finding in carried["findings"]}
    assert list((other / "cache" / "coverage").glob("*.json")), "the next run of the case is a benchmark"

    for predicate in (cold, seeded, again, carried):
        rank = predicate["training"]["ranks"][0]
        assert sum(value(rank["first_step"]).values()) == pytest.approx(value(rank["first_step_s"]))
        assert value(predicate["compile"]["observed"]["posture"]) == "regional"
    slowest = [value(predicate["compile"]["observed"]["compile_s_max"]) for predicate in (cold, seeded, again, carried)]
    assert max(slowest) == slowest[0]
