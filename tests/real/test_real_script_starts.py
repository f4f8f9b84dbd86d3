"""Scripts that compile, that start their own ranks, and that DeepSpeed starts: found, counted, seeded, held at the gate."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.lanes.rules import broken_rules
from lanemark.measure.beacon import read_beacon
from lanemark.records.observation import value_of
from lanemark.records.reading import read_record

PROGRAMS = Path(__file__).parent / "programs"
pytestmark = [pytest.mark.torch, pytest.mark.slow]
COMPILED = (sys.executable, str(PROGRAMS / "train_compiled.py"))
WINDOW = ("training", "--gpu", "cpu", "--steps", "14", "--warmup", "6")


def lanemark(home: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanemark", *words], capture_output=True, text=True, timeout=170, check=False, cwd=home,
        env={**os.environ, "LANEMARK_HOME": str(home / "home"), "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip


def run(home: Path, *words: str, env: dict[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """`lanemark run … --json`: what it printed, and the record's predicate."""
    done = lanemark(home, "run", "training", "--json", *words, env=env)
    said = json.loads(done.stdout) if done.stdout else {}
    assert "record_path" in said, done.stderr
    predicate = read_record(Path(said["record_path"]).read_bytes()).predicate
    assert broken_rules(predicate) == ()
    return said, predicate


def posture(predicate: dict[str, Any]) -> tuple[str, str | None]:
    """What was asked, and what was seen."""
    compiled = predicate["compile"]
    return compiled["requested"], value_of(compiled["observed"]["posture"])


def test_a_compiling_script_is_seeded_from_its_own_cache_and_held_at_the_gate(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    window, regional = WINDOW[1:], ("--", *COMPILED, "regional", "16")
    seed = str(tmp_path / "seed.tar.zst")

    said, predicate = run(first, *window, "--cache-to", seed, *regional)
    assert posture(predicate) == ("any", "regional")
    assert value_of(predicate["startup"]["state"]) == "cold"
    assert value_of(predicate["startup"]["purpose"])["kind"] == "seeding_pass"
    assert "captured" in said["cache"][0]

    # Elsewhere there is nothing, and a launch that would compile is refused when that is asked for.
    refused = lanemark(second, "run", *WINDOW, "--cache-policy", "require", *regional)
    assert (refused.returncode, "[cache-missing]" in refused.stderr) == (4, True), refused.stderr
    assert f"--cache-policy seed -- {sys.executable}" in refused.stderr
    assert lanemark(second, "cache", "gate", *WINDOW, *regional).returncode == 4
    assert not list((second / "home").glob("attempts/*/launch.json"))

    said, predicate = run(second, *window, "--cache-policy", "require", "--cache-from", seed, *regional)
    assert said["receipt"], said
    assert posture(predicate) == ("any", "regional")
    assert value_of(predicate["startup"]["state"]) == "seeded"
    assert value_of(predicate["startup"]["purpose"])["kind"] == "benchmark"
    cache = predicate["training"]["ranks"][0]["cache"]
    assert value_of(cache["new_files"]) == 0
    assert value_of(cache["used"])["misses"] == {"fx": 0, "aot": 0}
    assert value_of(cache["used"])["hits"]["fx"] > 0

    # The gate is open for this very command, and for no other, whatever the other would compile.
    assert lanemark(second, "cache", "gate", *WINDOW, *regional).stdout.startswith("open")
    other = lanemark(second, "cache", "gate", *WINDOW, "--", *COMPILED, "model", "16")
    assert (other.returncode, "another command, or with other arguments" in other.stderr) == (4, True), other.stderr

    said, predicate = run(first, *window, "--", *COMPILED, "model", "16")
    assert posture(predicate) == ("any", "model")
    assert value_of(predicate["startup"]["state"]) == "partly_warm"  # what the other command compiled is of no use
    assert value_of(predicate["startup"]["purpose"])["kind"] == "seeding_pass"


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_ranks_that_a_script_starts_as_functions_are_found(tmp_path: Path, start: str) -> None:
    words = ("--gpu", "cpu", "--nproc", "2", "--steps", "14", "--warmup", "4", "--", sys.executable)
    said, predicate = run(tmp_path, *words, str(PROGRAMS / "train_spawned.py"), start, "16", "exit")
    assert said["receipt"], said
    script = predicate["training"]["script"]
    assert (script["ranks_found"], script["restarts"], script["found_by"]) == (2, 0, ["process_group"])
    seen = predicate["distributed"]["observed"]
    assert (value_of(seen["mode"]), value_of(seen["world_size"])) == ("ddp", 2)
    # Neither the parent nor a data loader took a place, and each rank is its own process.
    attempt = Path(said["record_path"]).parent
    claims = [json.loads((attempt / "ranks" / str(rank) / "claim.json").read_bytes()) for rank in (0, 1)]
    assert [(claim["life"], claim["took_over"]) for claim in claims] == [(0, False), (0, False)]
    assert claims[0]["pid"] != claims[1]["pid"]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("raise", "rank_raised", "a reason of its own"),
        ("stop", "rank_stopped", "stopped by a signal"),
        ("sleep", "collective_missed", "rank 1 has not entered all_reduce"),
    ],
)
def test_the_rank_at_fault_is_named_though_its_parent_is_not_its_launcher(
    tmp_path: Path, how: str, kind: str, words: str
) -> None:
    window = ("--gpu", "cpu", "--nproc", "2", "--steps", "14", "--warmup", "4", "--stall-timeout", "7")
    command = (sys.executable, str(PROGRAMS / "train_spawned.py"), "fork", "16", how)
    said, predicate = run(tmp_path, *window, "--", *command)
    cause = predicate["outcome"]["first_cause"]
    assert (said["state"], cause["kind"], cause.get("rank")) == ("error", kind, 1)
    assert words in cause["summary"]
    doctor = lanemark(tmp_path, "doctor", said["run_id"])
    assert kind in doctor.stdout, doctor.stderr
    assert "rank 1" in doctor.stdout


def test_deepspeeds_launcher_and_engine_with_steps_counted_once(tmp_path: Path) -> None:
    aside = Path(sys.prefix) / "aside" / "deepspeed"  # scripts/aside: its own operations are not built
    if not aside.is_dir():
        reason = "needs DeepSpeed: run scripts/aside"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    env = {
        "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(aside), "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = (sys.executable, str(aside / "bin" / "deepspeed"), "--num_gpus", "2", "--master_port", str(port))
    window = ("--gpu", "cpu", "--steps", "10", "--warmup", "4")
    said, predicate = run(tmp_path, *window, "--", *command, str(PROGRAMS / "train_deepspeed.py"), "1", "12", env=env)
    assert said["receipt"], said
    part = predicate["training"]
    # Two parameter groups and two batches to a step: ZeRO steps its optimizer 24 times in what are 12 steps.
    page = read_beacon(Path(said["record_path"]).parent / "ranks" / "0" / "beacon.page")
    assert (page.step, len(part["samples"]["measured"])) == (12, 6)
    assert (part["script"]["ranks_found"], part["script"]["found_by"]) == (2, ["environment"])
    assert value_of(part["script"]["measured_by"]) == "hooks"
    seen = predicate["distributed"]["observed"]
    assert (value_of(seen["mode"]), value_of(seen["world_size"])) == ("deepspeed_zero1", 2)
    assert value_of(part["model"]["parameters"]) == 8 * 16 + 16 + 16 * 8 + 8  # not the 12 of a rank's shard
