"""Two samples of runs against one another: Welch's test, equivalence, power. Pure, standard library.

Everything here is about the *logarithms* of the figures of runs, so that a difference is a ratio, and a speed and its
time give the same answer with the sign turned. A value is one run; steps of a run never are (`lanemark.judge.effect`
has the measurement behind that).

numpy and scipy were left out on purpose: samples are handfuls, Student's t is in `lanemark.judge.student`, and a client
that only compares records should not need either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from lanemark.judge.student import t_cdf, t_quantile


class Sample(NamedTuple):
    """What a test needs of some values: how many, their mean, and the sum of squared deviations from it."""

    num: int
    mean: float
    squares: float

    @property
    def variance(self) -> float:
        """With n − 1 below the line; 0 for a single value, which shows no spread at all."""
        return self.squares / (self.num - 1) if self.num > 1 else 0.0


def sample(values: Sequence[float]) -> Sample:
    """The sample of at least one value."""
    num = len(values)
    mean = math.fsum(values) / num
    return Sample(num, mean, math.fsum((value - mean) ** 2 for value in values))


class Difference(NamedTuple):
    """The difference of two means (b − a), its standard error, and the error's degrees of freedom."""

    value: float
    error: float
    df: float

    def half_width(self, confidence: float = 0.95) -> float:
        """Half of the interval that holds the true difference with this confidence."""
        return t_quantile(0.5 + confidence / 2.0, self._df) * self.error

    @property
    def p_value(self) -> float:
        """Two-sided: how often runs of one thing would differ by this much or more."""
        if self.error == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return 2.0 * t_cdf(-abs(self.value) / self.error, self._df)

    def is_within(self, bound: float, alpha: float = 0.05) -> bool:
        """Two one-sided tests (TOST, Schuirmann 1987): whether the difference is shown to be smaller than ±`bound`.

        Not finding a difference is no such proof; this is, and it needs a spread that is small beside the bound.
        """
        return abs(self.value) + t_quantile(1.0 - alpha, self._df) * self.error < bound

    def detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest true difference that such samples show with this power."""
        return (t_quantile(1.0 - alpha / 2.0, self._df) + t_quantile(power, self._df)) * self.error

    @property
    def _df(self) -> float:
        return round(self.df, 2)  # so that quantiles are found again in their cache


def welch(a: Sample, b: Sample) -> Difference:
    """The difference of the means of two samples of at least two values each, whose spreads may differ (Welch 1947)."""
    over_a, over_b = a.variance / a.num, b.variance / b.num
    total = over_a + over_b
    if total == 0.0:
        return Difference(b.mean - a.mean, 0.0, float(a.num + b.num - 2))
    df = 1.0 / ((over_a / total) ** 2 / (a.num - 1) + (over_b / total) ** 2 / (b.num - 1))
    return Difference(b.mean - a.mean, math.sqrt(total), df)


def borrowed(a: Sample, b: Sample, others: Iterable[Sample]) -> Difference | None:
    """The difference of two samples too small to show their own spread, which is borrowed from others of one series.

    All spreads are taken to be one, pooled over everything that shows any: `a` and `b` themselves, where they have two
    values, and the others. None where nothing shows any.
    """
    pool = [a, b, *others]
    df = sum(one.num - 1 for one in pool)
    if df < 1:
        return None
    variance = math.fsum(one.squares for one in pool) / df
    return Difference(b.mean - a.mean, math.sqrt(variance * (1.0 / a.num + 1.0 / b.num)), float(df))


def chained(values: Sequence[float]) -> float:
    """Correlation of each value with the one before it, from −1 to 1, corrected for few values.

    An estimate from few values is biased down by about (1 + 4φ) ÷ n (Marriott and Pope 1954, Biometrika 41). 0 where
    nothing varies.
    """
    found = sample(values)
    if found.squares == 0.0 or found.num < 3:
        return 0.0
    steps = pairwise(values)
    phi = math.fsum((x - found.mean) * (y - found.mean) for x, y in steps) / found.squares
    return max(-1.0, min(1.0, phi + (1.0 + 4.0 * phi) / found.num))
