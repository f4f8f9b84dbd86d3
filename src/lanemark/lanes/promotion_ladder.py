"""Which rungs a candidate holds, where it stands, and why: from what a rank measured and which files it left. Pure.

A rung is held when its own step succeeded *and* the file that shows it is among the record's evidence; the same result
with a file less therefore never stands higher. `lanemark.lanes.readiness` is asked last, over the finished part, so
that writer and verifier cannot disagree on what is owed.

What is one way only: a rejection, a case without power, an execution that could not be seen are states beside the
ladder, whatever rungs are held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from lanemark.lanes.promotion_identity import Suspicion, identity_of, suspicion
from lanemark.lanes.promotion_parity import REJECTIONS, entry, judge
from lanemark.lanes.readiness import rungs_needed
from lanemark.records.observation import Observation, observed, unavailable, value_of
from lanemark.records.terms import RUNG_NEEDS, RUNGS, STOP_RULES

Doc = dict[str, Any]
#: Where each rung's file lies below the rank's directory.
PROOF_FILES: Final = {rung: f"proofs/{rung}.json" for rung in RUNGS}


class Step(NamedTuple):
    """One rung's own step: whether it succeeded, and the words for either."""

    done: bool
    words: str


class Standing(NamedTuple):
    """Where a candidate stands.

    Attributes:
        ladder: all rungs (`schema_promotion.RungPart`), lowest first.
        state, reason: as the record has them; the reason begins with a slug.
        parity: the record's parity list.
        stop_rules: the record's list of them.
        identity: the execute proof.
        rejection: why it is rejected, or None.
    """

    ladder: list[Doc]
    state: str
    reason: str
    parity: list[Doc]
    stop_rules: list[Doc]
    identity: Observation[Doc]
    rejection: Suspicion | None


def standing(asked: Doc, result: Doc, evidence: Iterable[str], *, prefix: str = "ranks/0/") -> Standing:
    """Climb as far as evidence reaches.

    Args:
        asked: `case.promotion`.
        result: what the rank left (`result.json`); {} when it left nothing.
        evidence: names of the files that the record has.
        prefix: of the rank's files among those names.
    """
    names = frozenset(evidence)
    parity = parity_entries(result)
    result = {**result, "parity_failed": any(case["verdict"] == "fail" for case in parity)}
    identity = identity_of(asked["candidate"], asked["mode"], result)
    stops = stop_rules(result)
    rejected = rejection(asked, result, stops)
    steps = _steps(asked, result, identity, parity)
    ladder, lower = [], True
    for rung in RUNGS:
        step, name = steps[rung], prefix + PROOF_FILES[rung]
        held = lower and step.done and name in names
        why = step.words if not step.done or name in names else "its evidence is missing"
        out: Doc = {"rung": rung, "held": held, "evidence": [name] if held else [], "reason": why}
        if held:
            out["proof_class"] = RUNG_NEEDS[rung]
        elif step.done and not lower:
            out["reason"] = "shown, over a rung that is not held"
        ladder.append(out)
        lower = held
    state, reason = _state(
        asked, result.get("applicability") or {}, ladder, parity=parity, dispatch=steps["dispatch_confirmed"],
        rejected=rejected,
    )  # fmt: skip
    return Standing(ladder, state, reason[:1000], parity, stops, identity, rejected)


def parity_entries(result: Doc) -> list[Doc]:
    """The record's parity list: each direction of each case that there are numbers for."""
    return [
        entry(case, case[direction])
        for case in result.get("cases", [])
        for direction in ("forward", "backward")
        if direction in case and "mutants" in case[direction]
    ]


def rejection(asked: Doc, result: Doc, stops: list[Doc]) -> Suspicion | None:
    """The most telling reason to reject, in the order of `promotion_parity.REJECTIONS`; None when there is none."""
    found: list[Suspicion] = []
    executed = result.get("executed") or {}
    if executed.get("done") is False:
        found.append(Suspicion(executed["reason"], executed["words"]))
    for case in result.get("cases", []):
        if "violation" in case:
            found.append(Suspicion(case["violation"]["reason"], f"{case['name']}: {case['violation']['words']}"))
        for direction in ("forward", "backward"):
            if direction not in case or "mutants" not in case[direction]:
                continue
            judged = judge(entry(case, case[direction]), case[direction])
            if judged.verdict == "fail":
                found.append(Suspicion(judged.reason, f"{direction} of {judged.words}"))
    seen = suspicion(asked["candidate"], result.get("runtime_modes", ()), result)
    if seen is not None:
        found.append(seen)
    broken = [stop["rule"] for stop in stops if value_of(stop["broken"]) is True]
    found += [Suspicion("stop_rule_broken", f"the stop rule {rule} was broken") for rule in broken]
    return min(found, key=lambda item: REJECTIONS.index(item.reason), default=None)


def _steps(asked: Doc, result: Doc, identity: Observation[Doc], parity: list[Doc]) -> dict[str, Step]:
    applies = result.get("applicability") or {}
    out = {
        "planned": Step("applies" in applies, applies.get("words", "the worker planned nothing")),
        "dispatch_confirmed": _dispatch(asked, identity),
        "fwd_parity": _parity(asked, parity, "forward"),
        "bwd_parity": _parity(asked, parity, "backward"),
    }
    for rung in ("compiled", "imported", "executed"):
        step = result.get(rung) or {}
        out[rung] = Step(step.get("done") is True, step.get("words", "shown" if step.get("done") else "not reached"))
    return out


def _dispatch(asked: Doc, identity: Observation[Doc]) -> Step:
    if identity.value is None:
        return Step(done=False, words="nothing was executed")
    names, actual = identity.value["names"], value_of(identity.value["actual"])
    if names["state"] != "observed":
        return Step(done=False, words=identity.value["actual"].get("reason", f"the names are {names['state']}"))
    if actual != asked["candidate"]:
        return Step(done=False, words=f"{actual} ran")
    if names["level"] != "kernel":
        return Step(done=False, words=f"the operator {names['names'][0]} was seen, and only a device's kernels confirm")
    if asked["mode"] == "sparse_validation" and value_of(identity.value["canary"]) is None:
        return Step(done=False, words="no canary was seen")
    return Step(done=True, words=f"{names['names'][0]} was seen on the device")


def _parity(asked: Doc, parity: list[Doc], direction: str) -> Step:
    if direction == "backward" and asked["direction"] != "backward":
        return Step(done=False, words="no gradients are asked for")
    verdicts = {case["name"]: case["verdict"] for case in parity if case["direction"] == direction}
    missing = [name for name in asked["cases"] if name not in verdicts]
    if missing:
        return Step(done=False, words=f"{len(missing)} of {len(asked['cases'])} {direction} cases have no numbers")
    unmet = [name for name in asked["cases"] if verdicts[name] != "pass"]
    if unmet:
        return Step(
            done=False, words=f"{unmet[0]} is {verdicts[unmet[0]]} ({len(unmet)} of {len(verdicts)} did not pass)"
        )
    return Step(done=True, words=f"all {len(verdicts)} {direction} cases passed")


def _state(
    asked: Doc,
    applies: Doc,
    ladder: list[Doc],
    *,
    parity: list[Doc],
    dispatch: Step,
    rejected: Suspicion | None,
) -> tuple[str, str]:
    """The state and its reason, which begins with a slug that programs can sort by."""
    held = [rung["rung"] for rung in ladder if rung["held"]]
    if applies.get("applies") is False:
        return "blocked", f"{applies['reason']}: {applies['words']}"
    if rejected is not None:
        return "rejected", f"{rejected.reason}: {rejected.words}"
    if not held:
        return "blocked", "unreported: the worker left no evidence of its plan"
    weak = [case for case in parity if case["verdict"] == "no_power"]
    if weak:
        return "inconclusive", f"no_power: {judge(weak[0]).words}"
    needed = rungs_needed(asked["direction"])
    if "executed" in held and "dispatch_confirmed" not in held:
        return "inconclusive", f"unobserved: {dispatch.words}"
    missing = [rung for rung in needed if rung not in held]
    if not missing:
        return "ready", "every rung is held"
    why = next(rung["reason"] for rung in ladder if rung["rung"] == missing[0])
    return held[-1], f"owes {missing[0]}: {why}"


def stop_rules(result: Doc) -> list[Doc]:
    """Every stop rule: broken or not where it was looked at, and why not where it was not."""
    looked: dict[str, Observation[bool]] = {}
    forwards = [case["forward"] for case in result.get("cases", []) if "mutants" in case.get("forward", {})]
    none = unavailable("worker", "no parity case has numbers")
    source = "outputs of the parity cases"
    limits = {name: rule.limit for name, rule in STOP_RULES.items()}
    top, bad = (max((case[key] for case in forwards), default=0.0) for key in ("max_difference", "num_nonfinite"))
    looked["max_abs_difference"] = observed(top > limits["max_abs_difference"], source) if forwards else none
    looked["nan_or_inf"] = observed(bad > limits["nan_or_inf"], source) if forwards else none
    memory = result.get("memory")
    looked["memory_growth"] = (
        observed(memory["candidate_bytes"] > (1 + limits["memory_growth"]) * memory["dense_bytes"], "CUDA's allocator")
        if memory else unavailable("worker", "a CPU has no allocator whose peak could be read")
    )  # fmt: skip
    steps = result.get("two_steps")
    looked["two_step_train"] = (
        observed(steps["failed_steps"] > limits["two_step_train"], "two optimizer steps through the candidate")
        if steps else unavailable("worker", "gradients were not asked for")
    )  # fmt: skip
    looked["slower_than_dense"] = unavailable("worker", "this lane times nothing")
    looked["loss_ratio_100_steps"] = unavailable("worker", "a training of 100 steps is no part of this wave")
    return [{"rule": name, "limit": rule.limit, "broken": looked[name].to_json()} for name, rule in STOP_RULES.items()]
