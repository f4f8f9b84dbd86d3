"""Pure detectors: from one snapshot to the *first cause* of a failed run.

Three kinds of signs are asked, in this order: what was done to the run from outside; what came from within one rank
(`lanemark.diagnose.deaths`); and, only where no rank died of itself, what the looks showed while everybody waited
(`lanemark.diagnose.hang`). The last is why a record names a compile divergence although every exception in it says
"connection closed by peer" or "timed out". Where only such complaints exist the answer is `undecided`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lanemark.diagnose import signs
from lanemark.diagnose.deaths import (
    BEFORE_STEPS,
    command_failed,
    disk_full,
    exited,
    exited_early,
    kernel_import_missing,
    killed,
    out_of_memory,
    raised,
    recompiled_after_warmup,
    stopped,
    vanished,
    watchdog_in_compile,
    world_differs,
)
from lanemark.diagnose.hang import HangContext, name_hang
from lanemark.diagnose.leaks import environment_leak
from lanemark.diagnose.one_look import look_lines
from lanemark.diagnose.signs import evidence
from lanemark.diagnose.snapshot import Snapshot
from lanemark.records.finding import Finding
from lanemark.records.look import Look

Detector = Callable[[Snapshot], "Finding | None"]
#: Looks come every half second while nothing moves; a last look older than this says that something moved after it.
_FRESH_NS: Final = 3_000_000_000


def interrupted(snapshot: Snapshot) -> Finding | None:
    """The supervisor itself was told to stop: whatever the ranks say afterwards is a consequence."""
    if snapshot.interrupted_by is None:
        return None
    return Finding("interrupted", "failure", f"the supervisor was sent {snapshot.interrupted_by} and ended the run")


def start_failed(snapshot: Snapshot) -> Finding | None:
    """The ranks could not be started at all."""
    if snapshot.start_error is None:
        return None
    kind = "disk_full" if signs.disk_full(snapshot.start_error) else "start_failed"
    return Finding(kind, "failure", f"the ranks could not be started: {snapshot.start_error[:300]}")


def supervisor_failed(snapshot: Snapshot) -> Finding | None:
    """The supervisor broke while it watched: what the ranks did afterwards is its doing, not theirs."""
    if snapshot.supervisor_error is None:
        return None
    text = snapshot.supervisor_error[:300]
    kind = "disk_full" if signs.disk_full(text) else "supervisor_failed"
    return Finding(kind, "failure", f"the supervisor failed while it watched the ranks: {text}")


def supervisor_lost(snapshot: Snapshot) -> Finding | None:
    """The supervisor died: the ranks were ended with it, and nothing says what it would have seen."""
    if snapshot.supervisor_alive:
        return None
    last = tuple(line for rank in snapshot.ranks for line in evidence(rank))
    summary = "the supervisor died without sealing a record, and the ranks were ended with it"
    return Finding("supervisor_lost", "failure", summary, last)


def last_looks(snapshot: Snapshot) -> tuple[Look, ...]:
    """The looks that lead up to the first rank's end, or none when something moved after the last of them.

    A run that waited, and went on, ends for another reason: its looks then lie before steps that were taken later.
    """
    # A rank that has raised is on its way out for a second or two before its end is seen, and waits for nothing.
    known = [rank.ended_ns if rank.failed_ns is None else rank.failed_ns for rank in snapshot.ranks]
    ends = [at_ns for at_ns in known if at_ns is not None]
    before = [look for look in snapshot.looks if not ends or look.at_ns <= min(ends)]
    while before and any(seen.phase == "failed" for seen in before[-1].ranks):
        before.pop()
    if not before:
        return ()
    gap_ns = max(before[-1].at_ns - before[-2].at_ns, 0) if len(before) > 1 else 0
    if ends and min(ends) - before[-1].at_ns > max(_FRESH_NS, 2 * gap_ns):
        return ()
    steps = {rank.rank: rank.step for rank in snapshot.ranks}
    for seen in before[-1].ranks:
        now = steps.get(seen.rank)
        if now is not None and seen.step is not None and now > seen.step:
            return ()
    return tuple(before)


def hung(snapshot: Snapshot) -> Finding | None:
    """What the ranks were waiting for when the first of them gave up, or was ended."""
    finding = name_hang(last_looks(snapshot), HangContext.of(snapshot))
    if finding is None:
        return None
    complaints = tuple(line for rank in snapshot.ranks if rank.exception for line in evidence(rank)[1:])
    return Finding(finding.kind, finding.severity, finding.summary, (*finding.evidence, *complaints), finding.rank)


def unlike_collectives(snapshot: Snapshot) -> Finding | None:
    """Ranks met in one exchange with unlike sizes, and their tracebacks name different collectives."""
    told = [rank for rank in snapshot.ranks if not rank.end_marker and signs.unlike_sizes(signs.all_said(rank))]
    named = {rank.rank: signs.collective_of(rank.stderr_tail) for rank in snapshot.ranks}
    groups: dict[str, list[int]] = {}
    for number, name in named.items():
        if name is not None:
            groups.setdefault(name, []).append(number)
    if not told or len(groups) < 2:
        return None
    parts = [f"{signs.ranks_text(ranks)} in {name}" for name, ranks in sorted(groups.items(), key=lambda it: it[1])]
    lines = tuple(line for rank in snapshot.ranks for line in evidence(rank))
    fewest = min(groups.values(), key=len)
    odd = fewest[0] if len(fewest) == 1 and len(named) > 2 else None
    return Finding(
        "collective_mismatch", "failure", f"ranks met in different collectives: {', '.join(parts)}", lines, odd
    )


def bootstrap(snapshot: Snapshot) -> Finding | None:
    """Only lost-peer complaints, all of them before the first step: the process group never formed.

    A launch of one rank has nobody to meet: what it waits for in its bootstrap is not a peer.
    """
    complaining = [r for r in snapshot.ranks if r.exception is not None and signs.peer_gone(r.exception)]
    stages = [rank.stage for rank in snapshot.ranks if rank.stage is not None]
    early = bool(stages) and all(stage in BEFORE_STEPS for stage in stages)
    ended = snapshot.ended_because in ("stalled", "wall_limit") and len(snapshot.ranks) > 1
    meeting = ended and all(rank.stage == "init_process_group" for rank in snapshot.ranks)
    if not early or not (complaining or meeting):
        return None
    summary = "the ranks could not form a process group, and no rank reports a cause of its own"
    lines = tuple(line for rank in complaining or snapshot.ranks for line in evidence(rank))
    return Finding("bootstrap_failed", "failure", summary, lines)


def limits(snapshot: Snapshot) -> Finding | None:
    """No rank failed by itself: the supervisor ended the run at one of its limits."""
    if snapshot.ended_because == "stalled":
        summary = f"no rank made progress for {snapshot.stall_s:g} s"
        return Finding("stalled", "failure", summary, _last_seen(snapshot))
    if snapshot.ended_because == "wall_limit":
        summary = f"the run was still going after its limit of {snapshot.wall_s:g} s"
        return Finding("wall_limit", "failure", summary, _last_seen(snapshot))
    return None


def _last_seen(snapshot: Snapshot) -> tuple[str, ...]:
    looks = last_looks(snapshot)
    lines = tuple(line for rank in snapshot.ranks for line in evidence(rank))
    return (*look_lines(looks[-1]), *lines) if looks else lines


#: In the order in which a sign outranks the next. `interrupted` comes first because everything after it is our doing;
#: a specific sign (disk, memory, a kernel that is missing) comes before the general one (killed, raised) that it would
#: otherwise look like. `hung` comes after every death: when a rank has died of itself, its peers' waiting proves
#: nothing. It comes before `bootstrap` and the limits, which only say how the waiting ended.
DETECTORS: Final[tuple[Detector, ...]] = (
    interrupted,
    start_failed,
    supervisor_failed,
    supervisor_lost,
    world_differs,
    disk_full,
    out_of_memory,
    watchdog_in_compile,
    kernel_import_missing,
    recompiled_after_warmup,
    environment_leak,
    killed,
    raised,
    exited_early,
    exited,
    stopped,
    hung,
    unlike_collectives,
    bootstrap,
    limits,
    vanished,
    command_failed,
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
        return world_differs(snapshot)
    found = [finding for detector in DETECTORS if (finding := detector(snapshot)) is not None]
    if not found:
        return Finding(
            "undecided", "failure", "the run failed, and the evidence does not say why", _last_seen(snapshot)
        )
    leading = found[0]
    if leading.kind not in _GENERAL:
        return leading
    ended = {rank.rank: (rank.ended_ns is None, rank.ended_ns or 0) for rank in snapshot.ranks}
    rivals = [finding for finding in found if finding.kind in _GENERAL and finding.rank is not None]
    return min(rivals, key=lambda finding: ended[finding.rank or 0])
