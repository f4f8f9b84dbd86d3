"""Rules that a record of the promotion lane must keep. One literal table, pure predicates.

The lane accepts a kernel path or does not. Its lies are a rung held by an import, a parity that no fault could have
failed, a readiness that is stated and not owed, and a promotion that names nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, get_args

from lanemark.lanes.identity_rules import DETACHED_RULES, identity_rules
from lanemark.lanes.promotion_parity import REJECTIONS, Numbers
from lanemark.lanes.readiness import no_power, owed, rung_problem
from lanemark.lanes.rule import Doc, Rule, close, is_ok, is_receipt, short
from lanemark.records.encoding import digest, encode
from lanemark.records.observation import value_of
from lanemark.records.terms import BESIDE_THE_LADDER, DECLARED, LSE_LIMIT, RUNGS, STOP_RULES, fro_limit, row_limit

#: States that a person can say, and the finding that says who did.
_SPOKEN: Final = {"rejected": "rejected_by_person", "shadow": "shadowed_by_person"}
#: Reasons to reject that a record's own parity list shows.
_IN_NUMBERS: Final = frozenset(get_args(Numbers))


def _identities(doc: Doc) -> Iterator[tuple[str, Doc]]:
    identity = value_of(doc["promotion"]["execute_proof"])
    if identity is not None:
        yield "execute_proof", identity


def _scope_mirrors_case(doc: Doc) -> str | None:
    part, case, asked = doc["promotion"], doc["case"], doc["case"]["promotion"]
    pairs = (
        ("mode", part["mode"], asked["mode"]),
        ("candidate.name", part["candidate"]["name"], asked["candidate"]),
        ("scope.surface", part["scope"]["surface"], case["surface"]),
        ("scope.dtype", part["scope"]["dtype"], case["dtype"]),
        ("scope.direction", part["scope"]["direction"], asked["direction"]),
    )
    for name, stated, wanted in pairs:
        if stated != wanted:
            return f"promotion.{name} is {short(stated)} and the case asks for {short(wanted)}"
    identity = value_of(part["execute_proof"])
    if identity is not None and identity["requested"] != asked["candidate"]:
        return f"the execute proof requests {short(identity['requested'])}, which is not the candidate"
    return None


def _ladder_is_whole(doc: Doc) -> str | None:
    ladder = doc["promotion"]["ladder"]
    if [rung["rung"] for rung in ladder] != list(RUNGS):
        return "the ladder does not list its seven rungs in order"
    lower = True
    for rung in ladder:
        if rung["held"] and not lower:
            return f"{rung['rung']} is held over a rung that is not"
        if not rung["held"] and ("proof_class" in rung or rung["evidence"]):
            return f"{rung['rung']} is not held and claims evidence"
        lower = rung["held"]
    return None


def _rungs_have_evidence(doc: Doc) -> str | None:
    known = frozenset(entry["name"] for entry in doc["evidence"])
    used: set[str] = set()
    for rung in doc["promotion"]["ladder"]:
        if not rung["held"]:
            continue
        problem = rung_problem(rung, known)
        if problem is not None:
            return problem
        if set(rung["evidence"]) <= used:
            return f"{rung['rung']} rests on nothing that a lower rung does not rest on already"
        used |= set(rung["evidence"])
    return None


def _executed_needs_proof(doc: Doc) -> str | None:
    held = {rung["rung"] for rung in doc["promotion"]["ladder"] if rung["held"]}
    identity = value_of(doc["promotion"]["execute_proof"])
    if "executed" in held and identity is None:
        return "executed is held and no execution was observed"
    if "dispatch_confirmed" not in held or identity is None:
        return None
    names = identity["names"]
    if (names["state"], names["level"]) != ("observed", "kernel"):
        return f"dispatch is confirmed by names that are {names['state']} at level {names['level']}"
    if value_of(identity["actual"]) != identity["requested"]:
        return "dispatch is confirmed and another backend ran"
    return None


def _parity_rungs_need_cases(doc: Doc) -> str | None:
    held = {rung["rung"] for rung in doc["promotion"]["ladder"] if rung["held"]}
    for rung, direction in (("fwd_parity", "forward"), ("bwd_parity", "backward")):
        cases = [case for case in doc["promotion"]["parity"] if case["direction"] == direction]
        if rung in held and not (cases and all(case["verdict"] == "pass" for case in cases)):
            return f"{rung} is held and not every {direction} case passed"
    return None


def _parity_has_power(doc: Doc) -> str | None:
    for case in doc["promotion"]["parity"]:
        weak = no_power(case)
        if case["verdict"] == "pass" and weak is not None:
            return f"parity case {short(case['name'])} is called a pass and {weak}"
    return None


def _parity_is_within_limits(doc: Doc) -> str | None:
    for case in doc["promotion"]["parity"]:
        limits = fro_limit(case["direction"], case["dense_fro"]), row_limit(case["dense_row"])
        if not (close(case["fro_limit"], limits[0]) and close(case["row_limit"], limits[1])):
            return f"parity case {short(case['name'])} is held to limits that are not the lane's"
        lse = value_of(case["lse_max_error"])
        within = case["fro"] <= limits[0] and case["row"] <= limits[1] and case["masks_equal"] and case["bitwise_equal"]
        within = within and (lse is None or lse <= LSE_LIMIT)
        if case["verdict"] == "pass" and not within:
            return f"parity case {short(case['name'])} is called a pass and is outside its limits"
        if case["verdict"] == "fail" and within:
            return f"parity case {short(case['name'])} is called a failure and is within its limits"
    return None


def _parity_is_the_matrix(doc: Doc) -> str | None:
    asked = doc["case"]["promotion"]["cases"]
    run = [(case["name"], case["direction"]) for case in doc["promotion"]["parity"]]
    if len(set(run)) != len(run):
        return "a parity case stands twice"
    unasked = [name for name, _ in run if name not in asked]
    if unasked:
        return f"the parity case {short(unasked[0])} was not asked for"
    wanted = {(name, "forward") for name in asked}
    if doc["case"]["promotion"]["direction"] == "backward":
        wanted |= {(name, "backward") for name in asked}
    if doc["promotion"]["promotion_ready"] and set(run) != wanted:
        return f"readiness is stated over {len(run)} parity cases where {len(wanted)} were asked for"
    return None


def _ready_is_computed(doc: Doc) -> str | None:
    missing, stated = owed(doc), doc["promotion"]["promotion_ready"]
    if stated and missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return f"promotion_ready is stated and {missing[0]}{more}"
    return None if stated or missing else "promotion_ready is denied and nothing is owed"


def _promoted_names_evidence(doc: Doc) -> str | None:
    part = doc["promotion"]
    if part["promotion_status"] == "promoted":
        if not part["promotion_ready"]:
            return "the status is promoted and the candidate is not ready"
        return None if part["promoted_on"] else "the status is promoted and no evidence is named"
    said = part["promotion_status"] == "rejected" or part["state"] == "shadow"
    return "records are named for a word that was not said" if part["promoted_on"] and not said else None


def _word_shows_its_basis(doc: Doc) -> str | None:
    """A rejection or a shadow by a person. What a run concludes of itself names no records, and is not judged here."""
    part = doc["promotion"]
    reason, word = part["state_reason"], _SPOKEN.get(part["state"])
    if not part["promoted_on"] or word is None:
        return (
            f"the reason is declared and nobody declared it: {short(reason)}" if reason.startswith(DECLARED) else None
        )
    if not any(finding["kind"] == word for finding in doc["findings"]):
        return f"the state is {part['state']} by a person, and nobody says so"
    named = {entry["digest"] for entry in doc["evidence"]}
    missing = [digest_ for digest_ in part["promoted_on"] if digest_ not in named]
    if missing:
        return f"{short(missing[0])} is named and is not in the evidence"
    if reason.startswith(DECLARED):
        return None
    if part["state"] == "shadow":
        return "a shadow is declared, and the reason is given as if it had been observed"
    slug = reason.partition(":")[0]
    if slug not in REJECTIONS:
        return f"the rejection is not declared, and {short(slug)} is nothing that is observed"
    failed = any(case["verdict"] == "fail" for case in part["parity"])
    if slug in _IN_NUMBERS and not failed:
        return f"{slug} is given as observed, and no parity case failed"
    if slug == "stop_rule_broken" and not any(value_of(stop["broken"]) is True for stop in part["stop_rules"]):
        return "a broken stop rule is given as observed, and none is"
    return None


def _state_follows(doc: Doc) -> str | None:
    part = doc["promotion"]
    held = [rung["rung"] for rung in part["ladder"] if rung["held"]]
    state, status = part["state"], part["promotion_status"]
    if (state == "promoted") != (status == "promoted") or (status == "rejected" and state != "rejected"):
        return f"the state is {state} and the status is {status}"
    if state in BESIDE_THE_LADDER or state == "promoted":
        return None
    if part["promotion_ready"]:
        return None if state == "ready" else f"the candidate is ready and the state is {state}"
    highest = held[-1] if held else None
    return None if state == highest else f"the state is {state} and the highest rung held is {highest}"


def _key_is_of_its_components(doc: Doc) -> str | None:
    key = doc["promotion"]["evidence_key"]
    computed = digest(encode(key["components"]))
    return None if key["digest"] == computed else "the evidence key is not the digest of its components"


def _stop_rules_are_whole(doc: Doc) -> str | None:
    listed = [entry["rule"] for entry in doc["promotion"]["stop_rules"]]
    if sorted(listed) != sorted(STOP_RULES):
        return "not every stop rule is listed exactly once"
    for entry in doc["promotion"]["stop_rules"]:
        if entry["limit"] > STOP_RULES[entry["rule"]].limit:
            return f"the stop rule {entry['rule']} is held to {entry['limit']}, looser than the lane's"
    return None


def _ok_ran_something(doc: Doc) -> str | None:
    part = doc["promotion"]
    nothing = not part["parity"] and value_of(part["execute_proof"]) is None
    turned_away = part["state"] in ("blocked", "compiled", "imported", "planned") or part["promoted_on"]
    return "the run ended ok and nothing was executed" if is_ok(doc) and nothing and not turned_away else None


def _receipt_needs_execution(doc: Doc) -> str | None:
    if is_receipt(doc) and value_of(doc["promotion"]["execute_proof"]) is None:
        return "outcome.receipt is true and no execution was observed"
    return None


#: The rules of the promotion lane. Order is the order of reports: readiness first.
PROMOTION_RULES: Final[tuple[Rule, ...]] = (
    Rule("ready-is-computed", "Readiness follows from evidence and cannot simply be said.", _ready_is_computed),
    Rule("promoted-names-evidence", "A promotion without evidence is an opinion.", _promoted_names_evidence),
    Rule("word-shows-its-basis", "What a person declares is not what was observed.", _word_shows_its_basis),
    Rule("rungs-have-evidence", "A plan, a flag or an import proves no execution.", _rungs_have_evidence),
    Rule("ladder-is-whole", "A rung over a missing one hides what was skipped.", _ladder_is_whole),
    Rule("executed-needs-proof", "Only kernels that were seen confirm a dispatch.", _executed_needs_proof),
    Rule("parity-rungs-need-cases", "A parity rung stands on every case of its direction.", _parity_rungs_need_cases),
    Rule("parity-has-power", "A case that no fault can fail is no proof.", _parity_has_power),
    Rule("parity-is-within-limits", "A limit is not widened until it fits.", _parity_is_within_limits),
    Rule("parity-is-the-matrix", "Cases left out are cases that may have failed.", _parity_is_the_matrix),
    Rule("stop-rules-are-whole", "A stop rule left out cannot stop anything.", _stop_rules_are_whole),
    Rule("state-follows", "One candidate stands in one place.", _state_follows),
    Rule("scope-mirrors-case", "An acceptance holds for what was tested and nothing else.", _scope_mirrors_case),
    Rule("key-is-of-its-components", "A stale key would keep an expired acceptance alive.", _key_is_of_its_components),
    Rule("ok-ran-something", "Status 0 without a single call is not health.", _ok_ran_something),
    Rule("receipt-needs-execution", "A verdict over nothing that ran is no verdict.", _receipt_needs_execution),
    *identity_rules(_identities),
    *DETACHED_RULES,
)
