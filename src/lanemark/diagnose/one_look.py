"""What one look shows of a rank: whether it waits, compiles or builds, and how that reads as a line of evidence. Pure.

Nothing here concludes anything about a run; that takes several looks, and is done in `lanemark.diagnose.hang`.
"""

from __future__ import annotations

from typing import Final

from lanemark.records.look import Look, RankLook

#: What the barrier after pre-warm is labelled on the beacon page.
PREWARM_BARRIER: Final = "prewarm barrier"
#: Programs that only run where code is being built: GCC's and clang's, binutils', and CUDA's.
COMPILERS: Final = frozenset(
    {"cc1", "cc1plus", "g++", "gcc", "c++", "cc", "clang", "clang++", "as", "ld", "ld.lld", "collect2", "ninja",
     "nvcc", "cicc", "ptxas", "cudafe++", "fatbinary", "nvlink"}
)  # fmt: skip
_COMPILER_FILES: Final = ("torch/_inductor/", "torch/_dynamo/convert_frame", "triton/compiler/")


def waits(rank: RankLook) -> bool:
    """Whether the rank waits in a collective that is meant to be short."""
    if rank.phase == "collective":
        return rank.label != PREWARM_BARRIER
    # On a GPU collectives are queued and the host waits elsewhere; its flight recorder then has one that is not done.
    return rank.phase in ("warmup", "window") and pending(rank) is not None


def pending(rank: RankLook) -> tuple[int, str] | None:
    """Number and name of the oldest operation in the flight recorder that has not completed; None when not seen."""
    rows = [entry for entry in rank.flight or () if entry.state != "completed"]
    oldest = min(rows, key=lambda entry: entry.seq, default=None)
    return None if oldest is None else (oldest.seq, oldest.operation)


def operation(rank: RankLook) -> str:
    """What a waiting rank waits in, as a person calls it."""
    row = pending(rank)
    if rank.phase == "collective" and rank.label:
        return rank.label
    return row[1] if row is not None else "a collective"


def in_compiler(rank: RankLook) -> bool:
    """Whether the rank is inside the compiler: by its page or, where no hook tells, by its children or its stack."""
    if rank.phase == "compile":
        return True
    if waits(rank) or rank.phase == "collective":
        return False
    return builds(rank) or any(part in frame for frame in rank.stack or () for part in _COMPILER_FILES)


def builds(rank: RankLook) -> bool:
    """Whether a compiler runs below the rank right now."""
    return any(child in COMPILERS for child in rank.children or ())


def rank_of(look: Look, number: int) -> RankLook | None:
    """One rank of a look. Looks list ranks in order, so it is where its number says, unless the look is damaged."""
    if number < len(look.ranks) and look.ranks[number].rank == number:
        return look.ranks[number]
    return next((rank for rank in look.ranks if rank.rank == number), None)


def held_s(look: Look, rank: RankLook) -> float:
    """How long the rank has been in its phase, in seconds; 0 where the page does not say."""
    return 0.0 if rank.since_ns is None else max(0.0, (look.at_ns - rank.since_ns) / 1e9)


def _line(look: Look, rank: RankLook) -> str:
    """One rank of a look, as a line of evidence."""
    what = f"in {rank.label or 'a collective'}" if rank.phase == "collective" else f"in phase {rank.phase or 'unknown'}"
    parts = [f"rank {rank.rank}: {what} for {held_s(look, rank):.1f} s"]
    if rank.step is not None and rank.step >= 0:
        parts.append(f"step {rank.step}")
    if rank.collectives is not None:
        parts.append(f"{rank.collectives} collective{'' if rank.collectives == 1 else 's'} entered")
    if rank.compilations:
        number = f"{rank.compilations} compilation{'' if rank.compilations == 1 else 's'}"
        parts.append(f"{number}, {(rank.compile_ns or 0) / 1e9:.1f} s")
    compilers = sorted({child for child in rank.children or () if child in COMPILERS})
    if compilers:
        parts.append(f"running {', '.join(compilers)}")
    if rank.new_cache_files:
        parts.append(f"{rank.new_cache_files} new cache files")
    if rank.waiting_for_data:
        parts.append("waiting for data")
    row = pending(rank)
    if row is not None:
        parts.append(f"flight recorder: operation {row[0]} {row[1]} not completed")
    if rank.process_state in ("T", "t", "D", "Z"):
        parts.append(f"process state {rank.process_state}")
    if rank.stack:
        parts.append(f"at {rank.stack[0]}")
    return "; ".join(parts)[:400]


def look_lines(look: Look) -> tuple[str, ...]:
    """Evidence lines of a look: how long after the launch, then one line a rank."""
    head = f"look {look.number}, {(look.at_ns - look.launched_ns) / 1e9:.1f} s after the launch, quiet for"
    return (f"{head} {look.quiet_s:.1f} s", *(_line(look, rank) for rank in look.ranks))
