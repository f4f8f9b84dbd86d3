"""From an attempt's files to the snapshot that detectors look at. Translation only: nothing is concluded here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lanemark.collect.gathering import stderr_tail
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


def _rank(paths: AttemptPaths, report: RankReport, state: str | None) -> RankState:
    end, page = report.exit or {}, report.beacon or {}
    return RankState(
        rank=report.rank,
        ended_ns=end.get("ended_ns"),
        status=end.get("status"),
        signal=end.get("signal"),
        signal_by=_SENDERS.get(str(end.get("signal_by")), "unknown"),
        end_marker=report.clean,
        exception=report.exception,
        stderr_tail=stderr_tail(paths.rank(report.rank)),
        phase=page.get("phase"),
        label=page.get("label"),
        step=page.get("step"),
        process_state=state,
    )


def snapshot_of(
    paths: AttemptPaths,
    case: Case,
    ranks: Sequence[RankReport],
    exits: dict[str, Any],
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
        interrupted_by: the signal the supervisor was sent, or None.
        start_error: why the ranks could not be started, or None.
        supervisor_error: what went wrong in the supervisor itself, or None.
        supervisor_alive: False when it died without sealing.
    """
    states = _states(exits)
    reason = exits.get("reason")
    return Snapshot(
        ranks=tuple(_rank(paths, report, states.get(report.rank)) for report in ranks),
        ended_because="start_failed" if start_error is not None else reason,
        interrupted_by=interrupted_by,
        start_error=start_error,
        supervisor_error=supervisor_error,
        oom_kills=oom_kills(exits),
        free_bytes=value_of((exits.get("evidence") or {}).get("free_disk_bytes")),
        stall_s=case.stall_s,
        wall_s=case.wall_s,
        supervisor_alive=supervisor_alive,
    )
