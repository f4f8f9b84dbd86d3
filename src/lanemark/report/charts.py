"""Geometry of the step-time picture. Pure numbers, no markup.

Horizontal places are shares of the width in per cent and vertical ones are pixels, because a page stretches sideways
only: text and marks keep their size at every width, and nothing needs a script. The template turns these into SVG.

Above `MAX_POINTS` steps a chart draws, for each group of neighbouring steps, the span from the fastest to the slowest
and the median between them: no stall can fall between two pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lanemark.lanes.figures import percentile
from lanemark.report.quantities import count, duration, plural
from lanemark.report.series import Step, StepSeries

#: Points a line may have before it becomes an envelope: one for about two pixels of the widest layout.
MAX_POINTS: Final = 480
#: Below this many steps each gets a dot, so that five steps look like five facts and not like a curve.
MAX_DOTS: Final = 80
#: More marks than this are noise; the sentence below the chart still counts all of them.
MAX_MARKS: Final = 40
STEP_HEIGHT: Final = 220.0
#: Width of the coordinate system that lines are drawn in; it is stretched to the real width.
LINE_WIDTH: Final = 1000.0


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis: per cent of the width, or pixels from the top."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A marked step: where it stands, what a pointer over it says, and the words beside it (may be empty)."""

    x: float
    y: float
    hint: str
    words: str = ""


@dataclass(frozen=True)
class Curve:
    """One part of the run: `line` and `envelope` are SVG point lists, `dots` single steps; unused ones are empty."""

    part: str
    line: str
    envelope: str
    dots: tuple[Mark, ...]


@dataclass(frozen=True)
class StepChart:
    """Everything the step-time picture shows. `median_y` and `p95_y` are None where the record has no such figure."""

    height: float
    warmup_share: float
    recorded_share: float
    curves: tuple[Curve, ...]
    stalls: tuple[Mark, ...]
    clipped: tuple[Mark, ...]
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    median_y: float | None
    p95_y: float | None
    description: str
    notes: tuple[str, ...]


def tick_values(end: float, wanted: int) -> tuple[float, ...]:
    """Round values from 0 up to `end`, about `wanted` intervals. `end` must be positive."""
    raw = end / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * scale for nice in (1.0, 2.0, 2.5, 5.0, 10.0) if nice * scale >= raw * (1 - 1e-9))
    return tuple(index * step for index in range(math.floor(end / step * (1 + 1e-9)) + 1))


def round_duration(seconds: float) -> str:
    """A round duration as an axis names it: `2.5 s` where a measured one would be `2.50 s`."""
    number, _, unit = duration(seconds).rpartition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def step_chart(series: StepSeries) -> StepChart | None:
    """The step-time picture, or None when no step was recorded."""
    if not series.steps or series.top_s <= 0:
        return None
    recorded = series.steps[-1].number + 1
    whole_steps = [value for value in tick_values(series.declared, 5) if value == int(value)]
    return StepChart(
        height=STEP_HEIGHT,
        warmup_share=100 * min(series.warmup, series.declared) / series.declared,
        recorded_share=100 * recorded / series.declared,
        curves=tuple(_curve(series, part) for part in ("warmup", "measured") if series.part(part)),
        stalls=tuple(
            Mark(_x(series, step), _y(series, step.seconds), _hint(step, "stall"))
            for step in _slowest(series.stalls)
            if step.seconds <= series.top_s
        ),
        clipped=_clipped(series),
        y_ticks=tuple(Tick(_y(series, value), round_duration(value)) for value in tick_values(series.top_s, 4)),
        x_ticks=tuple(Tick(100 * value / series.declared, count(value)) for value in whole_steps),
        median_y=None if series.median_s is None else _y(series, series.median_s),
        p95_y=None if series.p95_s is None else _y(series, series.p95_s),
        description=_step_description(series, recorded),
        notes=_step_notes(series, recorded),
    )


def _x(series: StepSeries, step: Step) -> float:
    return 100 * (step.number + 0.5) / series.declared


def _y(series: StepSeries, seconds: float) -> float:
    """Pixels from the top; what is above the axis stands on its upper edge."""
    return STEP_HEIGHT * (1 - min(1.0, max(0.0, seconds / series.top_s)))


def _hint(step: Step, what: str) -> str:
    return f"step {step.number:,}: {duration(step.seconds, 4)} ({what})"


def _slowest(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: -step.seconds)[:MAX_MARKS]


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x * LINE_WIDTH / 100:.2f},{y:.2f}" for x, y in pairs)


def _curve(series: StepSeries, part: str) -> Curve:
    steps = [step for step in series.steps if step.part == part]
    group = math.ceil(len(series.steps) / MAX_POINTS)
    groups = [steps[start : start + group] for start in range(0, len(steps), group)]
    middle = [(_mean_x(series, some), _y(series, percentile([step.seconds for step in some], 0.5))) for some in groups]
    envelope = ""
    if group > 1:
        upper = [(_mean_x(series, some), _y(series, max(step.seconds for step in some))) for some in groups]
        lower = [(_mean_x(series, some), _y(series, min(step.seconds for step in some))) for some in groups]
        envelope = _points([*upper, *reversed(lower)])
    dots: tuple[Mark, ...] = ()
    if len(series.steps) <= MAX_DOTS:
        within = [step for step in steps if step.seconds <= series.top_s]
        dots = tuple(Mark(_x(series, step), _y(series, step.seconds), _hint(step, step.part)) for step in within)
    return Curve(part, _points(middle), envelope, dots)


def _mean_x(series: StepSeries, steps: Sequence[Step]) -> float:
    return 100 * ((steps[0].number + steps[-1].number) / 2 + 0.5) / series.declared


def _clipped(series: StepSeries) -> tuple[Mark, ...]:
    """Marks on the upper edge. The slowest is named there, and others where they stand far enough from named ones."""
    marks: list[Mark] = []
    named: list[float] = []
    for step in series.clipped[:MAX_MARKS]:
        x = _x(series, step)
        words = ""
        if len(named) < 3 and all(abs(x - other) > 30 for other in named):
            words = duration(step.seconds)
            named.append(x)
        what = "a stall above the axis" if step in series.stalls else "above the axis"
        marks.append(Mark(x, 0.0, _hint(step, what), words))
    return tuple(marks)


def _step_description(series: StepSeries, recorded: int) -> str:
    parts = [
        f"{plural(recorded, 'step')} of {series.declared:,} recorded",
        f"the first {series.warmup:,} are warm-up",
        f"the axis runs from 0 to {duration(series.top_s)}",
    ]
    if series.median_s is not None:
        parts.append(f"the median measured step took {duration(series.median_s, 4)}")
    if series.clipped:
        parts.append(f"{plural(len(series.clipped), 'step lies', 'steps lie')} above the axis")
    parts.append(f"{plural(len(series.stalls), 'measured step')} stalled")
    return "; ".join(parts) + "."


def _step_notes(series: StepSeries, recorded: int) -> tuple[str, ...]:
    notes = []
    if series.clipped:
        named = ", ".join(f"step {step.number:,} took {duration(step.seconds)}" for step in series.clipped[:5])
        more = f", and {len(series.clipped) - 5:,} more" if len(series.clipped) > 5 else ""
        notes.append(f"The axis is clipped at {duration(series.top_s)}: {named}{more}.")
    if recorded < series.declared:
        notes.append(f"Nothing was recorded after step {recorded - 1:,} of {series.declared:,} declared.")
    if len(series.steps) > MAX_POINTS:
        group = math.ceil(len(series.steps) / MAX_POINTS)
        notes.append(
            f"The band spans the fastest and slowest of each {group:,} neighbouring steps; the line is their median."
        )
    return tuple(notes)
