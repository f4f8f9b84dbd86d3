"""Looks: when they are taken, what they hold, what they say where nothing could be seen, and that they end no run."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch import looking as module
from lanemark.launch.cache_growth import CacheGrowth
from lanemark.launch.environment import CacheLayout
from lanemark.launch.fake import FakeRank, FakeSurface
from lanemark.launch.local import LocalSurface
from lanemark.launch.looking import LookPlan
from lanemark.launch.processes import Descendants
from lanemark.launch.supervise import Limits, Supervision, Tick, supervise
from lanemark.launch.surface import Placement
from lanemark.measure.beacon import Beacon
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.look import Look, look_of

RUN_ID = "training-20260101T000000Z-00000000"


def case_of(nproc: int, **changes: Any) -> Case:
    fields: dict[str, Any] = {
        "lane": "training", "preset": "none", "nproc": nproc, "mode": "ddp", "compile": "eager", "dtype": "fp32",
        "steps": 4, "warmup": 1, "sequence": 8, "micro_batch": 1, "data": DataAsked("synthetic"),
    }  # fmt: skip
    return Case(**{**fields, **changes})


def watched(
    home: Path, *script: FakeRank, wall_s: float = 10.0, **more: Any
) -> tuple[Supervision, list[Look], AttemptPaths]:
    surface = FakeSurface(script)
    paths = Home(home).attempt(RUN_ID)
    launched = surface.launch(surface.request(case_of(len(script)), Placement(Home(home))), paths)
    seen: list[Look] = []
    limits = Limits(stall_s=500.0, wall_s=wall_s)
    result = supervise(
        surface, launched, paths, limits=limits, clock_ns=surface.clock_ns, on_look=more.pop("on_look", seen.append),
        **more,
    )  # fmt: skip
    return result, seen, paths


def age_s(look: Look) -> float:
    return (look.at_ns - look.launched_ns) / 1e9


def test_looks_begin_after_a_second_of_silence_and_one_is_deep_after_two(tmp_path: Path) -> None:
    result, looks, paths = watched(tmp_path, FakeRank(), FakeRank())
    assert result.reason == "wall_limit"
    assert age_s(looks[0]) == pytest.approx(1.0, abs=0.25)
    deep = [look for look in looks if look.depth == "deep"]
    assert [round(age_s(look)) for look in deep] == [2, 10]  # and the last one, before the run is ended
    assert deep[-1] is looks[-1]
    # Shallow looks keep their distance from one another. A deep one comes when its own reason does, which may be at once
    # after a shallow one: how far apart those two are depends on what a look costs on this machine.
    shallow = [look for look in looks if look.depth == "shallow"]
    assert len(shallow) >= 2
    assert all(after.at_ns - before.at_ns >= 0.5e9 for before, after in itertools.pairwise(shallow))
    assert [look.number for look in looks] == list(range(1, len(looks) + 1))
    kept = [look_of(line) for line in paths.looks.read_bytes().splitlines()]
    assert kept == looks


def test_a_run_that_moves_is_not_looked_at(tmp_path: Path) -> None:
    beacons: list[Beacon] = []

    def step(tick: Tick) -> None:
        if not beacons:
            path = Home(tmp_path).attempt(RUN_ID).rank(0).beacon
            beacons.append(Beacon.create(path, rank=0, world_size=1))
        beacons[0].at_step(int(tick.elapsed_s * 10))

    result, looks, paths = watched(tmp_path, FakeRank(ends_after_s=5.0), on_tick=step)
    assert result.reason == "all_ended"
    assert looks == []
    assert not paths.looks.exists()


def test_what_a_page_shows_is_in_the_look_and_what_nobody_saw_has_its_reason(tmp_path: Path) -> None:
    paths = Home(tmp_path).attempt(RUN_ID)
    paths.rank(0).root.mkdir(parents=True)
    beacon = Beacon.create(paths.rank(0).beacon, rank=0, world_size=2)
    beacon.enter("warmup")
    beacon.at_step(3)
    beacon.push("collective", "all_gather_single")
    _, looks, _ = watched(tmp_path, FakeRank(), FakeRank(), wall_s=4.0)
    first, second = looks[0].ranks
    assert (first.phase, first.label, first.step, first.collectives) == ("collective", "all_gather_single", 3, 1)
    assert first.alive
    assert (second.phase, second.sequence, second.children) == (None, None, None)
    assert second.not_seen["phase"] == "it has no beacon page"
    assert second.not_seen["children"] == "the surface shows no process"
    assert first.not_seen["waiting_for_data"] == "its loop has not told of its data"
    assert first.not_seen["new_cache_files"] == "where the rank keeps its cache is not known"
    assert "asks nothing" in first.not_seen["stack"]
    assert looks[-1].ranks[0].not_seen["flight"] == "it has no control socket"
    assert "asks nothing" not in " ".join(looks[-1].ranks[0].not_seen.values())


def test_a_look_is_taken_before_a_collective_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Home(tmp_path).attempt(RUN_ID)
    paths.rank(0).root.mkdir(parents=True)
    surface_now_ns = FakeSurface().clock_ns()
    monkeypatch.setattr("lanemark.measure.beacon.monotonic_ns", lambda: surface_now_ns)
    beacon = Beacon.create(paths.rank(0).beacon, rank=0, world_size=1)
    beacon.push("collective", "barrier")
    _, looks, _ = watched(tmp_path, FakeRank(), wall_s=60.0, looking=LookPlan(collective_timeout_s=30.0))
    assert [round(age_s(look)) for look in looks if look.depth == "deep"] == [2, 27, 60]


def test_in_the_window_a_pause_the_run_has_recovered_from_is_not_asked_about(tmp_path: Path) -> None:
    beacon: list[Beacon] = []

    def step(tick: Tick) -> None:
        """A step of four seconds, as a large model takes."""
        if not beacon:
            beacon.append(Beacon.create(Home(tmp_path).attempt(RUN_ID).rank(0).beacon, rank=0, world_size=1))
            beacon[0].enter("window")
        if int(tick.elapsed_s / 4) > len(beacon) - 1:
            beacon.append(beacon[0])
            beacon[0].at_step(len(beacon))

    _, looks, _ = watched(tmp_path, FakeRank(ends_after_s=35.0), wall_s=60.0, on_tick=step)
    deep = [age_s(look) for look in looks if look.depth == "deep"]
    assert len(deep) == 1  # the first pause of the window, before it was known how long steps are
    assert any(age_s(look) > 20 for look in looks)  # looking from outside goes on


def test_a_look_that_nobody_can_take_does_not_end_the_run(tmp_path: Path) -> None:
    def broken(look: Look) -> None:
        raise RuntimeError("planted")

    result, _, paths = watched(tmp_path, FakeRank(ends_after_s=5.0), on_look=broken)
    assert result.reason == "all_ended"
    assert len(paths.looks.read_bytes().splitlines()) > 3


def test_a_full_disk_costs_the_looks_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_all", full)
    result, looks, _ = watched(tmp_path, FakeRank(ends_after_s=5.0))
    assert result.reason == "all_ended"
    assert looks


def test_the_file_of_looks_is_bounded_and_the_last_look_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOKS_BYTES", 6000)
    monkeypatch.setattr(module, "_LAST_LOOK_BYTES", 3000)
    _, looks, paths = watched(tmp_path, FakeRank(), wall_s=30.0)
    kept = [look_of(line) for line in paths.looks.read_bytes().splitlines()]
    assert paths.looks.stat().st_size <= 6000
    assert len(kept) < len(looks)
    assert kept[-1] == looks[-1]


@pytest.mark.parametrize("layout", ["shared", "per_rank"])
def test_a_plan_knows_where_compilers_write(tmp_path: Path, layout: CacheLayout) -> None:
    case = case_of(2, compile="regional", collective_timeout_s=20.0)
    placement = Placement(Home(tmp_path), cache_dir=tmp_path / "c", cache_layout=layout)
    plan = LookPlan.of(LocalSurface({}).request(case, placement), case)
    roots = [tmp_path / "c" / f"rank-{rank}" if layout == "per_rank" else tmp_path / "c" for rank in (0, 1)]
    assert plan.cache_dirs == tuple((root / "inductor", root / "triton") for root in roots)
    assert plan.collective_timeout_s == 20.0


def test_a_plan_of_eager_ranks_has_no_cache_and_one_of_foreign_ranks_no_time_out(tmp_path: Path) -> None:
    case = case_of(2, command=("true",))
    plan = LookPlan.of(LocalSurface({}).request(case, Placement(Home(tmp_path))), case)
    assert (plan.cache_dirs, plan.no_cache, plan.collective_timeout_s) == ((), "nothing is compiled", None)


def test_only_new_finished_files_count_as_growth(tmp_path: Path) -> None:
    cache = tmp_path / "inductor"
    (cache / "aa").mkdir(parents=True)
    (cache / "locks").mkdir()
    (cache / "aa" / "old.so").write_bytes(b"code")
    long_ago = time.time() - 100
    os.utime(cache / "aa" / "old.so", (long_ago, long_ago))
    growth = CacheGrowth((cache,), time.time_ns() - 10**9)

    def after(number: int) -> None:
        growth._next_s = 0.0
        assert growth.look() == ""
        assert growth.count == number

    after(0)

    (cache / "locks" / "x.lock").write_bytes(b"pid")
    (cache / "aa" / "y.lock").write_bytes(b"pid")
    (cache / "aa" / ".z.tmp").write_bytes(b"code")
    after(0)
    (cache / "aa" / "empty.cpp").write_bytes(b"")
    (cache / "aa" / "new.cpp").write_bytes(b"code")
    after(1)
    (cache / "bb" / "cc").mkdir(parents=True)
    (cache / "bb" / "cc" / "new.so").write_bytes(b"code")
    after(2)
    time.sleep(0.06)  # directory times move in ticks; after one, listings are kept
    after(2)
    (cache / "bb" / "cc" / "another.so").write_bytes(b"")
    time.sleep(0.06)
    after(2)
    (cache / "bb" / "cc" / "another.so").write_bytes(b"code")  # filled in place: its directory does not change
    after(3)


def test_a_cache_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    growth = CacheGrowth((tmp_path / "none",), 0)
    assert "No such file" in growth.look()
    assert growth.count is None


def test_programs_below_a_process_are_found_and_others_are_not() -> None:
    script = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    rank = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    other = subprocess.Popen(["sleep", "61"])
    try:
        assert rank.stdout is not None
        rank.stdout.readline()
        descendants = Descendants()
        assert descendants.commands({rank.pid}) == {rank.pid: ("sleep",)}
        assert descendants.commands({rank.pid, 2**22 + 1}) == {rank.pid: ("sleep",), 2**22 + 1: ()}
    finally:
        os.killpg(rank.pid, 9)
        other.kill()
        rank.wait()
        other.wait()
        if rank.stdout is not None:
            rank.stdout.close()


def test_a_look_is_one_line_of_json(tmp_path: Path) -> None:
    _, looks, paths = watched(tmp_path, FakeRank(), wall_s=4.0)
    doc = json.loads(paths.looks.read_bytes().splitlines()[0])
    assert doc["number"] == 1
    assert doc["ranks"][0]["children"] is None
    assert doc == json.loads(json.dumps(looks[0].to_json()))
