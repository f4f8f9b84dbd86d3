"""Rules that a record of the sparse lane must keep. One literal table, pure predicates.

The lane says which backend really ran. Its lies are a backend copied from the request, a mode that the canary denies, a
fallback nobody mentions, a tolerance widened until the error fits, and a rate that could be taken for a throughput.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lanemark.lanes.figures import percentile
from lanemark.lanes.identity_rules import DETACHED_RULES, identity_rules
from lanemark.lanes.rule import Doc, Rule, close, is_ok, is_receipt, is_seen, short
from lanemark.records.observation import value_of
from lanemark.records.terms import PARITY_TOLERANCE

#: The baseline of every comparison in this lane. It has no index set, so that no mode of reading one can be witnessed.
BASELINE: Final = "dense"


def _results(doc: Doc) -> list[Doc]:
    return list(doc["sparse"]["results"])


def _label(result: Doc) -> str:
    return f"{result['backend_identity']['requested']} over {result['case']['name']}"


def _identities(doc: Doc) -> Iterator[tuple[str, Doc]]:
    for result in _results(doc):
        yield _label(result), result["backend_identity"]


def _results_are_the_cases(doc: Doc) -> str | None:
    asked = doc["case"]["sparse"]
    cases = {case["name"]: case for case in asked["cases"]}
    if len(cases) != len(asked["cases"]):
        return "two asked cases have one name"
    seen: set[tuple[Any, Any]] = set()
    for result in _results(doc):
        name, backend = result["case"]["name"], result["backend_identity"]["requested"]
        if cases.get(name) != result["case"]:
            return f"the result {short(name)} is not over a case that was asked for"
        if backend not in asked["backends"]:
            return f"a result says that {short(backend)} was requested, which the case does not ask for"
        if (name, backend) in seen:
            return f"{_label(result)} stands twice"
        seen.add((name, backend))
    expected = len(cases) * len(set(asked["backends"]))
    if is_receipt(doc) and len(seen) != expected:
        return f"outcome.receipt is true with {len(seen)} results where {expected} were asked for"
    return None


def _ok_ran_something(doc: Doc) -> str | None:
    tried = [result for result in _results(doc) if is_seen(result["parity"]) or is_seen(result["latency"])]
    return "the run ended ok and no backend ran" if is_ok(doc) and not tried else None


def _receipt_needs_identity(doc: Doc) -> str | None:
    if not is_receipt(doc):
        return None
    for result in _results(doc):
        identity = result["backend_identity"]
        if not is_seen(identity["actual"]):
            return f"outcome.receipt is true and it was not seen what ran for {_label(result)}"
        if identity["requested"] != BASELINE and not is_seen(identity["runtime_mode"]):
            return f"outcome.receipt is true and the runtime mode of {_label(result)} was not seen"
        if not is_seen(result["indexer_digest"]):
            return f"outcome.receipt is true and the index tensor of {_label(result)} was not hashed"
    return None


def _receipt_needs_parity(doc: Doc) -> str | None:
    for result in _results(doc) if is_receipt(doc) else ():
        parity = value_of(result["parity"])
        if parity is None or parity["passed"] is not True:
            return f"outcome.receipt is true and {_label(result)} has no parity"
    return None


def _receipt_needs_no_grad(doc: Doc) -> str | None:
    for result in _results(doc) if is_receipt(doc) else ():
        if value_of(result["no_grad"]) is not True:
            return f"outcome.receipt is true and {_label(result)} was not seen to run without autograd"
    return None


def _parity_is_within_tolerance(doc: Doc) -> str | None:
    for result in _results(doc):
        parity = value_of(result["parity"])
        if parity is None:
            continue
        if parity["dtype"] != result["case"]["dtype"]:
            return f"{_label(result)}: parity is of {parity['dtype']} and the case of {result['case']['dtype']}"
        allowed = PARITY_TOLERANCE[parity["dtype"]]
        if parity["tolerance"] > allowed:
            return f"{_label(result)}: a tolerance of {parity['tolerance']} is looser than the lane's {allowed}"
        if parity["passed"] != (parity["max_relative_error"] <= parity["tolerance"]):
            return f"{_label(result)}: an error of {parity['max_relative_error']} is called {_passed(parity)}"
    return None


def _passed(parity: Doc) -> str:
    return "parity" if parity["passed"] else "no parity"


def _latency_is_honest(doc: Doc) -> str | None:
    asked, on_cpu = doc["case"]["sparse"], value_of(doc["hardware"]["observed"]["device_class"]) == "cpu"
    for result in _results(doc):
        latency = value_of(result["latency"])
        if latency is None:
            continue
        label = _label(result)
        if not close(latency["p50"], percentile([float(value) for value in latency["samples"]], 0.5)):
            return f"{label}: a median of {latency['p50']} ns is not that of its samples"
        if latency["indexer_included"] != asked["indexer_timed"]:
            return f"{label}: whether the indexer is in the time is not what was asked for"
        if len(latency["warmup"]) < asked["warmup"] or len(latency["samples"]) > asked["repeats"]:
            return f"{label}: {len(latency['samples'])} samples after {len(latency['warmup'])} warm-up calls"
        if is_receipt(doc) and not latency["synchronised"]:
            return f"{label}: outcome.receipt is true over times of calls that had not ended"
        if is_receipt(doc) and not on_cpu and value_of(latency["cache_flushed"]) is not True:
            return f"{label}: outcome.receipt is true over times with a warm device cache"
    return None


def _work_counts_valid_indices(doc: Doc) -> str | None:
    for result in _results(doc):
        work, case = value_of(result["work"]), result["case"]
        if work is None:
            continue
        most = min(case["topk"], case["sequence"])
        bound = case["batch"] * (most * (most + 1) // 2 + (case["sequence"] - most) * most)
        if work["valid_indices"] > bound:
            return f"{_label(result)}: {work['valid_indices']} valid indices where causality leaves room for {bound}"
        flops = 4 * work["valid_indices"] * case["heads"] * case["head_dim"]
        if work["flops"] != flops:
            return f"{_label(result)}: {work['flops']} operations are stated and its valid indices make {flops}"
    return None


#: The rules of the sparse lane. Order is the order of reports: identity first, cost last.
SPARSE_RULES: Final[tuple[Rule, ...]] = (
    *identity_rules(_identities),
    Rule("results-are-the-cases", "A result over another case answers another question.", _results_are_the_cases),
    Rule("ok-ran-something", "Status 0 without a single call is not health.", _ok_ran_something),
    Rule("receipt-needs-identity", "The lane's result is what ran, and nothing else.", _receipt_needs_identity),
    Rule("receipt-needs-parity", "What computes something else is not that backend.", _receipt_needs_parity),
    Rule("receipt-needs-no-grad", "Autograd changes which kernels are taken.", _receipt_needs_no_grad),
    Rule("parity-is-within-tolerance", "A tolerance is not widened until it fits.", _parity_is_within_tolerance),
    Rule("latency-is-honest", "A stamp before the device is done times the queue.", _latency_is_honest),
    Rule("work-counts-valid-indices", "Padding is no work.", _work_counts_valid_indices),
    *DETACHED_RULES,
)
