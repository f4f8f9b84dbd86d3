"""A whole record from an attempt's facts, by lane. Pure: the same facts always give the same predicate.

`predicate_of` is all that sealing knows of lanes. The training lane's predicate is built here; the others' in
`sparse_record` and `promotion_record`, over what they share in `without_steps`.
"""

from __future__ import annotations

from typing import Any

from lanemark.lanes.data_part import data_additions
from lanemark.lanes.envelope import compilation, distributed, envelope, hardware, toolchain
from lanemark.lanes.figures import last_compiling_step
from lanemark.lanes.outcome import outcome_part, provenance_findings
from lanemark.lanes.presets import Preset, preset
from lanemark.lanes.reports import AttemptFacts, agreed, looked_up
from lanemark.lanes.startup import startup_part
from lanemark.lanes.training import rank_tokens, receipt, training_part, window_findings
from lanemark.observe.gpu_names import gpu_matches, peak_flops
from lanemark.observe.path_class import combine
from lanemark.records.case import parse_gpu
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of


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


def _data(facts: AttemptFacts) -> tuple[dict[str, Any], list[Finding]]:
    case, found = facts.case, []
    listed = {} if case.data.kind == "synthetic" else facts.manifest.get("data") or {}
    paths = [
        {"rank": report.rank, **entry}
        for report in facts.ranks
        for entry in (report.observed or {}).get("data_files", [])
    ]
    reporting = [report for report in facts.ranks if report.observed is not None]
    token_source = agreed(facts.ranks, "token_source")[0]
    path_class: Observation[str]
    if case.data.kind == "synthetic" and value_of(token_source) != "synthetic":
        path_class = unavailable("ranks' loaders", "no agreement of the ranks on where their tokens came from")
    elif case.data.kind == "synthetic":
        path_class = observed("synthetic", f"{token_source['source']}: the tokens were made in memory")
        found.append(
            Finding("data_synthetic", "caveat", "the tokens were made up in memory: no data path was measured")
        )
    elif paths and {entry["rank"] for entry in paths} == {report.rank for report in facts.ranks}:
        path_class = combine([entry["path_class"] for entry in paths])
    elif paths:
        missing = sorted({report.rank for report in facts.ranks} - {entry["rank"] for entry in paths})
        path_class = unavailable("ranks' open files", f"ranks {missing[:8]} did not report theirs")
    else:
        why = "no rank got as far as opening its data" if not reporting else "the ranks reported no open data file"
        path_class = unavailable("ranks' open files", why)
    if path_class.value in ("object_mount", "network_volume"):
        words = {"object_mount": "an object-store mount", "network_volume": "a network volume"}[path_class.value]
        found.append(Finding("data_path_remote", "caveat", f"the ranks read their tokens through {words}"))
    ended = [report.end for report in facts.ranks if report.end is not None]
    if len(ended) == len(facts.ranks):
        tokens = [end.get("tokens", 0) for end in ended]
        total: Observation[int] = observed(sum(tokens), "end.json of every rank")
        parity: Observation[bool] = observed(all(n == rank_tokens(case) for n in tokens), "end.json of every rank")
    else:
        total = unavailable("end.json of every rank", "not every rank left an end marker")
        parity = unavailable("end.json of every rank", "not every rank left an end marker")
    requested: dict[str, Any] = {"kind": case.data.kind}
    if case.data.dataset_digest is not None:
        requested["dataset_digest"] = case.data.dataset_digest
    made_up = absent("ranks' loaders", "synthetic tokens are no dataset").to_json()
    part = {
        "requested": requested,
        **{
            key: made_up if case.data.kind == "synthetic" else looked_up(listed, key, "data directory")
            for key in ("dataset_digest", "tokenizer_digest", "manifest_verified")
        },
        "shards": listed.get("shards", []),
        "path_class": path_class.to_json(),
        "paths": paths,
        "tokens_consumed": total.to_json(),
        "token_parity": parity.to_json(),
        **data_additions(case, listed),
    }
    return part, found


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
    data, data_findings = _data(facts)
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
    found += [*startup_findings, *data_findings, *window_findings(training), *provenance_findings(predicate)]
    predicate["findings"] = [finding.to_json() for finding in found]
    return predicate
