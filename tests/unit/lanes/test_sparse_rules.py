"""The sparse lane's rules: each accepts every good record and refuses the lie it is there for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lanemark.lanes.identity_rules import states_no_rate
from lanemark.lanes.rules import broken_rules, rules_of
from lanemark.lanes.sparse_rules import SPARSE_RULES

CORPUS = Path(__file__).parents[2] / "assets" / "records"
GOOD = {path.stem: path.read_bytes() for path in (CORPUS / "good").glob("sparse_*.json")}
SMOKE, REROUTED, UNSEEN, H100, ERROR = (
    "sparse_smoke", "sparse_rerouted_detached", "sparse_unobserved", "sparse_h100_triton", "sparse_error",
)  # fmt: skip
DROP = object()
UNKNOWN = {"status": "unavailable", "source": "x", "reason": "could not look"}
ABSENT = {"status": "absent", "source": "x"}
R = "sparse.results.0"
WHO = f"{R}.backend_identity"
TIMES = f"{R}.latency.value"


def seen(value, source="torch.profiler"):
    return {"status": "observed", "source": source, "value": value}


def changed(name, changes):
    doc = json.loads(GOOD[name])["predicate"]
    for path, value in changes.items():
        *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        node = doc
        for step in parents:
            node = node[step]
        if value is DROP:
            del node[last]
        else:
            node[last] = value
    return doc


def canary(verdict, nan_rows):
    return seen({"verdict": verdict, "poisoned_rows": 128, "nan_rows": nan_rows})


#: rule, a good record, what is changed in it: each case breaks that rule.
REFUSED = [
    *(
        ("actual-is-witnessed", SMOKE, {f"{WHO}.actual.source": source})
        for source in (
            "requested backend",
            "request",
            "env selector",
            "LANEMARK flag",
            "--backend",
            "config file",
            "default backend",
            "launcher arguments",
            "selected backend",
            "the case",
            "os.environ",
            "kernel option",
        )
    ),
    ("actual-is-witnessed", UNSEEN, {f"{WHO}.actual": seen("flex")}),
    ("actual-is-witnessed", SMOKE, {f"{WHO}.names.state": "ambiguous"}),
    ("names-fit-their-state", UNSEEN, {f"{WHO}.names.names": ["flex_fwd"]}),
    ("names-fit-their-state", SMOKE, {f"{WHO}.names.names": []}),
    ("names-fit-their-state", SMOKE, {f"{WHO}.names.state": "unobserved", f"{WHO}.actual": UNKNOWN}),
    ("names-fit-their-state", SMOKE, {f"{WHO}.names.source": "requested kernel"}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.canary": canary("nan_inside_blocks", 9)}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.canary": canary("nan_everywhere", 9)}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.canary": canary("changed_without_nan", 0)}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.canary": canary("bit_identical", 1)}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.canary": canary("nan_everywhere", 0), f"{WHO}.runtime_mode": UNKNOWN}),
    ("mode-fits-canary", SMOKE, {f"{WHO}.runtime_mode": seen("dense_masked")}),
    ("mode-is-witnessed", SMOKE, {f"{WHO}.canary": UNKNOWN}),
    ("mode-is-witnessed", REROUTED, {f"{WHO}.actual": UNKNOWN, f"{WHO}.fallback_reason": UNKNOWN}),
    ("fallback-is-explained", REROUTED, {f"{WHO}.fallback_reason": ABSENT}),
    ("fallback-is-explained", REROUTED, {f"{WHO}.fallback_reason": UNKNOWN}),
    ("fallback-is-explained", SMOKE, {f"{WHO}.actual": seen("dense")}),
    ("fallback-is-explained", SMOKE, {f"{WHO}.fallback_reason": seen("silent")}),
    ("fallback-is-explained", UNSEEN, {f"{WHO}.fallback_reason": ABSENT}),
    ("results-are-the-cases", SMOKE, {f"{R}.case.topk": 32}),
    ("results-are-the-cases", SMOKE, {f"{R}.case.name": "another"}),
    ("results-are-the-cases", SMOKE, {f"{WHO}.requested": "flex"}),
    ("results-are-the-cases", SMOKE, {"sparse.results.1.case.name": "local-512"}),
    ("results-are-the-cases", SMOKE, {"sparse.results.5": DROP}),
    ("results-are-the-cases", SMOKE, {"case.sparse.cases.1.name": "local-512"}),
    ("ok-ran-something", SMOKE, {"sparse.results": [], "outcome.receipt": False}),
    ("ok-ran-something", REROUTED, {f"{R}.parity": UNKNOWN, f"{R}.latency": UNKNOWN}),
    ("receipt-needs-identity", UNSEEN, {"outcome.receipt": True}),
    ("receipt-needs-identity", SMOKE, {f"{WHO}.runtime_mode": UNKNOWN}),
    ("receipt-needs-identity", SMOKE, {f"{R}.indexer_digest": UNKNOWN}),
    ("receipt-needs-parity", SMOKE, {f"{R}.parity": UNKNOWN}),
    ("receipt-needs-parity", SMOKE, {f"{R}.parity.value.passed": False, f"{R}.parity.value.max_relative_error": 1.0}),
    ("receipt-needs-no-grad", SMOKE, {f"{R}.no_grad": seen(value=False)}),
    ("receipt-needs-no-grad", SMOKE, {f"{R}.no_grad": UNKNOWN}),
    ("parity-is-within-tolerance", SMOKE, {f"{R}.parity.value.tolerance": 2e-6}),
    ("parity-is-within-tolerance", SMOKE, {f"{R}.parity.value.max_relative_error": 2e-6}),
    ("parity-is-within-tolerance", SMOKE, {f"{R}.parity.value.passed": False}),
    ("parity-is-within-tolerance", SMOKE, {f"{R}.parity.value.dtype": "bf16"}),
    ("latency-is-honest", SMOKE, {f"{TIMES}.p50": 1.0}),
    ("latency-is-honest", SMOKE, {f"{TIMES}.synchronised": False}),
    ("latency-is-honest", SMOKE, {f"{TIMES}.indexer_included": True}),
    ("latency-is-honest", SMOKE, {f"{TIMES}.warmup": []}),
    ("latency-is-honest", SMOKE, {"case.sparse.repeats": 2}),
    ("latency-is-honest", H100, {f"{TIMES}.cache_flushed": ABSENT}),
    ("latency-is-honest", H100, {f"{TIMES}.cache_flushed": seen(value=False)}),
    ("work-counts-valid-indices", SMOKE, {f"{R}.work.value.flops": 1}),
    ("work-counts-valid-indices", SMOKE, {f"{R}.work.value": {"valid_indices": 32_768, "flops": 4 * 32_768 * 8 * 64}}),
    *(
        ("states-no-rate", SMOKE, {f"sparse.{key}": 1.0})
        for key in (
            "tokens_per_s",
            "tokens/s",
            "Tok/s",
            "throughput",
            "global_throughput_mean",
            "samples_per_sec",
            "tps",
            "mfu",
            "tflops",
            "TFLOP/s per second",
            "steps_per_second",
            "it/s",
        )
    ),
    ("states-no-rate", SMOKE, {f"{TIMES}.tokens_per_s": 1.0}),
    ("states-no-rate", SMOKE, {"training_throughput": 1.0}),
    ("collected-as-it-lived", REROUTED, {"sparse.collector.lifecycle": "blocking"}),
    ("collected-as-it-lived", SMOKE, {"sparse.collector.lifecycle": "detached"}),
    ("collected-as-it-lived", SMOKE, {"sparse.collector.reattached": True}),
    ("collected-as-it-lived", REROUTED, {"sparse.collector.last_polled_at": ABSENT}),
    ("collected-as-it-lived", REROUTED, {"sparse.collector.looks": []}),
    ("collected-as-it-lived", REROUTED, {"sparse.collector.looks.1.seen": "error"}),
    ("collected-as-it-lived", REROUTED, {"sparse.collector.snapshots": ["snapshots/0.json"]}),
    ("lane-part-alone", SMOKE, {"training": {}}),
    ("says-what-it-does-not-prove", SMOKE, {"sparse.does_not_prove": []}),
    ("requested-mirrors-case", SMOKE, {"run_id": "training-20261122T152233Z-0000ddp0"}),
]

#: A good record and a change that looks like a lie and is none.
ACCEPTED = [
    (SMOKE, {"outcome.receipt": False, "sparse.results.5": DROP}),
    (SMOKE, {"outcome.receipt": False, f"{TIMES}.synchronised": False}),
    (SMOKE, {"outcome.receipt": False, f"{R}.no_grad": UNKNOWN}),
    (SMOKE, {"environment.variables": {"VLLM_LOG_TOKENS_PER_S": "1"}}),
    (SMOKE, {f"{R}.parity.value.tolerance": 5e-7}),
    (SMOKE, {f"{WHO}.actual.source": "CUPTI kernel names"}),
    (REROUTED, {f"{WHO}.fallback_reason": seen("silent")}),
    (REROUTED, {"sparse.collector.reattached": False}),
    (UNSEEN, {f"{WHO}.names": {"level": "op", "state": "ambiguous", "names": ["CompiledFxGraph"], "source": "x"}}),
    (UNSEEN, {f"{WHO}.runtime_mode": UNKNOWN, f"{WHO}.canary": UNKNOWN}),
    (ERROR, {"sparse.collector.looks.1.seen": "lost"}),
]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_records_break_nothing(name):
    assert broken_rules(changed(name, {})) == ()


@pytest.mark.parametrize(("rule", "name", "changes"), REFUSED)
def test_each_rule_refuses(rule, name, changes):
    broken = {item.rule: item for item in broken_rules(changed(name, changes))}
    assert rule in broken
    assert "cannot be judged" not in broken[rule].problem
    assert len(broken[rule].problem) < 300


@pytest.mark.parametrize(("name", "changes"), ACCEPTED)
def test_what_is_no_lie_is_accepted(name, changes):
    assert broken_rules(changed(name, changes)) == ()


def test_every_rule_of_the_lane_has_a_case_it_refuses():
    assert {rule.name for rule in SPARSE_RULES} <= {rule for rule, _, _ in REFUSED}
    assert {rule for rule, _, _ in REFUSED} <= {rule.name for rule in rules_of("sparse")}


@pytest.mark.parametrize(
    "key", ["flops", "valid_indices", "cache_flushed", "steps", "samples", "upsert", "mfus", "permit_s"]
)
def test_words_that_are_no_rates_may_stand(key):
    assert states_no_rate(changed(SMOKE, {f"sparse.{key}": 1})) is None
