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
from pathlib import Path
from typing import Any, Final, NamedTuple

from lanemark import __version__
from lanemark.collect.gathering import rank_report, read_json
from lanemark.collect.manifest import Manifest
from lanemark.collect.picture import snapshot_of
from lanemark.collect.polls import STAMP, read_polls
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
from lanemark.records.terms import RUNGS

#: Files of the attempt that a record rests on, with their media types; the ranks' own follow.
_ATTEMPT_EVIDENCE: Final = (
    ("case.json", "application/json"),
    ("host.json", "application/json"),
    ("host_end.json", "application/json"),
    ("launch.json", "application/json"),
    ("executions.json", "application/json"),
    ("rental.json", "application/json"),
    ("exits.json", "application/json"),
    ("looks.jsonl", "application/jsonl"),
    ("named.jsonl", "application/jsonl"),
    ("supervisor.log", "text/plain"),
    ("stdout.log", "text/plain"),
    ("stderr.log", "text/plain"),
)
_RANK_EVIDENCE: Final = (
    ("beacon.page", "application/octet-stream"),
    ("samples.bin", "application/octet-stream"),
    ("observed.json", "application/json"),
    ("result.json", "application/json"),
    ("bench_telemetry.json", "application/json"),
    ("backend_identity.json", "application/json"),
    *((f"proofs/{rung}.json", "application/json") for rung in RUNGS),
    ("end.json", "application/json"),
    ("error.json", "application/json"),
    ("stdout.log", "text/plain"),
    ("stderr.log", "text/plain"),
    ("claim.json", "application/json"),
)
_NODE_EVIDENCE: Final = (
    ("end.json", "application/json"),
    ("stdout.log", "text/plain"),
    ("stderr.log", "text/plain"),
)
#: `<look>-<rank>-<what>` (lanemark.launch.looking).
_LOOK_DUMP: Final = re.compile(r"[0-9]{1,9}-[0-9]{1,4}-(flight\.json|stack\.json|stack\.txt)")
#: A call graph that a collector took (lanemark.collect.collecting).
_SNAPSHOT: Final = re.compile(r"[a-z_]{1,40}\.json")
_MAX_SNAPSHOTS: Final = 16
#: Causes that say only that nothing is known: what the surface said comes before them.
_SAYS_NOTHING: Final = frozenset({"undecided", "supervisor_lost", "start_failed"})
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
        verdict: the final state where a surface settles it; None to conclude it from the evidence.
        said: what the surface said of a failure, for where the ranks' own evidence names no cause. A verdict of
            `cancelled` or `lost` comes with it.
        completed_at: when the worker was done, where somebody saw that.
        from_afar: whether a collector seals, who did not see the run end.
    """

    interrupted_by: str | None = None
    start_error: str | None = None
    supervisor_error: str | None = None
    supervisor_alive: bool = True
    findings: tuple[Finding, ...] = ()
    exits: dict[str, Any] | None = None
    same_clock: bool = True
    verdict: State | None = None
    said: Finding | None = None
    completed_at: str | None = None
    from_afar: bool = False


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


def _snapshots(paths: AttemptPaths) -> list[str]:
    try:
        names = os.listdir(paths.snapshots)
    except OSError:
        return []
    return sorted(name for name in names if _SNAPSHOT.fullmatch(name))[:_MAX_SNAPSHOTS]


def _nodes(paths: AttemptPaths) -> list[str]:
    """Nodes that joined a launched command's attempt, by number."""
    try:
        return sorted((name for name in os.listdir(paths.nodes) if name.isdigit() and len(name) < 5), key=int)
    except OSError:
        return []


def evidence_of(paths: AttemptPaths, num_ranks: int) -> tuple[Evidence, ...]:
    """Every file the record rests on, by digest, in a fixed order. Missing files are simply not evidence."""
    names = [*_ATTEMPT_EVIDENCE]
    names += [(f"ranks/{rank}/{name}", kind) for rank in range(num_ranks) for name, kind in _RANK_EVIDENCE]
    names += [(f"nodes/{node}/{name}", kind) for node in _nodes(paths) for name, kind in _NODE_EVIDENCE]
    names += [(f"looks/{name}", _LOOK_TYPES[name.rpartition(".")[2]]) for name in _look_dumps(paths)]
    names += [(f"snapshots/{name}", "application/json") for name in _snapshots(paths)]
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


def _outcome(ending: Ending, cause: Finding | None) -> tuple[State, str]:
    """The final state and why. A verdict of the surface comes first, then what a signal did, then the evidence."""
    if ending.interrupted_by is not None:
        return State.CANCELLED, f"the supervisor was sent {ending.interrupted_by}"
    if ending.verdict in (State.CANCELLED, State.LOST) and ending.said is not None:
        return ending.verdict, ending.said.summary
    if not ending.supervisor_alive:
        return State.LOST, "the supervisor died without sealing"
    if cause is not None:
        return State.ERROR, cause.summary
    return State.OK, "every rank ended cleanly"


def _with_ids(host: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """`host.json`, with a rented place's ids from the manifest where the worker did not live to write them."""
    surface = host.get("surface")
    found = dict(surface) if isinstance(surface, dict) else {}
    for name in ("app_id", "call_id"):
        if name in manifest.ids and name not in found:
            found[name] = observed(manifest.ids[name], "attempt.json, as the surface gave it").to_json()
    return {**host, "surface": found} if found else host


def _collector(
    paths: AttemptPaths, manifest: Manifest, ending: Ending, evidence: tuple[Evidence, ...]
) -> dict[str, Any]:
    """What lanes are told of how the result came home (`lanemark.lanes.collected`)."""
    kept = {item.name for item in evidence}
    doc: dict[str, Any] = {"snapshots": [name for name in manifest.snapshots if name in kept]}
    if manifest.detached:
        doc["looks"] = [look.to_json() for look in read_polls(paths)]
    done = ending.completed_at
    return doc if done is None or not STAMP.fullmatch(done) else {**doc, "completed_at": done}


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
    decided = ending.verdict in (State.CANCELLED, State.LOST)
    if ending.said is not None and (decided or cause is None or cause.kind in _SAYS_NOTHING):
        cause = ending.said
    slow = straggler(picture) if cause is None else None
    state, reason = _outcome(ending, cause)
    duration: Observation[float] = unavailable("CLOCK_MONOTONIC", "another boot or host seals this attempt")
    if ending.same_clock and ending.supervisor_alive and not ending.from_afar:
        duration = observed(max(0.0, (time.monotonic_ns() - manifest.prepared_ns) / 1e9), "CLOCK_MONOTONIC")
    elif ending.same_clock:
        duration = unavailable("CLOCK_MONOTONIC", "nobody saw when the run ended")
    launched = launch.get("launched_ns")
    moved = manifest.moved(state, reason[:500], same_clock=ending.same_clock)
    evidence = evidence_of(paths, case.nproc)
    return AttemptFacts(
        manifest={**manifest.to_json(), "collector": _collector(paths, manifest, ending, evidence)},
        case=case,
        host=_with_ids(read_json(paths.host) or {}, manifest),
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
        evidence=evidence,
        lanemark_version=__version__,
    )


def _sealed(facts: AttemptFacts) -> tuple[SealedRecord, dict[str, Any]]:
    """The record, and its predicate as it reads back from the very bytes."""
    predicate = predicate_of(facts)
    about = subjects(
        plan_digest=facts.case.digest,
        image_digest=value_of(predicate["image"]["digest"]),
        commit=value_of(predicate["source"]["commit"]),
    )
    record = seal(predicate, about)
    written: dict[str, Any] = decode(record.data)["predicate"]
    broken = broken_rules(written)
    if broken:
        # A defect of ours, and the run is over: seal it with the contradiction named and no receipt, so that nothing
        # can be quoted from it, and let verification refuse it.
        first = broken[0]
        text = f"the record contradicts itself: {first.problem} ({first.rule})"
        predicate["findings"].append(Finding("self_check_failed", "failure", text[:500]).to_json())
        predicate["outcome"].update(receipt=False, receipt_reason=text[:500])
        withdraw_figures(predicate)
        record = seal(predicate, about)
        written = decode(record.data)["predicate"]
    return record, written


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
        record, predicate = _sealed(gather(paths, manifest, ending))
        data = _with_room(paths, lambda: publish_once(paths.record, record.data))
        if data is record.data:
            return record, manifest.sealed(record.id, predicate)
    record_id = digest(data)
    return SealedRecord(record_id, data), manifest.sealed(record_id, decode(data)["predicate"])
