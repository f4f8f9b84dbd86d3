"""Detectors of a run that ended because one rank did: which rank, and of what. Pure.

When a rank dies, the healthy ones report a closed connection or a time-out, sometimes before the dead one's own
evidence lands. So every sign is *primary* (it can only come from within that rank) or *secondary* (a healthy rank says
it when another is gone; see `signs.peer_gone`), and only primary signs name a rank here. Each detector takes the whole
snapshot and returns one finding or None; which of several wins is decided in `lanemark.diagnose.first_cause`.
"""

from __future__ import annotations

from typing import Final

from lanemark.diagnose import signs
from lanemark.diagnose.signs import earliest, evidence, said
from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.records.finding import Finding

#: Phases before the first step, in which a failed connection is a failed bootstrap.
BEFORE_STEPS: Final = frozenset({"start", "import", "init_process_group"})
#: A file system with less than this is full for a writer that wants one page more.
_FULL_BYTES: Final = 64 * 1024


def disk_full(snapshot: Snapshot) -> Finding | None:
    """A rank said ENOSPC, or died of SIGBUS (a store to a page the disk had no room for) on a full file system."""
    full = snapshot.free_bytes is not None and snapshot.free_bytes < _FULL_BYTES
    hit = [
        rank
        for rank in snapshot.ranks
        if not rank.end_marker and (signs.disk_full(said(rank)) or (rank.signal == "SIGBUS" and full))
    ]
    rank = earliest(hit)
    if rank is None:
        return None
    free = "" if snapshot.free_bytes is None else f"free space at the end: {snapshot.free_bytes} bytes"
    return Finding("disk_full", "failure", f"rank {rank.rank} ran out of disk space", evidence(rank, free), rank.rank)


def out_of_memory(snapshot: Snapshot) -> Finding | None:
    """A rank reported an allocation failure, or was SIGKILLed while the kernel counted an OOM kill."""
    hit = []
    for rank in snapshot.ranks:
        reported = rank.exception is not None and signs.out_of_memory(rank.exception)
        printed = rank.exception is None and rank.status not in (None, 0) and signs.out_of_memory(rank.stderr_tail)
        killed = rank.signal == "SIGKILL" and rank.signal_by != "supervisor" and (snapshot.oom_kills or 0) > 0
        if reported or printed or killed:
            hit.append(rank)
    starved = earliest(hit)
    if starved is None:
        return None
    counted = f"kernel OOM kills during the run: {snapshot.oom_kills}" if snapshot.oom_kills else ""
    summary = f"rank {starved.rank} ran out of memory"
    return Finding("rank_out_of_memory", "failure", summary, evidence(starved, counted), starved.rank)


def watchdog_in_compile(snapshot: Snapshot) -> Finding | None:
    """The heartbeat monitor ended a rank that was in the compiler.

    The monitor's words alone do not say that: it also fires on a rank that hangs in a collective, and then they are a
    secondary sign. So the rank must have been compiling when it was last seen, on its page or in the last look at it.
    """
    hit = [
        rank
        for rank in snapshot.ranks
        if not rank.end_marker and signs.watchdog(signs.all_said(rank)) and _was_compiling(rank, snapshot)
    ]
    rank = earliest(hit)
    if rank is None:
        return None
    line = next((line for line in signs.all_said(rank).splitlines() if signs.watchdog(line)), "")
    summary = f"the watchdog ended rank {rank.rank} while it was compiling"
    return Finding("watchdog_in_compile", "failure", summary, evidence(rank, line.strip()[:300]), rank.rank)


def _was_compiling(rank: RankState, snapshot: Snapshot) -> bool:
    if rank.stage == "compile":
        return True
    # A page may be gone or hold nothing (a damaged file, a program without one): then the last look at it says.
    looks = [look for look in snapshot.looks if rank.ended_ns is None or look.at_ns <= rank.ended_ns]
    seen = next((seen for seen in looks[-1].ranks if seen.rank == rank.rank), None) if looks else None
    return rank.stage is None and seen is not None and seen.phase == "compile"


def kernel_import_missing(snapshot: Snapshot) -> Finding | None:
    """A rank failed to import a kernel package. A missing module of the user's own stays `rank_raised`."""
    named = [(rank, signs.missing_kernel(said(rank))) for rank in snapshot.ranks if not rank.end_marker]
    rank = earliest([rank for rank, kernel in named if kernel is not None])
    if rank is None:
        return None
    kernel = next(kernel for each, kernel in named if each is rank)
    summary = f"rank {rank.rank} could not import the kernel package {kernel}"
    return Finding("kernel_import_missing", "failure", summary, evidence(rank), rank.rank)


def recompiled_after_warmup(snapshot: Snapshot) -> Finding | None:
    """A rank raised because it would have compiled again, which the stance after the warm-up forbids."""
    rank = earliest([r for r in snapshot.ranks if r.exception is not None and signs.recompiled(r.exception)])
    if rank is None:
        return None
    step = f" at step {rank.step}" if rank.step is not None and rank.step >= 0 else ""
    summary = f"rank {rank.rank} would have compiled again{step}, after the warm-up"
    return Finding("recompiled_after_warmup", "failure", summary, evidence(rank), rank.rank)


def killed(snapshot: Snapshot) -> Finding | None:
    """A rank was ended by a signal that the supervisor did not send.

    SIGABRT is left out where the process group aborted its own process because a collective timed out: that is how
    NCCL's watchdog says that a *peer* is late.
    """
    rank = earliest([r for r in snapshot.ranks if r.signal is not None and not _sent_for_a_reason(r)])
    if rank is None:
        return None
    counted = "" if snapshot.oom_kills is None else f"kernel OOM kills during the run: {snapshot.oom_kills}"
    summary = f"rank {rank.rank} was killed by {rank.signal}, which the supervisor did not send"
    return Finding("rank_killed", "failure", summary, evidence(rank, counted), rank.rank)


def _sent_for_a_reason(rank: RankState) -> bool:
    aborted = rank.signal == "SIGABRT" and signs.peer_gone(signs.all_said(rank))
    return rank.signal_by == "supervisor" or aborted


def raised(snapshot: Snapshot) -> Finding | None:
    """A rank raised an exception that does not merely report a lost peer, nor one that meeting unlike peers causes."""
    own = [
        rank
        for rank in snapshot.ranks
        if rank.exception is not None and not signs.peer_gone(rank.exception) and not signs.unlike_sizes(rank.exception)
    ]
    rank = earliest(own)
    if rank is None or rank.exception is None:
        return None
    kind = "bootstrap_failed" if rank.stage in BEFORE_STEPS and signs.refused(rank.exception) else "rank_raised"
    first = rank.exception.splitlines()[0][:200]
    summary = f"rank {rank.rank} raised {first}"
    if kind == "bootstrap_failed":
        summary = f"the ranks could not form a process group: rank {rank.rank} reported {first}"
    return Finding(kind, "failure", summary, evidence(rank), rank.rank)


def exited_early(snapshot: Snapshot) -> Finding | None:
    """A rank ended with status 0 and no end marker: it left its peers waiting."""
    rank = earliest([r for r in snapshot.ranks if r.status == 0 and not r.end_marker])
    if rank is None:
        return None
    summary = f"rank {rank.rank} exited with status 0 before its work was done"
    return Finding("rank_exited_early", "failure", summary, evidence(rank), rank.rank)


def exited(snapshot: Snapshot) -> Finding | None:
    """A rank ended with a non-zero status and left no exception, or nothing but its printed last words."""
    silent = [
        r
        for r in snapshot.ranks
        if r.status not in (None, 0) and r.exception is None and not signs.peer_gone(r.stderr_tail)
    ]
    rank = earliest(silent)
    if rank is None:
        return None
    summary = f"rank {rank.rank} exited with status {rank.status} and reported no exception"
    return Finding("rank_exited", "failure", summary, evidence(rank), rank.rank)


def stopped(snapshot: Snapshot) -> Finding | None:
    """A rank was stopped (SIGSTOP, a debugger) and the others waited for it."""
    rank = earliest([r for r in snapshot.ranks if r.process_state in ("T", "t")])
    if rank is None:
        return None
    summary = f"rank {rank.rank} was stopped by a signal and did not continue"
    return Finding("rank_stopped", "failure", summary, evidence(rank, "process state: T (stopped)"), rank.rank)


def world_differs(snapshot: Snapshot) -> Finding | None:
    """A command started another number of ranks than were asked for: the record would be of a part of them."""
    asked = len(snapshot.ranks)
    other = sorted({size for size in snapshot.world_sizes if size != asked})
    if not other:
        return None
    summary = f"the command started a world of {other[-1]} ranks where {asked} were asked for"
    return Finding("world_differs", "failure", summary, (f"ask for --nproc {other[-1]}",))


def vanished(snapshot: Snapshot) -> Finding | None:
    """A command failed, and a rank went first: no exception, no end of Python's own. `os._exit`, or a signal.

    Its launcher took its status, so which of the two it was is not known here; what the launcher printed often says.
    Ranks that went later were ended for it. Where not all were seen to go, any of the others may have been first.
    """
    first = _first_to_go(snapshot)
    if len(first) != 1 or _unseen(snapshot):
        return None
    rank = first[0]
    summary = f"rank {rank.rank} was the first to go, without an exception and without Python's own end"
    return Finding("rank_vanished", "failure", summary, (*evidence(rank), *_command_lines(snapshot)), rank.rank)


def command_failed(snapshot: Snapshot) -> Finding | None:
    """A command ended badly and none of its ranks says why."""
    if not snapshot.command_status:
        return None
    code = snapshot.command_status
    how = f"with status {code}" if code > 0 else f"by signal {-code}"
    first, unseen = _first_to_go(snapshot), _unseen(snapshot)
    known = [f"nobody saw when {signs.ranks_text(unseen)} went"] if unseen and first else []
    if len(first) > 1:
        known.append(
            f"{signs.ranks_text([rank.rank for rank in first])} were gone at one look: nobody saw which went first"
        )
    return Finding(
        "command_failed", "failure", f"the command ended {how}, and no rank says why",
        (*known, *_command_lines(snapshot)),
    )  # fmt: skip


def _first_to_go(snapshot: Snapshot) -> list[RankState]:
    """The rank of a failed command that was seen gone before all others, or those that were in one round of looks.

    One that came to Python's own end left nobody in the lurch that it knew of.
    """
    if not snapshot.command_status or len(snapshot.ranks) == 1:
        return []
    if any(rank.exception is not None for rank in snapshot.ranks):
        return []
    gone = [
        rank
        for rank in snapshot.ranks
        if rank.found and rank.status is None and rank.signal is None and rank.phase not in ("done", "failed")
    ]
    rank = earliest([rank for rank in gone if rank.ended_ns is not None and not rank.elsewhere])
    return [] if rank is None else [each for each in gone if each.ended_ns == rank.ended_ns and not each.elsewhere]


def _unseen(snapshot: Snapshot) -> list[int]:
    """Ranks that may have gone before any that was seen to: never found, or on another host."""
    return [rank.rank for rank in snapshot.ranks if not rank.found or rank.elsewhere]


def _command_lines(snapshot: Snapshot) -> tuple[str, ...]:
    lines = [line.strip() for line in snapshot.command_said.splitlines() if line.strip()]
    return tuple(f"the command printed: {line[:300]}" for line in lines[-3:])
