"""The local surface and the supervisor, with real processes that fail in every way a rank fails."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanemark.launch import guard
from lanemark.launch.local import LocalSurface
from lanemark.launch.logs import HEAD_BYTES, TAIL_BYTES
from lanemark.launch.supervise import Limits, Supervision, supervise
from lanemark.launch.surface import Placement
from lanemark.measure.beacon import read_beacon
from lanemark.measure.samples import read_samples
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode

PROGRAMS = Path(__file__).parent / "programs"
RANK = (sys.executable, str(PROGRAMS / "rank_program.py"))
RUN_ID = "training-20260101T000000Z-00000000"


def case_of(*command: str, nproc: int = 2, steps: int = 5) -> Case:
    return Case(
        lane="training", preset="none", nproc=nproc, mode="ddp", compile="eager", dtype="fp32", steps=steps, warmup=1,
        sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", command=command,
    )  # fmt: skip


def run(
    home: Path, mode: str, *more: str, nproc: int = 2, steps: int = 5, **limits: float
) -> tuple[AttemptPaths, Supervision]:
    case = case_of(*RANK, mode, *more, nproc=nproc, steps=steps)
    paths = Home(home).attempt(RUN_ID)
    paths.root.mkdir(parents=True)
    paths.case.write_bytes(encode(case.to_json()))
    surface = LocalSurface()
    launched = surface.launch(surface.request(case, Placement(Home(home))), paths)
    values = {"stall_s": 60.0, "wall_s": 60.0, "grace_s": 3.0, "settle_s": 0.5} | limits
    result = supervise(surface, launched, paths, limits=Limits(**values))
    assert guard.marked_pids(guard.marker(str(paths.root))) == []
    assert json.loads(paths.exits.read_bytes())["reason"] == result.reason
    return paths, result


def error_of(paths: AttemptPaths, rank: int) -> str:
    return json.loads(paths.rank(rank).error.read_bytes())["message"]["message"]


def test_clean_run_leaves_every_file(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "ok")
    assert result.reason == "all_ended"
    assert result.signals == ()
    assert [end.clean for end in result.ends] == [True, True]
    for rank in (0, 1):
        assert read_beacon(paths.rank(rank).beacon).phase == "done"
        samples = read_samples(paths.rank(rank).samples)
        assert len(samples.rows) == 5
        assert samples.window_end_ns is not None
        assert not paths.rank(rank).error.exists()
        assert sorted(entry.name for entry in paths.rank(rank).root.iterdir()) == [
            "beacon.page", "end.json", "observed.json", "samples.bin", "stderr.log", "stdout.log",
        ]  # fmt: skip


def test_rank_that_raises_is_the_reason_and_the_others_are_ended(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "raise", "1", steps=1000)
    assert (result.reason, result.rank) == ("rank_failed", 1)
    assert [(end.rank, end.status, end.signal, end.signal_by) for end in result.ends] == [
        (1, 1, None, "nobody"),
        (0, None, "SIGTERM", "supervisor"),
    ]
    assert "RuntimeError: planted" in error_of(paths, 1)
    assert "planted" in paths.rank(1).stderr.read_text()
    assert read_beacon(paths.rank(1).beacon).phase == "failed"
    assert [(sent.rank, sent.signal) for sent in result.signals] == [(0, "SIGTERM")]


def test_rank_that_leaves_early_with_status_0_is_a_failure(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "exit0", "0", steps=1000)
    assert (result.reason, result.rank) == ("rank_failed", 0)
    assert result.ends[0].status == 0
    assert not result.ends[0].end_marker
    assert not paths.rank(0).error.exists()


def test_rank_killed_by_somebody_else(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "sigkill", "1", steps=1000)
    assert (result.reason, result.rank) == ("rank_failed", 1)
    assert (result.ends[0].signal, result.ends[0].signal_by) == ("SIGKILL", "other")
    assert read_beacon(paths.rank(1).beacon).phase == "load"  # the page outlives the kill
    assert result.beacons[1] is not None


def test_stopped_rank_is_noticed_and_ended(tmp_path: Path) -> None:
    _, result = run(tmp_path, "sigstop", "1", steps=1000, stopped_s=0.5)
    assert (result.reason, result.rank) == ("stopped", 1)
    assert result.evidence.states[1].state.value == "T"
    assert {end.signal_by for end in result.ends} == {"supervisor"}
    assert {end.signal for end in result.ends} == {"SIGTERM"}  # it was continued, so that it could obey


def test_rank_out_of_memory_says_so(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "memory", "0", steps=1000)
    assert (result.reason, result.rank) == ("rank_failed", 0)
    assert error_of(paths, 0).startswith("MemoryError")


def test_rank_that_prints_200_mb_keeps_both_ends_of_its_log(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "print", "0", str(200 * 1024 * 1024))
    assert result.reason == "all_ended"
    log = paths.rank(0).stdout.read_bytes()
    assert len(log) < HEAD_BYTES + TAIL_BYTES + 200
    assert log.startswith(b"first line\n")
    assert log.endswith(b"last line\n")
    cut = result.logs[0]
    assert (cut.rank, cut.stream, len(result.logs)) == (0, "stdout", 1)
    assert cut.printed_bytes - cut.left_out_bytes == HEAD_BYTES + TAIL_BYTES
    assert b"\n[lanemark: %d bytes of %d are left out here]\n" % (cut.left_out_bytes, cut.printed_bytes) in log


def test_stalled_run_is_ended_and_shows_where_ranks_stood(tmp_path: Path) -> None:
    _, result = run(tmp_path, "hang", "0", nproc=1, stall_s=1.5)
    assert result.reason == "stalled"
    assert result.beacons[0] is not None
    assert result.beacons[0].phase == "init_process_group"
    assert result.evidence.states[0].state.value == "S"


def test_run_older_than_its_wall_limit_is_ended(tmp_path: Path) -> None:
    _, result = run(tmp_path, "ok", steps=10_000, nproc=1, wall_s=1.0)
    assert result.reason == "wall_limit"


def test_rank_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    _, result = run(tmp_path, "stubborn", "0", nproc=1, wall_s=1.0, grace_s=0.5)
    assert [sent.signal for sent in result.signals] == ["SIGTERM", "SIGKILL"]
    assert (result.ends[0].signal, result.ends[0].signal_by) == ("SIGKILL", "supervisor")


def test_children_of_a_rank_do_not_outlive_it(tmp_path: Path) -> None:
    paths, result = run(tmp_path, "leave_children", "0")
    assert result.reason == "all_ended"
    pids = [int(word) for word in paths.rank(0).stdout.read_text().split()[1:]]
    assert len(pids) == 3
    assert [pid for pid in pids if _alive(pid)] == []


def test_garbage_in_a_ranks_files_does_not_end_the_supervisor(tmp_path: Path) -> None:
    _, result = run(tmp_path, "garbage", "1")
    assert "BeaconError" in result.beacon_errors[1]
    assert result.reason == "all_ended"


def test_eight_ranks(tmp_path: Path) -> None:
    _, result = run(tmp_path, "ok", nproc=8)
    assert result.reason == "all_ended"
    assert sorted(end.rank for end in result.ends) == list(range(8))
    assert len({end.pid for end in result.ends}) == 8


def test_two_runs_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    first = _supervisor(tmp_path, "training-20260101T000000Z-aaaaaaaa", "ok", steps=300)
    second = _supervisor(tmp_path, "training-20260101T000000Z-bbbbbbbb", "raise", steps=1000)
    assert _result(second)["reason"] == "rank_failed"
    assert _result(first)["reason"] == "all_ended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_supervisor_ends_its_ranks(tmp_path: Path, number: signal.Signals) -> None:
    supervisor = _supervisor(tmp_path, RUN_ID, "children", steps=1000)
    paths = Home(tmp_path).attempt(RUN_ID)
    _wait_until(lambda: b"children" in _bytes(paths.rank(0).stdout))
    supervisor.send_signal(number)
    result = _result(supervisor)
    assert (result["reason"], result["detail"]) == ("interrupted", number.name)
    assert guard.marked_pids(guard.marker(str(paths.root))) == []


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, RUN_ID, "children", steps=1000)
    paths = Home(tmp_path).attempt(RUN_ID)
    _wait_until(lambda: b"children" in _bytes(paths.rank(0).stdout))
    mark = guard.marker(str(paths.root))
    before = guard.marked_pids(mark)
    assert len(before) >= 5  # two ranks and three children of one
    supervisor.kill()
    supervisor.communicate()
    try:
        _wait_until(lambda: not any(_alive(pid) for pid in before))
        _wait_until(lambda: guard.marked_pids(mark) == [])
    finally:
        guard.kill_marked(mark)
    assert read_beacon(paths.rank(0).beacon).phase == "load"


def test_rank_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    from lanemark.records.errors import RunFailed

    case = case_of("/nonexistent/python")
    paths = Home(tmp_path).attempt(RUN_ID)
    paths.root.mkdir(parents=True)
    surface = LocalSurface()
    with pytest.raises(RunFailed, match="rank 0 could not be started") as caught:
        surface.launch(surface.request(case, Placement(Home(tmp_path))), paths)
    assert caught.value.slug == "run-failed"
    assert guard.marked_pids(guard.marker(str(paths.root))) == []


@pytest.mark.parametrize("name", ["with space", "quo'te\"s", "new\nline", "x" * 200, "ünïcödé $HOME;"])
def test_hostile_home(tmp_path: Path, name: str) -> None:
    _, result = run(tmp_path / name, "ok", nproc=1)
    assert result.reason == "all_ended"


def test_full_disk_ends_the_run_and_not_the_supervisor(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    try:
        case = case_of(*RANK, "fill", "1", steps=1000)
        paths = Home(mounted).attempt(RUN_ID)
        paths.root.mkdir(parents=True)
        paths.case.write_bytes(encode(case.to_json()))
        surface = LocalSurface()
        launched = surface.launch(surface.request(case, Placement(Home(mounted))), paths)
        result = supervise(surface, launched, paths, limits=Limits(60, 60, settle_s=0.5, grace_s=3.0))
        assert (result.reason, result.rank) == ("rank_failed", 1)
        assert result.evidence.free_disk_bytes.value <= 16 * 1024  # an ended rank gives a few blocks back
        assert "No space left" in error_of(paths, 1)  # its bytes were set aside when the rank began
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def _supervisor(home: Path, run_id: str, mode: str, *, steps: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAMS / "supervisor_program.py"), str(home), run_id, "2", str(steps), *RANK, mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def _result(process: "subprocess.Popen[str]") -> dict[str, object]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def _wait_until(condition: object, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
