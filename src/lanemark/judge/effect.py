"""Is B faster than A? One call over the figures of their runs. Pure, standard library.

The **run** is the unit. Pooling the steps of runs and testing those calls a difference in 54 to 85 % of comparisons of
a thing with itself, because the spread between runs is not the spread between steps. So:

* three runs or more on both sides: Welch's test on the logarithms of the runs' figures, and two one-sided tests (TOST)
  for equivalence within ±2 %;
* one or two runs on a side: the spread between runs is borrowed from the history of the series, if there is one, and
  pooled with what little the two sides show themselves;
* no history: `unreplicated`. A ratio is stated and nothing is concluded from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from lanemark.judge.metrics import Metric
from lanemark.judge.statistics import Difference, borrowed, sample, welch

Conclusion = Literal["faster", "slower", "equivalent", "inconclusive", "unreplicated"]
#: Fewer runs on a side than this do not show the spread between runs.
ENOUGH_RUNS: Final = 3
#: Share of runs of no difference that may be called one.
ALPHA: Final = 0.05
#: Differences within this share are called equivalent, where the runs can show it.
EQUIVALENT: Final = 0.02
#: Chance of noticing a difference as large as the minimum detectable one.
POWER: Final = 0.8


class Effect(NamedTuple):
    """What the runs say of B against A.

    Attributes:
        verdict: what B is. `inconclusive`: the runs could not tell; `unreplicated`: too few runs to ask.
        ratio: B's geometric mean over A's, of the metric as it is (a smaller latency is a ratio below 1).
        interval: 95 % interval of the ratio, or None where no spread between runs is known.
        minimum_detectable: smallest change, as a share of A, that such runs notice with 80 % probability; or None.
        reason: one sentence.
    """

    verdict: Conclusion
    ratio: float
    interval: tuple[float, float] | None
    minimum_detectable: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` prints it."""
        doc: dict[str, Any] = {"verdict": self.verdict, "ratio": self.ratio, "reason": self.reason}
        if self.interval is not None:
            doc["interval"] = list(self.interval)
        if self.minimum_detectable is not None:
            doc["minimum_detectable"] = self.minimum_detectable
        return doc


def effect(a_runs: Sequence[float], b_runs: Sequence[float], metric: Metric, history: Sequence[float] = ()) -> Effect:
    """What the runs of B say against those of A.

    Args:
        a_runs: the metric of each run of side A, positive, at least one. Only of runs that a verdict has found
            comparable.
        b_runs: likewise of side B.
        metric: what they are.
        history: the metric of earlier runs of the same series, for its spread between runs.

    Raises:
        ValueError: a side has no run, or a figure is not positive.
    """
    if not a_runs or not b_runs or min(*a_runs, *b_runs) <= 0:
        raise ValueError("each side needs at least one run, and figures are positive")
    a, b = (sample([math.log(value) for value in runs]) for runs in (a_runs, b_runs))
    if min(a.num, b.num) >= ENOUGH_RUNS:
        how = f"{a.num} and {b.num} runs, Welch's test on their logarithms"
        return _concluded(welch(a, b), metric, how)
    earlier = [value for value in history if value > 0]
    if len(earlier) >= ENOUGH_RUNS:
        found = borrowed(a, b, [sample([math.log(value) for value in earlier])])
        if found is not None:
            how = f"{a.num} and {b.num} runs, with the spread of {len(earlier)} earlier runs"
            return _concluded(found, metric, how)
    reason = (
        f"{a.num} {'run' if a.num == 1 else 'runs'} against {b.num}: the spread between runs is not known, so that "
        f"nothing follows from the ratio; {ENOUGH_RUNS} runs on each side would show it"
    )
    return Effect("unreplicated", math.exp(b.mean - a.mean), None, None, reason)


def _concluded(found: Difference, metric: Metric, how: str) -> Effect:
    half = found.half_width(1.0 - ALPHA)
    interval = (math.exp(found.value - half), math.exp(found.value + half))
    detectable = math.expm1(found.detectable(ALPHA, POWER))
    if found.is_within(math.log1p(EQUIVALENT), ALPHA):
        word: Conclusion = "equivalent"
        said = f"within {EQUIVALENT:.0%} of one another"
    elif abs(found.value) > half:
        word = "faster" if (found.value > 0) is metric.higher_is_better else "slower"
        said = "the difference is larger than the spread between runs explains"
    else:
        word = "inconclusive"
        said = f"a difference below {detectable:.1%} would often go unnoticed"
    return Effect(word, math.exp(found.value), interval, detectable, f"{how}: {said}")
