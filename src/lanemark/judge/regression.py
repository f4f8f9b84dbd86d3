"""Did a series of runs get slower, when, and is that certain? Pure, standard library.

A fixed threshold ("fail below −5 %") cries wolf: over 60 runs without any change it does so in two of three series,
because somewhere among them one run is slow. So the series is asked for *changes of level*:

* **E-divisive** (Matteson and James 2014, JASA 109) finds where the runs before and after are least alike, by the
  energy distance, which takes no distribution for granted; then again on both sides of it;
* each change must pass **Welch's test** on the logarithms of the runs' figures, and Student's, and be large enough for
  anybody to care. The weakest is dropped first, until all pass;
* no side has fewer than 3 runs, so that one slow run is never a change of level.

A change for the worse that holds is a *confirmed* regression while the newest level is still worse than the one before
the change. What is too new or too weak for that is *suspected*: a newest run or two outside what the level before them
explains, or a change that only passes a weaker test. A suspicion is said and should not fail a build: rerun, and it
confirms itself or goes away.

Runs of one machine are not independent either: neighbours on it come and go, and stay a while. Where runs follow one
another more alike than chance allows, each test counts them as the independent runs that they amount to.
"""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from lanemark.judge.statistics import Difference, Sample, borrowed, chained, sample, welch

Certainty = Literal["confirmed", "suspected"]
#: Fewest runs on either side of a change.
SHORTEST: Final = 3
#: Fewer runs than this have no level to leave: two sides, and nothing to spare would find noise.
FEWEST: Final = 2 * SHORTEST
#: Chance below which a change is confirmed. A series is searched at every run, so far below 5 %: with 0.001, fewer than
#: 1 % of simulated series of 60 runs without a change are reported.
P_CONFIRMED: Final = 0.001
#: Chance below which it is suspected.
P_SUSPECTED: Final = 0.01
#: A suspicion is about at most so many newest runs. With more of them it would be confirmed if there were anything.
FRESH: Final = 10
#: Runs of a new level for which it is said how large a change they would confirm. Three can, but only a large one.
TELLING: Final = 8
#: Smaller changes than this share are not reported.
SMALLEST: Final = 0.01
#: At most this many of a series' newest runs are searched: the work grows with the square, and old levels are history.
MOST_RUNS: Final = 400


class Change(NamedTuple):
    """One change of level.

    Attributes:
        at: the first run of the new level, counted from 0.
        ratio: new level over old, of the figure as it is.
        p_value: of Welch's test on the two levels next to the change.
        certainty: `confirmed` or `suspected`.
        worse: whether it is for the worse.
        standing: whether the newest level is still worse than the one before this change. False for improvements.
    """

    at: int
    ratio: float
    p_value: float
    certainty: Certainty
    worse: bool
    standing: bool


class Trend(NamedTuple):
    """What a series' figures say.

    Attributes:
        runs: how many were searched.
        changes: by place.
        detectable: the smallest change, as a share, that a new level of `TELLING` runs would show as confirmed with
            80 % probability; None where there are too few runs to say.
    """

    runs: int
    changes: tuple[Change, ...]
    detectable: float | None

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Standing changes for the worse, whatever their certainty."""
        return tuple(change for change in self.changes if change.standing)

    @property
    def verdict(self) -> Literal["regressed", "suspected", "quiet", "too_few"]:
        """The series in one word."""
        if any(change.certainty == "confirmed" for change in self.regressions):
            return "regressed"
        if self.regressions:
            return "suspected"
        return "too_few" if self.runs < FEWEST else "quiet"


def trend(figures: Sequence[float], *, higher_is_better: bool) -> Trend:
    """Search a series, oldest run first.

    Args:
        figures: the metric of each run, positive.
        higher_is_better: whether less of it is worse.

    Raises:
        ValueError: a figure is not positive.
    """
    if any(value <= 0 for value in figures):
        raise ValueError("figures are positive")
    values = [math.log(value) for value in figures]
    if len(values) < FEWEST:
        return Trend(len(values), (), None)
    sign = 1.0 if higher_is_better else -1.0
    found = _split(values, 0, len(values))
    confirmed = _passing(values, found, P_CONFIRMED)
    fresh = [place for place in _passing(values, found, P_SUSPECTED) if len(values) - place <= FRESH]
    weaker = [place for place in fresh if _near(place, confirmed) is None]
    changes = [_change(values, confirmed, place, "confirmed", sign) for place in confirmed]
    changes += [_change(values, sorted({*confirmed, place}), place, "suspected", sign) for place in weaker]
    newest = _newest(values, confirmed[-1] if confirmed else 0, sign)
    if newest is not None and _near(newest.at, [change.at for change in changes]) is None:
        changes.append(newest)
    return Trend(len(values), tuple(sorted(changes)), _detectable(values, confirmed))


def _near(place: int, others: Sequence[int]) -> int | None:
    return next((other for other in others if abs(other - place) < SHORTEST), None)


def _split(values: Sequence[float], begin: int, end: int) -> list[int]:
    """All candidates between two places, by recursion: the best one, then the best ones on both sides of it."""
    place = _least_alike(values[begin:end])
    if place is None:
        return []
    place += begin
    # Without the correction for runs that are alike: a side that holds further changes looks as if they were.
    if welch(sample(values[begin:place]), sample(values[place:end])).p_value >= P_SUSPECTED:
        return []
    return [*_split(values, begin, place), place, *_split(values, place, end)]


def _least_alike(values: Sequence[float]) -> int | None:
    """Where the two sides are least alike by the energy distance with exponent 1; None where sides would be short."""
    num = len(values)
    if num < FEWEST:
        return None
    within_left, cross, within_right = 0.0, 0.0, 0.0
    for place, value in enumerate(values):
        within_right += math.fsum(abs(value - other) for other in values[:place])
    best, found = -math.inf, None
    for place in range(1, num - SHORTEST + 1):
        moved = values[place - 1]  # from the right side to the left one
        to_left = math.fsum(abs(moved - other) for other in values[: place - 1])
        to_right = math.fsum(abs(moved - other) for other in values[place:])
        within_left, within_right, cross = within_left + to_left, within_right - to_right, cross - to_left + to_right
        if place < SHORTEST:
            continue
        rest = num - place
        energy = 2.0 * cross / (place * rest)
        energy -= within_left / (place * (place - 1) / 2.0) + within_right / (rest * (rest - 1) / 2.0)
        weight = place * rest / num * energy
        if weight > best:
            best, found = weight, place
    return found


def _levels(before: Sequence[float], after: Sequence[float]) -> Difference:
    """The difference of two levels, each counted as the independent runs that it amounts to.

    By Welch's test and by Student's, and the less certain of the two counts. Welch's alone is misled by a short side
    whose runs agree by luck (three do, somewhere in 60): on real runs of a busy machine, in drawn orders, 11 % of
    series without a change were reported, and with both tests 0.5 %.
    """
    phi = _shared_chain(before, after)
    a, b = _amounting(before, phi), _amounting(after, phi)
    own, common = welch(a, b), borrowed(a, b, ())
    return own if common is None or own.p_value >= common.p_value else common


def _shared_chain(before: Sequence[float], after: Sequence[float]) -> float:
    """How alike runs that follow one another are, within the two levels: 0 where it may be chance."""
    left = [value - plain.median(side) for side in (before, after) for value in side]
    if len(left) < 12:
        return 0.0
    phi = chained(_ranks(left))
    # Correlations of independent values have a standard deviation of 1 ÷ √n (Bartlett 1946): below two of them, none.
    return phi if phi > 2.0 / math.sqrt(len(left)) else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks, so that one slow run does not hide or make a correlation."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    for rank, place in enumerate(order):
        out[place] = float(rank)
    return out


def _amounting(values: Sequence[float], phi: float) -> Sample:
    found = sample(values)
    if phi <= 0.0:
        return found
    num = max(2, round(found.num * (1.0 - phi) / (1.0 + phi)))
    return Sample(num, found.mean, found.variance * (num - 1))


def _passing(values: Sequence[float], places: Sequence[int], p_value: float) -> list[int]:
    """The candidates that hold between their neighbours; the weakest goes first, because then its sides are longer."""
    kept = list(places)
    while kept:
        edges = [0, *kept, len(values)]
        tests = [
            _levels(values[edges[k] : edges[k + 1]], values[edges[k + 1] : edges[k + 2]]) for k in range(len(kept))
        ]
        weakest = max(range(len(kept)), key=lambda k: tests[k].p_value)
        if tests[weakest].p_value > p_value:
            del kept[weakest]
            continue
        smallest = min(range(len(kept)), key=lambda k: abs(tests[k].value))
        if abs(tests[smallest].value) < math.log1p(SMALLEST):
            del kept[smallest]
            continue
        break
    return kept


def _change(values: Sequence[float], places: Sequence[int], place: int, certainty: Certainty, sign: float) -> Change:
    edges = [0, *places, len(values)]
    k = edges.index(place)
    before, after, newest = values[edges[k - 1] : place], values[place : edges[k + 1]], values[edges[-2] :]
    found = _levels(before, after)
    worse = found.value * sign < 0
    still = (plain.fmean(newest) - plain.fmean(before)) * sign < -math.log1p(SMALLEST)
    return Change(place, math.exp(found.value), found.p_value, certainty, worse, worse and still)


def _newest(values: Sequence[float], begin: int, sign: float) -> Change | None:
    """One or two newest runs worse than the level before them explains, by the spread of that level alone."""
    for short in (2, 1):
        level, tail = values[begin : len(values) - short], values[len(values) - short :]
        if len(level) < FEWEST:
            continue
        base, new = sample(level), sample(tail)
        error = math.sqrt(base.variance * (1.0 / base.num + 1.0 / new.num))
        found = Difference(new.mean - base.mean, error, base.num - 1.0)
        far = min(abs(value - base.mean) for value in tail) > math.log1p(SMALLEST)
        if found.value * sign < 0 and far and found.p_value < P_SUSPECTED:
            return Change(
                len(values) - short, math.exp(found.value), found.p_value, "suspected", worse=True, standing=True
            )
    return None


def _detectable(values: Sequence[float], places: Sequence[int]) -> float | None:
    """What `TELLING` new runs could confirm against the newest level, from the spread within levels.

    The new level's own spread rests on so few runs that its degrees of freedom are the ones that count.
    """
    edges = [0, *places, len(values)]
    parts = [sample(values[begin:end]) for begin, end in pairwise(edges)]
    df = sum(part.num - 1 for part in parts)
    newest = parts[-1].num
    if df < 2:
        return None
    spread = math.fsum(part.squares for part in parts) / df
    error = math.sqrt(spread * (1.0 / newest + 1.0 / TELLING))
    return math.expm1(Difference(0.0, error, float(min(df, TELLING - 1))).detectable(P_CONFIRMED))
