"""The share of one core that supervising takes: processor time of the supervising process while two ranks step.

The ranks are real processes without torch that step every few milliseconds, so that every round finds changed pages.
Starting and ending the ranks is not supervising: time counts from the first look at them to the last.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lanemark.launch.local import LocalSurface
from lanemark.launch.supervise import Limits, Tick, supervise
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode

RUN_S = 12.0
STEPS = 100_000
PAUSE_S = 0.005
#: A rank: the real session and recorder around a sleep.
RANK = f"""
import os, time
from lanemark.measure.session import RankSession
with RankSession.from_environment(os.environ) as session:
    recorder = session.recorder()
    recorder.begin()
    recorder.end_step()
    recorder.open_window()
    while recorder.step < {STEPS}:
        recorder.data_ready()
        time.sleep({PAUSE_S})
        recorder.end_step()
"""


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    case = Case(
        lane="training",
        preset="none",
        nproc=2,
        mode="ddp",
        compile="eager",
        dtype="fp32",
        steps=STEPS,
        warmup=1,
        sequence=1,
        micro_batch=1,
        data=DataAsked("synthetic"),
        gpu="cpu",
        command=(sys.executable, "-c", RANK),
    )
    looks: list[tuple[float, float, int]] = []

    def look(tick: Tick) -> None:
        steps = sum(page.step for page in tick.beacons if page is not None)
        looks.append((time.process_time(), time.monotonic(), steps))

    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        paths = home.attempt("training-20260101T000000Z-00000000")
        paths.root.mkdir(parents=True)
        paths.case.write_bytes(encode(case.to_json()))
        surface = LocalSurface()
        launched = surface.launch(surface.request(case, Placement(home)), paths)
        supervise(surface, launched, paths, limits=Limits(stall_s=60.0, wall_s=RUN_S), on_tick=look)
    cpu_s, wall_s = looks[-1][0] - looks[0][0], looks[-1][1] - looks[0][1]
    if looks[-1][2] < RUN_S / PAUSE_S / 4:
        raise RuntimeError(f"the ranks took only {looks[-1][2]} steps, so nothing was supervised")
    value = cpu_s / wall_s
    method = (
        f"CPU time of the supervising process over {wall_s:.1f} s of wall time, from its first look to its last of "
        f"{len(looks)}, with 2 ranks stepping every {PAUSE_S * 1e3:g} ms"
    )
    target = 0.01
    row = {"name": "supervisor.core_share", "value": value, "unit": "ratio", "target": "<= 0.01", "ok": value <= target}
    return [{**row, "method": method}]
