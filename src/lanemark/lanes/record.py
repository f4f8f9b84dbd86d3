"""A whole record from an attempt's facts, by lane. Pure: the same facts always give the same predicate.

`predicate_of` is all that sealing knows of lanes. The training lane's predicate is built here; the others' in
`sparse_record` and `promotion_record`, over what they share in `without_steps`.
"""

from __future__ import annotations

from typing import Any

from lanemark.lanes.data_part import data_part
from lanemark.lanes.envelope import compilation, distributed, envelope, hardware, toolchain
from lanemark.lanes.figures import last_compiling_step
from lanemark.lanes.outcome import outcome_part, provenance_findings
from lanemark.lanes.presets import Preset, preset
from lanemark.lanes.reports import AttemptFacts, agreed
from lanemark.lanes.startup import startup_part
from lanemark.lanes.training import receipt, training_part, window_findings
from lanemark.observe.gpu_names import gpu_matches, peak_flops
from lanemark.records.case import parse_gpu
from lanemark.records.finding import Finding
from lanemark.records.observation import unavailable, value_of


def predicate_of(facts: AttemptFacts) -> dict[str, Any]:
    """The predicate of a record of the attempt's lane (`lanemark.records.schema`)."""
    lane = facts.case.lane
    if lane == "sparse":
        from lanemark.lanes.sparse_record import sparse_predicate

        return sparse_predicate(facts)
    if lane == "promotion":
        from lanemark.lanes.promotion_record import promotion_predicate

        return promotion_predicate(facts)
    if facts.case.script is not None:
        from lanemark.lanes.script_record import script_predicate

        return script_predicate(facts)
    return training_predicate(facts, preset(facts.case.preset))


def withdraw_figures(predicate: dict[str, Any]) -> None:
    """Take out what could be quoted of a record that contradicts itself; other lanes state only their receipt."""
    if predicate["lane"] == "training":
        why = unavailable("self-check", "the record contradicts itself").to_json()
        predicate["training"].update(tokens_per_s=why, mfu=why)
        if "script" in predicate["training"]:
            predicate["training"]["script"]["steps_per_s"] = why


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
        "outcome": outcome_part(facts, can_quote, why),
        "training": training,
    }
    found += [
        *startup_findings,
        *data_findings,
        *window_findings(training, facts.ranks),
        *provenance_findings(predicate),
    ]
    predicate["findings"] = [finding.to_json() for finding in found]
    return predicate
