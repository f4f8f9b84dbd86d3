"""How well one run knows its own mean: a 95 % interval from steps that are not independent. Pure, standard library.

Consecutive steps share clocks, caches and neighbours, so that the usual interval (spread ÷ √n) covers far less than it
says: measured at an autocorrelation of 0.9 it covers 33 % instead of 95 %. Two corrections are made and the wider one
is kept:

* **effective sample size** of a first-order autoregression: n · (1 − φ) ÷ (1 + φ), with Student's t;
* **batch means**: the steps in about √n batches in a row, whose means are nearly independent.

It says how far the mean of *this* run's window may be from its steady mean. It says nothing about the next run: the
spread between runs is larger, and is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from lanemark.judge.student import t_quantile

#: Fewer independent steps than this carry a caveat (the interval itself is then a rough one).
FEW_EFFECTIVE: Final = 30.0
#: Below this many steps neither autocorrelation nor batches can be estimated.
FEWEST: Final = 8
#: An estimate of φ from few steps is biased down by about (1 + 4φ) ÷ n (Marriott and Pope 1954, Biometrika 41).
_MOST_PHI: Final = 0.99


class Interval(NamedTuple):
    """An interval for a mean, in the unit of the samples.

    Attributes:
        low, high: its ends.
        mean: of the samples.
        effective: how many independent steps the samples amount to.
        method: `ar1` or `batch_means`, whichever was wider.
    """

    low: float
    high: float
    mean: float
    effective: float
    method: str

    @property
    def few(self) -> bool:
        """Whether it rests on so few independent steps that it needs a caveat."""
        return self.effective < FEW_EFFECTIVE


def within_run(samples: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """The interval of the mean of consecutive samples; None where there are too few to say anything.

    Args:
        samples: in the order in which they were taken, positive.
        confidence: how often such an interval is to hold the mean.
    """
    n = len(samples)
    if n < FEWEST:
        return None
    mean = math.fsum(samples) / n
    deviations = [value - mean for value in samples]
    total = math.fsum(value * value for value in deviations)
    if total == 0.0:
        return Interval(mean, mean, mean, float(n), "ar1")
    probability = 0.5 + confidence / 2.0
    phi = math.fsum(x * y for x, y in pairwise(deviations)) / total
    phi = min(max(phi + (1.0 + 4.0 * phi) / n, 0.0), _MOST_PHI)
    effective = max(2.0, n * (1.0 - phi) / (1.0 + phi))
    half = t_quantile(probability, round(max(1.0, effective - 1.0), 1)) * math.sqrt(total / (n - 1) / effective)
    method = "ar1"
    batches = _batch_means(samples)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in batches) / (len(batches) - 1) / len(batches))
    wider = t_quantile(probability, len(batches) - 1.0) * spread
    if wider > half:
        half, method = wider, "batch_means"
    return Interval(max(0.0, mean - half), mean + half, mean, effective, method)


def _batch_means(samples: Sequence[float]) -> list[float]:
    """Means of consecutive batches of equal size, about √n of them and never fewer than 4; what is over is left out."""
    count = max(4, math.isqrt(len(samples)))
    size = len(samples) // count
    skip = len(samples) - count * size
    return [math.fsum(samples[skip + k * size : skip + (k + 1) * size]) / size for k in range(count)]
