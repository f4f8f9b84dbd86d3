"""Carry out what `lanemark.collect.steps` says, for one attempt or for a thousand at once.

For each attempt: take its lock, read its manifest, ask `step` for one action, carry it out durably, and ask again,
until nothing more can be done now. An attempt whose lock somebody else holds is only looked at: its supervisor is at
work, or another collector is. What an action learned or made is on disk before the next is asked for, so a collector
may be killed anywhere.

A copy of an attempt directory knows its original (`Manifest.directory`). As long as the original is there, its lock is
taken too and its record is adopted, so that one attempt has one record however many copies of its directory there are
on a host.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.collect.appending import append_to_ledger
from lanemark.collect.gathering import read_json
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import End, Manifest, save
from lanemark.collect.polls import append_poll
from lanemark.collect.recovering import load_or_recover
from lanemark.collect.sealing import publish_once, seal_attempt
from lanemark.collect.steps import (
    Append,
    Conclude,
    Done,
    Enter,
    Fetch,
    Leave,
    Look,
    NoteIds,
    Seal,
    Snapshot,
    applied,
    overdue,
    step,
)
from lanemark.launch.detached import DetachedSurface, Handle, Status
from lanemark.launch.local_detached import signal_supervisor
from lanemark.measure.durable import replace_file
from lanemark.observe.clock import stamp
from lanemark.observe.host import boot_id
from lanemark.observe.reading import reason_of
from lanemark.records.attempt import AttemptPaths, Home, State
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import LanemarkError, LedgerError, SurfaceError, UsageError
from lanemark.records.statement import SealedRecord

#: What came of one attempt. `busy`: somebody else is at it. `waiting`: it goes on. `problem`: it could not be collected
#: now, and the line says why. `sealed`: its record was made now. `done`: there was nothing left to do.
Outcome = Literal["done", "sealed", "appended", "waiting", "busy", "problem"]

#: Surfaces by name.
Surfaces = Mapping[str, DetachedSurface]
#: A run id's worth of actions has about ten; beyond this something contradicts itself.
_MAX_ACTIONS: Final = 64
_WISH: Final = "`lanemark cancel` asked for its end"


@dataclass(frozen=True)
class Collected:
    """What came of one attempt.

    Attributes:
        run_id: which.
        outcome: see `Outcome`.
        line: one sentence for the operator, or None where nothing is worth saying.
        manifest: as it is now; None where it cannot be read.
        slug: of the error, where there was one.
        reattached: whether this process saw the run unfinished.
    """

    run_id: str
    outcome: Outcome
    line: str | None = None
    manifest: Manifest | None = None
    slug: str | None = None
    reattached: bool = False


def handle_of(manifest: Manifest) -> Handle:
    """What finds the run again, from the manifest alone. Pure.

    A run that was never detached was supervised by the process that the manifest names.
    """
    ids = dict(manifest.ids)
    who = manifest.supervisor
    if not manifest.detached and who is not None:
        ids = {"pid": str(who.pid), "start_ticks": str(who.start_ticks), "boot_id": who.boot_id}
    return Handle(manifest.run_id, manifest.surface, ids, manifest.directory)


def surface_of(manifest: Manifest, surfaces: Surfaces) -> DetachedSurface:
    """The surface that an attempt runs on. Raises UsageError `surface-unavailable`."""
    surface = surfaces.get(manifest.surface)
    if surface is None:
        raise UsageError(
            "surface-unavailable",
            f"{manifest.run_id} runs on the surface {manifest.surface[:40]!r}, which is not available here",
            "collect it with a version and an environment that has it",
        )
    return surface


def collect_one(home: Home, paths: AttemptPaths, surfaces: Surfaces) -> Collected:
    """Do for one attempt whatever can be done now. Never raises for what happens to a run; see `Collected.line`.

    Args:
        home: whose ledger takes the record.
        paths: the attempt's directory, which need not lie in that home.
        surfaces: by name; an attempt on another one is a problem that says so.
    """
    try:
        return _Collection(home, paths, surfaces).go()
    except (LanemarkError, OSError, ValueError, TypeError, KeyError) as error:
        slug = error.slug if isinstance(error, LanemarkError) else None
        said = str(error) if isinstance(error, LanemarkError) else reason_of(error)
        return Collected(paths.run_id, "problem", f"{paths.run_id} could not be collected: {said}", slug=slug)


def collect_many(home: Home, places: Sequence[AttemptPaths], surfaces: Surfaces) -> Iterator[Collected]:
    """`collect_one` for each, several at once, in the order in which they come to an end."""
    if len(places) < 2:
        yield from (collect_one(home, paths, surfaces) for paths in places)
        return
    workers = max(1, min([len(places), *(surface.concurrency for surface in surfaces.values())]))
    with ThreadPoolExecutor(workers, thread_name_prefix="collect") as pool:
        pending = set()
        for paths in places:
            pending.add(pool.submit(collect_one, home, paths, surfaces))
            if len(pending) < 2 * workers:
                continue
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)


def cancel_one(home: Home, paths: AttemptPaths, surfaces: Surfaces, *, give_up: bool = False) -> Collected:
    """Ask for one run's end, and do whatever can be done then. A run that has ended by now stays what it is.

    The wish is written down before it is sent, where nobody else holds the lock; then a run whose processes are simply
    gone ends as `cancelled` too. Call it again until the outcome is neither `waiting` nor `busy`.

    Args:
        home: whose ledger takes the record.
        paths: the attempt's directory.
        surfaces: by name.
        give_up: do not wait for the other side's word: kill a supervisor on this host, or seal without the surface's.
    """
    try:
        return _Collection(home, paths, surfaces).cancel(give_up=give_up)
    except (LanemarkError, OSError, ValueError, TypeError, KeyError) as error:
        slug = error.slug if isinstance(error, LanemarkError) else None
        said = str(error) if isinstance(error, LanemarkError) else reason_of(error)
        return Collected(paths.run_id, "problem", f"{paths.run_id} could not be cancelled: {said}", slug=slug)


class _Collection:
    """One attempt, while one collector is at it."""

    def __init__(self, home: Home, paths: AttemptPaths, surfaces: Surfaces) -> None:
        self._home = home
        self._paths = paths
        self._surfaces = surfaces
        self._status: Status | None = None
        self._record: SealedRecord | None = None
        self._notice: str | None = None
        self._sealed = False
        self._reattached = False

    def go(self) -> Collected:
        manifest = self._load()
        if manifest.state.final and manifest.appended:
            return Collected(manifest.run_id, "done", manifest=manifest)
        with ExitStack() as held:
            if not self._take_locks(held, manifest):
                return self._only_look(manifest)
            manifest = self._load()  # it may have moved on while we waited for nothing
            if manifest.recovered is not None:
                self._keep(manifest)
            self._restore_case(manifest)
            self._adopt_original(manifest)
            return self._advance(manifest)

    def cancel(self, *, give_up: bool) -> Collected:
        manifest = self._load()
        if manifest.state.final:
            return self.go()
        with ExitStack() as held:
            if not self._take_locks(held, manifest):
                return self._ask_its_supervisor(manifest, give_up=give_up)
            manifest = self._load()
            if not manifest.state.final and manifest.cancel_asked_at is None:
                manifest = self._keep(replace(manifest, cancel_asked_at=stamp()))
            self._restore_case(manifest)
            self._adopt_original(manifest)
            if not manifest.state.final and manifest.end is None and manifest.state is not State.PREPARED:
                manifest = self._ask_its_surface(manifest, give_up=give_up)
            return self._advance(manifest)

    def _ask_its_supervisor(self, manifest: Manifest, *, give_up: bool) -> Collected:
        surface = surface_of(manifest, self._surfaces)
        if not surface.supervised_here:
            return Collected(manifest.run_id, "busy", manifest=manifest)
        if give_up:
            signal_supervisor(handle_of(manifest).ids, signal.SIGKILL)
        else:
            surface.cancel(handle_of(manifest), _WISH)
        return Collected(manifest.run_id, "waiting", manifest=manifest)

    def _ask_its_surface(self, manifest: Manifest, *, give_up: bool) -> Manifest:
        surface = surface_of(manifest, self._surfaces)
        if surface.supervised_here:
            return manifest  # its lock is free: nobody is left to be asked
        try:
            surface.cancel(handle_of(manifest), _WISH)
        except SurfaceError as error:
            if not give_up:
                raise
            said = error.what
        else:
            status = surface.probe(handle_of(manifest))
            append_poll(self._paths, status.word)
            if status.ended or not give_up:
                self._status = status
                return manifest
            said = status.detail
        detail = f"it was given up without the surface's word, which last was: {said}"
        return self._keep(replace(manifest, end=End("cancelled", detail[:500], fetched=True)))

    def _load(self) -> Manifest:
        """The manifest, which must be the one of the directory it lies in. Raises LedgerError."""
        manifest = load_or_recover(self._paths)
        if manifest.run_id != self._paths.run_id:
            raise LedgerError(
                "attempt-unreadable",
                f"the directory {self._paths.run_id!r} holds the manifest of {manifest.run_id}",
                "give the directory the name of its run again",
            )
        return manifest

    def _take_locks(self, held: ExitStack, manifest: Manifest) -> bool:
        """The attempt's lock, and its original's where this is a copy."""
        for path in (self._paths.lock, self._original_lock(manifest)):
            if path is None:
                continue
            lock = AttemptLock(path)
            if not lock.take():
                return False
            held.callback(lock.release)
        return True

    def _original(self, manifest: Manifest) -> AttemptPaths | None:
        """The directory that this one is a copy of, where it is still there."""
        if manifest.directory is None:
            return None
        original = AttemptPaths(Path(manifest.directory))
        try:
            if original.run_id != manifest.run_id or os.path.samefile(original.root, self._paths.root):
                return None
        except OSError:
            return None
        return original

    def _original_lock(self, manifest: Manifest) -> Path | None:
        original = self._original(manifest)
        return original.lock if original is not None and os.access(original.root, os.W_OK) else None

    def _restore_case(self, manifest: Manifest) -> None:
        """Where only a manifest was kept, the question that it carries is written beside it again."""
        if manifest.case is None or self._paths.case.exists():
            return
        data = encode(manifest.case)
        if digest(data) == manifest.plan_digest:
            replace_file(self._paths.case, data)

    def _adopt_original(self, manifest: Manifest) -> None:
        original = self._original(manifest)
        if original is None or self._paths.record.exists():
            return
        try:
            data = original.record.read_bytes()
        except OSError:
            return
        if decode(data)["predicate"]["run_id"] == manifest.run_id:
            self._fetch(manifest)
            publish_once(self._paths.record, data)

    def _only_look(self, manifest: Manifest) -> Collected:
        """Somebody else holds the lock: the run's supervisor, or another collector."""
        if manifest.state.final:
            return Collected(manifest.run_id, "busy", manifest=manifest)
        surface = surface_of(manifest, self._surfaces)
        if surface.supervised_here and manifest.detached:
            status = surface.probe(handle_of(manifest))
            # Its supervisor holds the lock, whatever can be seen of its processes from here.
            seen = "queued" if status.word == "absent" else "running" if status.ended else status.word
            append_poll(self._paths, seen)
        return Collected(manifest.run_id, "waiting" if surface.supervised_here else "busy", manifest=manifest,
                         reattached=surface.supervised_here)  # fmt: skip

    def _advance(self, manifest: Manifest) -> Collected:
        was = manifest.state
        same_clock = manifest.boot_id == boot_id().value
        for _ in range(_MAX_ACTIONS):
            action = step(manifest, self._status, overdue=self._overdue(manifest), same_clock=same_clock)
            if isinstance(action, Done):
                return self._result(manifest, was.value, "sealed" if self._sealed else "appended")
            if isinstance(action, Leave):
                return Collected(
                    manifest.run_id,
                    "problem" if action.problem else "waiting",
                    f"{manifest.run_id} is {manifest.state.value}: {action.reason}" if action.problem else None,
                    manifest,
                    slug="surface-unreachable" if action.problem else None,
                    reattached=True,
                )
            try:
                manifest = self._carry_out(action, manifest)
            except SurfaceError as error:
                append_poll(self._paths, "unreachable", str(error))
                raise
            if self._notice is not None and isinstance(action, Append) and not manifest.appended:
                return self._result(manifest, was.value, "sealed" if self._sealed else "problem")
        raise AssertionError(f"{manifest.run_id} does not come to an end")

    def _result(self, manifest: Manifest, was: str, outcome: Outcome) -> Collected:
        run_id, state = manifest.run_id, manifest.state.value
        if not self._sealed:
            line = (
                f"{run_id} is {state}; its record is now in the ledger"
                if manifest.appended
                else f"{run_id}: {self._notice}"
            )
            return Collected(run_id, outcome, line, manifest)
        how = "without a supervisor and is sealed" if not manifest.detached or state == "lost" else "and is sealed"
        line = f"{run_id} was {was} {how} as {state}"
        if manifest.recovered is not None:
            line = f"{line}; {manifest.recovered}"
        return Collected(run_id, outcome, line if self._notice is None else f"{line}; {self._notice}", manifest)

    def _overdue(self, manifest: Manifest) -> bool:
        if manifest.state.final or self._status is None or self._status.ended:
            return False
        wall_s = (read_json(self._paths.case) or {}).get("wall_s")
        since_s = age_s(manifest.transitions[-1].at)
        return isinstance(wall_s, (int, float)) and since_s is not None and overdue(manifest, wall_s, since_s)

    def _keep(self, manifest: Manifest) -> Manifest:
        save(self._paths, manifest)
        return manifest

    def _carry_out(self, action: Any, manifest: Manifest) -> Manifest:
        """One action, with what it learned or made on disk. Returns the manifest after it."""
        handlers: dict[type, Callable[[], Manifest]] = {
            Look: lambda: self._look(manifest),
            **dict.fromkeys((NoteIds, Conclude), lambda: self._keep(applied(manifest, action))),
            Enter: lambda: self._enter(manifest, action),
            Snapshot: lambda: self._snapshot(manifest, action.name),
            Fetch: lambda: self._fetched(manifest),
            Seal: lambda: self._seal(manifest, action),
            Append: lambda: self._append(manifest),
        }
        return handlers[type(action)]()

    def _look(self, manifest: Manifest) -> Manifest:
        surface = surface_of(manifest, self._surfaces)
        self._status = surface.probe(handle_of(manifest))
        if manifest.detached:
            problem = self._status.word in ("unreachable", "unknown", "failed", "expired")
            append_poll(self._paths, self._status.word, self._status.detail if problem else None)
        return manifest

    def _enter(self, manifest: Manifest, action: Enter) -> Manifest:
        """A state that is entered on the way to the seal is written down with that; nothing hangs on its time."""
        entered = applied(manifest, action)
        return entered if manifest.end is not None else self._keep(entered)

    def _snapshot(self, manifest: Manifest, name: str) -> Manifest:
        """A call graph, or why there is none: a snapshot is a service, and holds nothing up."""
        surface = surface_of(manifest, self._surfaces)
        try:
            graph: dict[str, Any] = {"call_graph": surface.call_graph(handle_of(manifest))}
        except (LanemarkError, OSError) as error:
            graph = {"unavailable": reason_of(error)}
        os.makedirs(self._paths.snapshots, exist_ok=True)
        replace_file(self._paths.snapshots / f"{name}.json", encode({"taken_for": name, **graph}))
        return self._keep(replace(manifest, snapshots=(*manifest.snapshots, f"snapshots/{name}.json")))

    def _fetched(self, manifest: Manifest) -> Manifest:
        assert manifest.end is not None
        done = self._fetch(manifest)
        end = replace(manifest.end, fetched=True, completed_at=manifest.end.completed_at or done)
        return self._keep(replace(manifest, end=end))

    def _fetch(self, manifest: Manifest) -> str | None:
        return surface_of(manifest, self._surfaces).fetch(handle_of(manifest), self._paths).completed_at

    def _seal(self, manifest: Manifest, action: Seal) -> Manifest:
        """The record, on disk. The manifest follows with the appending: until then the record itself is the truth."""
        self._sealed = True
        self._record, sealed = seal_attempt(self._paths, manifest, action.ending)
        return sealed

    def _append(self, manifest: Manifest) -> Manifest:
        record = self._record
        if record is None:
            data = self._paths.record.read_bytes()
            assert manifest.record_id is not None
            record = SealedRecord(manifest.record_id, data)
        appended, self._notice = append_to_ledger(self._home, self._paths, record)
        with contextlib.suppress(OSError):
            self._paths.reserve.unlink(missing_ok=True)
        return self._keep(replace(manifest, appended=appended))


def age_s(at: str) -> float | None:
    """Seconds since a stamp, by this host's wall clock; negative where another clock was ahead; None if it is none."""
    try:
        moment = datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (datetime.now(timezone.utc) - moment).total_seconds()
