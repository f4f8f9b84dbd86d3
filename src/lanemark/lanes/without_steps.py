"""What records of the lanes without optimizer steps share: the sparse and the promotion lane. Pure.

Their ranks draw inputs in memory, so that there are no tokens, no data path and no first step; what they have instead
is a worker that speaks for itself (`remote`) and somebody who brings its result home (`collector`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from lanemark.lanes.collected import collector_part as collected
from lanemark.lanes.envelope import compilation, distributed, envelope, hardware, toolchain
from lanemark.lanes.reports import AttemptFacts, agreed, looked_up
from lanemark.lanes.startup import startup_part
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.case import parse_gpu
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of

_END: Final = "end.json"


class Frame(NamedTuple):
    """A record without its lane's part and its outcome.

    Attributes:
        predicate: everything that is there already.
        findings: what a reader must know of it, the detectors' findings included.
        substituted: why a pinned device was not served, or None.
        device_class: the class observed, or None.
    """

    predicate: dict[str, Any]
    findings: list[Finding]
    substituted: str | None
    device_class: str | None


def frame(facts: AttemptFacts) -> Frame:
    """The common parts of a record of a lane without steps (`lanemark.records.schema.Predicate`)."""
    devices, disagreements = hardware(facts)
    modes, more = distributed(facts)
    compiled, most = compilation(facts, None)
    seen = devices["observed"]
    device_class = value_of(seen["device_class"])
    spec = parse_gpu(facts.case.gpu)
    matches, why_not = gpu_matches(spec, device_class, value_of(seen["device_count"]))
    found = [*facts.findings, *(Finding("ranks_disagree", "caveat", text) for text in (*disagreements, *more, *most))]
    substituted = None
    if matches is False:
        found.append(Finding("gpu_substituted", "caveat", why_not))
        substituted = f"the device was pinned and another was served: {why_not}" if spec.pinned else None
    startup, startup_findings = startup_part(facts, compiled["observed"])
    predicate = {
        **envelope(facts),
        "hardware": devices,
        "distributed": modes,
        "compile": compiled,
        "toolchain": toolchain(facts),
        "startup": startup,
        "data": data_without_tokens(facts),
    }
    return Frame(predicate, [*found, *startup_findings], substituted, device_class)


def data_without_tokens(facts: AttemptFacts) -> dict[str, Any]:
    """The `data` part of a run whose inputs were drawn in memory, as its ranks say."""
    said = agreed(facts.ranks, "token_source")[0]
    path_class: Observation[str] = unavailable("ranks' inputs", "no rank said where its inputs came from")
    if value_of(said) == "synthetic":
        path_class = observed("synthetic", said["source"])
    no_tokens = absent("ranks' inputs", "the lane consumes no tokens").to_json()
    drawn = absent("ranks' inputs", "inputs drawn in memory are no dataset").to_json()
    return {
        "requested": {"kind": facts.case.data.kind},
        "dataset_digest": drawn,
        "tokenizer_digest": drawn,
        "manifest_verified": drawn,
        "shards": [],
        "path_class": path_class.to_json(),
        "paths": [],
        "tokens_consumed": no_tokens,
        "token_parity": no_tokens,
    }


def remote_part(facts: AttemptFacts) -> dict[str, Any]:
    """The worker as its first rank reported itself (`lanemark.records.schema_runtime.RemotePart`)."""
    report = facts.ranks[0].observed if facts.ranks else None
    worker = (report or {}).get("remote")
    told = worker if isinstance(worker, dict) else {}
    part = {name: looked_up(told, name, "observed.json") for name in ("worker", "python", "arch", "lanemark_digest")}
    return {**part, "torch": looked_up(report, "torch_version", "observed.json")}


def collector_part(facts: AttemptFacts) -> dict[str, Any]:
    """How the result was brought home (`lanemark.records.schema_runtime.CollectorPart`).

    When the workers were done their own end markers say, where all of them left one.
    """
    part = collected({**facts.manifest, "transitions": list(facts.transitions)})
    ends = [report.end for report in facts.ranks if report.end is not None]
    stamps = [end["completed_at"] for end in ends if isinstance(end.get("completed_at"), str)]
    if stamps and len(stamps) == len(facts.ranks):
        part["completed_at"] = observed(max(stamps), _END).to_json()
    return part
