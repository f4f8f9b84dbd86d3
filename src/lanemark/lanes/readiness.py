"""What a promotion still owes before it is ready. Pure: the same record always owes the same.

Readiness is never stated, it is computed: from rungs that execute-class evidence holds, parity that could have failed,
a runtime that was seen, and stop rules that were looked at. Writers call `owed` to fill `promotion_ready`, and a rule
calls it again over every record that is verified; taking any evidence away can only add to what is owed.
"""

from __future__ import annotations

from typing import Final

from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of
from lanemark.records.terms import BESIDE_THE_LADDER, PROOF_CLASSES, RUNG_NEEDS, RUNGS, STOP_RULES

#: Every parity case needs planted faults of these three kinds; others may be added.
MUTANTS: Final = ("scale_1_01", "drop_one_token", "reroute_to_full")


def rungs_needed(direction: str) -> tuple[str, ...]:
    """The rungs that readiness needs for `forward` or `backward`, lowest first."""
    return RUNGS if direction == "backward" else RUNGS[:-1]


def rung_problem(rung: Doc, evidence: frozenset[str]) -> str | None:
    """Why a rung that is called held is not: its proof is too weak, or nothing in the record is named."""
    stated, needed = rung.get("proof_class"), RUNG_NEEDS[rung["rung"]]
    if stated is None or PROOF_CLASSES.index(stated) < PROOF_CLASSES.index(needed):
        return f"{rung['rung']} needs proof of class {needed} and has {stated or 'none'}"
    if not rung["evidence"]:
        return f"{rung['rung']} names no evidence"
    missing = [name for name in rung["evidence"] if name not in evidence]
    return f"{rung['rung']} names evidence that the record does not have" if missing else None


def no_power(case: Doc) -> str | None:
    """Why a parity case could not have told a broken kernel from a correct one; None when it could."""
    survivors = [mutant["name"] for mutant in case["mutants"] if mutant["killed"] is not True]
    if survivors:
        return f"the mutant {survivors[0]} survives"
    missing = [name for name in MUTANTS if name not in {mutant["name"] for mutant in case["mutants"]}]
    # Dense attention selects nothing: rerouting it to itself changes nothing, so that mutant cannot be asked for.
    if case["masking"] != "sparse":
        missing = [name for name in missing if name != "reroute_to_full"]
    if missing:
        return f"the mutant {missing[0]} was not tried"
    return None if case["poisoned_output"] else "the output buffer was not poisoned before the call"


def owed(predicate: Doc) -> tuple[str, ...]:
    """What is missing before the candidate is ready, one phrase each; empty when it is ready.

    Args:
        predicate: a promotion record's predicate, as plain JSON of the schema's shape.
    """
    part = predicate["promotion"]
    direction = part["scope"]["direction"]
    evidence = frozenset(entry["name"] for entry in predicate["evidence"])
    held = {rung["rung"]: rung for rung in part["ladder"] if rung["held"] is True}
    out = []
    for name in rungs_needed(direction):
        problem = f"{name} is not held" if name not in held else rung_problem(held[name], evidence)
        out += [problem] if problem else []
    out += _identity_owed(part)
    out += _parity_owed(part, direction)
    for name, rule in STOP_RULES.items():
        broken = next((value_of(entry["broken"]) for entry in part["stop_rules"] if entry["rule"] == name), None)
        if broken is True:
            out.append(f"the stop rule {name} was broken")
        elif broken is None and rule.must_be_looked_at:
            out.append(f"the stop rule {name} was not looked at")
    if value_of(part["candidate"]["applicable"]) is not True:
        out.append("it was not seen that the candidate applies")
    if part["state"] in BESIDE_THE_LADDER:
        out.append(f"the state is {part['state']}")
    if predicate["outcome"]["state"] != "ok":
        out.append(f"the run ended as {predicate['outcome']['state']}")
    return tuple(out)


def _identity_owed(part: Doc) -> list[str]:
    identity = value_of(part["execute_proof"])
    if identity is None:
        return ["no execution was observed"]
    out = []
    if value_of(identity["actual"]) != identity["requested"]:
        out.append("it was not seen that the candidate itself ran")
    if identity["names"]["state"] != "observed" or identity["names"]["level"] != "kernel":
        out.append("the dispatch was not observed at kernel level")
    if part["mode"] == "sparse_validation" and value_of(identity["canary"]) is None:
        out.append("no canary was seen")
    return out


def _parity_owed(part: Doc, direction: str) -> list[str]:
    wanted = ("forward", "backward") if direction == "backward" else ("forward",)
    out = [
        f"no {name} parity case was run"
        for name in wanted
        if not any(case["direction"] == name for case in part["parity"])
    ]
    for case in part["parity"]:
        if case["verdict"] != "pass":
            out.append(f"parity case {case['name']} is {case['verdict']}")
        elif (weak := no_power(case)) is not None:
            out.append(f"parity case {case['name']} has no power: {weak}")
    return out
