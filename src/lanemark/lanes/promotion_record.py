"""A whole record of the promotion lane from an attempt's facts. Pure: the same facts always give the same predicate.

The worker's `result.json` holds numbers and names; rungs, verdicts and the state are concluded here and in the modules
beside it, and `readiness.owed` is asked last, over the finished predicate. A worker that writes "ready" into its result
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from lanemark.lanes.outcome import outcome_part, provenance_findings
from lanemark.lanes.promotion_claims import CANDIDATES
from lanemark.lanes.promotion_ladder import Standing, standing
from lanemark.lanes.promotion_matrix import DENSE, MATRIX, SPARSE
from lanemark.lanes.promotion_parity import REPEATS
from lanemark.lanes.readiness import MUTANTS, owed
from lanemark.lanes.reports import AttemptFacts, looked_up
from lanemark.lanes.without_steps import Frame, collector_part, frame, remote_part
from lanemark.records import terms
from lanemark.records.encoding import digest, encode
from lanemark.records.observation import observed, unavailable, value_of
from lanemark.records.questions import PromotionAsked

Doc = dict[str, Any]
_ABSENT: Final = "absent"
_UNSEEN: Final = "unavailable"


def promotion_predicate(facts: AttemptFacts) -> Doc:
    """The predicate of one record of the promotion lane (`lanemark.records.schema.PromotionPredicate`)."""
    asked = facts.case.promotion
    assert asked is not None
    around = frame(facts)
    result = (facts.ranks[0].result if facts.ranks else None) or {}
    names = [item.name for item in facts.evidence]
    try:
        stands = standing(asked.to_json(), result, names)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        # Of another shape: it is as if it had not been written, and nothing is held.
        result = {}
        stands = standing(asked.to_json(), result, names)
    part = promotion_part(facts, asked, around, result, stands)
    can_quote, why = receipt(facts, around, part)
    predicate = {**around.predicate, "outcome": outcome_part(facts, can_quote, why), "promotion": part}
    predicate["findings"] = [item.to_json() for item in (*around.findings, *provenance_findings(predicate))]
    missing = owed(predicate)
    part["promotion_ready"] = not missing
    if part["state"] == "ready" and missing:  # every rung is held, and something beside the ladder is missing
        part["state"] = [rung["rung"] for rung in part["ladder"] if rung["held"]][-1]
        part["state_reason"] = f"owes: {missing[0]}"
    return predicate


def promotion_part(facts: AttemptFacts, asked: PromotionAsked, around: Frame, result: Doc, stands: Standing) -> Doc:
    """The `promotion` part (`lanemark.records.schema_promotion.PromotionPart`), with readiness still denied."""
    applies = result.get("applicability") or {}
    remote = remote_part(facts)
    source = looked_up(result, "source_digest", "candidate")
    return {
        "mode": asked.mode,
        "candidate": {
            "name": asked.candidate,
            "source_digest": source,
            "applicable": (
                observed(bool(applies["applies"]), "applicability matrix over the worker's device")
                if isinstance(applies.get("applies"), bool)
                else unavailable("applicability matrix", "the worker did not get as far as asking it")
            ).to_json(),
            "applicable_reason": _applicable_reason(applies),
        },
        "scope": {
            "surface": facts.case.surface,
            "arch": remote["arch"],
            "dtype": facts.case.dtype,
            "direction": asked.direction,
        },
        "ladder": stands.ladder,
        "state": stands.state,
        "state_reason": stands.reason,
        "execute_proof": stands.identity.to_json(),
        "parity": stands.parity,
        "stop_rules": stands.stop_rules,
        "promotion_ready": False,
        "promotion_status": "none",
        "promoted_on": [],
        "evidence_key": evidence_key(key_components(around.predicate, asked.candidate, source, remote, result)),
        "wave": {
            "name": (facts.manifest.get("placement") or {}).get("wave") or f"alone-{facts.manifest['run_id']}",
            "manifest": unavailable(
                "wave manifest", "it is written once all of the wave's records are sealed"
            ).to_json(),
        },
        "import_health": list(result.get("import_health") or []),
        "remote": remote,
        "collector": collector_part(facts),
        "does_not_prove": does_not_prove(asked, around.device_class),
    }


def _applicable_reason(applies: Mapping[str, Any]) -> str:
    words = str(applies.get("words") or "nothing was planned")
    return words if applies.get("reason") in (None, "covered") else f"{applies['reason']}: {words}"


def rule_tables() -> str:
    """Matrix and rule tables by name and digest: a changed limit or case is another test, whoever wrote the number."""
    tables = {
        "matrix": [MATRIX, *DENSE, *SPARSE], "mutants": list(MUTANTS), "repeats": dict(REPEATS),
        "rungs": dict(terms.RUNG_NEEDS), "stop_rules": {key: list(rule) for key, rule in terms.STOP_RULES.items()},
        "limits": [
            terms.FRO_FACTOR, terms.FRO_CEILING, terms.FRO_FLOOR, terms.ROW_FACTOR, terms.ROW_SLACK,
            terms.GRADIENT_FRO_FACTOR, terms.GRADIENT_FRO_CEILING, terms.LSE_LIMIT,
        ],
        "claims": {name: asdict(claims) for name, claims in CANDIDATES.items()},
    }  # fmt: skip
    return f"{MATRIX}+{digest(encode(tables)).removeprefix('sha256:')[:16]}"


def key_components(predicate: Doc, candidate: str, source: Doc, remote: Doc, result: Doc) -> dict[str, str]:
    """What an acceptance rests on, as text (`lanemark.records.schema_promotion.KeyComponentsPart`).

    What could not be looked at is written `unavailable`, and equals nothing: see `expired_components`.
    """
    claims = CANDIDATES.get(candidate)
    wanted = set(claims.packages if claims is not None else ("torch",))
    versions = {
        entry["name"]: [_text(entry["version"]), _text(entry["record_digest"])]
        for entry in predicate["toolchain"]["packages"]
        if entry["name"] in wanted and entry["name"] != "torch"
    }
    selectors = result.get("selectors")
    hardware = predicate["hardware"]["observed"]
    return {
        "image": _text(predicate["image"]["digest"]),
        "driver": _text(hardware["driver"]),
        "torch": _text(remote["torch"]),
        "cuda": _text(hardware["cuda"]),
        "packages": digest(encode(versions)) if versions else _ABSENT,
        "kernel_source": _text(source),
        "selectors": digest(encode(selectors)) if isinstance(selectors, dict) else _UNSEEN,
        "matrix": rule_tables(),
    }


def _text(observation: Doc) -> str:
    value = value_of(observation)
    if value is not None:
        return str(value)
    return _ABSENT if observation["status"] == "absent" else _UNSEEN


def evidence_key(components: dict[str, str]) -> Doc:
    """The components with the digest that names them (`lanemark.records.schema_promotion.EvidenceKeyPart`)."""
    return {"digest": digest(encode(components)), "components": components}


def expired_components(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Which components no longer hold. What could not be looked at, then or now, does not hold: it equals nothing.

    Of the image that is not so: most hosts are told none, and the components beside it stand for what it would say.
    """
    return tuple(
        name for name, value in then.items() if now.get(name) != value or (value == _UNSEEN and name != "image")
    )


def receipt(facts: AttemptFacts, around: Frame, part: Doc) -> tuple[bool, str]:
    """Whether the record's word on the candidate may be quoted: pass, fail or not yet, and why."""
    if facts.state != "ok":
        return False, f"the run ended as {facts.state}"
    for report in facts.ranks:
        if not report.clean:
            return False, f"rank {report.rank} left no clean end marker"
    if part["execute_proof"]["status"] != "observed":
        return False, f"nothing was executed: {part['state_reason']}"[:500]
    if around.substituted is not None:
        return False, around.substituted
    return True, f"{part['state']}: {part['state_reason']}"[:500]


def does_not_prove(asked: PromotionAsked, device_class: str | None) -> list[str]:
    """The sentences a reader must not read into this record, most general first."""
    said = [
        "any speed: nothing was timed",
        "that the training or the sparse lane is healthy, on this image or any other",
        f"anything about cases of {MATRIX} that were not asked for: {len(asked.cases)} were",
        f"anything about a device class other than the one observed ({device_class or 'none was observed'})",
        "that a model which chooses its kernel itself takes this one: it was called by name",
    ]
    if asked.direction == "forward":
        said.append("anything about gradients: only the forward direction was asked for")
    if device_class == "cpu":
        said.append("that any kernel was dispatched: on a CPU operators are seen, and only a device's kernels confirm")
    return said
