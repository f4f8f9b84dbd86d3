"""Several runs of one thing: their typical figure, and how far runs of it spread. Pure.

The interval is for the mean of such runs on this machine at this time, by Student's t on their logarithms. What it does
not say: what another machine, or this one next week, would show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lanemark.judge.admission import Admitted
from lanemark.judge.comparing import compare
from lanemark.judge.metrics import Metric, metric_of
from lanemark.judge.series import values_of
from lanemark.judge.statistics import Difference, sample
from lanemark.records.verdict import Reason, ordered


class Spread(NamedTuple):
    """The figures of at least two runs.

    Attributes:
        runs: how many.
        mean: their geometric mean.
        interval: 95 % interval of it.
        between: standard deviation between runs, as a share.
    """

    runs: int
    mean: float
    interval: tuple[float, float]
    between: float


class Repeated(NamedTuple):
    """What the runs show together; figures by label, none where reasons refuse."""

    metric: Metric
    reasons: tuple[Reason, ...]
    figures: dict[str, Spread]

    @property
    def text(self) -> str:
        """One line a figure, or why there is none."""
        if self.reasons:
            return "\n".join(f"  - {reason.code}  {reason.text}" for reason in self.reasons)
        lines = []
        for label, found in self.figures.items():
            low, high = found.interval
            of = f"{label}: " if label else ""
            lines.append(
                f"{of}{found.mean:,.5g} {self.metric.unit} over {found.runs} runs, 95 % interval {low:,.5g} to "
                f"{high:,.5g}; runs spread by {found.between:.1%}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As `run --repeat --json` prints it."""
        figures = [{**({"of": label} if label else {}), **found._asdict()} for label, found in self.figures.items()]
        doc: dict[str, Any] = {"metric": self.metric.name, "reasons": [reason.to_json() for reason in self.reasons]}
        return {**doc, **({"figures": figures} if figures else {})}


def one_side(records: Sequence[Admitted], metric: str | None = None) -> Repeated:
    """What at least two runs of one thing show together.

    Raises:
        KeyError: the lane has no such metric.
    """
    chosen = metric_of(records[0].lane, metric)
    reasons = [
        reason
        for place, one in enumerate(records)
        for other in records[place + 1 :]
        for reason in compare(one, other, metric).reasons
        if reason.severity == "block"
    ]
    if reasons:
        return Repeated(chosen, ordered(reasons), {})
    found = {label: _spread(values) for label, values in values_of(records, chosen.name).items() if len(values) > 1}
    return Repeated(chosen, (), found)


def _spread(values: Sequence[float]) -> Spread:
    found = sample([math.log(value) for value in values])
    deviation = math.sqrt(found.variance)
    half = Difference(0.0, deviation / math.sqrt(found.num), found.num - 1.0).half_width()
    interval = (math.exp(found.mean - half), math.exp(found.mean + half))
    return Spread(found.num, math.exp(found.mean), interval, deviation)
