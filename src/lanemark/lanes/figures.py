"""From raw stamps to figures: the arithmetic of the measured loop. Pure, standard library only.

**A global step** runs from one step's *frontier* to the next, the frontier being the moment the last rank finished the
step. On one host all ranks stamp the same `CLOCK_MONOTONIC`, so the frontier is exact, the steps tile the window
without gaps, and their sum is the window's elapsed time. The last frontier is the synchronised end of the window, not
the last host stamp, so work still queued on a device is inside the measurement.

Where every rank measured its steps on the device (CUDA events), those durations are used instead, the slowest rank's
for each step: host stamps on an asynchronous device say when work was queued.

Throughput is tokens ÷ **mean** step. The median hides stalls; it stands beside the mean and never replaces it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

#: A measured step longer than this many medians is a stall (facts: pyperf and the field both use a small multiple).
STALL_FACTOR: Final = 2.0
#: Fewer measured steps than this are no receipt: step 1 is the first real number, and a mean of two is a coincidence.
MIN_MEASURED_STEPS: Final = 3
#: A script's own throughput further than this share from the measured one is disputed: two clocks around one loop agree
#: to well below it, and a forgotten accumulation or a per-rank count is off by far more.
DISPUTED: Final = 0.02


class Row(Protocol):
    """One recorded step of one rank (`lanemark.measure.samples.StepRow`)."""

    @property
    def begin_ns(self) -> int: ...
    @property
    def data_ready_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def compile_ns(self) -> int: ...
    @property
    def device_ns(self) -> int | None: ...


class RankSamples(Protocol):
    """What one rank recorded (`lanemark.measure.samples.Samples`)."""

    @property
    def warmup(self) -> int: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def window_begin_ns(self) -> int | None: ...
    @property
    def window_end_ns(self) -> int | None: ...


@dataclass(frozen=True)
class Steps:
    """Global step durations in nanoseconds, warm-up kept apart.

    Attributes:
        warmup_ns: one duration a warm-up step that every rank finished.
        measured_ns: one duration a measured step that every rank finished.
        window_ns: elapsed time of the whole window, or None where a rank never closed it.
        clock: `host` (frontier to frontier) or `device` (CUDA events, slowest rank).
    """

    warmup_ns: tuple[int, ...]
    measured_ns: tuple[int, ...]
    window_ns: int | None
    clock: str


def _frontier_steps(ranks: Sequence[RankSamples], first: int, last: int, start_ns: int) -> list[int]:
    previous, out = start_ns, []
    for step in range(first, last):
        frontier = max(rank.rows[step].end_ns for rank in ranks)
        out.append(max(0, frontier - previous))
        previous = max(previous, frontier)
    return out


def global_steps(ranks: Sequence[RankSamples]) -> Steps:
    """Combine the ranks' rows into global steps; only steps that every rank finished count.

    Args:
        ranks: one entry a rank, at least one.
    """
    if not ranks or any(not rank.rows for rank in ranks):
        return Steps((), (), None, "host")
    finished = min(len(rank.rows) for rank in ranks)
    warmup = ranks[0].warmup
    head = min(finished, warmup)
    warmup_ns = _frontier_steps(ranks, 0, head, max(rank.rows[0].begin_ns for rank in ranks))
    begins = [rank.window_begin_ns for rank in ranks]
    ends = [rank.window_end_ns for rank in ranks]
    if finished <= warmup or any(begin is None for begin in begins):
        return Steps(tuple(warmup_ns), (), None, "host")
    begin_ns = max(begin for begin in begins if begin is not None)
    closed = all(end is not None for end in ends)
    end_ns = max((end for end in ends if end is not None), default=0)
    measured = _frontier_steps(ranks, warmup, finished, begin_ns)
    window_ns = end_ns - begin_ns if closed else None
    if closed and measured:
        # What was still queued or waited for between the last step and the synchronised end belongs to the last step.
        measured[-1] += max(0, end_ns - max(rank.rows[finished - 1].end_ns for rank in ranks))
    rows = [rank.rows[warmup:finished] for rank in ranks]
    if measured and all(row.device_ns for rank_rows in rows for row in rank_rows):
        device = [max(rank_rows[i].device_ns or 0 for rank_rows in rows) for i in range(finished - warmup)]
        return Steps(tuple(warmup_ns), tuple(device), window_ns, "device")
    return Steps(tuple(warmup_ns), tuple(measured), window_ns, "host")


def percentile(values: Sequence[float], fraction: float) -> float:
    """Linear-interpolated percentile (the definition numpy calls `linear`); `values` may be in any order, not empty."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def step_time(measured_ns: Sequence[int]) -> dict[str, float | int]:
    """The `step_time` part of a record, seconds, from global step durations. Raises ValueError when there are none."""
    seconds = sorted(value / 1e9 for value in measured_ns)  # once: sorting again what is sorted costs nothing
    median = percentile(seconds, 0.5)
    return {
        "mean_s": math.fsum(seconds) / len(seconds),
        "p50_s": median,
        "p95_s": percentile(seconds, 0.95),
        "p99_s": percentile(seconds, 0.99),
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "stalls": len(seconds) - bisect_right(seconds, STALL_FACTOR * median),
    }


def tokens_per_s(tokens_per_step: int, measured_ns: Sequence[int]) -> float:
    """Tokens of the global batch ÷ mean step, tokens a second. Raises ValueError for an empty or zero-length window."""
    total_ns = sum(measured_ns)
    if total_ns <= 0:
        raise ValueError("the window has no length")
    return tokens_per_step * len(measured_ns) / (total_ns / 1e9)


@dataclass(frozen=True)
class RankSplit:
    """Where one rank's window went, seconds. `compile_s` is compilation inside the window only."""

    window_s: float
    data_wait_s: float
    compile_s: float

    @property
    def other_s(self) -> float:
        return max(0.0, self.window_s - self.data_wait_s - self.compile_s)


def rank_split(samples: RankSamples) -> RankSplit | None:
    """Split one rank's window into waiting for data, compiling, and the rest. None when the window never closed."""
    if samples.window_begin_ns is None or samples.window_end_ns is None:
        return None
    measured = samples.rows[samples.warmup :]
    if not measured:
        return None
    before = samples.rows[samples.warmup - 1].compile_ns if samples.warmup else 0
    return RankSplit(
        window_s=(samples.window_end_ns - samples.window_begin_ns) / 1e9,
        data_wait_s=sum(max(0, row.data_ready_ns - row.begin_ns) for row in measured) / 1e9,
        compile_s=max(0, measured[-1].compile_ns - before) / 1e9,
    )


def last_compiling_step(ranks: Sequence[RankSamples]) -> int | None:
    """The last step during which any rank compiled, or None when none did after the loop began."""
    latest = None
    for rank in ranks:
        previous = 0
        for index, row in enumerate(rank.rows):
            if row.compile_ns > previous:
                latest = index if latest is None else max(latest, index)
            previous = row.compile_ns
    return latest
