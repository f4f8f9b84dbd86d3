"""Read an attempt for `lanemark doctor`: live, sealed, or a directory copied from another host. Reads only.

Nothing of this host is assumed: whether the attempt is being supervised is only asked where its manifest names this
very boot, and every file may be missing, damaged or forged. What is there and cannot be believed becomes a line under
`problems`; it never ends the examination.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from lanemark.collect.gathering import rank_report, read_json
from lanemark.collect.looks import read_looks, read_named
from lanemark.collect.manifest import Manifest, load
from lanemark.collect.picture import snapshot_of
from lanemark.diagnose.examination import Attempt, Life
from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.lanes.reports import RankReport
from lanemark.observe.host import boot_id
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.encoding import digest, safe_text
from lanemark.records.errors import LanemarkError
from lanemark.records.finding import FINDINGS, Finding

#: More ranks than any launch of ours; a forged case must not make the doctor read for an hour.
_MAX_RANKS: Final = 1024
#: A look older than this shows what was, not what is.
_FRESH_S: Final = 12.0
_EXIT_FIELDS: Final[Mapping[str, type]] = {
    "rank": int, "ended_ns": int, "status": int, "signal": str, "signal_by": str,
}  # fmt: skip


def read_attempt(root: Path) -> Attempt:
    """Everything that can be read of the attempt at `root`. Never raises for what lies in it."""
    paths = AttemptPaths(root)
    problems: list[str] = []
    manifest = _manifest(paths, problems)
    case = _case(paths, problems)
    record = _document(paths.record, problems)
    predicate = _object(_object(record).get("predicate"))
    life = _life(manifest)
    exits = _sane_exits(_document(paths.exits, problems), problems)
    told = _told(manifest, life, exits, _object(predicate.get("outcome")))
    snapshot = _snapshot(paths, case, exits, told, problems)
    named, damage = read_named(paths)
    problems += [damage] if damage is not None else []
    cause, others = sealed_findings(predicate)
    state = _object(predicate.get("outcome")).get("state")
    if not isinstance(state, str):
        state = None if manifest is None else manifest.state.value
    looks = snapshot.looks
    return Attempt(
        run_id=manifest.run_id if manifest is not None else safe_text(paths.run_id),
        life="ended" if predicate else life,
        lane=case.lane if case is not None else None if manifest is None else manifest.lane,
        state=state,
        case=case,
        snapshot=snapshot,
        fresh=bool(looks) and 0 <= time.monotonic_ns() - looks[-1].at_ns <= _FRESH_S * 1e9,
        sealed_cause=cause,
        sealed_caveats=others,
        record_id=_record_id(paths) if predicate else None,
        problems=tuple(problems),
        named=named[-3:],
    )


def attempt_of_record(record_id: str, predicate: Mapping[str, Any]) -> Attempt:
    """What a record alone tells, for one whose attempt directory is gone."""
    cause, others = sealed_findings(predicate)
    try:
        case = _checked(Case.from_json(dict(_object(predicate.get("case")))))
    except (TypeError, KeyError, ValueError):
        case = None
    outcome = _object(predicate.get("outcome"))
    ranks = tuple(
        RankState(
            entry["rank"],
            phase=_text(_object(entry.get("last_phase")).get("value")),
            exception=_text(_object(entry.get("exception")).get("value")),
        )
        for entry in _objects(outcome.get("ranks"))
        if isinstance(entry.get("rank"), int)
    )
    return Attempt(
        run_id=str(predicate.get("run_id")),
        life="ended",
        lane=str(predicate.get("lane")),
        state=_text(outcome.get("state")),
        case=case,
        snapshot=Snapshot(ranks, ended_because=None, warmup=None if case is None else case.warmup),
        sealed_cause=cause,
        sealed_caveats=others,
        record_id=record_id,
        problems=("its attempt directory is not here: the record alone is read",),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return safe_text(value[:500]) if isinstance(value, str) else None


def _document(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """A JSON object of the attempt; {} where there is none, and a problem where there is something else."""
    doc = read_json(path)
    if doc is None and os.path.lexists(path):
        problems.append(f"{path.name} is no JSON object, or no regular file")
    return doc or {}


def _manifest(paths: AttemptPaths, problems: list[str]) -> Manifest | None:
    if read_json(paths.manifest) is None:
        problems.append("attempt.json is missing or damaged")
        return None
    try:
        return load(paths)
    except LanemarkError as error:
        problems.append(error.what)
    except RecursionError:
        problems.append("attempt.json is nested too deeply")
    return None


def _case(paths: AttemptPaths, problems: list[str]) -> Case | None:
    try:
        return _checked(Case.from_json(read_json(paths.case) or {}))
    except (TypeError, KeyError, ValueError) as error:
        problems.append(f"case.json cannot be read as a case ({type(error).__name__})")
        return None


def _checked(case: Case) -> Case:
    """The case, if the values the examination uses have their types. Raises ValueError."""
    whole = (case.nproc, case.steps, case.warmup)
    words = (case.lane, case.preset, case.mode, case.compile, case.dtype, case.gpu)
    seconds = (case.stall_s, case.wall_s, case.collective_timeout_s)
    if not all(isinstance(number, int) for number in whole) or not 1 <= case.nproc <= _MAX_RANKS:
        raise ValueError("a number of the case is none")
    if not all(isinstance(word, str) and word.isprintable() and " " not in word for word in words):
        raise ValueError("a word of the case is none")
    if not all(isinstance(each, (int, float)) for each in seconds):
        raise ValueError("a duration of the case is none")
    return case


def _life(manifest: Manifest | None) -> Life:
    """Whether the supervisor that the manifest names is at work. `unknown` for another host, or another boot."""
    if manifest is None or manifest.supervisor is None:
        return "unknown"
    if manifest.state.final:
        return "ended"
    if manifest.detached and (manifest.surface != "local" or not manifest.ids):
        return "unknown"  # the process that the manifest names is its launcher, which may go
    who = manifest.supervisor
    if who.boot_id != boot_id().value:
        return "unknown"
    try:
        stat = Path(f"/proc/{int(who.pid)}/stat").read_bytes()
        # Field 22 is starttime, counted after the command name, which may itself hold spaces and parentheses.
        alive = int(stat.rsplit(b")", 1)[1].split()[19]) == who.start_ticks
    except (OSError, ValueError, IndexError):
        return "ended"
    return "running" if alive else "ended"


def _sane_exits(doc: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """`exits.json` with every entry of the wrong type left out."""
    sane = {}
    for entry in _objects(doc.get("ranks")):
        kept = {key: entry[key] for key, kind in _EXIT_FIELDS.items() if type(entry.get(key)) is kind}
        if "rank" in kept:
            sane[kept["rank"]] = kept
    listed = doc.get("ranks") or []
    if doc and (not isinstance(listed, list) or len(sane) != len(listed)):
        problems.append("exits.json has entries that are no rank's end")
    reason = doc.get("reason")
    found: dict[str, Any] = {"ranks": list(sane.values()), "evidence": _object(doc.get("evidence"))}
    return found if not isinstance(reason, str) else {**found, "reason": reason}


def _snapshot(
    paths: AttemptPaths, case: Case | None, exits: dict[str, Any], told: _Told, problems: list[str]
) -> Snapshot:
    ends = {entry["rank"]: entry for entry in exits["ranks"]}
    numbers = range(case.nproc) if case is not None else _rank_directories(paths)
    takes_steps = case is None or case.takes_steps
    reports = [_report(paths, number, ends, problems, takes_steps=takes_steps) for number in numbers]
    _, damage = read_looks(paths)
    problems += [damage] if damage is not None else []
    if case is None:
        return Snapshot(tuple(_bare(report) for report in reports), ended_because=exits.get("reason"))
    launch = _document(paths.launch, problems)

    def build(seen: dict[str, Any]) -> Snapshot:
        return snapshot_of(
            paths, case, reports, seen, launch, interrupted_by=told.interrupted_by, start_error=told.start_error,
            supervisor_error=None, supervisor_alive=told.supervisor_alive,
        )  # fmt: skip

    return _first(lambda: build(exits), lambda: build({**exits, "evidence": {}}), problems)


class _Told(NamedTuple):
    """What the manifest and the record tell of the end."""

    interrupted_by: str | None
    start_error: str | None
    supervisor_alive: bool


def _told(manifest: Manifest | None, life: Life, exits: Mapping[str, Any], outcome: Mapping[str, Any]) -> _Told:
    interrupted = exits.get("reason") == "interrupted" or outcome.get("state") == "cancelled"
    alive = life != "ended" or (outcome.get("state") != "lost" and bool(outcome or exits.get("reason")))
    return _Told("a signal" if interrupted else None, _start_error(manifest, exits), alive)


def _first(build: Callable[[], Snapshot], without: Callable[[], Snapshot], problems: list[str]) -> Snapshot:
    try:
        return build()
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        problems.append(f"the host's evidence in exits.json cannot be read ({type(error).__name__})")
        return without()


def _start_error(manifest: Manifest | None, exits: Mapping[str, Any]) -> str | None:
    """Why nothing was started, where the manifest says that it ended before its ranks ran."""
    if manifest is None or not manifest.state.final or exits.get("ranks"):
        return None
    reason = manifest.transitions[-1].reason if manifest.transitions else ""
    return str(reason) if str(reason).startswith("the ranks could not be started") else None


def _report(
    paths: AttemptPaths, number: int, ends: dict[int, dict[str, Any]], problems: list[str], *, takes_steps: bool
) -> RankReport:
    try:
        report = rank_report(paths, number, ends, takes_steps=takes_steps)
    except Exception as error:  # whatever a forged file makes a reader raise is a fact about that file
        problems.append(f"ranks/{number} cannot be read ({type(error).__name__})")
        return RankReport(number, exit=ends.get(number))
    if report.beacon is None and os.path.lexists(paths.rank(number).beacon):
        problems.append(f"ranks/{number}/beacon.page is no beacon page")
    return report


def _rank_directories(paths: AttemptPaths) -> list[int]:
    try:
        names = os.listdir(paths.ranks)
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= 4)[:_MAX_RANKS]


def _bare(report: RankReport) -> RankState:
    end, page = report.exit or {}, report.beacon or {}
    return RankState(
        report.rank, ended_ns=end.get("ended_ns"), status=end.get("status"), signal=end.get("signal"),
        end_marker=report.clean, exception=report.exception, phase=page.get("phase"), step=page.get("step"),
    )  # fmt: skip


def sealed_findings(predicate: Mapping[str, Any]) -> tuple[Finding | None, tuple[Finding, ...]]:
    """The first cause, with the evidence that stands beside it, and the caveats of a record."""
    named = _object(_object(predicate.get("outcome")).get("first_cause"))
    cause = _finding(named)
    caveats = []
    for entry in _objects(predicate.get("findings")):
        finding = _finding(entry)
        if finding is not None and entry.get("kind") == named.get("kind") and finding.severity == "failure":
            cause = finding
        if finding is not None and finding.severity == "caveat":
            caveats.append(finding)
    return cause, tuple(caveats)


def _finding(doc: Mapping[str, Any]) -> Finding | None:
    kind, summary, rank = doc.get("kind"), doc.get("summary"), doc.get("rank")
    if not isinstance(kind, str) or not isinstance(summary, str):
        return None
    known = kind if kind in FINDINGS else "undecided"
    severity = doc.get("severity", "failure")
    evidence = doc.get("evidence")
    return Finding(
        known,
        severity if severity in ("note", "caveat") else "failure",
        safe_text(summary[:500]),
        tuple(safe_text(str(line)[:500]) for line in evidence[:200]) if isinstance(evidence, list) else (),
        rank if isinstance(rank, int) else None,
    )


def _record_id(paths: AttemptPaths) -> str | None:
    try:
        return digest(paths.record.read_bytes())
    except OSError:
        return None
