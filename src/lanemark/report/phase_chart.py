"""Geometry of the start-up picture: one lane a rank, one bar a phase. Pure numbers, no markup.

Compilation is drawn below the phase it falls in and in the one loud colour, because it is what start-up is mostly made
of and what differs between a warm and a cold cache. Colours are never the only key: bars with room carry their name,
and the page repeats the numbers as a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lanemark.report.charts import Tick, round_duration, tick_values
from lanemark.report.quantities import duration
from lanemark.report.timeline import PHASE_ORDER, Bar, Timeline, phase_words

_RANK_ROW: Final = 36.0
_RANK_ROW_DENSE: Final = 25.0
_BAR_HEIGHT: Final = 16.0
_NESTED_HEIGHT: Final = 6.0
#: A bar narrower than this share of the width has no room for its name at any width.
_LABEL_SHARE: Final = 12.0


@dataclass(frozen=True)
class PlacedBar:
    """A phase as a rectangle. `slug` names its colour; `words` is empty where there is no room."""

    x: float
    width: float
    y: float
    height: float
    slug: str
    words: str
    hint: str
    cut: bool


@dataclass(frozen=True)
class Lane:
    """One rank's bars, its label's baseline, and where it failed (per cent of the width), if it did."""

    rank: int
    y: float
    bars: tuple[PlacedBar, ...]
    failed_x: float | None


@dataclass(frozen=True)
class TimelineChart:
    """Everything the start-up picture shows. `legend` pairs a colour's slug with its words."""

    height: float
    lanes: tuple[Lane, ...]
    x_ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    description: str
    notes: tuple[str, ...]


def phase_slug(phase: str) -> str:
    """The name of a phase's colour: its own for the phases we know, `other` for any other."""
    return phase.replace("_", "-") if phase in PHASE_ORDER else "other"


def timeline_chart(timeline: Timeline) -> TimelineChart | None:
    """The start-up picture, or None when no rank reported a phase."""
    if not timeline.ranks or timeline.end_s <= 0:
        return None
    pitch = _RANK_ROW if len(timeline.ranks) <= 16 else _RANK_ROW_DENSE
    lanes = []
    for index, rank in enumerate(timeline.ranks):
        top = index * pitch + 2
        bars = tuple(_place(bar, timeline.end_s, top) for bar in rank.bars if _drawn(bar, timeline.end_s))
        failed = [bar.begin_s for bar in rank.bars if bar.phase == "failed" and bar.begin_s <= timeline.end_s]
        failed_x = 100 * max(0.0, failed[0]) / timeline.end_s if failed else None
        lanes.append(Lane(rank.rank, top, bars, failed_x))
    known = {phase_slug(phase): phase_words(phase) if phase in PHASE_ORDER else "other" for phase in timeline.phases}
    return TimelineChart(
        height=len(timeline.ranks) * pitch,
        lanes=tuple(lanes),
        x_ticks=tuple(
            Tick(100 * value / timeline.end_s, round_duration(value)) for value in tick_values(timeline.end_s, 5)
        ),
        legend=tuple(known.items()),
        description=_timeline_description(timeline),
        notes=_timeline_notes(timeline),
    )


def _drawn(bar: Bar, end_s: float) -> bool:
    return bar.phase != "failed" and bar.begin_s < end_s and bar.end_s > 0


def _place(bar: Bar, end_s: float, top: float) -> PlacedBar:
    begin = 100 * max(0.0, bar.begin_s) / end_s
    width = max(0.15, 100 * min(bar.end_s, end_s) / end_s - begin)
    words = phase_words(bar.phase)
    return PlacedBar(
        x=begin,
        width=width,
        y=top + (_BAR_HEIGHT + 1 if bar.nested else 0),
        height=_NESTED_HEIGHT if bar.nested else _BAR_HEIGHT,
        slug=phase_slug(bar.phase),
        words=words if width >= _LABEL_SHARE and not bar.nested else "",
        hint=f"{words}: {duration(bar.seconds)}, from {duration(bar.begin_s)} to {duration(bar.end_s)}",
        cut=bar.cut,
    )


def _timeline_description(timeline: Timeline) -> str:
    parts = []
    for rank in timeline.ranks[:8]:
        totals = [
            f"{phase_words(phase)} {duration(total)}"
            for phase in timeline.phases
            if (total := rank.total_s(phase)) is not None and total > 0
        ]
        parts.append(f"rank {rank.rank}: " + ", ".join(totals))
    if len(timeline.ranks) > 8:
        parts.append(f"and {len(timeline.ranks) - 8} more ranks in the table below")
    return "; ".join(parts) + "."


def _timeline_notes(timeline: Timeline) -> tuple[str, ...]:
    notes = []
    if timeline.cut:
        last = max(bar.end_s for rank in timeline.ranks for bar in rank.bars)
        notes.append(
            f"The axis ends at {duration(timeline.end_s)}, soon after start-up; the run goes on to {duration(last)}."
        )
    if timeline.silent:
        silent = ", ".join(str(rank) for rank in timeline.silent[:16])
        notes.append(f"No phase was reported by {'rank' if len(timeline.silent) == 1 else 'ranks'} {silent}.")
    return tuple(notes)
