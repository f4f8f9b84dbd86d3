"""How a record of any lane says how its run ended, and what is known of the sources that ran. Pure."""

from __future__ import annotations

from typing import Any

from lanemark.lanes.reports import AttemptFacts
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of


def _seen(end: dict[str, Any], key: str, otherwise: str) -> dict[str, Any]:
    """One half of how a process ended: exactly one of status and signal is there once an end was seen."""
    if "ended_ns" not in end:
        return unavailable("waitpid", "the supervisor saw no end of this rank").to_json()
    if "command_status" in end and "status" not in end and "signal" not in end:
        code = end["command_status"]
        how = f"with status {code}" if code >= 0 else f"by signal {-code}"
        return unavailable("waitpid", f"the command's own launcher took it; the command ended {how}").to_json()
    made: Observation[Any] = observed(end[key], "waitpid") if key in end else absent("waitpid", otherwise)
    return made.to_json()


def outcome_part(facts: AttemptFacts, can_quote: bool, why: str) -> dict[str, Any]:  # noqa: FBT001
    """The `outcome` part: the state, whether the lane's result may be quoted, and how each rank ended."""
    ranks = []
    for report in facts.ranks:
        end, page = report.exit or {}, report.beacon
        ranks.append(
            {
                "rank": report.rank,
                "pid": end.get("pid", 0),
                "status": _seen(end, "status", "it was ended by a signal"),
                "signal": _seen(end, "signal", "it ended by itself"),
                "signal_by": end.get("signal_by", "unknown"),
                "end_marker": report.clean,
                "last_phase": (
                    observed(page["phase"], "beacon.page")
                    if page
                    else unavailable("beacon.page", "no page could be read")
                ).to_json(),
                "last_step": (
                    observed(page["step"], "beacon.page")
                    if page
                    else unavailable("beacon.page", "no page could be read")
                ).to_json(),
                "exception": (
                    observed(report.exception, "error.json")
                    if report.exception
                    else absent("error.json", "none was left")
                ).to_json(),
            }
        )
    out: dict[str, Any] = {"state": facts.state, "receipt": can_quote, "receipt_reason": why, "ranks": ranks}
    if facts.cause is not None:
        cause: dict[str, Any] = {"kind": facts.cause.kind, "summary": facts.cause.summary}
        if facts.cause.rank is not None:
            cause["rank"] = facts.cause.rank
        out["first_cause"] = cause
    return out


def provenance_findings(predicate: dict[str, Any]) -> list[Finding]:
    """What a reader must know of where the sources came from."""
    found = []
    source = predicate["source"]
    if value_of(source["dirty"]) is True:
        found.append(Finding("source_dirty", "caveat", "the working tree had uncommitted changes"))
    if source["commit"]["status"] != "observed":
        why = source["commit"].get("reason", source["commit"]["status"])
        found.append(Finding("source_unknown", "note", f"no commit was observed: {why}"))
    if source["argv_redacted"]:
        found.append(Finding("secrets_redacted", "note", "an argument looked like a secret and was not stored"))
    return found
