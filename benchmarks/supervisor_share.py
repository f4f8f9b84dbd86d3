"""The share of one core that supervising takes: processor time of the supervising process while eight ranks run.

Twice, because it does different things: once while the ranks step every few milliseconds, so that every round finds
changed pages, and once while they all stand still, so that looks are taken at their fastest and go to the detectors.
The worse of the two counts. The ranks are real processes without torch; each has its own cache directory of a hundred
files, which a look counts. Starting and ending the ranks is not supervising: time counts from the first round to the
last.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lanemark.collect.naming import LiveNaming
from lanemark.launch.local import LocalSurface
from lanemark.launch.looking import LookPlan
from lanemark.launch.supervise import Limits, Tick, supervise
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode

RANKS = 8
RUN_S = 15.0
STEPS = 100_000
PAUSE_S = 0.02
CACHE_FILES = 100
#: A rank: the real session and recorder around a sleep. A number of seconds after its start it stops moving, if told.
RANK = f"""
import os, sys, time
from lanemark.measure.session import RankSession
moves_until = time.monotonic() + float(sys.argv[1])
with RankSession.from_environment(os.environ) as session:
    recorder = session.recorder(stamps_data=True)
    recorder.begin()
    recorder.data_ready()
    recorder.end_step()
    recorder.open_window()
    while recorder.step < {STEPS}:
        recorder.data_ready()
        if time.monotonic() > moves_until:
            session.beacon.push("collective", "all_gather_single")
            time.sleep(3600)
        time.sleep({PAUSE_S})
        recorder.end_step()
"""


def share(moving_s: float) -> tuple[float, float, int, int]:
    """Share of a core, seconds watched, rounds, and looks taken."""
    case = Case(
        lane="training",
        preset="none",
        nproc=RANKS,
        mode="ddp",
        compile="eager",
        dtype="fp32",
        steps=STEPS,
        warmup=1,
        sequence=1,
        micro_batch=1,
        data=DataAsked("synthetic"),
        gpu="cpu",
        command=(sys.executable, "-c", RANK, str(moving_s)),
    )
    rounds: list[tuple[float, float, int]] = []

    def tick(seen: Tick) -> None:
        steps = sum(page.step for page in seen.beacons if page is not None)
        rounds.append((time.process_time(), time.monotonic(), steps))

    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        paths = home.attempt("training-20260101T000000Z-00000000")
        paths.root.mkdir(parents=True)
        paths.case.write_bytes(encode(case.to_json()))
        caches = tuple((_cache(Path(folder) / f"cache-{rank}"),) for rank in range(RANKS))
        surface = LocalSurface()
        launched = surface.launch(surface.request(case, Placement(home)), paths)
        limits = Limits(stall_s=120.0, wall_s=RUN_S)
        naming: Callable[[Any], None] = LiveNaming(paths, case)
        plan = LookPlan(cache_dirs=caches)
        supervise(surface, launched, paths, limits=limits, looking=plan, on_tick=tick, on_look=naming)
        looks = paths.looks.read_bytes().count(b"\n")
    cpu_s, wall_s = rounds[-1][0] - rounds[0][0], rounds[-1][1] - rounds[0][1]
    if rounds[-1][2] < RANKS * min(moving_s, RUN_S) / PAUSE_S / 10:
        raise RuntimeError(f"the ranks took only {rounds[-1][2]} steps, so nothing was supervised")
    return cpu_s / wall_s, wall_s, len(rounds), looks


def _cache(root: Path) -> Path:
    for number in range(CACHE_FILES):
        place = root / f"{number % 10:02x}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.so").write_bytes(b"code")
    return root


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    moving, moving_wall_s, moving_rounds, _ = share(1e6)
    still, _, _, looks = share(2.0)
    if looks < RUN_S / 2:
        raise RuntimeError(f"only {looks} looks were taken of ranks that stood still")
    value = max(moving, still)
    method = (
        f"CPU time of the supervising process over wall time, {RANKS} ranks, {moving_wall_s:.1f} s each: {moving:.4f} "
        f"while they step every {PAUSE_S * 1e3:g} ms ({moving_rounds} rounds), {still:.4f} while they stand still "
        f"({looks} looks, judged by the detectors)"
    )
    target = 0.01
    row = {"name": "supervisor.core_share", "value": value, "unit": "ratio", "target": "<= 0.01", "ok": value <= target}
    return [{**row, "method": method}]
