"""Wall-clock stamps, and how to notice that the wall clock was moved.

Durations always come from CLOCK_MONOTONIC. The wall clock only labels things, so all we owe a reader is to say when it
stepped: between two points, the difference between how far each clock went is the step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from lanemark.records.observation import Observation, observed

#: Linux slews the clock by at most 500 parts per million (adjtimex(2), MAXFREQ): drift below that is no step.
MAX_SLEW: Final = 500e-6
#: Below this a difference is the two clocks being read one after the other on a busy host, seconds.
STEP_FLOOR_S: Final = 0.05
_SOURCE: Final = "CLOCK_REALTIME against CLOCK_MONOTONIC"


def format_stamp(wall_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-11-22T15:22:33.123Z`. Truncated, never rounded into the future."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def stamp() -> str:
    """Now, as `format_stamp` writes it."""
    return format_stamp(time.time_ns())


@dataclass(frozen=True)
class ClockPoint:
    """Both clocks, read as closely together as the interpreter allows. Nanoseconds."""

    wall_ns: int
    monotonic_ns: int


def read_point() -> ClockPoint:
    """Read both clocks now. The wall clock is bracketed: being descheduled in between must not look like a step."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    return ClockPoint(wall, (before + after) // 2)


def compare(start: ClockPoint, end: ClockPoint) -> float:
    """Seconds by which the wall clock stepped between two points; 0.0 when it merely drifted or was slewed.

    Positive: it jumped forward (a correction, or the host slept: CLOCK_MONOTONIC stands still in suspend). Negative: it
    jumped backward.
    """
    elapsed_s = (end.monotonic_ns - start.monotonic_ns) / 1e9
    step_s = (end.wall_ns - start.wall_ns) / 1e9 - elapsed_s
    return step_s if abs(step_s) > STEP_FLOOR_S + MAX_SLEW * abs(elapsed_s) else 0.0


class ClockWatch:
    """Remembers one point and says how far the wall clock has stepped since. Cheap enough for every tick."""

    def __init__(self, start: ClockPoint | None = None) -> None:
        self.start = start if start is not None else read_point()

    def stepped_s(self, now: ClockPoint | None = None) -> Observation[float]:
        """Seconds stepped since the start; 0.0 when it did not."""
        return observed(compare(self.start, now if now is not None else read_point()), _SOURCE)
