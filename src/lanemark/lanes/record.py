"""A whole training record from an attempt's facts. Pure: the same facts always give the same predicate."""

from __future__ import annotations

from typing import Any

from lanemark.lanes.data_part import data_part
from lanemark.lanes.envelope import compilation, distributed, envelope, hardware, toolchain
from lanemark.lanes.figures import last_compiling_step
from lanemark.lanes.presets import Preset
from lanemark.lanes.reports import AttemptFacts, agreed
from lanemark.lanes.startup import startup_part
from lanemark.lanes.training import receipt, training_part
from lanemark.observe.gpu_names import gpu_matches, peak_flops
from lanemark.records.case import parse_gpu
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of


def _seen(end: dict[str, Any], key: str, otherwise: str) -> dict[str, Any]:
    """One half of how a process ended: exactly one of status and signal is there once an end was seen."""
    if "ended_ns" not in end:
        return unavailable("waitpid", "the supervisor saw no end of this rank").to_json()
    made: Observation[Any] = observed(end[key], "waitpid") if key in end else absent("waitpid", otherwise)
    return made.to_json()


def _outcome(facts: AttemptFacts, can_quote: bool, why: str) -> dict[str, Any]:  # noqa: FBT001
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


def _window_findings(training: dict[str, Any]) -> list[Finding]:
    """What a reader of the number must know about the measured window itself."""
    found = []
    compile_s = value_of(training["split"]["compile_s"])
    times = value_of(training["step_time"])
    if compile_s:
        text = f"a rank compiled for {compile_s:.2f} s inside the measured window"
        found.append(Finding("compiled_in_window", "caveat", text))
    if times and times["stalls"]:
        text = f"{times['stalls']} of {training['window']['measured']} measured steps took more than twice the median"
        found.append(Finding("stalls_in_window", "caveat", text))
    return found


def _provenance_findings(predicate: dict[str, Any]) -> list[Finding]:
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


def training_predicate(facts: AttemptFacts, preset: Preset) -> dict[str, Any]:
    """The predicate of one training record (`lanemark.records.schema.Predicate`)."""
    case = facts.case
    devices, disagreements = hardware(facts)
    modes, more = distributed(facts)
    last_step = last_compiling_step([report.samples for report in facts.ranks if report.samples is not None])
    compiled, most = compilation(facts, last_step)
    device_class = value_of(devices["observed"]["device_class"])
    matches, why_not = gpu_matches(parse_gpu(case.gpu), device_class, value_of(devices["observed"]["device_count"]))
    found = [*facts.findings, *(Finding("ranks_disagree", "caveat", text) for text in (*disagreements, *more, *most))]
    pinned = None
    if matches is False:
        found.append(Finding("gpu_substituted", "caveat", why_not))
        pinned = f"the device was pinned and another was served: {why_not}" if parse_gpu(case.gpu).pinned else None
    startup, startup_findings = startup_part(facts, compiled["observed"])
    data, data_findings = data_part(facts)
    can_quote, why = receipt(case, facts.ranks, facts.state, substituted=pinned)
    training = training_part(
        facts,
        preset,
        device_class=device_class,
        path_class=value_of(data["path_class"]),
        peak_flops=peak_flops(device_class, case.dtype)
        if device_class is not None
        else unavailable("ranks' device_class", "no device class was observed"),
        parameters=agreed(facts.ranks, "parameters")[0],
        no_receipt=None if can_quote else why,
    )
    predicate = {
        **envelope(facts),
        "hardware": devices,
        "distributed": modes,
        "compile": compiled,
        "toolchain": toolchain(facts),
        "startup": startup,
        "data": data,
        "outcome": _outcome(facts, can_quote, why),
        "training": training,
    }
    found += [*startup_findings, *data_findings, *_window_findings(training), *_provenance_findings(predicate)]
    predicate["findings"] = [finding.to_json() for finding in found]
    return predicate
