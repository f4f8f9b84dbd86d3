"""Seal an attempt: from its directory to the exact bytes of one record, on every exit path.

One attempt never gets two records. `record.json` is put in place with a hard link that does not clobber, so of two
processes that seal at once one wins and the other takes the winner's bytes; and it is put there *before* the manifest
enters its final state, so that a crash in between leaves a record to adopt and not a second one to write.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from lanemark import __version__
from lanemark.collect.gathering import rank_report, read_json
from lanemark.collect.manifest import Manifest
from lanemark.collect.picture import snapshot_of
from lanemark.diagnose.first_cause import first_cause
from lanemark.diagnose.stragglers import straggler
from lanemark.lanes.record import predicate_of, withdraw_figures
from lanemark.lanes.reports import AttemptFacts
from lanemark.lanes.rules import broken_rules
from lanemark.measure.durable import sync_directory
from lanemark.observe.clock import stamp
from lanemark.records.attempt import AttemptPaths, State
from lanemark.records.case import Case
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import LedgerError
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, observed, unavailable, value_of
from lanemark.records.statement import Evidence, SealedRecord, seal, subjects

#: Files of the attempt that a record rests on, with their media types; the ranks' own follow.
_ATTEMPT_EVIDENCE: Final = (
    ("case.json", "application/json"),
    ("host.json", "application/json"),
    ("host_end.json", "application/json"),
    ("launch.json", "application/json"),
    ("exits.json", "application/json"),
    ("looks.jsonl", "application/jsonl"),
    ("named.jsonl", "application/jsonl"),
)
_RANK_EVIDENCE: Final = (
    ("beacon.page", "application/octet-stream"),
    ("samples.bin", "application/octet-stream"),
    ("observed.json", "application/json"),
    ("result.json", "application/json"),
    ("bench_telemetry.json", "application/json"),
    ("backend_identity.json", "application/json"),
    ("end.json", "application/json"),
    ("error.json", "application/json"),
    ("stdout.log", "text/plain"),
    ("stderr.log", "text/plain"),
)
#: `<look>-<rank>-<what>` (lanemark.launch.looking).
_LOOK_DUMP: Final = re.compile(r"[0-9]{1,9}-[0-9]{1,4}-(flight\.json|stack\.json|stack\.txt)")
_LOOK_TYPES: Final = {"json": "application/json", "txt": "text/plain"}
_MAX_LOOK_DUMPS: Final = 1024


class Ending(NamedTuple):
    """How the supervisor saw the run end, for the parts of the record that no file holds.

    Attributes:
        interrupted_by: the signal the supervisor was sent, or None.
        start_error: why the ranks could not be started, or None.
        supervisor_error: what went wrong in the supervisor itself once they were, or None.
        supervisor_alive: False when another process seals for a supervisor that was lost.
        findings: what was concluded on the way (clock steps).
        exits: what the supervision saw, for when the disk had no room for `exits.json`; None to read that file.
        same_clock: whether this process shares the attempt's monotonic clock (same host, same boot).
    """

    interrupted_by: str | None = None
    start_error: str | None = None
    supervisor_error: str | None = None
    supervisor_alive: bool = True
    findings: tuple[Finding, ...] = ()
    exits: dict[str, Any] | None = None
    same_clock: bool = True


def load_case(paths: AttemptPaths) -> Case:
    """The case of an attempt. Raises LedgerError `attempt-unreadable` when there is none to read."""
    doc = read_json(paths.case)
    try:
        return Case.from_json(doc or {})
    except (TypeError, KeyError, ValueError) as error:
        raise LedgerError(
            "attempt-unreadable",
            f"the case of attempt {paths.run_id!r} cannot be read ({type(error).__name__})",
            "keep its directory for inspection; nothing can be sealed without the question",
        ) from None


def _hashed(path: Path) -> tuple[str, int] | None:
    """Digest and size of a regular file, or None. A symbolic link is no evidence: a rank could plant one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    sha, size = hashlib.sha256(), 0
    with os.fdopen(fd, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            size += len(chunk)
    return "sha256:" + sha.hexdigest(), size


def _look_dumps(paths: AttemptPaths) -> list[str]:
    """What hung ranks answered: file names as the supervisor gives them, in order."""
    try:
        names = os.listdir(paths.look_dumps)
    except OSError:
        return []
    return sorted(name for name in names if _LOOK_DUMP.fullmatch(name))[:_MAX_LOOK_DUMPS]


def evidence_of(paths: AttemptPaths, num_ranks: int) -> tuple[Evidence, ...]:
    """Every file the record rests on, by digest, in a fixed order. Missing files are simply not evidence."""
    names = [*_ATTEMPT_EVIDENCE]
    names += [(f"ranks/{rank}/{name}", kind) for rank in range(num_ranks) for name, kind in _RANK_EVIDENCE]
    names += [(f"looks/{name}", _LOOK_TYPES[name.rpartition(".")[2]]) for name in _look_dumps(paths)]
    found = []
    for name, media_type in names:
        hashed = _hashed(paths.root / name)
        if hashed is not None and hashed[1] > 0:
            found.append(Evidence(name, hashed[0], hashed[1], media_type))
    return tuple(found)


def _cut_logs(exits: dict[str, Any]) -> tuple[Finding, ...]:
    lines = tuple(
        f"rank {cut['rank']} {cut['stream']}: {cut['left_out_bytes']} of {cut['printed_bytes']} bytes are left out"
        for cut in exits.get("logs", [])
    )
    text = "a rank printed more than is kept: the beginning and the end of what it printed remain"
    return (Finding("logs_truncated", "note", text, lines),) if lines else ()


def gather(paths: AttemptPaths, manifest: Manifest, ending: Ending) -> AttemptFacts:
    """Everything the record is built from, and the state it ends in."""
    case = load_case(paths)
    exits_doc = ending.exits or read_json(paths.exits) or {}
    launch = read_json(paths.launch) or {}
    exits = {entry["rank"]: entry for entry in exits_doc.get("ranks", []) if isinstance(entry.get("rank"), int)}
    ranks = tuple(rank_report(paths, rank, exits, takes_steps=case.takes_steps) for rank in range(case.nproc))
    picture = snapshot_of(
        paths,
        case,
        ranks,
        exits_doc,
        launch,
        interrupted_by=ending.interrupted_by,
        start_error=ending.start_error,
        supervisor_error=ending.supervisor_error,
        supervisor_alive=ending.supervisor_alive,
    )
    cause = first_cause(picture)
    slow = straggler(picture) if cause is None else None
    if ending.interrupted_by is not None:
        state, reason = State.CANCELLED, f"the supervisor was sent {ending.interrupted_by}"
    elif not ending.supervisor_alive:
        state, reason = State.LOST, "the supervisor died without sealing"
    elif cause is not None:
        state, reason = State.ERROR, cause.summary
    else:
        state, reason = State.OK, "every rank ended cleanly"
    duration: Observation[float] = unavailable("CLOCK_MONOTONIC", "another boot or host seals this attempt")
    if ending.same_clock and ending.supervisor_alive:
        duration = observed(max(0.0, (time.monotonic_ns() - manifest.prepared_ns) / 1e9), "CLOCK_MONOTONIC")
    elif ending.same_clock:
        duration = unavailable("CLOCK_MONOTONIC", "nobody saw when the run ended")
    launched = launch.get("launched_ns")
    moved = manifest.moved(state, reason[:500], same_clock=ending.same_clock)
    return AttemptFacts(
        manifest=manifest.to_json(),
        case=case,
        host=read_json(paths.host) or {},
        host_end=read_json(paths.host_end) or {},
        launch=launch,
        ranks=ranks,
        findings=((cause,) if cause else ()) + ((slow,) if slow else ()) + ending.findings + _cut_logs(exits_doc),
        cause=cause,
        state=state.value,
        reason=reason,
        launched_ns=int(launched) if launched is not None else None,
        duration_s=duration,
        sealed_at=stamp(),
        transitions=tuple(step.to_json() for step in moved.transitions),
        evidence=evidence_of(paths, case.nproc),
        lanemark_version=__version__,
    )


def _sealed(facts: AttemptFacts) -> SealedRecord:
    predicate = predicate_of(facts)
    about = subjects(
        plan_digest=facts.case.digest,
        image_digest=value_of(predicate["image"]["digest"]),
        commit=value_of(predicate["source"]["commit"]),
    )
    record = seal(predicate, about)
    broken = broken_rules(decode(record.data)["predicate"])
    if broken:
        # A defect of ours, and the run is over: seal it with the contradiction named and no receipt, so that nothing
        # can be quoted from it, and let verification refuse it.
        first = broken[0]
        text = f"the record contradicts itself: {first.problem} ({first.rule})"
        predicate["findings"].append(Finding("self_check_failed", "failure", text[:500]).to_json())
        predicate["outcome"].update(receipt=False, receipt_reason=text[:500])
        withdraw_figures(predicate)
        record = seal(predicate, about)
    return record


def publish_once(path: Path, data: bytes) -> bytes:
    """Put bytes at `path` unless something is there; returns what is there afterwards. Crash-safe, never torn.

    Raises:
        OSError: the disk will not take it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return path.read_bytes()
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_directory(path.parent)
    return data


def _with_room(paths: AttemptPaths, write: Callable[[], bytes]) -> bytes:
    """Write; on a full disk give back the bytes that were reserved for exactly this and try once more."""
    try:
        return write()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with contextlib.suppress(OSError):
            os.unlink(paths.reserve)
        return write()


def seal_attempt(paths: AttemptPaths, manifest: Manifest, ending: Ending) -> tuple[SealedRecord, Manifest]:
    """Seal the attempt, or adopt the record it already has. Returns the record and the manifest in its final state.

    The caller holds the attempt's lock. The manifest returned is not yet saved.

    Raises:
        LedgerError: the case cannot be read.
        OSError: the record cannot be written anywhere in the attempt directory.
    """
    if paths.record.exists():
        data = paths.record.read_bytes()
    else:
        record = _sealed(gather(paths, manifest, ending))
        data = _with_room(paths, lambda: publish_once(paths.record, record.data))
    predicate: dict[str, Any] = decode(data)["predicate"]
    state = State(predicate["outcome"]["state"])
    reason = predicate["transitions"][-1]["reason"]
    final = manifest if manifest.state is state else manifest.moved(state, reason, same_clock=ending.same_clock)
    record_id = digest(data)
    return SealedRecord(record_id, data), replace(final, record_id=record_id)
