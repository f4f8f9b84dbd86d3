"""A rank of the reference stack that also writes down its processor time: at every phase, and at the end of step 0.

Started in the place of `python -m lanemark.stack.train`, with the same environment. Processor time is this process's
and that of its children that have ended, which are the compilers. It goes to `cpu.json` in the rank's directory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from lanemark.measure.beacon import Beacon, Phase
from lanemark.measure.recorder import StepRecorder
from lanemark.stack.train import main

PHASES: list[tuple[str, float]] = []
_enter, _end_step = Beacon.enter, StepRecorder.end_step


def cpu_s() -> float:
    """Processor seconds so far, children included."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def enter(beacon: Beacon, phase: Phase, label: str = "") -> None:
    """`Beacon.enter`, with a stamp before it."""
    PHASES.append((phase, cpu_s()))
    _enter(beacon, phase, label)


def end_first_step(recorder: StepRecorder) -> None:
    """`StepRecorder.end_step` of step 0, which stamps and then gets out of the way."""
    _end_step(recorder)
    PHASES.append(("first step done", cpu_s()))
    StepRecorder.end_step = _end_step  # type: ignore[method-assign]


if __name__ == "__main__":
    Beacon.enter = enter  # type: ignore[method-assign,assignment]
    StepRecorder.end_step = end_first_step  # type: ignore[method-assign,assignment]
    status = main()
    (Path(os.environ["LANEMARK_RANK_DIR"]) / "cpu.json").write_text(json.dumps(PHASES))
    sys.exit(status)
