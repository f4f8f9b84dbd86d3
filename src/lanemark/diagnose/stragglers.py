"""Finding the rank that the others wait for at every step. Pure.

Step times cannot show it: every rank leaves a step's collectives at the same moment, so all of them take equally long.
What differs is when each *arrives* at the step's first collective. A straggler is the same rank each time, late by more
than a twentieth of a step; a busy host makes now this rank late and now that one, which is no finding.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final

from lanemark.diagnose.snapshot import Snapshot
from lanemark.lanes.figures import percentile
from lanemark.records.finding import Finding

#: Part of a step by which a rank must be late to count (what 8-GPU fleets use: 5 % of the median).
LATE: Final = 0.05
#: Part of the steps in which it must be the last one, and late.
NEARLY_ALL: Final = 0.9
#: With two ranks and fewer steps than this, chance alone makes one of them last each time too often (2 in 2^8).
MIN_STEPS: Final = 8


def straggler(snapshot: Snapshot) -> Finding | None:
    """The rank that arrives last at nearly every measured step, or None."""
    steps = _measured(snapshot)
    if len(snapshot.ranks) < 2 or len(steps) < MIN_STEPS:
        return None
    last_ns = [max(arrived.values()) for arrived in steps]
    period_ns = percentile([after - before for before, after in itertools.pairwise(last_ns)], 0.5)
    if period_ns <= 0:
        return None
    lateness: dict[int, list[float]] = {}
    for arrived in steps:
        rank, late_ns = _latest(arrived)
        if late_ns > LATE * period_ns:
            lateness.setdefault(rank, []).append(late_ns)
    slow = max(lateness, key=lambda rank: len(lateness[rank]), default=None)
    if slow is None or len(lateness[slow]) < NEARLY_ALL * len(steps):
        return None
    late_ms, period_ms = percentile(lateness[slow], 0.5) / 1e6, period_ns / 1e6
    text = f"rank {slow} arrived last at {len(lateness[slow])} of {len(steps)} steps"
    lines = (
        f"median lateness behind the other ranks: {late_ms:.1f} ms of a step of {period_ms:.1f} ms",
        "arrival is the moment at which a rank enters the step's first collective",
    )
    return Finding("straggler", "caveat", f"{text}, {late_ms / period_ms:.0%} of a step behind", lines, slow)


def _measured(snapshot: Snapshot) -> list[Mapping[int, int]]:
    """Arrivals by rank, for each measured step that every rank arrived at, in order of steps."""
    numbers = [rank.rank for rank in snapshot.ranks]
    if any(number not in snapshot.arrivals for number in numbers):
        return []
    shared = set.intersection(*(set(snapshot.arrivals[number]) for number in numbers)) if numbers else set()
    first = snapshot.warmup or 1  # step 0 compiles and allocates: who is late there says nothing of the device
    return [{number: snapshot.arrivals[number][step] for number in numbers} for step in sorted(shared) if step >= first]


def _latest(arrived: Mapping[int, int]) -> tuple[int, float]:
    """The rank that came last, and by how much it came after the middle of the others."""
    rank = max(arrived, key=lambda number: arrived[number])
    others = [at for number, at in arrived.items() if number != rank]
    return rank, arrived[rank] - percentile(others, 0.5)
