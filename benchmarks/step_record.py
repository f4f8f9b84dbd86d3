"""What a rank pays to record one step: `data_ready` and `end_step` together, on a real sample file and beacon page.

The cost of an empty loop is taken away. The best of several rounds counts: the figure is what the code costs, and
whatever else the machine was doing can only add to it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from lanemark.measure.beacon import Beacon
from lanemark.measure.recorder import StepRecorder
from lanemark.measure.samples import SampleFile, read_samples

STEPS = 100_000
ROUNDS = 9


def round_us(folder: Path) -> float:
    """One round: microseconds a step, over an empty loop."""
    path = folder / "samples.bin"
    beacon = Beacon.create(folder / "beacon.page", rank=0, world_size=1)
    recorder = StepRecorder(SampleFile.create(path, rank=0, warmup=1, rows=STEPS), beacon)
    recorder.begin()
    recorder.end_step()
    recorder.open_window()
    data_ready, end_step = recorder.data_ready, recorder.end_step
    began_ns = time.perf_counter_ns()
    for _ in range(STEPS - 1):
        data_ready()
        end_step()
    recorded_ns = time.perf_counter_ns()
    for _ in range(STEPS - 1):
        pass
    empty_ns = time.perf_counter_ns()
    recorder.close_window()
    recorder.close()
    beacon.close()
    assert len(read_samples(path).rows) == STEPS  # it was really recorded
    return ((recorded_ns - began_ns) - (empty_ns - recorded_ns)) / (STEPS - 1) / 1e3


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(round_us(Path(folder)))
    value = min(rounds)
    method = (
        f"data_ready() + end_step() over an empty loop, {STEPS} steps into a mapped sample file and beacon page; "
        f"best of {ROUNDS} rounds (slowest {max(rounds):.2f} us)"
    )
    target_us = 1.0
    row = {"name": "training.step_record_us", "value": value, "unit": "us", "target": "<= 1", "ok": value <= target_us}
    return [{**row, "method": method}]
