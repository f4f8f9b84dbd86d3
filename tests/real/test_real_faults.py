"""Every class of failure with real processes and real faults: named in the record, and by the doctor, with its rank."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.collect.examining import read_attempt
from lanemark.diagnose.examination import Examination, examine
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home

PROGRAMS = Path(__file__).parent / "programs"
CONDUCT = [sys.executable, str(PROGRAMS / "conduct_program.py")]
FAULTY = [sys.executable, str(PROGRAMS / "fault_program.py")]
PLAIN = [sys.executable, str(PROGRAMS / "rank_program.py")]


def start(
    home: Path,
    *command: str,
    nproc: int = 2,
    steps: int = 12,
    stall_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CONDUCT, str(home), str(nproc), str(steps), str(stall_s), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done: dict[str, Any] = json.loads(out.splitlines()[-1])
    return done


def ended(home: Path, *command: str, **changes: Any) -> tuple[dict[str, Any], Examination]:
    """A run to its end: its predicate, verified with its evidence, and what the doctor says of its directory."""
    done = finish(start(home, *command, **changes))
    ledger = Ledger(Home(home).ledger)
    report = ledger.verify(done["record_id"])
    assert report.ok, report.steps
    predicate = ledger.get(done["record_id"]).doc["predicate"]
    return predicate, examine(read_attempt(home / "attempts" / predicate["run_id"]))


def assert_named(told: tuple[dict[str, Any], Examination], kind: str, rank: int | None) -> dict[str, Any]:
    """The record's first cause, once record and doctor agree about it."""
    predicate, seen = told
    outcome = predicate["outcome"]
    assert outcome["state"] == "error"
    cause: dict[str, Any] = next(one for one in predicate["findings"] if one["severity"] == "failure")
    assert {name: cause.get(name) for name in outcome["first_cause"]} == outcome["first_cause"]
    assert (cause["kind"], cause.get("rank")) == (kind, rank), cause
    assert seen.finding is not None
    assert (seen.finding.kind, seen.finding.rank) == (kind, rank)
    assert seen.steps
    return cause


def named_live(home: Path) -> list[str]:
    """Kinds that were named while the ranks ran, over all attempts of a home."""
    lines = [line for file in sorted(home.glob("attempts/*/named.jsonl")) for line in file.read_text().splitlines()]
    return [json.loads(line)["finding"]["kind"] for line in lines]


def wait_for(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():  # a condition, asked until it holds
        assert time.monotonic() < end, "timed out waiting"
        time.sleep(0.05)


# --- deaths --------------------------------------------------------------------------------------------------------


def test_the_watchdog_that_ends_a_compiling_rank_is_told_from_a_kill(tmp_path: Path) -> None:
    assert_named(ended(tmp_path, *FAULTY, "watchdog", "1"), "watchdog_in_compile", 1)


def test_a_missing_kernel_is_named_and_a_copy_of_the_attempt_tells_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    told = ended(home, *FAULTY, "kernel", "1")
    cause = assert_named(told, "kernel_import_missing", 1)
    assert "flash_attn" in cause["summary"]
    copy = tmp_path / "copied from elsewhere"
    shutil.move(str(home / "attempts" / told[0]["run_id"]), copy)
    shutil.rmtree(home)
    assert main(["doctor", str(copy)]) == 1
    text = capsys.readouterr().out
    assert cause["summary"] in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_kernel_built_for_another_torch_is_named(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        assert os.environ.get("CI") != "true", "continuous integration has a C compiler"
        pytest.skip("needs a C compiler, to build a module with an undefined symbol")
    source = tmp_path / "kernel.c"
    source.write_text("extern int only_the_other_torch_has_this; void *PyInit_flash_attn_2_cuda(void)"
                      "{ return &only_the_other_torch_has_this; }\n")  # fmt: skip
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", wheel / "flash_attn_2_cuda.so", source], check=True)
    cause = assert_named(ended(tmp_path / "home", *FAULTY, "kernel", "0", str(wheel)), "kernel_import_missing", 0)
    assert any("undefined symbol" in line for line in cause["evidence"])


@pytest.mark.torch
def test_a_recompilation_after_the_warm_up_is_named(tmp_path: Path) -> None:
    cause = assert_named(ended(tmp_path, *FAULTY, "recompile", "0", nproc=1), "recompiled_after_warmup", 0)
    assert "step 4" in cause["summary"]


# --- hangs ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_stopped_rank_is_named_while_it_is_stopped_and_the_doctor_sees_it(tmp_path: Path) -> None:
    process = start(tmp_path, *FAULTY, "stop", "1")
    try:
        wait_for(lambda: named_live(tmp_path) == ["rank_stopped"], timeout_s=90.0)
        seen = examine(read_attempt(next((tmp_path / "attempts").iterdir())))
    finally:
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert seen.life == "running"
    assert seen.finding is not None
    assert (seen.finding.kind, seen.finding.rank) == ("rank_stopped", 1)
    assert done["outcome"]["first_cause"]["kind"] == "interrupted"


@pytest.mark.torch
def test_a_loader_that_does_not_come_back_is_a_data_stall(tmp_path: Path) -> None:
    pipe = tmp_path / "shard.bin"
    os.mkfifo(pipe)
    home = tmp_path / "home"
    assert_named(ended(home, *FAULTY, "loader", "1", str(pipe)), "data_stall", 1)
    assert named_live(home) == ["data_stall"]


@pytest.mark.torch
def test_ranks_in_different_collectives_are_named_with_both_operations(tmp_path: Path) -> None:
    told = ended(tmp_path, *FAULTY, "mismatch", "1", nproc=3)
    cause = assert_named(told, "collective_mismatch", 1)
    assert "barrier" in cause["summary"]
    assert "all_reduce" in cause["summary"]


@pytest.mark.parametrize(
    ("preset", "stall_s", "kind"), [("diagnostic", 12.0, "infrastructure_hang"), ("dense-nano", 3.0, "stalled")]
)
def test_a_transport_that_swallows_everything_is_the_machine_s_in_the_diagnostic_preset_only(
    tmp_path: Path, preset: str, stall_s: float, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:  # connections are taken by the kernel, and nobody answers
        port = str(hole.getsockname()[1])
        told = ended(tmp_path, *FAULTY, "blackhole", "0", port, stall_s=stall_s, env={"CONDUCT_PRESET": preset})
    assert_named(told, kind, None)
    assert (told[1].diagnostic is None) == (kind == "infrastructure_hang")


# --- bootstrap and environment -------------------------------------------------------------------------------------


def test_a_refused_bootstrap_is_tried_again_once_with_a_record_each(tmp_path: Path) -> None:
    predicate, _ = ended(tmp_path, *FAULTY, "refused", "0", "first attempt only")
    assert predicate["outcome"]["state"] == "ok"
    (note,) = [finding for finding in predicate["findings"] if finding["kind"] == "retried_bootstrap"]
    first, second = Ledger(Home(tmp_path).ledger).list().rows[::-1]
    assert second.run_id == predicate["run_id"]
    assert first.run_id in note["summary"]
    seen = examine(read_attempt(tmp_path / "attempts" / first.run_id))
    assert seen.finding is not None
    assert seen.finding.kind == "bootstrap_failed"


def test_a_bootstrap_that_is_refused_again_is_not_tried_a_third_time(tmp_path: Path) -> None:
    told = ended(tmp_path, *FAULTY, "refused", "0")
    assert_named(told, "bootstrap_failed", told[0]["outcome"]["first_cause"].get("rank"))
    assert len(list((tmp_path / "attempts").iterdir())) == 2


@pytest.mark.torch
def test_an_interface_of_another_machine_in_the_operator_s_environment_is_the_suspect(tmp_path: Path) -> None:
    told = ended(tmp_path, *FAULTY, "leak", "0", env={"GLOO_SOCKET_IFNAME": "ib0"})
    cause = assert_named(told, "environment_leak", None)
    assert "GLOO_SOCKET_IFNAME=ib0" in cause["summary"]
    assert len(list((tmp_path / "attempts").iterdir())) == 1, "a leak is no bootstrap to try again"


def test_settings_of_a_multi_node_image_are_scrubbed_and_told(tmp_path: Path) -> None:
    image = {"NCCL_NET": "AWS Libfabric", "NCCL_IB_HCA": "mlx5_0", "NCCL_TUNER_CONFIG_PATH": "/opt/tuner.conf"}
    told = ended(tmp_path, *PLAIN, "ok", env=image)
    assert told[1].healthy
    (note,) = [note for note in told[1].notes if "taken out" in note]
    assert all(name in note for name in image)


# --- slow, and healthy ---------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_rank_that_is_slow_at_every_step_is_a_straggler_and_the_run_is_good(tmp_path: Path) -> None:
    predicate, seen = ended(tmp_path, *FAULTY, "slow", "1", nproc=3, steps=24)
    assert predicate["outcome"]["state"] == "ok"
    (found,) = [finding for finding in predicate["findings"] if finding["kind"] == "straggler"]
    assert (found["rank"], found["severity"]) == (1, "caveat")
    assert seen.healthy
    assert named_live(tmp_path) == []


# --- the diagnostic run --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.torch
def test_the_diagnostic_run_tells_the_model_from_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The failed run hung; the diagnostic preset on the same ranks, through the real stack, does not."""
    done = finish(start(tmp_path, *PLAIN, "hang", "0", nproc=1, stall_s=2.0, steps=20))
    run_id = next((tmp_path / "attempts").iterdir()).name
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    capfd.readouterr()
    assert main(["doctor", run_id, "--run-diagnostic", "--json"]) == 1
    doc = json.loads(capfd.readouterr().out)
    assert doc["finding"]["kind"] == "stalled"
    assert "the model or its compilation is the suspect" in doc["conclusion"]["summary"]
    assert len(Ledger(Home(tmp_path).ledger).list().rows) == 2
    examined, diagnostic = doc["conclusion"]["evidence"]
    assert examined == f"examined run: record {done['record_id']}"
    assert diagnostic.startswith("diagnostic run: record sha256:")
