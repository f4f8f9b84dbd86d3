"""Every way a run ends, with real processes: each leaves one sealed record that verifies and names the right cause."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.sweep import attempts, seal_lost
from lanemark.launch import guard
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home

PROGRAMS = Path(__file__).parent / "programs"
RANK = [sys.executable, str(PROGRAMS / "rank_program.py")]


def start(
    home: Path,
    *mode: str,
    nproc: int = 2,
    steps: int = 400,
    stall_s: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAMS / "conduct_program.py"), str(home), str(nproc), str(steps), str(stall_s)]
    return subprocess.Popen(
        [*command, *RANK, *mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def predicate_of(home: Path, record_id: str) -> dict[str, Any]:
    """The record, read from the ledger and verified with its evidence."""
    ledger = Ledger(Home(home).ledger)
    report = ledger.verify(record_id)
    assert report.ok, report.steps
    predicate: dict[str, Any] = ledger.get(record_id).doc["predicate"]
    if predicate["training"]["samples"]["measured"]:  # whatever a run measured, its files give again
        assert next(step for step in report.steps if step.name == "figures").status == "ok"
    return predicate


def wait_for(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():  # a condition, asked until it holds
        assert time.monotonic() < end, "timed out waiting"
        time.sleep(0.05)


def stepping(home: Path, nproc: int = 2) -> bool:
    """Whether every rank of the one attempt has recorded a few steps."""
    from lanemark.measure.samples import SamplesError, read_samples

    try:
        files = list((home / "attempts").glob("*/ranks/*/samples.bin"))
        return len(files) == nproc and all(len(read_samples(file).rows) > 2 for file in files)
    except (OSError, SamplesError):
        return False


@pytest.mark.parametrize(
    ("mode", "kind", "rank"),
    [
        ("raise", "rank_raised", 1),
        ("exit0", "rank_exited_early", 1),
        ("exit3", "rank_exited", 1),
        ("sigkill", "rank_killed", 1),
        ("memory", "rank_out_of_memory", 0),
    ],
)
def test_a_failed_rank_is_named_in_a_sealed_record(tmp_path: Path, mode: str, kind: str, rank: int) -> None:
    done = finish(start(tmp_path, mode, str(rank)))
    predicate = predicate_of(tmp_path, done["record_id"])
    outcome = predicate["outcome"]
    assert outcome["state"] == "error"
    assert (outcome["first_cause"]["kind"], outcome["first_cause"]["rank"]) == (kind, rank)
    assert outcome["receipt"] is False
    assert predicate["training"]["tokens_per_s"]["status"] == "unavailable"
    assert [step["state"] for step in predicate["transitions"]] == ["prepared", "running", "error"]
    innocent = outcome["ranks"][1 - rank]
    assert innocent["signal_by"] in ("supervisor", "nobody")


def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    """SIGSTOP leaves a living process that answers `kill -0`; only its state letter tells."""
    done = finish(start(tmp_path, "sigstop", "1"))
    outcome = predicate_of(tmp_path, done["record_id"])["outcome"]
    assert (outcome["first_cause"]["kind"], outcome["first_cause"]["rank"]) == ("rank_stopped", 1)


def test_a_hang_ends_at_the_stall_limit_as_a_record(tmp_path: Path) -> None:
    done = finish(start(tmp_path, "hang", "0", nproc=1, stall_s=2.0))
    outcome = predicate_of(tmp_path, done["record_id"])["outcome"]
    assert outcome["first_cause"]["kind"] == "stalled"
    assert "2 s" in outcome["first_cause"]["summary"]


def test_printing_200_megabytes_neither_fills_the_disk_nor_the_ledger(tmp_path: Path) -> None:
    done = finish(start(tmp_path, "print", "0", str(200 * 1024 * 1024), steps=5))
    predicate = predicate_of(tmp_path, done["record_id"])
    assert "logs_truncated" in [finding["kind"] for finding in predicate["findings"]]
    assert sum(item["bytes"] for item in predicate["evidence"]) < 4 * 1024 * 1024
    on_disk = sum(file.stat().st_blocks * 512 for file in tmp_path.rglob("*") if file.is_file())
    assert on_disk < 48 * 1024 * 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_supervisor_cancels_and_seals(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "steps", "99")
    wait_for(lambda: stepping(tmp_path))
    process.send_signal(number)
    done = finish(process)
    predicate = predicate_of(tmp_path, done["record_id"])
    assert predicate["outcome"]["state"] == "cancelled"
    assert predicate["outcome"]["first_cause"]["kind"] == "interrupted"
    assert number.name in predicate["outcome"]["first_cause"]["summary"]
    assert predicate["training"]["samples"]["measured"], "the samples taken so far are kept"
    assert predicate["training"]["tokens_per_s"]["status"] == "unavailable"


def test_kill_9_of_the_supervisor_leaves_no_rank_and_the_next_look_seals_the_attempt_as_lost(tmp_path: Path) -> None:
    process = start(tmp_path, "steps", "99")
    wait_for(lambda: stepping(tmp_path))
    attempt = next((tmp_path / "attempts").iterdir())
    process.kill()
    process.communicate()
    wait_for(lambda: guard.marked_pids(guard.marker(str(attempt))) == [], timeout_s=10)
    home = Home(tmp_path)
    collected = seal_lost(home)
    assert [item.run_id for item in collected] == [attempt.name]
    assert seal_lost(home) == [], "a second look finds nothing left to seal"
    (manifest,), problems = attempts(home)
    assert problems == []
    assert (manifest.state.value, manifest.appended) == ("lost", True)
    predicate = predicate_of(tmp_path, manifest.record_id or "")
    assert predicate["outcome"]["first_cause"]["kind"] == "supervisor_lost"
    assert len(predicate["training"]["samples"]["warmup"]) == 1, "samples survive the death of ranks and supervisor"
    assert predicate["times"]["duration_s"]["status"] == "unavailable"


def test_a_running_attempt_is_left_alone(tmp_path: Path) -> None:
    process = start(tmp_path, "steps", "99")
    try:
        wait_for(lambda: stepping(tmp_path))
        assert seal_lost(Home(tmp_path)) == []
        (manifest,), _ = attempts(Home(tmp_path))
        assert manifest.state.value == "running"
    finally:
        process.send_signal(signal.SIGTERM)
        finish(process)


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    both = [start(tmp_path, "raise", "0"), start(tmp_path, "exit3", "1")]
    kinds = [predicate_of(tmp_path, finish(one)["record_id"])["outcome"]["first_cause"]["kind"] for one in both]
    assert kinds == ["rank_raised", "rank_exited"]
    assert len(Ledger(Home(tmp_path).ledger).list().rows) == 2


HOSTILE = ["with space", "quote'and\"more", "new\nline", "x" * 200, "$(touch pwned)", "-rf"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_home_is_just_a_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    done = finish(start(home, "raise", "0"))
    assert predicate_of(home, done["record_id"])["outcome"]["first_cause"]["rank"] == 0
    assert not Path("pwned").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("where", ["everything", "attempts"])
def test_a_full_disk_is_named_and_still_sealed(tmp_path: Path, where: str) -> None:
    """A rank fills the disk its own attempt is on; the ledger is on the same disk, or elsewhere."""
    mount = tmp_path if where == "everything" else tmp_path / "attempts"
    mount.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], check=False, capture_output=True
    )
    if made.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        done = finish(start(tmp_path, "fill", "1"))
        assert done["notice"] is None, "the reserve leaves room for the ledger's copy"
        outcome = predicate_of(tmp_path, done["record_id"])["outcome"]
        assert (outcome["first_cause"]["kind"], outcome["first_cause"]["rank"]) == ("disk_full", 1)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_wall_clock_stepping_backwards_changes_no_duration(tmp_path: Path) -> None:
    """The supervisor's wall clock is set back by two hours in the middle of a run; CLOCK_MONOTONIC stays true."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        assert os.environ.get("CI") != "true", "continuous integration has a C compiler"
        pytest.skip("needs a C compiler, to build the shim that moves the clock")
    shim, control = tmp_path / "shim.so", tmp_path / "clock"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, PROGRAMS / "clock_shim.c"], check=True)
    control.write_text("0")
    began = time.monotonic()
    process = start(
        tmp_path, "steps", "99", steps=20, environment={"LD_PRELOAD": str(shim), "CLOCK_SHIM": str(control)}
    )
    wait_for(lambda: stepping(tmp_path))
    control.write_text("-7200")
    done = finish(process)
    elapsed = time.monotonic() - began
    predicate = predicate_of(tmp_path, done["record_id"])
    assert "clock_stepped" in [finding["kind"] for finding in predicate["findings"]]
    assert 0 < predicate["times"]["duration_s"]["value"] <= elapsed
    assert predicate["times"]["sealed_at"] < predicate["times"]["prepared_at"], "the wall clock did step"
    seconds = [step["monotonic_s"] for step in predicate["transitions"]]
    assert seconds == sorted(seconds)
    assert all(0 < ns < 10**10 for ns in predicate["training"]["samples"]["measured"])


def test_no_secret_of_the_environment_reaches_any_file_of_a_run(tmp_path: Path) -> None:
    """Planted under telling and under innocent-looking, allow-listed names; searched for in every byte the run left."""
    planted = {
        "HF_TOKEN": "hf_QwErTyUiOpAsDfGhJkLzXcVbNm123456",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "NCCL_SIDE_TOKEN": "s3cr3t-in-an-allowed-prefix",
        "TORCH_PROXY": "http://user:pa55word-in-a-url@127.0.0.1:1/",
        "TORCHINDUCTOR_PASSWORD": "another-one-entirely",
        "DATABASE_URL": "postgresql://u:db-passw0rd@127.0.0.1/x",
    }
    done = finish(start(tmp_path, "raise", "0", environment=planted))
    assert predicate_of(tmp_path, done["record_id"])["outcome"]["first_cause"]["kind"] == "rank_raised"
    needles = [
        *(v for k, v in planted.items() if "URL" not in k and "PROXY" not in k),
        "pa55word-in-a-url",
        "db-passw0rd",
    ]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 15
    for file in files:
        data = file.read_bytes()
        assert [needle for needle in needles if needle.encode() in data] == [], file


def test_an_unwritable_ledger_fails_no_run_and_is_caught_up_later(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file where the ledger should be")
    done = finish(start(tmp_path, "raise", "0"))
    assert "could not be appended" in done["notice"]
    (manifest,), _ = attempts(Home(tmp_path))
    assert (manifest.state.value, manifest.appended) == ("error", False)
    (tmp_path / "ledger").unlink()
    (collected,) = seal_lost(Home(tmp_path))
    assert "now in the ledger" in collected.line
    assert predicate_of(tmp_path, done["record_id"])["outcome"]["state"] == "error"
