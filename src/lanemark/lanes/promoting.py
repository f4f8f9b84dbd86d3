"""Moving `promotion_status`: a person names the evidence and says why, and a new record is sealed. Pure.

The new record states again what the newest of the named records observed, and adds who it rests on. Nothing that was
observed is changed, and nothing becomes more ready by it: a record that owes something cannot be promoted, whatever the
reason given. The named records stand in its evidence by digest.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lanemark.lanes.promotion_record import expired_components, rule_tables
from lanemark.lanes.readiness import owed
from lanemark.lanes.rules import broken_rules
from lanemark.records.errors import RecordError
from lanemark.records.finding import Finding
from lanemark.records.observation import value_of

Doc = dict[str, Any]
_MOST_WORDS: Final = 1000


def scope_of(predicate: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """What an acceptance holds for: candidate, mode, surface, architecture, element type, direction."""
    part = predicate["promotion"]
    scope = part["scope"]
    return (
        part["candidate"]["name"], part["mode"], scope["surface"], value_of(scope["arch"]) or "unknown", scope["dtype"],
        scope["direction"],
    )  # fmt: skip


def refuse(what: str, remedy: str) -> RecordError:
    return RecordError("promotion-refused", what, remedy)


def check_promotable(record_id: str, predicate: Doc) -> None:
    """A record can be promoted on when it is of this lane, keeps every rule, is ready, and rests on today's tables.

    Raises:
        RecordError: `promotion-refused`, naming what is owed.
    """
    short = record_id.removeprefix("sha256:")[:12]
    if predicate.get("lane") != "promotion":
        raise refuse(f"{short} is no record of the promotion lane", "name records of `lanemark run promotion`")
    broken = broken_rules(predicate)
    if broken:
        raise refuse(f"{short} breaks the rule {broken[0].rule}: {broken[0].problem}", "name a record that verifies")
    part = predicate["promotion"]
    if part["promotion_status"] != "none":
        raise refuse(f"{short} is itself a word on a promotion", "name the records of the runs that it rests on")
    missing = owed(predicate)
    if missing or part["promotion_ready"] is not True:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise refuse(
            f"{short} is {part['state']} and not ready: {missing[0] if missing else 'it says so'}{more}",
            "see `lanemark promotion status` for what is owed",
        )
    tables = part["evidence_key"]["components"]["matrix"]
    if tables != rule_tables():
        raise refuse(
            f"{short} was held to the matrix and rule tables {tables}, and these are {rule_tables()}",
            "run the wave again with this version",
        )


def promoted(named: Sequence[tuple[str, Doc]], because: str, *, run_id: str, at: str, evidence: Sequence[Doc]) -> Doc:
    """The predicate of the promotion that rests on the named records.

    Args:
        named: (record id, predicate) each, newest first; the first is stated again.
        because: a person's reason.
        run_id: of the new record.
        at: when it is sealed, RFC 3339.
        evidence: entries that name the records' own files (`schema_envelope` Evidence).

    Raises:
        RecordError: `promotion-refused`.
    """
    if not because.strip() or len(because) > _MOST_WORDS:
        raise refuse(f"a promotion needs a reason of 1 to {_MOST_WORDS} characters", "give one with --because")
    for record_id, predicate in named:
        check_promotable(record_id, predicate)
    first = named[0][1]
    for record_id, predicate in named[1:]:
        if scope_of(predicate) != scope_of(first):
            raise refuse(
                f"{record_id.removeprefix('sha256:')[:12]} is of {', '.join(scope_of(predicate))} and "
                f"{named[0][0].removeprefix('sha256:')[:12]} of {', '.join(scope_of(first))}",
                "promote them one by one: an acceptance holds for one scope",
            )
        keys = [doc["promotion"]["evidence_key"]["components"] for doc in (predicate, first)]
        changed = expired_components(keys[0], keys[1])
        if changed:
            raise refuse(
                f"the named records rest on different things ({', '.join(changed)})", "name records of one evidence key"
            )
    doc = copy.deepcopy(first)
    doc["run_id"] = run_id
    doc["times"]["sealed_at"] = at
    doc["evidence"] = [*doc["evidence"], *evidence]
    said = Finding("promoted_by_person", "note", f"promoted: {because.strip()}"[:_MOST_WORDS])
    doc["findings"] = [*doc["findings"], said.to_json()]
    doc["promotion"].update(
        state="promoted", state_reason=f"promoted by a person: {because.strip()}", promotion_status="promoted",
        promoted_on=[record_id for record_id, _ in named],
    )  # fmt: skip
    return doc
