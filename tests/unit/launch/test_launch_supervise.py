"""The supervisor's judgement, on a surface whose clock we own: every reason to end a run, and to let it be."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch import supervise as module
from lanemark.launch.fake import FakeRank, FakeSurface
from lanemark.launch.supervise import Limits, Supervision, Tick, supervise
from lanemark.launch.surface import Placement, RankStatus, SurfaceStatus
from lanemark.measure.beacon import Beacon
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked

LIMITS = Limits(stall_s=20.0, wall_s=100.0)


def case_of(nproc: int) -> Case:
    return Case(
        lane="training", preset="none", nproc=nproc, mode="ddp", compile="eager", dtype="fp32", steps=4, warmup=1,
        sequence=8, micro_batch=1, data=DataAsked("synthetic"),
    )  # fmt: skip


def watch(
    home: Path, *script: FakeRank, limits: Limits = LIMITS, **more: Any
) -> tuple[Supervision, FakeSurface, AttemptPaths]:
    surface = more.pop("surface", None) or FakeSurface(script)
    paths = Home(home).attempt("training-20260101T000000Z-00000000")
    launched = surface.launch(surface.request(case_of(max(1, len(script))), Placement(Home(home))), paths)
    result = supervise(surface, launched, paths, limits=limits, clock_ns=surface.clock_ns, **more)
    assert surface.cleaned == 1
    return result, surface, paths


def seconds(result: Supervision) -> float:
    return (result.ended_ns - result.began_ns) / 1e9


def test_clean_run(tmp_path: Path) -> None:
    result, _, paths = watch(tmp_path, FakeRank(ends_after_s=5.0), FakeRank(ends_after_s=2.0))
    assert (result.reason, result.rank, result.signals) == ("all_ended", None, ())
    assert [(end.rank, end.order, end.clean, end.end_marker) for end in result.ends] == [
        (1, 0, True, True),
        (0, 1, True, True),
    ]
    doc = json.loads(paths.exits.read_bytes())
    assert doc == {"version": 1, **result.to_json()}


def test_one_bad_end_ends_the_others_after_they_settled(tmp_path: Path) -> None:
    result, _, _ = watch(
        tmp_path, FakeRank(), FakeRank(ends_after_s=5.0, status=1), FakeRank(ends_after_s=7.0, status=1)
    )
    assert (result.reason, result.rank, result.detail) == ("rank_failed", 1, "rank 1 ended with status 1")
    assert [end.rank for end in result.ends] == [1, 2, 0]
    assert [end.signal_by for end in result.ends] == ["nobody", "nobody", "supervisor"]
    assert 8.0 <= seconds(result) < 9.0


def test_all_bad_before_the_time_to_settle_is_over_need_no_signal(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=1.0, status=1), FakeRank(ends_after_s=1.0, status=1))
    assert (result.reason, result.signals) == ("rank_failed", ())
    assert seconds(result) < 2.0


def test_status_0_without_a_marker_is_a_failure_where_one_is_required(tmp_path: Path) -> None:
    script = (FakeRank(), FakeRank(ends_after_s=1.0, writes_end=False))
    result, _, _ = watch(tmp_path, *script)
    assert (result.reason, result.rank) == ("rank_failed", 1)
    assert result.detail == "rank 1 ended with status 0 and left no end marker"


def test_status_0_without_a_marker_is_fine_where_none_is_required(tmp_path: Path) -> None:
    limits = Limits(stall_s=20.0, wall_s=100.0, end_marker_required=False)
    script = (FakeRank(ends_after_s=60.0, writes_end=False), FakeRank(ends_after_s=1.0, writes_end=False))
    result, _, _ = watch(tmp_path, *script, limits=limits)
    assert result.reason == "all_ended"  # and no stall limit: such a command shows nothing that could stall


def test_signal_from_elsewhere(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=1.0, signal="SIGKILL"))
    assert (result.ends[0].signal, result.ends[0].signal_by, result.ends[0].status) == ("SIGKILL", "other", None)
    assert result.detail == "rank 0 was ended by SIGKILL"


def test_stopped_rank(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, FakeRank(), FakeRank(stops_after_s=3.0))
    assert (result.reason, result.rank) == ("stopped", 1)
    assert 13.0 <= seconds(result) < 14.0
    assert result.evidence.states[1].state.value == "T"
    assert result.evidence.states[0].state.value == "S"


def test_stall(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, FakeRank())
    assert result.reason == "stalled"
    assert 20.0 <= seconds(result) < 21.0


def test_moving_beacon_is_no_stall(tmp_path: Path) -> None:
    beacons: list[Beacon] = []

    def step(tick: Tick) -> None:
        if not beacons:
            path = Home(tmp_path).attempt("training-20260101T000000Z-00000000").rank(0).beacon
            beacons.append(Beacon.create(path, rank=0, world_size=1))
        beacons[0].at_step(int(tick.elapsed_s))

    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=90.0), on_tick=step)
    assert result.reason == "all_ended"
    assert result.beacons[0] is not None
    assert result.beacons[0].step >= 88


class Compiling(FakeSurface):
    """A rank that uses the processor, or none."""

    def __init__(self, cpu_share: float) -> None:
        super().__init__([FakeRank(ends_after_s=90.0)])
        self.cpu_share = cpu_share

    def poll(self, launched: Any) -> SurfaceStatus:
        (rank,) = super().poll(launched).ranks
        values = rank.__dict__ | {"cpu_s": self.cpu_share * self.clock_ns() / 1e9}
        return SurfaceStatus((RankStatus(**values),))


@pytest.mark.parametrize(("cpu_share", "phase", "reason"), [(1.0, "compile", "all_ended"), (0.0, "compile", "stalled"), (1.0, "load", "stalled")])  # fmt: skip
def test_only_a_compilation_that_uses_the_processor_is_progress(
    tmp_path: Path, cpu_share: float, phase: Any, reason: str
) -> None:
    path = Home(tmp_path).attempt("training-20260101T000000Z-00000000").rank(0).beacon
    path.parent.mkdir(parents=True)
    Beacon.create(path, rank=0, world_size=1).push(phase)
    result, _, _ = watch(tmp_path, surface=Compiling(cpu_share))
    assert result.reason == reason


def test_wall_limit(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, FakeRank(), limits=Limits(stall_s=1000.0, wall_s=100.0))
    assert (result.reason, result.detail) == ("wall_limit", "the run is older than 100 s")


def test_interrupt_ends_the_run(tmp_path: Path) -> None:
    asked = iter([None, None, "SIGINT"])
    result, _, _ = watch(tmp_path, FakeRank(), FakeRank(ignores_term=True), interrupted=lambda: next(asked))
    assert (result.reason, result.detail) == ("interrupted", "SIGINT")
    assert [(end.rank, end.signal) for end in result.ends] == [(0, "SIGTERM"), (1, "SIGKILL")]
    assert {end.signal_by for end in result.ends} == {"supervisor"}


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (FakeRank(ends_after_s=0.0, status=1), "rank_failed"),  # it failed before anybody asked
        (FakeRank(ends_after_s=0.0, signal="SIGTERM"), "interrupted"),  # whoever stopped us stopped it as well
        (FakeRank(ends_after_s=0.0), "all_ended"),  # it was done
    ],
)
def test_interrupt_is_not_the_reason_for_what_came_before(tmp_path: Path, rank: FakeRank, reason: str) -> None:
    result, _, _ = watch(tmp_path, rank, interrupted=lambda: "SIGTERM")
    assert result.reason == reason


def test_display_that_fails_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    shown = []

    def show(tick: Tick) -> None:
        shown.append(tick)
        raise OSError("terminal went away")

    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=5.0), on_tick=show)
    assert (result.reason, len(shown)) == ("all_ended", 1)


def test_exception_inside_the_supervisor_leaves_no_rank(tmp_path: Path) -> None:
    surface = FakeSurface([FakeRank()])

    def interrupted() -> str | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(tmp_path, surface=surface, interrupted=interrupted)
    assert surface.cleaned == 1


def test_full_disk_does_not_end_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    result, _, paths = watch(tmp_path, FakeRank(ends_after_s=1.0))
    assert result.reason == "all_ended"
    assert not paths.exits.exists()


@pytest.mark.parametrize("text", [b"", b"short", b"\xff" * 4096])
def test_garbage_for_a_page_is_told_and_survived(tmp_path: Path, text: bytes) -> None:
    path = Home(tmp_path).attempt("training-20260101T000000Z-00000000").rank(0).beacon
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=1.0))
    assert result.beacons == (None,)
    assert result.beacon_errors[0].startswith("BeaconError")


def test_page_of_another_rank_is_not_taken(tmp_path: Path) -> None:
    path = Home(tmp_path).attempt("training-20260101T000000Z-00000000").rank(0).beacon
    path.parent.mkdir(parents=True)
    Beacon.create(path, rank=1, world_size=2)
    result, _, _ = watch(tmp_path, FakeRank(ends_after_s=1.0))
    assert result.beacon_errors == {0: "the page says that it is of rank 1"}


class Undying(FakeSurface):
    """A process in an uninterruptible wait."""

    def stop(self, *_: Any, **__: Any) -> tuple[()]:
        return ()

    def cleanup(self, launched: Any) -> None:
        self.cleaned += 1


def test_rank_that_nothing_ends_is_listed_without_an_end(tmp_path: Path) -> None:
    result, _, _ = watch(tmp_path, surface=Undying([FakeRank()]))
    assert result.reason == "stalled"
    assert "ended_ns" not in result.ends[0].to_json()
    assert not result.ends[0].clean


def test_limits_of_a_case() -> None:
    assert Limits.of(case_of(1)) == Limits(stall_s=300.0, wall_s=3600.0)
    with_command = Case(**{**case_of(1).__dict__, "command": ("python", "train.py")})
    assert not Limits.of(with_command).end_marker_required
