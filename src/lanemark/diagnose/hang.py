"""Naming a hang while it lasts, from looks taken from outside. Pure: the same function serves the run and the record.

What a look can show, and what it cannot:

  compiling     a rank that traces a graph found in its cache is in phase `compile` as well, and with eight ranks on two
                cores for seven seconds. So being in the compiler is never enough. What tells is that it *builds*:
                files that appear in its cache. A warm rank leaves none, though it may run g++ for a moment.
  waiting       a rank in a collective waits for the others and is at fault for nothing. The barrier after pre-warm
                stands under a long time-out on purpose: ranks in it are never part of a finding.
  equal times   wall time in the first forward is the same on all ranks, because they wait for one another.
  exceptions    the innocent rank says "timed out" and the one that compiled "connection closed". They are not asked.

Nothing is named before it held in two looks. Where no rule holds the answer is None: undecided, not "healthy".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lanemark.diagnose.one_look import builds, held_s, in_compiler, look_lines, operation, pending, rank_of, waits
from lanemark.diagnose.signs import ranks_text
from lanemark.diagnose.snapshot import Snapshot
from lanemark.records.finding import Finding
from lanemark.records.look import Look, RankLook

#: A rank whose loader does not come back for this long is no slow reader: a step of the presets takes less than 1 s.
DATA_STALL_S: Final = 5.0
#: Opening the data reads headers and manifests of many files, once; on a cold mount that is slow and no stall.
LOAD_STALL_S: Final = 20.0
#: Looks that must agree before anything is named.
_AGREE: Final = 2
#: A rank that also built, but took half as long: the slowest of a launch that is cold all over takes less than this.
_BEHIND: Final = 2.0
#: Part of the time-out in force that may pass before waiting itself is evidence.
_PATIENCE: Final = 0.5
#: Every rank in one collective for this long, in a look that could see no motion at all, is a transport that hangs.
_TRANSPORT_S: Final = 10.0


@dataclass(frozen=True)
class HangContext:
    """What looks alone do not say.

    Attributes:
        collective_timeout_s: how long ranks will wait in a collective; None when not known.
        preset: the model's preset, or None.
        warmup: leading steps that are never measured, or None.
    """

    collective_timeout_s: float | None = None
    preset: str | None = None
    warmup: int | None = None

    @classmethod
    def of(cls, snapshot: Snapshot) -> HangContext:
        return cls(snapshot.collective_timeout_s, snapshot.preset, snapshot.warmup)


def _agreed(looks: Sequence[Look], holds: Callable[[Look], object]) -> bool:
    """Whether something held in each of the last looks."""
    return len(looks) >= _AGREE and all(holds(look) for look in looks[-_AGREE:])


def _others(look: Look, numbers: Sequence[int]) -> list[RankLook]:
    return [rank for rank in look.ranks if rank.rank not in numbers]


def stopped(looks: Sequence[Look], _context: HangContext) -> Finding | None:
    """A rank is stopped by a signal. Its page says what it did before, which explains nothing."""

    def ranks(look: Look) -> list[int]:
        return [rank.rank for rank in look.ranks if rank.process_state in ("T", "t")]

    if not _agreed(looks, ranks):
        return None
    last = looks[-1]
    verb = "is" if len(ranks(last)) == 1 else "are"
    text = f"{ranks_text(ranks(last))} {verb} stopped by a signal"
    return Finding("rank_stopped", "failure", text, look_lines(last), _only(ranks(last)))


def _only(numbers: Sequence[int]) -> int | None:
    return numbers[0] if len(numbers) == 1 else None


def compile_divergence(looks: Sequence[Look], context: HangContext) -> Finding | None:
    """Some ranks build code while others wait for them in a collective. Not: all of them tracing, or all building."""
    late = _late_compilers(looks, context, [rank.rank for rank in looks[-1].ranks])
    late = _late_compilers(looks[:-1], context, late) if late and len(looks) >= _AGREE else []
    if not late:
        return None
    last = looks[-1]
    waiting = [rank for rank in last.ranks if waits(rank) and rank.rank not in late]
    slowest = max((rank for rank in last.ranks if rank.rank in late), key=lambda rank: held_s(last, rank))
    verb = "is compiling" if len(late) == 1 else "are compiling"
    names = sorted({operation(rank) for rank in waiting})
    waiters = ranks_text([rank.rank for rank in waiting])
    sentence = (
        f"{ranks_text(late)} {verb} for {held_s(last, slowest):.0f} s while {waiters}"
        f" {'waits' if len(waiting) == 1 else 'wait'} in {' and '.join(names)}"
    )
    late_steps = [rank.step for rank in last.ranks if rank.rank in late and rank.step is not None]
    kind = "compile_divergence"
    if context.warmup is not None and late_steps and min(late_steps) >= context.warmup:
        kind, sentence = "recompiled_after_warmup", f"{sentence}, after the warm-up"
    return Finding(kind, "failure", sentence[:500], look_lines(last), _only(late))


def _late_compilers(looks: Sequence[Look], context: HangContext, among: Sequence[int]) -> list[int]:
    """Of some ranks, those in the compiler at the last look, for a reason that tracing alone does not give."""
    look = looks[-1]
    waiting = [rank for rank in look.ranks if rank.alive and waits(rank)]
    compiling = [rank for rank in look.ranks if rank.rank in among and rank.alive and in_compiler(rank)]
    if not waiting or not compiling:
        return []
    entered = max((rank.collectives for rank in waiting if rank.collectives is not None), default=None)
    waited_s = max(held_s(look, rank) for rank in waiting)
    needed_s = max((rank.compile_ns or 0) / 1e9 for rank in waiting)
    timeout_s = context.collective_timeout_s
    out_of_patience = timeout_s is not None and waited_s > timeout_s * _PATIENCE
    # Waiting ranks that built nothing found theirs, and a late one did not: that is the divergence itself. Where they
    # built as well, or share a cache so that its files count for all, the late one may only be slower.
    found_theirs = all(each.new_cache_files == 0 for each in waiting)
    late = []
    for rank in compiling:
        if rank.collectives is not None and entered is not None and rank.collectives >= entered:
            continue  # it has entered what the others wait in: it is not the one they wait for
        behind = held_s(look, rank) + (rank.compile_ns or 0) / 1e9 > _BEHIND * needed_s
        if out_of_patience or ((found_theirs or behind) and _builds_here(looks, rank, needed_s)):
            late.append(rank.rank)
    return late


def _builds_here(looks: Sequence[Look], rank: RankLook, needed_s: float) -> bool:
    """Whether code is being built for this rank since its last collective.

    Only since then: what it built earlier (in pre-warm, behind a barrier of its own) kept nobody waiting here. Where
    the rank's cache can be seen, its files decide and the programs below it do not: a warm rank runs g++ as well, for
    a second or two, to find out which instructions the processor has, and leaves nothing. Where no cache can be seen,
    compilers must have been below it for longer than the waiting ranks' compilations took in all.
    """
    if rank.new_cache_files == 0:
        return False
    first_count, building_ns = rank.new_cache_files, []
    for look in reversed(looks):
        seen = rank_of(look, rank.rank)
        if seen is None:
            continue
        if seen.collectives != rank.collectives:
            # Counts only grow, so the nearest one before tells whether anything had been built by then.
            if rank.new_cache_files is not None and seen.new_cache_files == 0:
                return True
            break
        if seen.new_cache_files is not None:
            first_count = seen.new_cache_files
        if builds(seen) and in_compiler(seen):
            building_ns.append(look.at_ns)
    if rank.new_cache_files is not None and first_count is not None:
        return rank.new_cache_files > first_count
    return len(building_ns) >= _AGREE and (building_ns[0] - building_ns[-1]) / 1e9 > needed_s


def data_stall(looks: Sequence[Look], _context: HangContext) -> Finding | None:
    """A rank is inside its loader, and has been in every look, long enough that no slow read explains it.

    The others wait for it in a collective, or for their own data. A rank that compiles, or one that works, is
    something else to wait for: then nothing is concluded.
    """
    last = looks[-1]
    starved = [rank.rank for rank in last.ranks if _starves(rank) and held_s(last, rank) >= _stall_limit_s(rank)]
    if not starved or any(not (waits(rank) or _starves(rank)) for rank in _others(last, starved)):
        return None
    before = [rank_of(look, number) for look in looks[-_AGREE:] for number in starved]
    if len(looks) < _AGREE or not all(seen is not None and _starves(seen) for seen in before):
        return None
    longest = max(held_s(last, rank) for rank in last.ranks if rank.rank in starved)
    verb = "has" if len(starved) == 1 else "have"
    text = f"{ranks_text(starved)} {verb} waited for data for {longest:.0f} s"
    return Finding("data_stall", "failure", text, look_lines(last), _only(starved))


def _starves(rank: RankLook) -> bool:
    """In its loader, and asleep there: a loader that computes is slow, and not stalled."""
    return (
        rank.alive
        and rank.process_state not in ("R", "T", "t")
        and (rank.waiting_for_data is True or rank.phase == "load")
    )


def _stall_limit_s(rank: RankLook) -> float:
    return LOAD_STALL_S if rank.phase == "load" else DATA_STALL_S


def collective_missed(looks: Sequence[Look], _context: HangContext) -> Finding | None:
    """Some ranks wait in a collective that the others have not entered, and those sleep elsewhere, in every look.

    Flight recorders decide, also where a page shows no collective, as DDP enters them from C++: the oldest operation
    that a rank waits in must be the very next one after the last of the rank that is missed. A rank that computes,
    compiles or waits for data is late, and is not named here.
    """
    last = looks[-1]
    if len(looks) < _AGREE or last.quiet_s < DATA_STALL_S or any(rank.flight is None for rank in last.ranks):
        return None
    rows = {rank.rank: pending(rank) for rank in last.ranks}
    waiting, missed = ([rank for rank in rows if (rows[rank] is None) is absent] for absent in (False, True))
    operations = {row for row in rows.values() if row is not None}
    if len(operations) != 1 or not missed or _by_flight(looks) is not None:
        return None
    ((number, name),) = operations
    for rank in last.ranks:
        before = rank_of(looks[-_AGREE], rank.rank)
        if before is None or before.sequence != rank.sequence:
            return None
        done = max((entry.seq for entry in rank.flight or ()), default=0)
        if rank.rank in missed and (done != number - 1 or not _sleeps(rank) or not _sleeps(before)):
            return None
    at = rank_of(last, missed[0]) if len(missed) == 1 else None
    text = (
        f"{ranks_text(missed)} {'has' if len(missed) == 1 else 'have'} not entered {_bare(name)}, operation {number},"
        f" in which {ranks_text(waiting)} {'waits' if len(waiting) == 1 else 'wait'}"
        f"{f'; it is at {at.stack[0]}' if at is not None and at.stack else ''}"
    )
    return Finding("collective_missed", "failure", text[:500], look_lines(last), _only(missed))


def _sleeps(rank: RankLook) -> bool:
    """Asleep in its step loop, and neither in the compiler nor in its loader."""
    asleep = rank.alive and rank.process_state == "S" and rank.phase in ("warmup", "window")
    return asleep and not in_compiler(rank) and not _starves(rank)


def collective_mismatch(looks: Sequence[Look], _context: HangContext) -> Finding | None:
    """Every rank waits in a collective, and they do not wait in the same one.

    Flight recorders decide where there are any: the first operation number that ranks gave different names. Without
    them, ranks that entered equally many collectives must show different names. Ranks that differ only in how many
    they entered prove nothing: a collective may be queued and left behind.
    """
    if len(looks) < _AGREE:
        return None
    last, before = looks[-1], looks[-_AGREE]
    if len(last.ranks) < 2 or not all(waits(rank) for rank in last.ranks):
        return None
    if any(seen.sequence != (rank_of(before, seen.rank) or seen).sequence for seen in last.ranks):
        return None
    named = _by_flight(looks) or _by_label(last)
    if named is None:
        return None
    number, groups = named
    parts = [f"{ranks_text(ranks)} in {name}" for name, ranks in sorted(groups.items(), key=lambda item: item[1])]
    text = f"ranks wait in different collectives at operation {number}: {', '.join(parts)}"
    fewest = min(groups.values(), key=len)
    odd = fewest[0] if len(fewest) == 1 and len(last.ranks) > 2 else None
    return Finding("collective_mismatch", "failure", text[:500], look_lines(last), odd)


def _by_flight(looks: Sequence[Look]) -> tuple[int, dict[str, list[int]]] | None:
    """The first operation number to which the ranks' recorders give different names, from the last deep look."""
    look = next((look for look in reversed(looks) if any(rank.flight for rank in look.ranks)), None)
    if look is None or any(rank.flight is None for rank in look.ranks):
        return None
    names = {rank.rank: {entry.seq: _bare(entry.operation) for entry in rank.flight or ()} for rank in look.ranks}
    shared = set.intersection(*(set(rows) for rows in names.values()))
    for number in sorted(shared):
        groups: dict[str, list[int]] = {}
        for rank, rows in names.items():
            groups.setdefault(rows[number], []).append(rank)
        if len(groups) > 1:
            return number, groups
    return None


def _bare(name: str) -> str:
    """`all_gather` of `gloo:all_gather` or `nccl:all_gather`."""
    return name.rsplit(":", 1)[-1]


def _by_label(look: Look) -> tuple[int, dict[str, list[int]]] | None:
    counts = {rank.collectives for rank in look.ranks}
    if len(counts) != 1 or None in counts or any(not rank.label for rank in look.ranks):
        return None
    groups: dict[str, list[int]] = {}
    for rank in look.ranks:
        groups.setdefault(rank.label or "", []).append(rank.rank)
    return (next(iter(counts)) or 0, groups) if len(groups) > 1 else None


def infrastructure_hang(looks: Sequence[Look], context: HangContext) -> Finding | None:
    """Every rank is in the same collective, none comes out, and the model is the diagnostic one.

    In any other preset the same picture may still be the model's doing (a collective on unequal shapes, for one), so
    there it is not concluded: running the diagnostic preset is what tells.
    """
    if context.preset != "diagnostic" or not same_collective(looks) or looks[-1].quiet_s < _TRANSPORT_S:
        return None
    last = looks[-1]
    text = f"all {len(last.ranks)} ranks are in {operation(last.ranks[0])} and none comes out, in the diagnostic preset"
    return Finding("infrastructure_hang", "failure", text, look_lines(last))


def same_collective(looks: Sequence[Look]) -> bool:
    """Whether all ranks (two at least) wait in the same operation, by number and name, and did so before."""
    if len(looks) < _AGREE:
        return False
    last = looks[-1]
    if len(last.ranks) < 2 or not all(waits(rank) for rank in last.ranks):
        return False
    entered = {(rank.collectives, operation(rank)) for rank in last.ranks}
    still = all(rank.sequence == (rank_of(looks[-_AGREE], rank.rank) or rank).sequence for rank in last.ranks)
    return len(entered) == 1 and still and _by_flight(looks) is None


Detector = Callable[[Sequence[Look], HangContext], "Finding | None"]

#: In order of precedence. A stopped rank explains everybody's waiting, whatever else is seen. A rank that compiles is
#: no mismatch, although the others wait in another place than it; ranks that wait for one that lacks data are none
#: either. Only where every rank waits is the collective itself in question, and only when all wait in the same one
#: may it be the machine.
DETECTORS: Final[tuple[Detector, ...]] = (
    stopped,
    compile_divergence,
    data_stall,
    collective_missed,
    collective_mismatch,
    infrastructure_hang,
)


def name_hang(looks: Sequence[Look], context: HangContext) -> Finding | None:
    """What the run is waiting for, or None while nothing shows it.

    Args:
        looks: oldest first; the last one is "now".
        context: what looks do not say.
    """
    if not looks or any(not rank.alive for rank in looks[-1].ranks):
        return None  # a rank that is gone is a death, or an end: its peers' waiting follows from it
    for detector in DETECTORS:
        finding = detector(looks, context)
        if finding is not None:
            return finding
    return None
