"""The promotion lane's rules and its readiness: evidence can only be missing, never be talked into being there."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lanemark.lanes.promotion_rules import PROMOTION_RULES
from lanemark.lanes.readiness import owed, rungs_needed
from lanemark.lanes.rules import broken_rules, rules_of
from lanemark.records.terms import RUNGS, fro_limit, row_limit

CORPUS = Path(__file__).parents[2] / "assets" / "records"
GOOD = {path.stem: path.read_bytes() for path in (CORPUS / "good").glob("promotion_*.json")}
READY, PROMOTED, BACKWARD, KERNEL, WEAK, COMPILED, REJECTED, DETACHED, ERROR = (
    "promotion_ready_fa4", "promotion_promoted", "promotion_backward", "promotion_sparse_kernel", "promotion_no_power",
    "promotion_compiled_only", "promotion_rejected", "promotion_detached", "promotion_error",
)  # fmt: skip
UNKNOWN = {"status": "unavailable", "source": "x", "reason": "could not look"}
ABSENT = {"status": "absent", "source": "x"}
P = "promotion"
CASE = f"{P}.parity.0"
PROOF = f"{P}.execute_proof.value"


def seen(value, source="torch.profiler"):
    return {"status": "observed", "source": source, "value": value}


def doc_of(name):
    return json.loads(GOOD[name])["predicate"]


def changed(name, changes):
    doc = doc_of(name)
    for path, value in changes.items():
        *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        node = doc
        for step in parents:
            node = node[step]
        node[last] = value
    return doc


#: rule, a good record, what is changed in it: each case breaks that rule.
REFUSED = [
    ("ready-is-computed", COMPILED, {f"{P}.promotion_ready": True}),
    ("ready-is-computed", WEAK, {f"{P}.promotion_ready": True}),
    ("ready-is-computed", REJECTED, {f"{P}.promotion_ready": True}),
    ("ready-is-computed", READY, {f"{P}.promotion_ready": False}),
    ("ready-is-computed", READY, {f"{P}.execute_proof": UNKNOWN}),
    ("ready-is-computed", READY, {f"{P}.state": "shadow"}),
    ("ready-is-computed", READY, {f"{P}.stop_rules.0.broken": UNKNOWN}),
    ("ready-is-computed", READY, {f"{P}.stop_rules.3.broken": seen(value=True)}),
    ("ready-is-computed", READY, {f"{P}.candidate.applicable": UNKNOWN}),
    ("ready-is-computed", KERNEL, {f"{PROOF}.canary": UNKNOWN}),
    ("ready-is-computed", READY, {"evidence": []}),
    ("promoted-names-evidence", PROMOTED, {f"{P}.promoted_on": []}),
    ("promoted-names-evidence", PROMOTED, {f"{P}.promotion_ready": False}),
    ("promoted-names-evidence", READY, {f"{P}.promoted_on": ["sha256:" + "0" * 64]}),
    ("promoted-names-evidence", COMPILED, {f"{P}.promoted_on": ["sha256:" + "0" * 64]}),
    ("word-shows-its-basis", READY, {f"{P}.state_reason": "declared: nobody did"}),
    ("word-shows-its-basis", REJECTED, {f"{P}.promoted_on": ["sha256:" + "0" * 64]}),
    ("state-follows", READY, {f"{P}.promotion_status": "rejected"}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.3.proof_class": "observational"}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.3.proof_class": "validation"}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.1.proof_class": "planner"}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.3.evidence": []}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.3.evidence": ["proofs/none.json"]}),
    ("rungs-have-evidence", READY, {f"{P}.ladder.3.evidence": ["proofs/planned.json"]}),
    ("ladder-is-whole", READY, {f"{P}.ladder.2.held": False}),
    ("ladder-is-whole", READY, {f"{P}.ladder.0.rung": "executed"}),
    ("ladder-is-whole", READY, {f"{P}.ladder.6.evidence": ["proofs/planned.json"]}),
    ("executed-needs-proof", READY, {f"{P}.execute_proof": UNKNOWN}),
    ("executed-needs-proof", READY, {f"{PROOF}.names.level": "op"}),
    ("executed-needs-proof", READY, {f"{PROOF}.names.state": "ambiguous"}),
    ("executed-needs-proof", READY, {f"{PROOF}.actual": seen("sdpa_math")}),
    ("parity-rungs-need-cases", READY, {f"{P}.parity": []}),
    ("parity-rungs-need-cases", READY, {f"{CASE}.verdict": "no_power"}),
    ("parity-rungs-need-cases", BACKWARD, {f"{P}.parity.1.direction": "forward"}),
    ("parity-has-power", READY, {f"{CASE}.mutants.1.killed": False}),
    ("parity-has-power", READY, {f"{CASE}.mutants": []}),
    ("parity-has-power", READY, {f"{CASE}.mutants.0.name": "scale_1_50"}),
    ("parity-has-power", KERNEL, {f"{CASE}.mutants.2.name": "other"}),
    ("parity-has-power", READY, {f"{CASE}.poisoned_output": False}),
    ("parity-is-within-limits", READY, {f"{CASE}.fro_limit": 5e-3}),
    ("parity-is-within-limits", READY, {f"{CASE}.row_limit": 1.0}),
    ("parity-is-within-limits", READY, {f"{CASE}.fro": 4e-3}),
    ("parity-is-within-limits", READY, {f"{CASE}.row": 0.02}),
    ("parity-is-within-limits", READY, {f"{CASE}.masks_equal": False}),
    ("parity-is-within-limits", READY, {f"{CASE}.bitwise_equal": False}),
    ("parity-is-within-limits", READY, {f"{CASE}.verdict": "fail"}),
    ("parity-is-the-matrix", READY, {"case.promotion.cases": ["causal-d64-s128", "varlen"]}),
    ("parity-is-the-matrix", READY, {f"{CASE}.name": "easier"}),
    ("parity-is-the-matrix", BACKWARD, {f"{P}.parity.1.direction": "forward"}),
    ("stop-rules-are-whole", READY, {f"{P}.stop_rules": []}),
    ("stop-rules-are-whole", READY, {f"{P}.stop_rules.0.rule": "nan_or_inf"}),
    ("stop-rules-are-whole", READY, {f"{P}.stop_rules.0.limit": 0.1}),
    ("state-follows", READY, {f"{P}.state": "fwd_parity"}),
    ("state-follows", COMPILED, {f"{P}.state": "executed"}),
    ("state-follows", READY, {f"{P}.promotion_status": "promoted", f"{P}.promoted_on": ["sha256:" + "0" * 64]}),
    ("state-follows", READY, {f"{P}.state": "promoted"}),
    ("scope-mirrors-case", READY, {f"{P}.scope.dtype": "fp16"}),
    ("scope-mirrors-case", READY, {f"{P}.scope.surface": "modal"}),
    ("scope-mirrors-case", READY, {f"{P}.scope.direction": "backward"}),
    ("scope-mirrors-case", READY, {f"{P}.mode": "sparse_validation"}),
    ("scope-mirrors-case", READY, {f"{P}.candidate.name": "fa2"}),
    ("scope-mirrors-case", READY, {f"{PROOF}.requested": "fa2"}),
    ("key-is-of-its-components", READY, {f"{P}.evidence_key.components.driver": "580"}),
    ("key-is-of-its-components", READY, {f"{P}.evidence_key.digest": "sha256:" + "0" * 64}),
    ("ok-ran-something", READY, {f"{P}.execute_proof": UNKNOWN, f"{P}.parity": []}),
    ("receipt-needs-execution", READY, {f"{P}.execute_proof": UNKNOWN}),
    ("actual-is-witnessed", READY, {f"{PROOF}.actual.source": "requested candidate"}),
    ("names-fit-their-state", READY, {f"{PROOF}.names.names": []}),
    ("mode-fits-canary", KERNEL, {f"{PROOF}.canary.value.nan_rows": 3}),
    ("mode-is-witnessed", KERNEL, {f"{PROOF}.canary": ABSENT}),
    ("fallback-is-explained", READY, {f"{PROOF}.actual": seen("sdpa_math")}),
    ("states-no-rate", READY, {f"{P}.throughput": 1.55}),
    ("states-no-rate", READY, {f"{CASE}.tflops": 500}),
    ("collected-as-it-lived", DETACHED, {f"{P}.collector.lifecycle": "blocking"}),
]

#: A good record and a change that looks like a lie and is none.
ACCEPTED = [
    (READY, {f"{P}.ladder.0.proof_class": "execute"}),
    (READY, {f"{P}.ladder.3.evidence": ["proofs/executed.json", "proofs/planned.json"]}),
    (READY, {f"{P}.stop_rules.4.broken": seen(value=False)}),
    (READY, {f"{P}.import_health.0.imported": seen(value=False, source="import probe")}),
    (READY, {f"{P}.stop_rules.0.limit": 0.001}),
    (KERNEL, {f"{CASE}.masking": "causal"}),
    (COMPILED, {f"{P}.state": "blocked"}),
    (ERROR, {f"{P}.state": "expired", f"{P}.promotion_status": "expired"}),
]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_records_break_nothing(name):
    assert broken_rules(doc_of(name)) == ()


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
    assert {rule.name for rule in PROMOTION_RULES} <= {rule for rule, _, _ in REFUSED}
    assert {rule for rule, _, _ in REFUSED} <= {rule.name for rule in rules_of("promotion")}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_readiness_is_what_the_record_says(name):
    doc = doc_of(name)
    assert doc["promotion"]["promotion_ready"] is (owed(doc) == ())


def weakened(doc):
    """Every record that lacks exactly one thing that this one has: a file, a rung, a parity case, a mutant, a look."""
    part = doc["promotion"]
    for place in range(len(doc["evidence"])):
        yield "evidence", lambda d, i=place: d["evidence"].pop(i)
    for place, rung in enumerate(part["ladder"]):
        if rung["held"]:
            yield rung["rung"], lambda d, i=place: d["promotion"]["ladder"][i].update(held=False)
    for place, case in enumerate(part["parity"]):
        yield "parity", lambda d, i=place: d["promotion"]["parity"].pop(i)
        for mutant in range(len(case["mutants"])):
            yield "mutant", lambda d, i=place, j=mutant: d["promotion"]["parity"][i]["mutants"].pop(j)
    for place in range(len(part["stop_rules"])):
        yield "stop rule", lambda d, i=place: d["promotion"]["stop_rules"].pop(i)
    if part["execute_proof"]["status"] == "observed":
        yield "proof", lambda d: d["promotion"].update(execute_proof=UNKNOWN)
        for field in ("actual", "canary"):
            yield field, lambda d, f=field: d["promotion"]["execute_proof"]["value"].update({f: UNKNOWN})
    yield "applicable", lambda d: d["promotion"]["candidate"].update(applicable=UNKNOWN)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_taking_evidence_away_never_raises_the_status(name):
    whole = doc_of(name)
    before = owed(whole)
    for what, take in weakened(whole):
        doc = copy.deepcopy(whole)
        take(doc)
        assert before == () or owed(doc) != (), what


def test_nothing_that_readiness_rests_on_can_be_taken_away():
    """Not needed by dense forward attention: raw samples, a canary, the mutant and the stop rules of a training."""
    whole, spared = doc_of(READY), 0
    for what, take in weakened(whole):
        doc = copy.deepcopy(whole)
        take(doc)
        if owed(doc) == ():
            spared += 1
            assert what in ("evidence", "canary", "mutant", "stop rule"), what
    assert spared == 1 + 1 + 1 + 4


@pytest.mark.parametrize("rung", RUNGS[:-1])
def test_every_rung_is_needed(rung):
    doc = doc_of(READY)
    doc["promotion"]["ladder"][RUNGS.index(rung)]["held"] = False
    assert f"{rung} is not held" in owed(doc)


def test_backward_needs_one_rung_more():
    assert rungs_needed("backward") == (*rungs_needed("forward"), "bwd_parity") == RUNGS


def test_limits_worked_out_by_hand():
    assert fro_limit("forward", 2e-3) == pytest.approx(2.5e-3)
    assert fro_limit("forward", 1e-2) == 5e-3
    assert fro_limit("backward", 2e-3) == pytest.approx(4e-3)
    assert fro_limit("backward", 1e-1) == 1.5e-2
    assert row_limit(4e-3) == pytest.approx(9e-3)
