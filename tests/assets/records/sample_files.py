"""Sample files of the corpus, written by hand from the layout in `docs/ARCHITECTURE.md` and not by our own writer."""

from __future__ import annotations

import struct

from lanemark.lanes.figures import percentile

WARMUP_NS = [4_900_000_000, 131_000_000]
#: What each rank waits for data in all, in its first measured step.
WAIT_NS = 400_000
#: How long after a step's begin its first collective is entered.
ARRIVAL_NS = 2_000_000
_BEGIN_NS = 7_000_000_000
_COMPILE_NS = 4_750_000_000


def times_of(rank: int, samples: list[int], *, warmup: int) -> list[tuple[int, int]]:
    """(begin, end) of each step. Rank 0 ends every step last, the others a microsecond earlier for each rank."""
    times, begin_ns, frontier_ns = [], _BEGIN_NS, _BEGIN_NS
    for step, duration_ns in enumerate([*WARMUP_NS[:warmup], *samples]):
        if step == warmup:
            begin_ns = frontier_ns  # the window opens for all of them at once
        frontier_ns += duration_ns
        times.append((begin_ns, frontier_ns - 1000 * rank))
        begin_ns = times[-1][1]
    return times


def rank_median_s(rank: int, samples: list[int], *, warmup: int = 2) -> float:
    """The median measured step of one rank, seconds."""
    measured = times_of(rank, samples, warmup=warmup)[warmup:]
    return percentile([(end_ns - begin_ns) / 1e9 for begin_ns, end_ns in measured], 0.5)


def sample_file(rank: int, samples: list[int], *, warmup: int, steps: int, closed: bool, compiled: bool) -> bytes:
    """A whole `samples.bin`, version 2. Every rank enters a step's first collective at the same time after its begin."""
    times = times_of(rank, samples, warmup=warmup)
    window_begin_ns = _BEGIN_NS + sum(WARMUP_NS[:warmup])
    window_end_ns = window_begin_ns + sum(samples) if closed else 0
    head = struct.pack("<8sIIIIQ", b"LMSTEPS\0", 2, 56, rank, warmup, steps)
    head += struct.pack("<Qqq", len(times), window_begin_ns, window_end_ns).ljust(32, b"\0")
    rows = b"".join(
        struct.pack(
            "<qqqqqqq",
            step,
            begin,
            begin + (WAIT_NS if step == warmup else 0),
            end,
            _COMPILE_NS * compiled,
            0,
            begin + ARRIVAL_NS,
        )
        for step, (begin, end) in enumerate(times)
    )
    return head + rows.ljust(56 * steps, b"\0")
