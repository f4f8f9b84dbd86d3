"""`DetachedSurface`: what a launcher that leaves, and a collector that comes later, ask of a place where runs happen.

    submit      hand a prepared run over; each id is noted down before the next step that cannot be undone
    probe       what the surface says of a run now: one typed word
    fetch       bring home what the run left, into the attempt's directory; again changes nothing
    cancel      ask for its end; whether it ended is the next probe's to say
    call_graph  what can be seen of it from outside, for a snapshot on time-out or error

A run is found again by its `Handle` alone: run id and ids, both from the manifest, so that anyone who holds the
manifest may collect. Nothing here decides what follows from a word; `lanemark.collect.steps` does, and has no I/O.

**Threads.** A collector asks about many runs at once: every method is called from worker threads, at most `concurrency`
at a time, never twice at once for one run. It may block, but not for ever: a surface keeps deadlines of its own and
then answers `unreachable`. A client that is asynchronous inside keeps its loop in a thread of its own.

**Two kinds of surface.** Where `supervised_here` is true, the run has a supervisor on this host that holds the
attempt's lock, writes its manifest and seals its record; a collector then only looks, until that supervisor is gone.
Elsewhere nobody holds the lock while the run goes on, and the collector that takes it does all of that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case

Word = Literal[
    "queued",  # handed over; no rank runs yet
    "running",
    "finished",  # it ended by itself, and its results can be fetched
    "failed",  # it ended badly; `kind` says how, and what there is can be fetched
    "cancelled",  # somebody ended it
    "expired",  # it ended, and the surface no longer keeps its result
    "absent",  # the surface is certain that nothing was ever launched under this run id
    "unreachable",  # the surface could not be asked: nothing is known, so nothing follows
    "unknown",  # the surface answered, and cannot say: nothing follows either
]
WORDS: Final[tuple[str, ...]] = get_args(Word)
#: Words after which a run changes no more: the time to fetch and seal.
ENDED: Final = frozenset({"finished", "failed", "cancelled", "expired", "absent"})

FailureKind = Literal[
    "gone",  # its processes or its machine are gone without a word
    "raised",  # the program on the far side raised
    "start_failed",  # image, scheduling or start-up: no rank ran
    "timed_out",  # the surface ended it at its own limit
    "infrastructure",  # the surface says that it is its own fault
    "preempted",  # the machine was taken away and not given back
]
FAILURES: Final[tuple[str, ...]] = get_args(FailureKind)


@dataclass(frozen=True)
class Handle:
    """What finds a launched run again, from its manifest alone.

    Attributes:
        run_id: the attempt's.
        surface: its name.
        ids: the surface's own ids, as far as they were noted; which ones there are is the surface's business.
        directory: the attempt directory at launch, on the host of the launcher; another one may be read now.
    """

    run_id: str
    surface: str
    ids: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None


@dataclass(frozen=True)
class Status:
    """What a surface says of one run.

    Attributes:
        word: one of `WORDS`.
        detail: one phrase, for a person; never empty.
        kind: which failure, where the word is `failed`; None otherwise.
        ids: ids that the manifest did not have: a launcher may die between the launch and noting its id. The collector
            notes them now.
        completed_at: when the far side says that it ended (RFC 3339, its clock); None where it does not say.
        progress: where the run is, in a few words, where the surface can see it.
    """

    word: Word
    detail: str
    kind: FailureKind | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    completed_at: str | None = None
    progress: str | None = None

    def __post_init__(self) -> None:
        assert self.word in WORDS, f"undeclared word {self.word!r}"
        assert (self.kind is not None) == (self.word == "failed"), "a failure has a kind, and nothing else has"
        assert self.kind is None or self.kind in FAILURES, f"undeclared failure {self.kind!r}"
        assert self.detail, "a status says why"

    @property
    def ended(self) -> bool:
        """Whether the run changes no more."""
        return self.word in ENDED


@dataclass(frozen=True)
class Fetched:
    """What was brought home.

    Attributes:
        files: names inside the attempt directory, `/`-separated, sorted.
        problems: what could not be, one sentence each. A record is sealed from the rest.
        completed_at: as in `Status`, where only the results say it.
    """

    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    completed_at: str | None = None


@dataclass(frozen=True)
class Submission:
    """A prepared run, ready to be handed over.

    Attributes:
        paths: its directory; case, manifest and `handover.json` lie there already, durably.
        case: what is asked.
        request: what `Surface.request` gave for it.
        placement: where data and caches lie.
        lock_fd: the descriptor that holds the attempt's lock. A supervisor on this host inherits it, so that the lock
            is never free in between; other surfaces leave it alone.
    """

    paths: AttemptPaths
    case: Case
    request: LaunchRequest
    placement: Placement
    lock_fd: int

    @property
    def run_id(self) -> str:
        return self.paths.run_id


#: Notes ids down durably before it returns. Called with what is new; keys noted before stay.
Note = Callable[[Mapping[str, str]], None]


class DetachedSurface(Protocol):
    """A place that a run may be left at. Implementations pass `tests/contract/test_contract_detached.py`."""

    @property
    def name(self) -> str:
        """As `--surface` names it."""

    @property
    def supervised_here(self) -> bool:
        """Whether a supervisor on this host holds the attempt's lock and seals the record (see the module)."""

    @property
    def concurrency(self) -> int:
        """How many runs may be asked about at once."""

    def submit(self, submission: Submission, note: Note) -> Handle:
        """Hand the run over and return without waiting for it.

        `note` is called with each id as soon as it is known, and before the next step that cannot be undone. A launcher
        killed in between must leave a run that `probe` finds by its run id alone (a tag, a name), or none.

        Raises:
            RunFailed: nothing was launched, and nothing will be.
            SurfaceError: `surface-unreachable`: whether anything was launched is not known; `probe` will say.
        """

    def probe(self, handle: Handle) -> Status:
        """What the surface says of the run now. Never raises for what a run or a network may do: that is a word."""

    def fetch(self, handle: Handle, into: AttemptPaths) -> Fetched:
        """Put what the run left into `into`, under the names of an attempt directory. May be called again.

        Each file is whole or not there. `attempt.json`, `case.json` and the lock are the collector's and stay as they
        are; a `record.json` is only brought from another directory of the same attempt.

        Raises:
            SurfaceError: `surface-unreachable`; another try may bring more.
        """

    def cancel(self, handle: Handle, reason: str) -> None:
        """Ask for the run's end. Without effect on one that has ended, or never began.

        Raises:
            SurfaceError: `surface-unreachable`: it may go on.
        """

    def call_graph(self, handle: Handle) -> dict[str, Any]:
        """What can be seen of the run from outside, as plain JSON, for a snapshot. Empty where nothing can be.

        Raises:
            SurfaceError: `surface-unreachable`.
        """


def plain_names(root: Path) -> list[str]:
    """Every regular file below `root`, `/`-separated and sorted; symbolic links are not followed and not listed."""
    found = []
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{inside}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    found.append(f"{inside}{entry.name}")
    return sorted(found)
