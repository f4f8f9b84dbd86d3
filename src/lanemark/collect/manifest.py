"""`attempt.json`: what is known of an attempt from outside, replaced atomically at every move of its state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lanemark.collect.states import check_move
from lanemark.measure.durable import replace_file
from lanemark.observe.clock import stamp
from lanemark.records.attempt import RUN_ID, AttemptPaths, State, Transition
from lanemark.records.encoding import decode, encode
from lanemark.records.errors import LedgerError

MANIFEST_FORMAT: Final = 1


@dataclass(frozen=True)
class Supervisor:
    """Which process supervises. A pid alone may be recycled: start time and boot id pin it.

    Attributes:
        pid: process id on its host.
        start_ticks: field 22 of /proc/PID/stat.
        boot_id: /proc/sys/kernel/random/boot_id, or the word `unknown` where it cannot be read.
    """

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True)
class End:
    """What a surface said of a run once it changed no more; noted before anything is fetched or sealed.

    A result may expire between two collectors: what was seen of it must not go with it.

    Attributes:
        word, detail, kind: as in `lanemark.launch.detached.Status`.
        completed_at: when the far side says that it ended, or None.
        fetched: whether everything that could be brought home was.
    """

    word: str
    detail: str
    kind: str | None = None
    completed_at: str | None = None
    fetched: bool = False

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {"word": self.word, "detail": self.detail, "fetched": self.fetched}
        optional = {"kind": self.kind, "completed_at": self.completed_at}
        return doc | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """The attempt as `attempt.json` has it. Immutable; `moved` returns the next one.

    Attributes:
        run_id, plan_digest, lane, preset, surface: what it is an attempt of.
        argv: the client's command line, secrets redacted.
        argv_redacted: whether anything was.
        placement: where things lie on this host: `data_dir`, `cache_dir`, `cwd`.
        data: what was seen of the data before the ranks started: digests and shards, as the record's `data` part.
        state: the present state.
        transitions: every state entered so far, oldest first.
        prepared_ns: `CLOCK_MONOTONIC` when prepared, for durations on the same boot.
        supervisor: who supervises, once somebody does.
        case: the case as JSON: a manifest alone is enough to collect a run that a surface keeps.
        ids: the surface's own ids of a detached run, as far as they are known; they only ever grow.
        directory: the attempt directory when it was prepared: a copy elsewhere knows its original by it.
        end: what the surface said of the run's end, once it did.
        snapshots: names of call graphs taken on time-out or error, inside the attempt directory.
        cancel_asked_at: when somebody asked for the run's end, or None.
        recovered: why this manifest was put together from other files, or None for one that was read whole.
        record_id: the sealed record, once there is one.
        appended: whether the ledger took it.
        execution: which beginning of the run it is: a rented box may be taken away, and the run begun again.
    """

    run_id: str
    plan_digest: str
    lane: str
    preset: str
    surface: str
    argv: tuple[str, ...]
    argv_redacted: bool
    placement: dict[str, str]
    state: State
    transitions: tuple[Transition, ...]
    prepared_ns: int
    boot_id: str
    data: dict[str, Any] = field(default_factory=dict)
    supervisor: Supervisor | None = None
    case: dict[str, Any] | None = None
    ids: dict[str, str] = field(default_factory=dict)
    directory: str | None = None
    end: End | None = None
    snapshots: tuple[str, ...] = ()
    cancel_asked_at: str | None = None
    recovered: str | None = None
    record_id: str | None = None
    appended: bool = False
    execution: int = 1

    def moved(self, target: State, reason: str, *, same_clock: bool = True) -> Manifest:
        """The manifest after a move. Raises IllegalMoveError when the table forbids it.

        Args:
            target: the state to enter.
            reason: one phrase, as it will stand in the record.
            same_clock: False when another boot or host makes the move, whose monotonic clock says nothing here.
        """
        check_move(self.state, target)
        monotonic_s = (time.monotonic_ns() - self.prepared_ns) / 1e9 if same_clock else None
        if monotonic_s is not None and monotonic_s < 0:
            monotonic_s = None
        step = Transition(target, stamp(), monotonic_s, reason)
        return replace(self, state=target, transitions=(*self.transitions, step))

    @property
    def detached(self) -> bool:
        """Whether the launcher left, or was about to."""
        return any(step.state is State.DETACHED for step in self.transitions)

    def sealed(self, record_id: str, predicate: Mapping[str, Any]) -> Manifest:
        """The manifest of an attempt that has a record: in the record's final state, with the record's transitions.

        The record is the truth by then: it may have been sealed by another process, from a manifest that this one
        never saw.
        """
        steps = tuple(_transition(step) for step in predicate["transitions"])
        state = State(predicate["outcome"]["state"])
        assert state.final, "a record is only ever sealed in a final state"
        return replace(self, state=state, transitions=steps, record_id=record_id)

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "format": MANIFEST_FORMAT,
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "lane": self.lane,
            "preset": self.preset,
            "surface": self.surface,
            "argv": list(self.argv),
            "argv_redacted": self.argv_redacted,
            "placement": self.placement,
            "data": self.data,
            "state": self.state.value,
            "transitions": [step.to_json() for step in self.transitions],
            "prepared_ns": str(self.prepared_ns),
            "boot_id": self.boot_id,
            "appended": self.appended,
        }
        optional: dict[str, Any] = {
            "supervisor": None if self.supervisor is None else vars(self.supervisor),
            "case": self.case,
            "ids": self.ids or None,
            "directory": self.directory,
            "end": None if self.end is None else self.end.to_json(),
            "snapshots": list(self.snapshots) or None,
            "cancel_asked_at": self.cancel_asked_at,
            "recovered": self.recovered,
            "record_id": self.record_id,
            "execution": self.execution if self.execution != 1 else None,
        }
        return doc | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Manifest:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        if doc.get("format") != MANIFEST_FORMAT:
            raise ValueError(f"manifest format {doc.get('format')!r}, not {MANIFEST_FORMAT}")
        if not RUN_ID.fullmatch(doc["run_id"]):
            raise ValueError("not a run id")
        steps = tuple(_transition(step) for step in doc["transitions"])
        if not steps:
            raise ValueError("a manifest without transitions")
        who, end = doc.get("supervisor"), doc.get("end")
        return cls(
            run_id=doc["run_id"],
            plan_digest=doc["plan_digest"],
            lane=doc["lane"],
            preset=doc["preset"],
            surface=doc["surface"],
            argv=tuple(doc["argv"]),
            argv_redacted=bool(doc["argv_redacted"]),
            placement=dict(doc["placement"]),
            data=dict(doc["data"]),
            state=State(doc["state"]),
            transitions=steps,
            prepared_ns=int(doc["prepared_ns"]),
            boot_id=doc["boot_id"],
            supervisor=Supervisor(**who) if who else None,
            case=doc.get("case"),
            ids=dict(doc.get("ids") or {}),
            directory=doc.get("directory"),
            end=End(**end) if end else None,
            snapshots=tuple(doc.get("snapshots") or ()),
            cancel_asked_at=doc.get("cancel_asked_at"),
            recovered=doc.get("recovered"),
            record_id=doc.get("record_id"),
            appended=bool(doc.get("appended")),
            execution=int(doc.get("execution", 1)),
        )


def _transition(step: Mapping[str, Any]) -> Transition:
    return Transition(State(step["state"]), step["at"], step.get("monotonic_s"), step["reason"])


def save(paths: AttemptPaths, manifest: Manifest) -> None:
    """Replace `attempt.json` atomically. Raises OSError when the disk will not take it."""
    replace_file(paths.manifest, encode(manifest.to_json()))


def load(paths: AttemptPaths) -> Manifest:
    """Read `attempt.json`. Raises LedgerError `attempt-missing` or `attempt-unreadable`."""
    try:
        data = Path(paths.manifest).read_bytes()
    except FileNotFoundError:
        raise LedgerError(
            "attempt-missing", f"no attempt {paths.run_id!r} is known here", "list them with `lanemark runs`"
        ) from None
    except OSError as error:
        raise LedgerError(
            "attempt-unreadable",
            f"the attempt {paths.run_id!r} cannot be read ({error.strerror})",
            "check its permissions",
        ) from None
    try:
        return Manifest.from_json(decode(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(
            "attempt-unreadable",
            f"the manifest of attempt {paths.run_id!r} is damaged ({type(error).__name__}: {str(error)[:120]})",
            "keep its directory for inspection; `lanemark runs` goes on without it",
        ) from None
