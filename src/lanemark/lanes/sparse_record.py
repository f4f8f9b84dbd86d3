"""A whole record of the sparse lane from an attempt's facts. Pure: the same facts always give the same predicate.

The worker's `result.json` holds what was seen: names from a profiler, rows that a canary reached, errors, times. What
follows from that (which backend ran, in which mode, why another than the one asked for) is concluded here and in
`sparse_identity`, never by the worker, so that a worker cannot simply say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lanemark.lanes.figures import percentile
from lanemark.lanes.outcome import outcome_part, provenance_findings
from lanemark.lanes.reports import AttemptFacts, looked_up
from lanemark.lanes.sparse_identity import BASELINE, identity
from lanemark.lanes.without_steps import Frame, collector_part, frame, remote_part
from lanemark.records.observation import Observation, observed, value_of
from lanemark.records.questions import AttentionCase, SparseAsked
from lanemark.records.terms import PARITY_TOLERANCE

_RESULT: Final = "result.json"
_REFERENCE: Final = "output against float64 arithmetic over the same rounded inputs"


def sparse_predicate(facts: AttemptFacts) -> dict[str, Any]:
    """The predicate of one record of the sparse lane (`lanemark.records.schema.SparsePredicate`)."""
    assert facts.case.sparse is not None
    around = frame(facts)
    part = sparse_part(facts, facts.case.sparse, around)
    can_quote, why = receipt(facts, part, around)
    predicate = {**around.predicate, "outcome": outcome_part(facts, can_quote, why), "sparse": part}
    found = [*around.findings, *provenance_findings(predicate)]
    predicate["findings"] = [finding.to_json() for finding in found]
    return predicate


def sparse_part(facts: AttemptFacts, asked: SparseAsked, around: Frame) -> dict[str, Any]:
    """The `sparse` part (`lanemark.records.schema_sparse.SparsePart`)."""
    raw: dict[str, Any] = (facts.ranks[0].result if facts.ranks else None) or {}
    listed = raw.get("results")
    return {
        "launcher_args": [str(word) for word in facts.launch.get("argv") or []],
        "selectors": _selectors(raw.get("selectors")),
        "results": results(asked, listed if isinstance(listed, list) else []),
        "remote": remote_part(facts),
        "collector": collector_part(facts),
        "does_not_prove": does_not_prove(around.device_class),
    }


def _selectors(listed: Any) -> list[dict[str, Any]]:
    entries = listed if isinstance(listed, list) else []
    return [
        {"name": entry["name"], "value": looked_up(entry, "value", "environ")}
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"]
    ]


def results(asked: SparseAsked, listed: list[Any]) -> list[dict[str, Any]]:
    """One entry a backend and case that the worker told of, in the order asked; what cannot be read is left out."""
    told: dict[tuple[object, object], dict[str, Any]] = {}
    for raw in listed:
        if isinstance(raw, dict):
            told.setdefault((raw.get("case"), raw.get("backend")), raw)
    found = []
    for case in asked.cases:
        for backend in dict.fromkeys(asked.backends):
            raw = told.get((case.name, backend))
            made = None if raw is None else _readable(case, backend, raw)
            if made is not None:
                found.append(made)
    return found


def _readable(case: AttentionCase, backend: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return result(case, backend, raw)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # of another shape: it is as if it had not been written, and the receipt misses it


def result(case: AttentionCase, backend: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """One backend over one case (`lanemark.records.schema_sparse.SparseResultPart`).

    Args:
        case: the case.
        backend: asked for.
        raw: what the worker saw (`lanemark.stack.sparse.bench`).

    Raises:
        KeyError, TypeError, ValueError: the worker's document has another shape.
    """
    parity = _parity(case, raw["errors"])
    passed = None if parity.value is None else bool(parity.value["passed"])
    return {
        "case": vars(case).copy(),
        "backend_identity": identity(case, backend, raw["telemetry"], parity_passed=passed),
        "no_grad": looked_up(dict(raw), "no_grad", "flags of the output"),
        "parity": parity.to_json(),
        "latency": _latency(raw["latency"]).to_json(),
        "work": _work(case, backend, raw["valid_indices"]),
        "indexer_digest": looked_up(dict(raw), "indexer_digest", "index tensor"),
        "memory_peak_bytes": looked_up(dict(raw), "memory_peak_bytes", "allocator of the device"),
    }


def _parity(case: AttentionCase, seen: dict[str, Any]) -> Observation[dict[str, Any]]:
    found: Observation[dict[str, Any]] = Observation.from_json(seen)
    if found.value is None:
        return found
    error, tolerance = float(found.value["max_relative_error"]), PARITY_TOLERANCE[case.dtype]
    value = {
        "reference": "float64",
        "dtype": case.dtype,
        "max_relative_error": error,
        "tolerance": tolerance,
        "lse_max_error": looked_up(found.value, "lse_max_error", "log-sum-exp of the output"),
        "passed": error <= tolerance,
    }
    return observed(value, _REFERENCE)


def _latency(seen: dict[str, Any]) -> Observation[dict[str, Any]]:
    found: Observation[dict[str, Any]] = Observation.from_json(seen)
    if found.value is None:
        return found
    samples = [int(value) for value in found.value["samples"]]
    value = {
        "unit": "ns",
        "warmup": [int(value) for value in found.value["warmup"]],
        "samples": samples,
        "p50": percentile([float(value) for value in samples], 0.5),
        "synchronised": found.value["synchronised"] is True,
        "cache_flushed": looked_up(found.value, "cache_flushed", "device"),
        "indexer_included": found.value["indexer_included"] is True,
    }
    return observed(value, found.source)


def _work(case: AttentionCase, backend: str, seen: dict[str, Any]) -> dict[str, Any]:
    """Counted over valid indices only: padding is no work, and the baseline reads no index at all."""
    found: Observation[int] = Observation.from_json(seen)
    if backend == BASELINE or found.value is None:
        return found.to_json()
    valid = int(found.value)
    flops = 4 * valid * case.heads * case.head_dim
    return observed({"valid_indices": valid, "flops": flops}, found.source).to_json()


def receipt(facts: AttemptFacts, part: Mapping[str, Any], around: Frame) -> tuple[bool, str]:
    """Whether the record's identities may be quoted, and why or why not. The first failing rule speaks."""
    if facts.state != "ok":
        return False, f"the run ended as {facts.state}"
    for report in facts.ranks:
        if not report.clean:
            return False, f"rank {report.rank} left no clean end marker"
    asked = facts.case.sparse
    assert asked is not None
    expected = len(asked.cases) * len(set(asked.backends))
    found = part["results"]
    if len(found) != expected:
        return False, f"{len(found)} results can be read where {expected} were asked for"
    for each in found:
        problem = _doubt(each, on_cpu=around.device_class == "cpu")
        if problem is not None:
            return False, f"{each['backend_identity']['requested']} over {each['case']['name']}: {problem}"
    if around.substituted is not None:
        return False, around.substituted
    number = "one result" if expected == 1 else f"all {expected} results"
    return True, f"{number}: what ran was seen, and its output agrees with float64 arithmetic"


def _doubt(each: Mapping[str, Any], *, on_cpu: bool) -> str | None:
    who, parity, latency = each["backend_identity"], value_of(each["parity"]), value_of(each["latency"])
    if value_of(who["actual"]) is None:
        return "it was not seen what ran"
    if who["requested"] != BASELINE and value_of(who["runtime_mode"]) is None:
        return "its runtime mode was not seen"
    if parity is None:
        return "its output was held against nothing"
    if not parity["passed"]:
        return f"its output is off by {parity['max_relative_error']:.2g}, more than {parity['tolerance']:g} allows"
    if value_of(each["no_grad"]) is not True:
        return "it was not seen to run without autograd"
    if value_of(each["indexer_digest"]) is None:
        return "its index tensor was not hashed"
    if latency is not None and not latency["synchronised"]:
        return "its times are of calls that had not ended"
    if latency is not None and not on_cpu and value_of(latency["cache_flushed"]) is not True:
        return "its times are of a warm device cache"
    return None


def does_not_prove(device_class: str | None) -> list[str]:
    """The sentences a reader must not read into this record, most general first."""
    said = [
        "any training throughput: isolated calls without autograd are no training step",
        "that the training or the promotion lane is healthy, on this image or any other",
        f"which kernel runs on a device class other than the one observed ({device_class or 'none was observed'})",
        "that a backend is accepted: that is the promotion lane's question",
        "which backend a model takes that chooses by itself: backends were called by name",
    ]
    if device_class == "cpu":
        said.append("anything about a GPU: the calls ran on a CPU, where this is a correctness lane")
    return said
