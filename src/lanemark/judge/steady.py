"""Was the measured window steady? An audit of what was declared, which may say no and never moves an edge. Pure.

The case declares its window (leave out K steps, measure N) before anything runs, and the headline is the mean over it.
A detector that chose the window would choose the figure; so this one only looks at what was measured and says whether
one level describes it. In order:

1. steps up to the last compilation are no evidence of anything and are looked past;
2. logarithms, because a step that takes 10 % longer is the same event at any speed; single spikes are clipped to their
   neighbourhood (Hampel 1974), so that a stall is not taken for a level. Stalls stay in the headline;
3. the noise of a level is estimated from differences of neighbours, which a change of level hardly touches, and is
   inflated for autocorrelation: correlated steps wander, and wandering is not a change;
4. changes of level: the partition into segments that minimises squared deviations plus a penalty for each segment,
   found exactly (optimal partitioning with pruning, PELT: Killick, Fearnhead and Eckley 2012, JASA 107). Each change
   must then pass Welch's test with the steps that its sides really amount to;
5. the steady part begins with the earliest segment from which on all are within 1 % of the last, and after any leading
   steps of more than 1.1 times its median.

The window is *steady* when its mean is within 1 % of the steady part's and that part neither drifts nor is a minority.
What must not be concluded: a steady window says nothing about the next run (`lanemark.judge.effect`), and fewer than 30
steps are not called steady, they are called unknown.
"""

from __future__ import annotations

import math
import statistics as plain
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from lanemark.judge.statistics import Difference, Sample, chained, sample, welch
from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of

Steadiness = Literal["steady", "settling", "shifted", "oscillating", "drifting", "unknown"]
#: Fewer steps than this show neither a level nor a change of it.
FEWEST: Final = 30
#: Levels within this share of one another are one level: smaller than what anybody decides by.
TOLERANCE: Final = 0.01
#: Hampel's filter: half a window of steps, and how many scaled median deviations a spike is away.
_HALF_WINDOW: Final = 15
_SPIKE: Final = 4.0
#: A normal distribution's standard deviation over its median absolute deviation.
_MAD: Final = 1.4826
#: Shortest segment, in steps. Shorter ones are spikes.
_SHORTEST: Final = 5
#: Penalty of a segment, in units of long-run variance times the logarithm of the number of steps: the usual one. What
#: it lets through because the correlation of noise is itself estimated, the test that follows takes out.
_PENALTY: Final = 2.0
#: A change of level has to be this unlikely by chance. There may be many in a window, so far below 5 %.
_P_CHANGE: Final = 0.001
#: Leading steps above this multiple of the steady median are start-up that the filter hid.
_LEADING: Final = 1.1
#: Longer windows are looked at in this many batches: levels that matter last longer than a batch.
_MOST_POINTS: Final = 600


class Audit(NamedTuple):
    """What the audit of one window found.

    Attributes:
        word: `steady`; `settling`: the level was reached late; `shifted`: it changed for good; `oscillating`: it went
            back and forth; `drifting`: it moved all along; `unknown`: too few steps to tell.
        start: first step of the window, from 0, from which on it was steady; None where no such step was found.
        levels: (first step, step after the last, typical step time in the samples' unit) of each segment.
        reason: one clause.
    """

    word: Steadiness
    start: int | None
    levels: tuple[tuple[int, int, float], ...]
    reason: str

    @property
    def refuses(self) -> str | None:
        """Why a mean over the window is a mean of several things; None where it is not, or where that is not known."""
        return None if self.word in ("steady", "unknown") else self.reason

    @property
    def unknown(self) -> str | None:
        """Why nothing can be said; None where something can."""
        return self.reason if self.word == "unknown" else None


def audited(doc: Doc) -> Audit | None:
    """The audit of a record's own samples; None where it has no measured window: another lane, or no step measured.

    Compilations are judged before this, by what the record says of its last one (`lanemark.judge.admission`).
    """
    if doc["lane"] != "training" or not doc["training"]["samples"]["measured"]:
        return None
    window = doc["training"]["window"]
    last = value_of(doc["compile"]["observed"]["last_end_step"])
    compiled = 0 if last is None else max(0, last + 1 - window["warmup"])
    return audit(doc["training"]["samples"]["measured"], compiled)


def audit(samples: Sequence[float], compiled: int = 0) -> Audit:
    """Audit the measured steps of one window.

    Args:
        samples: step times in order, positive, warm-up left out.
        compiled: how many leading ones of them are up to and including the last in which something was compiled.
    """
    looked = samples[compiled:]
    if len(looked) < FEWEST:
        past = f" after the last compilation, which was in step {compiled - 1}" if compiled else ""
        return Audit("unknown", None, (), f"{len(looked)} measured steps{past} are too few to tell; {FEWEST} would do")
    if min(looked) <= 0:
        return Audit("unknown", None, (), "a step of no length has no level")
    size = -(-len(looked) // _MOST_POINTS)
    clipped = despiked([math.log(value) for value in looked])
    points = clipped if size == 1 else _batches(clipped, size)
    ends = _confirmed(points, segments(points))
    edges = [(begin, end) for begin, end in pairwise([0, *ends])]
    means = [plain.fmean(points[begin:end]) for begin, end in edges]
    first = _steady_from(means)
    start = _past_leading(looked, edges[first][0] * size)
    levels = tuple(
        (compiled + begin * size, compiled + (len(looked) if end == len(points) else end * size), math.exp(mean))
        for (begin, end), mean in zip(edges, means, strict=True)
    )
    word, reason = _judged(looked, start, means, points[-(-start // size) :])
    return Audit(word, None if word in ("oscillating", "drifting") else compiled + start, levels, reason)


def despiked(values: Sequence[float]) -> list[float]:
    """The values with isolated spikes replaced by the median of their neighbourhood (Hampel's filter)."""
    out, held = [], sorted(values[:_HALF_WINDOW])
    last = len(values) - 1
    for place, value in enumerate(values):
        if place + _HALF_WINDOW <= last:
            insort(held, values[place + _HALF_WINDOW])
        if place > _HALF_WINDOW:
            del held[bisect_left(held, values[place - _HALF_WINDOW - 1])]
        middle = _median(held)
        scale = _MAD * _median(sorted(abs(each - middle) for each in held))
        out.append(value if abs(value - middle) <= _SPIKE * scale else middle)
    return out


def _median(held: Sequence[float]) -> float:
    half, odd = divmod(len(held), 2)
    return held[half] if odd else (held[half - 1] + held[half]) / 2.0


def _batches(values: Sequence[float], size: int) -> list[float]:
    """Means of consecutive batches; what is over joins the last."""
    count = len(values) // size
    edges = [place * size for place in range(count)] + [len(values)]
    return [plain.fmean(values[begin:end]) for begin, end in pairwise(edges)]


def noise(values: Sequence[float]) -> tuple[float, float]:
    """(variance, autocorrelation) of what is left when levels are taken away, from differences of neighbours.

    For a first-order autoregression with coefficient φ, differences of neighbours have the variance 2σ²(1 − φ) and
    are correlated by −(1 − φ) ÷ 2 with the next one. Their scale is taken from their median deviation, which the few
    differences across changes of level do not move.
    """
    steps = [after - before for before, after in pairwise(values)]
    middle = plain.median(steps)
    scale = _MAD * plain.median(abs(step - middle) for step in steps)
    if scale == 0.0:
        scale = plain.pstdev(steps)
    if scale == 0.0:
        return 0.0, 0.0
    limit = 4.0 * scale
    cut = [max(-limit, min(limit, step - middle)) for step in steps]
    total = math.fsum(step * step for step in cut)
    together = math.fsum(x * y for x, y in pairwise(cut)) / total
    phi = max(0.0, min(0.9, 1.0 + 2.0 * together))
    return scale * scale / (2.0 * (1.0 - phi)), phi


def segments(values: Sequence[float]) -> list[int]:
    """Where the segments of the best partition end, in order; the last is the number of values."""
    variance, phi = noise(values)
    num = len(values)
    penalty = _PENALTY * variance * (1.0 + phi) / (1.0 - phi) * math.log(num)
    if penalty == 0.0:
        penalty = 1e-12
    sums, squares = [0.0], [0.0]
    for value in values:
        sums.append(sums[-1] + value)
        squares.append(squares[-1] + value * value)
    best = [math.inf] * (num + 1)
    best[0] = -penalty
    begins = [0] * (num + 1)
    candidates = [0]
    for end in range(_SHORTEST, num + 1):
        total, square = sums[end], squares[end]
        costs = [
            best[begin] + square - squares[begin] - (total - sums[begin]) ** 2 / (end - begin) for begin in candidates
        ]
        least = min(costs)
        best[end] = least + penalty
        begins[end] = candidates[costs.index(least)]
        # A begin whose cost without penalty is already above the best can never be the best again.
        candidates = [begin for begin, cost in zip(candidates, costs, strict=True) if cost <= best[end]]
        if end + 1 - _SHORTEST >= _SHORTEST:
            candidates.append(end + 1 - _SHORTEST)
    ends, end = [], num
    while end > 0:
        ends.append(end)
        end = begins[end]
    return ends[::-1]


def _confirmed(values: Sequence[float], ends: list[int]) -> list[int]:
    """The partition without changes that its own segments do not bear out; the weakest goes first."""
    ends, phi = list(ends), noise(values)[1]
    while len(ends) > 1:
        tests = []
        for place in range(len(ends) - 1):
            begin = ends[place - 1] if place else 0
            before, after = values[begin : ends[place]], values[ends[place] : ends[place + 1]]
            tests.append(welch(_amounting(before, phi), _amounting(after, phi)).p_value)
        weakest = max(tests)
        if weakest <= _P_CHANGE:
            break
        del ends[tests.index(weakest)]
    return ends


def _amounting(values: Sequence[float], phi: float) -> Sample:
    """A segment as the independent steps that it amounts to, by its own correlation or the window's, the larger."""
    found, phi = sample(values), min(0.98, max(phi, chained(values)))
    num = max(2, round(found.num * (1.0 - phi) / (1.0 + phi)))
    return Sample(num, found.mean, found.variance * (num - 1))


def _steady_from(means: Sequence[float]) -> int:
    """The earliest segment from which on all levels are within the tolerance of the last."""
    first = len(means) - 1
    while first > 0 and abs(means[first - 1] - means[-1]) <= math.log1p(TOLERANCE):
        first -= 1
    return first


def _past_leading(samples: Sequence[float], start: int) -> int:
    middle = plain.median(samples[max(start, len(samples) // 2) :])
    while start < len(samples) - 1 and samples[start] > _LEADING * middle:
        start += 1
    return start


def _judged(
    samples: Sequence[float], start: int, means: Sequence[float], rest: Sequence[float]
) -> tuple[Steadiness, str]:
    turns = _turns(means)
    if turns >= 2:
        low, high = math.exp(min(means) - means[-1]), math.exp(max(means) - means[-1])
        said = f"its level went back and forth {turns} times, from {low:.2f} to {high:.2f} of where it ended"
        swung: Steadiness = "oscillating"
    else:
        said, swung = "", "steady"
    num = len(samples)
    bias = plain.fmean(samples) / plain.fmean(samples[start:]) - 1.0
    if num - start < max(FEWEST, num // 3):
        if swung == "oscillating":
            return swung, said
        change = math.exp(means[-1] - means[0]) - 1.0
        if len(means) > 2 and not turns:
            return "drifting", f"its level changed {len(means) - 1} times in one direction, by {change:+.1%} in all"
        return "shifted", f"its level changed by {change:+.1%} as late as step {start} of {num}"
    if abs(bias) > TOLERANCE:
        if swung == "oscillating":
            return swung, said
        return (
            "settling",
            f"it was steady from step {start} of {num} on; what came before moves its mean by {bias:+.1%}",
        )
    drift = _drift(rest)
    if drift is not None:
        return "drifting", f"its steps got {drift:+.1%} longer from its beginning to its end, and steadily so"
    if start == 0:
        return "steady", f"one level over {num} steps"
    return "steady", f"one level from step {start} of {num} on; what came before moves its mean by only {bias:+.1%}"


def _turns(means: Sequence[float]) -> int:
    """How often the level changed its direction, counting changes larger than the tolerance."""
    changes = [after - before for before, after in pairwise(means) if abs(after - before) > math.log1p(TOLERANCE)]
    return sum((before > 0) is not (after > 0) for before, after in pairwise(changes))


def _drift(values: Sequence[float]) -> float | None:
    """How much longer a step got over the values, as a share, where that is both more than noise and material."""
    num = len(values)
    if num < FEWEST // 2:
        return None
    middle = (num - 1) / 2.0
    spread = math.fsum((place - middle) ** 2 for place in range(num))
    mean = plain.fmean(values)
    slope = math.fsum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread
    left = [value - mean - slope * (place - middle) for place, value in enumerate(values)]
    phi = max(0.0, min(0.98, chained(left)))
    amounts = max(4.0, num * (1.0 - phi) / (1.0 + phi))
    error = math.sqrt(math.fsum(value * value for value in left) / num / amounts * num / spread)
    found = Difference(slope, error, amounts - 2.0)
    if found.p_value > _P_CHANGE or abs(slope) * num <= math.log1p(TOLERANCE):
        return None
    return math.expm1(slope * num)
