"""Pure detectors: from one snapshot to the *first cause* of a failed run.

The first rank to complain is rarely the one at fault. When a rank dies, the healthy ones report a closed connection or
a time-out in a collective, sometimes before the dead one's own evidence lands; and a rank that finished late finds its
peers gone and says "connection closed by peer". So every sign is sorted first into *primary* (it can only come from
within that rank) and *secondary* (it is what a healthy rank says when another is gone), and a secondary sign never
becomes the cause while a primary one stands. Where only secondary signs exist the answer is `undecided`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.records.finding import Finding

#: What gloo, NCCL and TCPStore say when a *peer* is gone or late (seen with torch 2.13 on gloo; NCCL from its source).
_PEER_GONE: Final = re.compile(
    r"connection (was )?(closed|reset) by (remote )?peer|connection reset|broken pipe|timed out (waiting|after)"
    r"|wait timeout|socket timeout|timeout while|recvbytes|sendbytes|failed to recv|watchdog caught collective"
    r"|communicator was aborted|remote process exited|nccl (system|remote) error|distnetworkerror|connectfullmesh"
    r"|store.*(closed|timeout)|heartbeat",
    re.IGNORECASE,
)
_OUT_OF_MEMORY: Final = re.compile(
    r"memoryerror|out of memory|can't allocate memory|cannot allocate memory|std::bad_alloc|enomem", re.IGNORECASE
)
_DISK_FULL: Final = re.compile(r"no space left on device|enospc|errno 28|disk quota exceeded|errno 122", re.IGNORECASE)
_REFUSED: Final = re.compile(
    r"connection refused|address already in use|could not connect|name resolution", re.IGNORECASE
)
#: Phases before the first step, in which a failed connection is a failed bootstrap.
_BEFORE_STEPS: Final = frozenset({"start", "import", "init_process_group"})
#: A file system with less than this is full for a writer that wants one page more.
_FULL_BYTES: Final = 64 * 1024

Detector = Callable[[Snapshot], "Finding | None"]


def _where(rank: RankState) -> str:
    if rank.phase is None:
        return "it left no beacon"
    step = (
        f", step {rank.step}" if rank.step is not None and rank.step >= 0 and rank.phase in ("warmup", "window") else ""
    )
    return f"last seen in phase {rank.phase}{step}"


def _evidence(rank: RankState, *extra: str) -> tuple[str, ...]:
    lines = [f"rank {rank.rank}: {_where(rank)}"]
    if rank.exception:
        lines.append(f"rank {rank.rank} reported: {rank.exception[:300]}")
    elif rank.stderr_tail:
        lines.append(f"rank {rank.rank} stderr ends: {rank.stderr_tail.strip().splitlines()[-1][:300]}")
    return (*lines, *(line for line in extra if line))


def _said(rank: RankState) -> str:
    return rank.exception or rank.stderr_tail


def _earliest(ranks: list[RankState]) -> RankState | None:
    """The rank the supervisor saw end first; one that never ended sorts last."""
    return min(ranks, key=lambda rank: (rank.ended_ns is None, rank.ended_ns or 0, rank.rank), default=None)


def interrupted(snapshot: Snapshot) -> Finding | None:
    """The supervisor itself was told to stop: whatever the ranks say afterwards is a consequence."""
    if snapshot.interrupted_by is None:
        return None
    return Finding("interrupted", "failure", f"the supervisor was sent {snapshot.interrupted_by} and ended the run")


def start_failed(snapshot: Snapshot) -> Finding | None:
    """The ranks could not be started at all."""
    if snapshot.start_error is None:
        return None
    kind = "disk_full" if _DISK_FULL.search(snapshot.start_error) else "start_failed"
    return Finding(kind, "failure", f"the ranks could not be started: {snapshot.start_error[:300]}")


def supervisor_failed(snapshot: Snapshot) -> Finding | None:
    """The supervisor broke while it watched: what the ranks did afterwards is its doing, not theirs."""
    if snapshot.supervisor_error is None:
        return None
    text = snapshot.supervisor_error[:300]
    kind = "disk_full" if _DISK_FULL.search(text) else "supervisor_failed"
    return Finding(kind, "failure", f"the supervisor failed while it watched the ranks: {text}")


def disk_full(snapshot: Snapshot) -> Finding | None:
    """A rank said ENOSPC, or died of SIGBUS (a store to a page the disk had no room for) on a full file system."""
    full = snapshot.free_bytes is not None and snapshot.free_bytes < _FULL_BYTES
    hit = [
        rank
        for rank in snapshot.ranks
        if not rank.end_marker and (_DISK_FULL.search(_said(rank)) or (rank.signal == "SIGBUS" and full))
    ]
    rank = _earliest(hit)
    if rank is None:
        return None
    free = "" if snapshot.free_bytes is None else f"free space at the end: {snapshot.free_bytes} bytes"
    return Finding("disk_full", "failure", f"rank {rank.rank} ran out of disk space", _evidence(rank, free), rank.rank)


def out_of_memory(snapshot: Snapshot) -> Finding | None:
    """A rank reported an allocation failure, or was SIGKILLed while the kernel counted an OOM kill."""
    hit = []
    for rank in snapshot.ranks:
        said = rank.exception is not None and _OUT_OF_MEMORY.search(rank.exception)
        printed = rank.exception is None and rank.status not in (None, 0) and _OUT_OF_MEMORY.search(rank.stderr_tail)
        killed = rank.signal == "SIGKILL" and rank.signal_by != "supervisor" and (snapshot.oom_kills or 0) > 0
        if said or printed or killed:
            hit.append(rank)
    starved = _earliest(hit)
    if starved is None:
        return None
    counted = f"kernel OOM kills during the run: {snapshot.oom_kills}" if snapshot.oom_kills else ""
    summary = f"rank {starved.rank} ran out of memory"
    return Finding("rank_out_of_memory", "failure", summary, _evidence(starved, counted), starved.rank)


def killed(snapshot: Snapshot) -> Finding | None:
    """A rank was ended by a signal that the supervisor did not send."""
    rank = _earliest([r for r in snapshot.ranks if r.signal is not None and r.signal_by != "supervisor"])
    if rank is None:
        return None
    counted = "" if snapshot.oom_kills is None else f"kernel OOM kills during the run: {snapshot.oom_kills}"
    return Finding(
        "rank_killed",
        "failure",
        f"rank {rank.rank} was killed by {rank.signal}, which the supervisor did not send",
        _evidence(rank, counted),
        rank.rank,
    )


def raised(snapshot: Snapshot) -> Finding | None:
    """A rank raised an exception that does not merely report a lost peer."""
    rank = _earliest([r for r in snapshot.ranks if r.exception is not None and not _PEER_GONE.search(r.exception)])
    if rank is None or rank.exception is None:
        return None
    kind = "bootstrap_failed" if rank.phase in _BEFORE_STEPS and _REFUSED.search(rank.exception) else "rank_raised"
    first = rank.exception.splitlines()[0][:200]
    summary = f"rank {rank.rank} raised {first}"
    if kind == "bootstrap_failed":
        summary = f"the ranks could not form a process group: rank {rank.rank} reported {first}"
    return Finding(kind, "failure", summary, _evidence(rank), rank.rank)


def exited_early(snapshot: Snapshot) -> Finding | None:
    """A rank ended with status 0 and no end marker: it left its peers waiting."""
    rank = _earliest([r for r in snapshot.ranks if r.status == 0 and not r.end_marker])
    if rank is None:
        return None
    summary = f"rank {rank.rank} exited with status 0 before its work was done"
    return Finding("rank_exited_early", "failure", summary, _evidence(rank), rank.rank)


def exited(snapshot: Snapshot) -> Finding | None:
    """A rank ended with a non-zero status and left no exception, or nothing but its printed last words."""
    silent = [
        r
        for r in snapshot.ranks
        if r.status not in (None, 0) and r.exception is None and not _PEER_GONE.search(r.stderr_tail)
    ]
    rank = _earliest(silent)
    if rank is None:
        return None
    summary = f"rank {rank.rank} exited with status {rank.status} and reported no exception"
    return Finding("rank_exited", "failure", summary, _evidence(rank), rank.rank)


def stopped(snapshot: Snapshot) -> Finding | None:
    """A rank was stopped (SIGSTOP, a debugger) and the others waited for it."""
    rank = _earliest([r for r in snapshot.ranks if r.process_state in ("T", "t")])
    if rank is None:
        return None
    summary = f"rank {rank.rank} was stopped by a signal and did not continue"
    return Finding("rank_stopped", "failure", summary, _evidence(rank, "process state: T (stopped)"), rank.rank)


def bootstrap(snapshot: Snapshot) -> Finding | None:
    """Only lost-peer complaints, all of them before the first step: the process group never formed."""
    complaining = [r for r in snapshot.ranks if r.exception is not None and _PEER_GONE.search(r.exception)]
    if not complaining or any(r.phase not in _BEFORE_STEPS for r in snapshot.ranks if r.phase is not None):
        return None
    summary = "the ranks could not form a process group, and no rank reports a cause of its own"
    return Finding("bootstrap_failed", "failure", summary, tuple(e for r in complaining for e in _evidence(r)))


def limits(snapshot: Snapshot) -> Finding | None:
    """No rank failed by itself: the supervisor ended the run at one of its limits."""
    last = tuple(line for rank in snapshot.ranks for line in _evidence(rank))
    if snapshot.ended_because == "stalled":
        summary = f"no rank made progress for {snapshot.stall_s:g} s"
        return Finding("stalled", "failure", summary, last)
    if snapshot.ended_because == "wall_limit":
        summary = f"the run was still going after its limit of {snapshot.wall_s:g} s"
        return Finding("wall_limit", "failure", summary, last)
    return None


def supervisor_lost(snapshot: Snapshot) -> Finding | None:
    """The supervisor died: the ranks were ended with it, and nothing says what it would have seen."""
    if snapshot.supervisor_alive:
        return None
    last = tuple(line for rank in snapshot.ranks for line in _evidence(rank))
    summary = "the supervisor died without sealing a record, and the ranks were ended with it"
    return Finding("supervisor_lost", "failure", summary, last)


#: In the order in which a sign outranks the next. `interrupted` comes first because everything after it is our doing;
#: a specific sign (disk, memory) comes before the general one (killed, raised) that it would otherwise look like.
DETECTORS: Final[tuple[Detector, ...]] = (
    interrupted,
    start_failed,
    supervisor_failed,
    supervisor_lost,
    disk_full,
    out_of_memory,
    killed,
    raised,
    exited_early,
    exited,
    stopped,
    bootstrap,
    limits,
)

_GENERAL: Final = frozenset({"rank_killed", "rank_raised", "rank_exited_early", "rank_exited", "rank_stopped"})


def first_cause(snapshot: Snapshot) -> Finding | None:
    """The first cause of a failed run, or None when every rank ended cleanly and nobody interrupted.

    Among the general signs (killed, raised, exited) of *different* ranks the one whose process ended first wins; a
    more specific sign about the same rank stands in for its general one.
    """
    clean = all(rank.end_marker and rank.status == 0 for rank in snapshot.ranks)
    undisturbed = snapshot.interrupted_by is None and snapshot.supervisor_alive
    if clean and undisturbed and snapshot.start_error is None and snapshot.supervisor_error is None:
        return None
    found = [finding for detector in DETECTORS if (finding := detector(snapshot)) is not None]
    if not found:
        lines = tuple(line for rank in snapshot.ranks for line in _evidence(rank))
        return Finding("undecided", "failure", "the run failed, and the evidence does not say why", lines)
    leading = found[0]
    if leading.kind not in _GENERAL:
        return leading
    ended = {rank.rank: (rank.ended_ns is None, rank.ended_ns or 0) for rank in snapshot.ranks}
    rivals = [finding for finding in found if finding.kind in _GENERAL and finding.rank is not None]
    return min(rivals, key=lambda finding: ended[finding.rank or 0])
