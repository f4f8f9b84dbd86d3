"""From an attempt's files to the snapshot that detectors look at. Translation only: nothing is concluded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lanemark.collect.gathering import read_json, stderr_tail, text_tail
from lanemark.collect.looks import read_looks
from lanemark.diagnose.snapshot import RankState, SignalSender, Snapshot
from lanemark.lanes.reports import RankReport
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.observation import value_of

_SENDERS: dict[str, SignalSender] = {"nobody": "nobody", "supervisor": "supervisor", "other": "other"}


def _states(exits: dict[str, Any]) -> dict[int, str]:
    """Each rank's process state letter at the moment the supervisor decided, before it sent any signal."""
    states = {}
    for entry in (exits.get("evidence") or {}).get("states", []):
        letter = value_of(entry.get("state"))
        if isinstance(letter, str):
            states[entry["rank"]] = letter
    return states


def oom_kills(exits: dict[str, Any]) -> int | None:
    """Kernel OOM kills during the run: in our control group where that can be read, else on the host, else None."""
    evidence = exits.get("evidence") or {}
    for scope in ("cgroup", "host"):
        before = value_of((evidence.get("oom_before") or {}).get(scope))
        after = value_of((evidence.get("oom_after") or {}).get(scope))
        if isinstance(before, int) and isinstance(after, int):
            return max(0, after - before)
    return None


def _failed_ns(report: RankReport) -> int | None:
    """When a rank that raised began its way out, which may take seconds; its end is seen later."""
    return next((span.begin_ns for span in report.spans if span.phase == "failed"), None)


def _failed_in(report: RankReport) -> str | None:
    """The phase a rank was in when it failed, from its spans: a compilation that never ended, else the last phase."""
    if _failed_ns(report) is None:
        return None
    if any(span.phase == "compile" and span.end_ns is None for span in report.spans):
        return "compile"
    phases = [span.phase for span in report.spans if span.phase not in ("failed", "done", "compile")]
    return phases[-1] if phases else None


def settings_of(launch: Mapping[str, Any], host: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The ranks' settings from `launch.json`, then the variables of `host.json` that the launcher has no opinion on.

    As a snapshot has them. Entries of another shape are left out.
    """
    listed = launch.get("settings")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict):
            continue
        name, origin, value = entry.get("name"), entry.get("origin"), entry.get("value")
        if isinstance(name, str) and isinstance(origin, str):
            found.append((name, f"{origin}: {value}" if isinstance(value, str) else origin))
    known = {name for name, _ in found}
    environment = host.get("environment")
    variables = environment.get("variables") if isinstance(environment, dict) else None
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if name not in known and isinstance(value, str):
            found.append((name, f"environment: {value}"))
    return tuple(found)


def _arrivals(ranks: Sequence[RankReport]) -> dict[int, dict[int, int]]:
    """When each rank entered each step's first collective, as far as its samples say."""
    arrivals = {}
    for report in ranks:
        rows = () if report.samples is None else getattr(report.samples, "rows", ())
        stamps = {row.step: row.arrived_ns for row in rows if getattr(row, "arrived_ns", None) is not None}
        if stamps:
            arrivals[report.rank] = stamps
    return arrivals


def _rank(paths: AttemptPaths, report: RankReport, state: str | None, *, of_command: bool) -> RankState:
    """One rank. A command answers for its ranks: where it ended well, so did they, with a window or without."""
    end, page = report.exit or {}, report.beacon or {}
    answered = of_command and end.get("clean") is True
    return RankState(
        rank=report.rank,
        ended_ns=end.get("ended_ns"),
        status=0 if answered else end.get("status"),
        signal=end.get("signal"),
        signal_by=_SENDERS.get(str(end.get("signal_by")), "unknown"),
        end_marker=report.clean or answered,
        exception=report.exception,
        stderr_tail=stderr_tail(paths.rank(report.rank)),
        phase=page.get("phase"),
        label=page.get("label"),
        step=page.get("step"),
        process_state=state,
        failed_in=_failed_in(report),
        failed_ns=_failed_ns(report),
        found=not of_command or report.claim is not None,
        elsewhere=of_command and report.claim is not None and end.get("pid") is None,
    )


def _command(paths: AttemptPaths, case: Case, ranks: Sequence[RankReport]) -> dict[str, Any]:
    """What only a launched command has."""
    if case.script is None:
        return {}
    statuses = [report.exit["command_status"] for report in ranks if report.exit and "command_status" in report.exit]
    claims = [report.claim for report in ranks if report.claim is not None]
    return {
        "command_status": statuses[0] if statuses else None,
        "command_said": text_tail(paths.command_stderr),
        "world_sizes": tuple(claim["world_size"] for claim in claims if isinstance(claim.get("world_size"), int)),
    }


def snapshot_of(
    paths: AttemptPaths,
    case: Case,
    ranks: Sequence[RankReport],
    exits: dict[str, Any],
    launch: Mapping[str, Any],
    *,
    interrupted_by: str | None,
    start_error: str | None,
    supervisor_error: str | None,
    supervisor_alive: bool,
) -> Snapshot:
    """One frozen picture of an attempt whose supervision is over.

    Args:
        paths: for the last lines the ranks printed.
        case: for the limits that were in force.
        ranks: what each rank left behind.
        exits: `exits.json`; {} when the supervisor left none.
        launch: `launch.json`; {} when nothing was launched.
        interrupted_by: the signal the supervisor was sent, or None.
        start_error: why the ranks could not be started, or None.
        supervisor_error: what went wrong in the supervisor itself, or None.
        supervisor_alive: False when it died without sealing.
    """
    states = _states(exits)
    reason = exits.get("reason")
    of_command = case.script is not None
    return Snapshot(
        ranks=tuple(_rank(paths, report, states.get(report.rank), of_command=of_command) for report in ranks),
        ended_because="start_failed" if start_error is not None else reason,
        interrupted_by=interrupted_by,
        start_error=start_error,
        supervisor_error=supervisor_error,
        oom_kills=oom_kills(exits),
        free_bytes=value_of((exits.get("evidence") or {}).get("free_disk_bytes")),
        stall_s=case.stall_s,
        wall_s=case.wall_s,
        supervisor_alive=supervisor_alive,
        looks=read_looks(paths)[0],
        settings=settings_of(launch, read_json(paths.host) or {}),
        collective_timeout_s=None if case.command else case.collective_timeout_s,
        preset=case.preset,
        warmup=case.warmup,
        arrivals=_arrivals(ranks),
        **_command(paths, case, ranks),
    )
