"""Where every candidate stands, over all records of the promotion lane: what holds, what expired and why, what is owed.

One line a scope (candidate, family, surface, architecture, element type, direction). The newest evidence says what is
owed; the newest word of a person says whether the candidate was accepted, rejected or put into the shadow. A promotion
holds only while nothing that it rests on has changed: matrix and rule tables of this version, and, where newer evidence
of the same scope exists, every component of its key. What could not be looked at equals nothing, so that doubt expires.
A rejection and a shadow never expire: they hold until a promotion rests on runs that began after them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lanemark.lanes.promoting import is_after, refusal_of, scope_of, word_of
from lanemark.lanes.promotion_record import expired_components, rule_tables
from lanemark.lanes.readiness import owed
from lanemark.records.terms import DECLARED

Doc = dict[str, Any]


class Standing(NamedTuple):
    """One scope.

    Attributes:
        candidate, mode, surface, arch, dtype, direction: the scope.
        status: `promoted`, `expired`, `rejected`, `shadow`, or `none`.
        state: of the newest evidence; `none` where there is none.
        ready: whether the newest evidence owes nothing, was held to today's tables, and began after any rejection.
        owed: what the newest evidence owes, one phrase each.
        expired: components that changed since the promotion.
        cases: how many cases the newest evidence was asked.
        evidence_id, promotion_id, refusal_id: the records meant, or None; the last is of a rejection or a shadow,
            given only while it is the newest word.
        evidence_at, promoted_at, refused_at: when they were sealed.
        because: the reason of the newest word, or None.
        basis: of a rejection or a shadow: `observed` in a named record, or `declared` by a person.
    """

    candidate: str
    mode: str
    surface: str
    arch: str
    dtype: str
    direction: str
    status: str
    state: str
    ready: bool
    owed: tuple[str, ...]
    expired: tuple[str, ...]
    cases: int
    evidence_id: str | None
    promotion_id: str | None
    refusal_id: str | None
    evidence_at: str | None
    promoted_at: str | None
    refused_at: str | None
    because: str | None
    basis: str | None

    def to_json(self) -> Doc:
        """As plain JSON, without what is not there."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def standings(records: Iterable[tuple[str, Doc]], *, here: Doc | None = None) -> tuple[Standing, ...]:
    """Where each scope stands, in the order of its name.

    Args:
        records: (record id, predicate) of the promotion lane, in any order.
        here: components of a key as they are on this host now, where they were looked at; only the named ones count.
    """
    scopes: dict[tuple[str, ...], list[Entry]] = {}
    for record_id, predicate in records:
        scopes.setdefault(scope_of(predicate), []).append(Entry(predicate["times"]["sealed_at"], record_id, predicate))
    return tuple(_standing(scope, scopes[scope], here or {}) for scope in sorted(scopes))


class Entry(NamedTuple):
    """A record with what orders it."""

    at: str
    record_id: str
    predicate: Doc


def _newest(entries: Iterable[Entry]) -> Entry | None:
    """Of words that were said in the same millisecond the one that refuses: doubt does not promote."""
    return max(entries, key=lambda each: (each.at, word_of(each.predicate) != "promoted", each.record_id), default=None)


def _standing(scope: tuple[str, ...], entries: list[Entry], here: Doc) -> Standing:
    evidence = _newest(each for each in entries if word_of(each.predicate) is None)
    said = _newest(each for each in entries if word_of(each.predicate) is not None)
    word = None if said is None else word_of(said.predicate)
    promotion, refusal = (said, None) if word == "promoted" else (None, said)
    missing: tuple[str, ...] = ("no evidence is left in this ledger",)
    state, cases = "none", 0
    if evidence is not None:
        part = evidence.predicate["promotion"]
        missing, state = owed(evidence.predicate), part["state"]
        cases = len(evidence.predicate["case"]["promotion"]["cases"])
        if part["evidence_key"]["components"]["matrix"] != rule_tables():
            missing = (*missing, "it was held to another matrix or other rule tables than this version's")
        before = refusal_of([(each.record_id, each.predicate) for each in entries], scope)
        if before is not None and not is_after(evidence.predicate, before[1]):
            what = "rejection" if word_of(before[1]) == "rejected" else "shadow"
            missing = (*missing, f"a run that begins after the {what} of {before[1]['times']['sealed_at'][:19]}")
    expired = () if promotion is None else _expired(promotion, evidence, here)
    status = "expired" if expired else word or "none"
    spoken = None if said is None else said.predicate["promotion"]["state_reason"]
    return Standing(
        *scope, status=status, state=state, ready=not missing, owed=missing,  # type: ignore[misc, arg-type]
        expired=expired, cases=cases,
        evidence_id=evidence.record_id if evidence else None, evidence_at=evidence.at if evidence else None,
        promotion_id=promotion.record_id if promotion else None, promoted_at=promotion.at if promotion else None,
        refusal_id=refusal.record_id if refusal else None, refused_at=refusal.at if refusal else None,
        because=_because(said), basis=_basis(spoken) if refusal else None,
    )  # fmt: skip


def _expired(promotion: Entry, evidence: Entry | None, here: Doc) -> tuple[str, ...]:
    """What a promotion rests on and has changed since, and whether later evidence rejects."""
    then = promotion.predicate["promotion"]["evidence_key"]["components"]
    changed = expired_components(then, {**then, **here, "matrix": rule_tables()})
    if evidence is None or evidence.at <= promotion.at:
        return changed
    later = evidence.predicate["promotion"]
    changed = tuple(dict.fromkeys((*changed, *expired_components(then, later["evidence_key"]["components"]))))
    return (*changed, "later_evidence_rejects") if later["state"] == "rejected" else changed


def _basis(reason: str | None) -> str:
    return "declared" if reason is not None and reason.startswith(DECLARED) else "observed"


def _because(said: Entry | None) -> str | None:
    """A person's reason. A rejection on evidence keeps what was observed as its reason, and has theirs in a finding."""
    if said is None:
        return None
    part, spoken = said.predicate["promotion"], {"rejected": "rejected_by_person", "shadow": "shadowed_by_person"}
    kind = spoken.get(part["state"])
    theirs = [finding["summary"] for finding in said.predicate["findings"] if finding["kind"] == kind]
    if not theirs:
        return str(part["state_reason"])
    words = theirs[-1].partition(": ")[2]
    return words if part["state_reason"].startswith(DECLARED) else f"{part['state_reason']}; {words}"
