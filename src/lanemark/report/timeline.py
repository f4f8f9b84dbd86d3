"""Where each rank's start-up went, as bars on one clock. Pure.

The picture is about the way to the first measured step. The measured window may last a hundred times longer, so the
axis ends shortly after start-up did and bars that go on are marked as cut; a run that never reached its window is
shown whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.report.quantities import visible

#: Phases in the order a run goes through them (docs/ARCHITECTURE.md, beacon.page); nested ones follow the main line.
PHASE_ORDER: Final = (
    "start", "import", "init_process_group", "prewarm", "build", "shard", "load", "warmup", "compile", "collective",
    "window", "checkpoint", "drain", "done", "failed",
)  # fmt: skip
#: Phases drawn below the main bar of a rank, because they happen inside another phase.
NESTED_PHASES: Final = ("compile", "collective")
#: A run that is over within this many times its start-up is shown whole: start-up then keeps most of the width.
WHOLE_UP_TO: Final = 1.6
_PHASE_WORDS: Final = {
    "start": "process start",
    "import": "imports",
    "init_process_group": "process group",
    "prewarm": "pre-warm",
    "build": "build model",
    "shard": "shard model",
    "load": "open data",
    "warmup": "warm-up",
    "window": "measured window",
    "collective": "collective",
    "compile": "compile",
    "checkpoint": "checkpoint",
    "drain": "drain",
    "done": "done",
    "failed": "failed",
}


@dataclass(frozen=True)
class Bar:
    """One phase of one rank, seconds since the attempt's launch. `cut` says that it goes on beyond the axis."""

    phase: str
    begin_s: float
    end_s: float
    nested: bool
    cut: bool

    @property
    def seconds(self) -> float:
        return max(0.0, self.end_s - self.begin_s)


@dataclass(frozen=True)
class RankBars:
    """The bars of one rank in the order they began."""

    rank: int
    bars: tuple[Bar, ...]

    def total_s(self, phase: str) -> float | None:
        """Seconds of all spans of a phase, None where the rank had none."""
        spans = [bar.seconds for bar in self.bars if bar.phase == phase]
        return sum(spans) if spans else None


@dataclass(frozen=True)
class Timeline:
    """Start-up phases of all ranks.

    Attributes:
        ranks: ranks that reported at least one phase, by rank.
        silent: ranks that reported none.
        end_s: right end of the axis, seconds since launch; 0.0 when there is nothing to draw.
        cut: whether some bar goes on beyond the axis.
        phases: phases that occur, in the order a run goes through them.
    """

    ranks: tuple[RankBars, ...]
    silent: tuple[int, ...]
    end_s: float
    cut: bool
    phases: tuple[str, ...]


def phase_words(phase: str) -> str:
    """What a phase is called in running text."""
    return _PHASE_WORDS.get(phase, visible(phase))


def _axis_end(spans: Sequence[Mapping[str, Any]]) -> float:
    """Where the axis ends: at the very end of a run that is mostly start-up, else a little after the window opened."""
    last = max((span["end_s"] for span in spans), default=0.0)
    opened = max((span["begin_s"] for span in spans if span["phase"] == "window"), default=last)
    return max(0.0, last if last <= WHOLE_UP_TO * opened else opened * 1.06)


def timeline(training: Mapping[str, Any]) -> Timeline:
    """Build the timeline from the training part of a record."""
    spans = [span for rank in training["ranks"] for span in rank["phases"]]
    end_s = _axis_end(spans)
    ranks, silent = [], []
    for part in sorted(training["ranks"], key=lambda rank: int(rank["rank"])):
        bars = tuple(
            Bar(span["phase"], span["begin_s"], span["end_s"], span["phase"] in NESTED_PHASES, span["end_s"] > end_s)
            for span in sorted(part["phases"], key=lambda span: float(span["begin_s"]))
        )
        if bars:
            ranks.append(RankBars(part["rank"], bars))
        else:
            silent.append(part["rank"])
    seen = {span["phase"] for span in spans}
    return Timeline(
        ranks=tuple(ranks),
        silent=tuple(silent),
        end_s=end_s,
        cut=any(bar.cut for rank in ranks for bar in rank.bars),
        phases=(*(phase for phase in PHASE_ORDER if phase in seen), *sorted(seen - set(PHASE_ORDER))),
    )
