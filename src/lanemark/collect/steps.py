"""What a collector does next, as one pure function: manifest and the surface's word in, one action out.

No clock is read here, no file opened and nobody asked. The rules, in the order in which they are tried; the first one
that fits gives the action, the collector carries it out durably, and asks again:

    1  The manifest is in a final state: append its record to the ledger if that is still to do, then be done.
    2  Nothing was handed over (`prepared`): the launcher died first. Conclude `absent`; nobody is asked.
    3  The end is known (`manifest.end`): it is never asked for again, because a result may expire in the meantime.
         a  take a call graph, where the end was not a good one;
         b  fetch what the run left, unless that was done, or nothing was ever launched;
         c  enter `running`, where the run must have been through it and nobody saw;
         d  seal.
    4  Look, unless that was just done. Ids that the look found and the manifest lacks are noted first of all.
    5  `running`: enter that state once. `queued`: stay.
    6  A word after which nothing changes: conclude it, durably, before anything else is done about it.
    7  `unreachable` and `unknown`: leave the attempt as it is. Nothing is ever concluded from silence, and no clock
       ends a run: a clock may be wrong by hours, and a call graph is all that a run which takes too long costs.

**Why no run is lost.** Every action but `Leave` and `Done` moves the manifest forward in a fixed order. What could turn
out otherwise when it is asked again (a word, ids, files, the record) is on disk before the next action; what follows
from those alone may be taken again. So a collector that dies anywhere is continued by the next one.
**Why none is sealed twice.** Only the holder of the attempt's lock asks; `Seal` publishes without clobbering and adopts
what is there; a final state is never left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from lanemark.collect.manifest import End, Manifest
from lanemark.collect.sealing import Ending
from lanemark.launch.detached import ENDED, Status
from lanemark.records.attempt import State
from lanemark.records.finding import Finding


@dataclass(frozen=True)
class Look:
    """Ask the surface, and write down when and what it said."""


@dataclass(frozen=True)
class NoteIds:
    """Write down ids that the launcher did not live to note."""

    ids: Mapping[str, str]


@dataclass(frozen=True)
class Enter:
    """Enter a state that is not final."""

    state: State
    reason: str


@dataclass(frozen=True)
class Conclude:
    """Write down that, and how, the run ended."""

    end: End


@dataclass(frozen=True)
class Snapshot:
    """Take a call graph under this name; once."""

    name: str


@dataclass(frozen=True)
class Fetch:
    """Bring home what the run left."""


@dataclass(frozen=True)
class Seal:
    """Seal the record, or adopt the one that is there."""

    ending: Ending


@dataclass(frozen=True)
class Append:
    """Give the record to the ledger."""


@dataclass(frozen=True)
class Leave:
    """Nothing can be done now. `problem`: whether somebody should know why."""

    reason: str
    problem: bool = False


@dataclass(frozen=True)
class Done:
    """Nothing is left to be done, ever."""


Action = Look | NoteIds | Enter | Conclude | Snapshot | Fetch | Seal | Append | Leave | Done

#: Failures of a run that never had a rank.
_NEVER_RAN: Final = frozenset({"start_failed"})
#: Ends of which no call graph is taken.
_UNEVENTFUL: Final = frozenset({"finished", "absent"})


def step(manifest: Manifest, status: Status | None, *, overdue: bool = False, same_clock: bool = False) -> Action:
    """The next action for one attempt whose lock the caller holds. Pure; see the module for the rules.

    Args:
        manifest: as it is on disk.
        status: what the surface said, since this collector took the lock; None when it was not asked yet.
        overdue: whether the run takes longer than its case allows (`overdue_s`).
        same_clock: whether this process shares the attempt's monotonic clock.
    """
    if manifest.state.final:
        return Done() if manifest.appended else Append()
    if manifest.end is not None:
        return _ended(manifest, manifest.end, same_clock=same_clock)
    if manifest.state is State.PREPARED:
        return Conclude(End("absent", "the launcher died before it handed anything over"))
    if status is None:
        return Look()
    new = {name: value for name, value in status.ids.items() if manifest.ids.get(name) != value}
    if new:
        return NoteIds(new)
    if status.word == "running" and manifest.state is State.DETACHED:
        return Enter(State.RUNNING, f"a collector saw it running: {status.detail}"[:500])
    if status.word in ENDED:
        return Conclude(End(status.word, status.detail[:500], status.kind, status.completed_at))
    name = f"overdue_in_{manifest.state.value}"
    if overdue and status.word in ("queued", "running") and _snapshot(name) not in manifest.snapshots:
        return Snapshot(name)
    return Leave(status.progress or status.detail, problem=status.word in ("unreachable", "unknown"))


def _ended(manifest: Manifest, end: End, *, same_clock: bool) -> Action:
    eventful = end.word not in _UNEVENTFUL and end.kind != "gone"  # of what is gone nothing can be seen
    if eventful and _snapshot(end.word) not in manifest.snapshots:
        return Snapshot(end.word)
    if not end.fetched and end.word != "absent":
        return Fetch()
    ran = end.word != "absent" and end.kind not in _NEVER_RAN
    if manifest.state is State.DETACHED and ran:
        return Enter(State.RUNNING, "it ran unseen: its end is the first that a collector saw of it")
    return Seal(ending_of(manifest, end, same_clock=same_clock))


def applied(manifest: Manifest, action: NoteIds | Enter | Conclude) -> Manifest:
    """The manifest after an action that is nothing but a line in it. Raises IllegalMoveError as `Manifest.moved`."""
    if isinstance(action, NoteIds):
        return replace(manifest, ids={**manifest.ids, **action.ids})
    if isinstance(action, Conclude):
        return replace(manifest, end=action.end)
    return manifest.moved(action.state, action.reason)


def _snapshot(name: str) -> str:
    return f"snapshots/{name}.json"


def ending_of(manifest: Manifest, end: End, *, same_clock: bool) -> Ending:
    """What sealing is told of an end that a surface reported. Pure.

    Whoever asked for a run's end gets `cancelled`, also when the answer is only that its processes are gone. A run that
    had finished by then stays what it was: asking changes nothing that had happened.
    """
    base = Ending(same_clock=same_clock, completed_at=end.completed_at, from_afar=True)
    asked = manifest.cancel_asked_at is not None
    if end.word == "finished":
        return base
    if end.word == "cancelled" or (asked and (end.word == "absent" or end.kind == "gone")):
        said = Finding("interrupted", "failure", f"the run was cancelled: {end.detail}"[:500])
        return base._replace(verdict=State.CANCELLED, said=said)
    if end.word == "absent":
        return base._replace(
            verdict=State.LOST, said=Finding("never_launched", "failure", f"nothing was launched: {end.detail}"[:500])
        )
    if end.word == "expired":
        text = f"the result was no longer kept when it was collected: {end.detail}"
        return base._replace(verdict=State.LOST, said=Finding("result_expired", "failure", text[:500]))
    if end.kind == "gone":
        return Ending(supervisor_alive=False, same_clock=same_clock, completed_at=end.completed_at)
    text = f"the surface reported {str(end.kind).replace('_', ' ')}: {end.detail}"
    return base._replace(said=Finding("surface_failed", "failure", text[:500], (f"kind: {end.kind}",)))


#: How long a run may wait for a machine before its call graph is worth keeping; seconds. Capacity for whole nodes is
#: often an hour away (field report), so this is a note and never an end.
QUEUE_S: Final = 3600.0
#: Beyond the case's own limit, which the far side enforces: start-up, and clocks that disagree; seconds.
SLACK_S: Final = 600.0


def overdue(manifest: Manifest, wall_s: float, since_s: float) -> bool:
    """Whether a run that is not over takes longer than it should. Pure.

    Args:
        manifest: for its state.
        wall_s: the case's own limit.
        since_s: seconds since the state was entered, by wall clocks that may disagree: a negative age is none.
    """
    limit_s = wall_s + SLACK_S if manifest.state is State.RUNNING else QUEUE_S
    return max(0.0, since_s) > limit_s
