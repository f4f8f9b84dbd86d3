"""The way to the first step, as one stacked bar a rank: which part of start-up to work on. Pure.

All bars share one scale, so that a rank that others wait for is the one whose compile or import part is longest, and
not the one whose waiting is. Horizontal places are shares of the width in per cent, vertical ones pixels, as in
`charts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, plain, shown
from lanemark.report.charts import Tick, round_duration, tick_values
from lanemark.report.quantities import duration
from lanemark.report.tables import TableView

#: Part of the split, the name of its colour, its words; in the order in which they stand in a bar.
PARTS: Final = (
    ("import_s", "import", "imports"),
    ("init_s", "init-process-group", "process group"),
    ("prewarm_s", "prewarm", "pre-warm"),
    ("build_s", "build", "build model"),
    ("shard_s", "shard", "shard model"),
    ("compile_s", "compile", "compile"),
    ("first_collective_s", "collective", "first collectives"),
    ("other_s", "other", "other"),
)
_ROW: Final = 30.0
_ROW_DENSE: Final = 20.0
_BAR_HEIGHT: Final = 16.0
#: A segment narrower than this share of the width has no room for its name at any width.
_LABEL_SHARE: Final = 14.0
#: A part below this share of a rank's time is not worth a word on a short page.
_TOLD_SHARE: Final = 0.03


@dataclass(frozen=True)
class Segment:
    """One part of one rank's way. `words` is empty where there is no room for them."""

    x: float
    width: float
    slug: str
    words: str
    hint: str


@dataclass(frozen=True)
class SplitBar:
    """One rank: where its bar begins, and what it is made of."""

    rank: int
    y: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class SplitChart:
    """Everything the picture shows. `legend` pairs a colour's name with its words."""

    height: float
    bar_height: float
    bars: tuple[SplitBar, ...]
    x_ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    description: str


def split_chart(ranks: Sequence[Mapping[str, Any]]) -> SplitChart | None:
    """The picture, or None when no rank's way was observed.

    Args:
        ranks: `training.ranks` of a record.
    """
    known = _known(ranks)
    longest_s = max((sum(parts.values()) for _, parts in known), default=0.0)
    if longest_s <= 0:
        return None
    pitch = _ROW if len(known) <= 16 else _ROW_DENSE
    bars = tuple(
        SplitBar(rank, index * pitch + 2, _segments(parts, longest_s)) for index, (rank, parts) in enumerate(known)
    )
    used = {segment.slug for bar in bars for segment in bar.segments}
    return SplitChart(
        height=len(known) * pitch,
        bar_height=_BAR_HEIGHT,
        bars=bars,
        x_ticks=tuple(Tick(100 * value / longest_s, round_duration(value)) for value in tick_values(longest_s, 5)),
        legend=tuple((slug, words) for _, slug, words in PARTS if slug in used),
        description="; ".join(f"rank {rank}: {_told(parts, 0.0)}" for rank, parts in known[:8]) + ".",
    )


def _known(ranks: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    found = []
    for part in sorted(ranks, key=lambda rank: int(rank["rank"])):
        value = value_of(part.get("first_step"))
        if value is not None:
            found.append((int(part["rank"]), {name: max(0.0, float(value[name])) for name, _, _ in PARTS}))
    return found


def _segments(parts: Mapping[str, float], longest_s: float) -> tuple[Segment, ...]:
    at, out = 0.0, []
    for name, slug, words in PARTS:
        width = 100 * parts[name] / longest_s
        if parts[name] > 0:
            out.append(
                Segment(at, width, slug, words if width >= _LABEL_SHARE else "", f"{words}: {duration(parts[name])}")
            )
        at += width
    return tuple(out)


def _told(parts: Mapping[str, float], share: float) -> str:
    total = sum(parts.values())
    told = [f"{words} {duration(parts[name])}" for name, _, words in PARTS if parts[name] > share * total]
    return ", ".join(told) or "nothing"


def slowest(ranks: Sequence[Mapping[str, Any]]) -> Cell | None:
    """The way of the rank whose first step ended last, in words; None when no rank's way was observed."""
    known = _known(ranks)
    if not known:
        return None
    rank, parts = max(known, key=lambda entry: sum(entry[1].values()))
    return Cell(f"{_told(parts, _TOLD_SHARE)} (rank {rank})", "observed", "beacon.page and samples.bin")


def split_table(ranks: Sequence[Mapping[str, Any]]) -> TableView:
    """The same in figures: one row a rank, one column a part."""
    rows = []
    for part in sorted(ranks, key=lambda rank: int(rank["rank"])):
        seen = part.get("first_step")
        value = value_of(seen)
        if seen is None or value is None:
            why = Cell("unavailable: not recorded", "unavailable") if seen is None else shown(seen)
            rows.append(
                (Cell(str(part["rank"]), "stated"), why, *(Cell("not known", "unavailable") for _ in PARTS[1:]))
            )
        else:
            cells = (Cell(duration(value[name]), "observed", plain(seen["source"])) for name, _, _ in PARTS)
            rows.append((Cell(str(part["rank"]), "stated"), *cells))
    return TableView("Time to the first step by rank", ("rank", *(words for _, _, words in PARTS)), tuple(rows))
