"""Where every candidate stands, over all records of the promotion lane: what holds, what expired and why, what is owed.

One line a scope (candidate, family, surface, architecture, element type, direction). The newest evidence says what is
owed; the newest promotion says whether the candidate was accepted, and it holds only while nothing that it rests on has
changed: matrix and rule tables of this version, and, where newer evidence of the same scope exists, every component of
its key. What could not be looked at equals nothing, so that doubt expires. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lanemark.lanes.promoting import scope_of
from lanemark.lanes.promotion_record import expired_components, rule_tables
from lanemark.lanes.readiness import owed

Doc = dict[str, Any]


class Standing(NamedTuple):
    """One scope.

    Attributes:
        candidate, mode, surface, arch, dtype, direction: the scope.
        status: `promoted`, `expired`, or `none`.
        state: of the newest evidence; `none` where there is none.
        ready: whether the newest evidence owes nothing and was held to today's tables.
        owed: what the newest evidence owes, one phrase each.
        expired: components that changed since the promotion.
        cases: how many cases the newest evidence was asked.
        evidence_id, promotion_id: the records meant, or None.
        evidence_at, promoted_at: when they were sealed.
        because: the reason of the promotion, or None.
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
    evidence_at: str | None
    promoted_at: str | None
    because: str | None

    def to_json(self) -> Doc:
        """As plain JSON, without what is not there."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def standings(records: Iterable[tuple[str, Doc]], *, here: Doc | None = None) -> tuple[Standing, ...]:
    """Where each scope stands, in the order of its name.

    Args:
        records: (record id, predicate) of the promotion lane, in any order.
        here: components of a key as they are on this host now, where they were looked at; only the named ones count.
    """
    scopes: dict[tuple[str, ...], list[tuple[str, str, Doc]]] = {}
    for record_id, predicate in records:
        scopes.setdefault(scope_of(predicate), []).append((predicate["times"]["sealed_at"], record_id, predicate))
    out = []
    for scope in sorted(scopes):
        found = sorted(scopes[scope], key=lambda item: item[:2])
        evidence = [item for item in found if item[2]["promotion"]["promotion_status"] != "promoted"]
        moved = [item for item in found if item[2]["promotion"]["promotion_status"] == "promoted"]
        out.append(_standing(scope, evidence[-1] if evidence else None, moved[-1] if moved else None, here or {}))
    return tuple(out)


def _standing(
    scope: tuple[str, ...], evidence: tuple[str, str, Doc] | None, moved: tuple[str, str, Doc] | None, here: Doc
) -> Standing:
    missing: tuple[str, ...] = ("no evidence is left in this ledger",)
    state, cases = "none", 0
    newest = evidence or moved
    assert newest is not None
    if evidence is not None:
        part = evidence[2]["promotion"]
        missing, state = owed(evidence[2]), part["state"]
        cases = len(evidence[2]["case"]["promotion"]["cases"])
        if part["evidence_key"]["components"]["matrix"] != rule_tables():
            missing = (*missing, "it was held to another matrix or other rule tables than this version's")
    changed: tuple[str, ...] = ()
    if moved is not None:
        then = moved[2]["promotion"]["evidence_key"]["components"]
        now = {**then, **here, "matrix": rule_tables()}
        changed = expired_components(then, now)
        if evidence is not None and evidence[0] > moved[0]:
            later = evidence[2]["promotion"]["evidence_key"]["components"]
            changed = tuple(dict.fromkeys((*changed, *expired_components(then, later))))
    rejected = evidence is not None and moved is not None and evidence[0] > moved[0] and state == "rejected"
    status = "none" if moved is None else "expired" if changed or rejected else "promoted"
    return Standing(
        *scope, status=status, state=state, ready=not missing, owed=missing,  # type: ignore[misc, arg-type]
        expired=(*changed, "later_evidence_rejects") if rejected else changed, cases=cases,
        evidence_id=evidence[1] if evidence else None, promotion_id=moved[1] if moved else None,
        evidence_at=evidence[0] if evidence else None, promoted_at=moved[0] if moved else None,
        because=moved[2]["promotion"]["state_reason"] if moved else None,
    )  # fmt: skip
