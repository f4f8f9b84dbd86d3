"""The step-time series of one run, ready to be drawn: what is drawn to scale, what is clipped, what stalled. Pure.

Step 0 pays for compilation and may take a thousand medians. An axis that reaches it would press the measured steps
into a flat line; an axis that ends below it without a word would hide it. So the axis starts at zero, ends above the
measured steps, and every step beyond it becomes a `Clipped` mark with its value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lanemark.lanes.figures import STALL_FACTOR, percentile
from lanemark.records.observation import value_of

#: The axis never ends above this many medians unless everything fits below it anyway: the shape of ordinary steps
#: then keeps at least a quarter of the height.
AXIS_MEDIANS: Final = 4.0
_NICE: Final = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)

Part = Literal["warmup", "measured"]


@dataclass(frozen=True)
class Step:
    """One global step: its number, its duration in seconds, and whether it was measured."""

    number: int
    seconds: float
    part: Part


@dataclass(frozen=True)
class StepSeries:
    """All recorded steps with the marks a chart needs.

    Attributes:
        steps: recorded steps in order, warm-up first.
        declared: steps the case asked for; the horizontal axis spans them even when fewer were recorded.
        warmup: leading steps that are never measured.
        median_s: of the measured window as sealed in the record, None where the record has none.
        p95_s: likewise.
        top_s: upper end of the vertical axis; 0.0 when nothing was recorded.
        clipped: steps above `top_s`, the slowest first.
        stalls: measured steps above `STALL_FACTOR` medians, in order.
    """

    steps: tuple[Step, ...]
    declared: int
    warmup: int
    median_s: float | None
    p95_s: float | None
    top_s: float
    clipped: tuple[Step, ...]
    stalls: tuple[Step, ...]

    def part(self, part: Part) -> tuple[Step, ...]:
        """The recorded steps of one part of the run."""
        return tuple(step for step in self.steps if step.part == part)


def nice_ceiling(value: float) -> float:
    """The next round number at or above `value`, which must be positive."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in _NICE if step * scale >= value * (1 - 1e-12))


def axis_top(warmup_s: Sequence[float], measured_s: Sequence[float]) -> float:
    """Upper end of the vertical axis, seconds; 0.0 for no steps or only empty ones."""
    everything = [*warmup_s, *measured_s]
    highest = max(everything, default=0.0)
    if highest <= 0:
        return 0.0
    usual = percentile(measured_s or everything, 0.5)
    if usual <= 0 or highest <= AXIS_MEDIANS * usual:
        return nice_ceiling(highest * 1.05)
    within = [value for value in measured_s or everything if value <= AXIS_MEDIANS * usual]
    return nice_ceiling(max(1.3 * usual, 1.1 * max(within)))


def step_series(training: Mapping[str, Any]) -> StepSeries:
    """Build the series from the training part of a record."""
    window, samples = training["window"], training["samples"]
    warmup_s = [value / 1e9 for value in samples["warmup"]]
    measured_s = [value / 1e9 for value in samples["measured"]]
    first = window["warmup"]
    steps = (
        *(Step(index, value, "warmup") for index, value in enumerate(warmup_s)),
        *(Step(first + index, value, "measured") for index, value in enumerate(measured_s)),
    )
    sealed = value_of(training["step_time"]) or {}
    top = axis_top(warmup_s, measured_s)
    usual = percentile(measured_s, 0.5) if measured_s else None
    return StepSeries(
        steps=steps,
        declared=max(window["steps"], steps[-1].number + 1 if steps else 0),
        warmup=first,
        median_s=sealed.get("p50_s"),
        p95_s=sealed.get("p95_s"),
        top_s=top,
        clipped=tuple(sorted((step for step in steps if step.seconds > top), key=lambda step: -step.seconds)),
        stalls=tuple(
            step for step in steps if step.part == "measured" and usual and step.seconds > STALL_FACTOR * usual
        ),
    )
