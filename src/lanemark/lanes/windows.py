"""Which windows of tokens a run had to read, and which its ranks say they read: one number for a set. Pure.

A *window* is one training sequence of one epoch: number `epoch · sequences + sequence`. A rank remembers the windows of
the batches that it was handed, and its end marker has how many there were and their *sum*: every number is scrambled to
64 bits (SplitMix64's finalizer, Steele, Lea and Flood, 2014) and added up, modulo 2^64. The sum does not depend on the
order, so the sums of disjoint parts add up to the sum of the whole; and a window that is missing, foreign or read twice
changes it, but for one chance in 2^64. It is no defence against a forger, and is not meant as one.

Sealing walks the order again (`expected`), from the case and the number of sequences alone, with other code than the
loader's. Where both agree the ranks were disjoint and together read exactly the case's tokens. Bytes are not read for
it: that the shards are those of the data set is what their digests say.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from lanemark.lanes.order import Order
from lanemark.records.case import Case

_MASK: Final = (1 << 64) - 1
#: More windows than this are not walked again when a record is sealed: at 2 µs each, two seconds.
MAX_RECOUNTED: Final = 1_000_000


def scrambled(window: int) -> int:
    """A window's number spread over 64 bits: SplitMix64's finalizer, with its published constants."""
    value = (window + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sum_of(windows: Iterable[int]) -> str:
    """The sum of a set of windows, 16 hexadecimal digits."""
    return f"{sum(map(scrambled, windows)) & _MASK:016x}"


def added(sums: Iterable[str]) -> str:
    """The sum of sets taken together."""
    return f"{sum(int(one, 16) for one in sums) & _MASK:016x}"


def positions_of_window(case: Case) -> range:
    """Positions of the order that all ranks together take in the measured window of a case."""
    per_step = case.nproc * case.micro_batch * case.grad_accum
    return range(case.warmup * per_step, case.steps * per_step)


def expected(case: Case, num_sequences: int) -> dict[str, Any]:
    """What the ranks of a case have to read in its window, together.

    Args:
        case: its seed makes the order.
        num_sequences: of one epoch: of the shards, cut at the case's length.

    Raises:
        ValueError: there are more than `MAX_RECOUNTED` of them, or no sequence at all.
    """
    return dict(_expected(case.seed, num_sequences, positions_of_window(case)))


@lru_cache(maxsize=4)  # sealing asks twice: for the receipt, and for the record
def _expected(seed: int, num_sequences: int, positions: range) -> dict[str, Any]:
    if num_sequences < 1:
        raise ValueError("the shards have no sequence")
    if len(positions) > MAX_RECOUNTED:
        raise ValueError(f"{len(positions)} windows are more than the {MAX_RECOUNTED} that are walked again")
    order = Order(num_sequences, seed)
    windows = (position - position % num_sequences + order.at(position) for position in positions)
    return {"count": len(positions), "sum": sum_of(windows)}
