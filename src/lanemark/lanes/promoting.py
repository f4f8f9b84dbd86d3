"""Moving where a candidate stands: a person names the evidence and says why, and a new record is sealed. Pure.

Three words can be said: `promoted`, `rejected`, and `shadow` (watched, and taking no part). The new record states again
what one of the named records observed, and adds who it rests on. Nothing that was observed is changed, and nothing
becomes more ready by it: a record that owes something cannot be promoted, whatever the reason given.

What a person says is never put where something observed stands. A rejection rests on a record that was itself rejected,
whose reason it keeps, or it is *declared*: then its reason begins with that word, in every listing. `shadow` is always
declared. What was measured before a rejection or a shadow promotes nothing any more; a promotion after it rests on runs
that began later, and names it.

The named records stand in the new one's evidence by digest.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

from lanemark.lanes.promotion_record import expired_components, rule_tables
from lanemark.lanes.readiness import owed
from lanemark.lanes.rules import broken_rules
from lanemark.records.errors import RecordError
from lanemark.records.finding import Finding
from lanemark.records.observation import value_of
from lanemark.records.terms import DECLARED

Doc = dict[str, Any]
#: A record and its id.
Named = tuple[str, Doc]
Word = Literal["promoted", "rejected", "shadow"]
WORDS: Final[tuple[Word, ...]] = get_args(Word)
_MOST_WORDS: Final = 1000


class Said(NamedTuple):
    """What a person says beside the evidence.

    Attributes:
        because: the reason.
        run_id: of the new record.
        at: when it is sealed, RFC 3339.
        evidence: entries that name the named records' own files (`schema_envelope` Evidence), and the files of `after`.
    """

    because: str
    run_id: str
    at: str
    evidence: Sequence[Doc]


def scope_of(predicate: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """What an acceptance holds for: candidate, mode, surface, architecture, element type, direction."""
    part = predicate["promotion"]
    scope = part["scope"]
    return (
        part["candidate"]["name"], part["mode"], scope["surface"], value_of(scope["arch"]) or "unknown", scope["dtype"],
        scope["direction"],
    )  # fmt: skip


def word_of(predicate: Mapping[str, Any]) -> Word | None:
    """The word that a record is, or None for a record of a run."""
    part = predicate["promotion"]
    if part["promotion_status"] in ("promoted", "rejected"):
        return part["promotion_status"]  # type: ignore[no-any-return]
    return "shadow" if part["state"] == "shadow" and part["promoted_on"] else None


def refusal_of(records: Iterable[Named], scope: tuple[str, ...]) -> Named | None:
    """The newest rejection or shadow of a scope: what was measured before it promotes nothing."""
    found = [item for item in records if scope_of(item[1]) == scope and word_of(item[1]) in ("rejected", "shadow")]
    return max(found, key=lambda item: (item[1]["times"]["sealed_at"], item[0]), default=None)


def is_after(predicate: Mapping[str, Any], refusal: Mapping[str, Any]) -> bool:
    """Whether a run began after a rejection or a shadow was sealed."""
    return bool(predicate["times"]["prepared_at"] > refusal["times"]["sealed_at"])


def refuse(what: str, remedy: str) -> RecordError:
    return RecordError("promotion-refused", what, remedy)


def _short(record_id: str) -> str:
    return record_id.removeprefix("sha256:")[:12]


def check_evidence(record_id: str, predicate: Doc) -> None:
    """A word rests on records of runs of this lane that keep every rule. Raises RecordError `promotion-refused`."""
    short = _short(record_id)
    if predicate.get("lane") != "promotion":
        raise refuse(f"{short} is no record of the promotion lane", "name records of `lanemark run promotion`")
    broken = broken_rules(predicate)
    if broken:
        raise refuse(f"{short} breaks the rule {broken[0].rule}: {broken[0].problem}", "name a record that verifies")
    if word_of(predicate) is not None:
        raise refuse(f"{short} is itself a word on a promotion", "name the records of the runs that it rests on")


def check_promotable(record_id: str, predicate: Doc) -> None:
    """A record can be promoted on when it can be named, is ready, and rests on today's tables.

    Raises:
        RecordError: `promotion-refused`, naming what is owed.
    """
    short = _short(record_id)
    check_evidence(record_id, predicate)
    part = predicate["promotion"]
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


def promoted(named: Sequence[Named], said: Said, *, after: Named | None = None) -> Doc:
    """The predicate of the promotion that rests on the named records.

    Args:
        named: newest first; the first is stated again.
        said: by whoever promotes.
        after: the newest rejection or shadow of the scope, where there is one (`refusal_of`).

    Raises:
        RecordError: `promotion-refused`.
    """
    _check_reason(said, "a promotion")
    for record_id, predicate in named:
        check_promotable(record_id, predicate)
    _check_one_scope(named)
    first = named[0][1]
    for _, predicate in named[1:]:
        keys = [doc["promotion"]["evidence_key"]["components"] for doc in (predicate, first)]
        changed = expired_components(keys[0], keys[1])
        if changed:
            raise refuse(
                f"the named records rest on different things ({', '.join(changed)})", "name records of one evidence key"
            )
    lines: list[str] = []
    if after is not None:
        when = after[1]["times"]["sealed_at"]
        for record_id, predicate in named:
            if not is_after(predicate, after[1]):
                raise refuse(
                    f"{_short(record_id)} was begun before {_short(after[0])} said {word_of(after[1])} of its scope "
                    f"({when[:19]})",
                    "run the candidate again and name the new record",
                )
        lines.append(f"after {after[0]}, which said {word_of(after[1])} at {when}")
    because = f"promoted by a person: {said.because.strip()}"
    doc = _word(named, first, said, Finding("promoted_by_person", "note", _spoken("promoted", said), tuple(lines)))
    doc["promotion"].update(state="promoted", state_reason=because, promotion_status="promoted")
    return doc


def rejected(named: Sequence[Named], said: Said, *, declared: bool = False) -> Doc:
    """The predicate of the rejection that rests on the named records.

    Args:
        named: newest first. The newest that shows a failure is stated again; the newest of all where none does.
        said: by whoever rejects.
        declared: that no named record shows a failure, and the reason is the person's alone.

    Raises:
        RecordError: `promotion-refused`: neither shown nor declared, or both.
    """
    _check_reason(said, "a rejection")
    _check_named(named)
    shown = next((item for item in named if item[1]["promotion"]["state"] == "rejected"), None)
    if shown is None and not declared:
        raise refuse(
            f"{_short(named[0][0])} is {named[0][1]['promotion']['state']}, and no named record shows a failure",
            "name one that is rejected, or add --declared: the record then says that the reason is yours",
        )
    if shown is not None and declared:
        raise refuse(
            f"{_short(shown[0])} shows a failure ({shown[1]['promotion']['state_reason'][:80]}), which is no mere word",
            "leave --declared out",
        )
    if shown is None:
        reason, line = f"{DECLARED}{said.because.strip()}", "declared by a person: no named record shows a failure"
    else:
        reason = shown[1]["promotion"]["state_reason"]
        line = f"observed in {shown[0]}: {reason}"[:_MOST_WORDS]
    finding = Finding("rejected_by_person", "note", _spoken("rejected", said), (line,))
    doc = _word(named, (shown or named[0])[1], said, finding)
    doc["promotion"].update(state="rejected", state_reason=reason, promotion_status="rejected")
    doc["promotion"]["promotion_ready"] = owed(doc) == ()
    return doc


def shadowed(named: Sequence[Named], said: Said) -> Doc:
    """The predicate that puts a candidate into the shadow: it is watched and advances no further. Always declared.

    Raises:
        RecordError: `promotion-refused`.
    """
    _check_reason(said, "a shadow")
    _check_named(named)
    line = "declared by a person: the candidate is watched and takes no part"
    doc = _word(named, named[0][1], said, Finding("shadowed_by_person", "note", _spoken("shadow", said), (line,)))
    reason = f"{DECLARED}{said.because.strip()}"
    doc["promotion"].update(state="shadow", state_reason=reason, promotion_status="none")
    doc["promotion"]["promotion_ready"] = owed(doc) == ()
    return doc


def _word(named: Sequence[Named], stated: Doc, said: Said, finding: Finding) -> Doc:
    """A record stated again, with who says what beside it, and on which records."""
    doc = copy.deepcopy(stated)
    doc["run_id"] = said.run_id
    doc["times"]["sealed_at"] = said.at
    doc["evidence"] = [*doc["evidence"], *said.evidence]
    doc["findings"] = [*doc["findings"], finding.to_json()]
    doc["promotion"]["promoted_on"] = [record_id for record_id, _ in named]
    return doc


def _spoken(word: Word, said: Said) -> str:
    return f"{word}: {said.because.strip()}"[:_MOST_WORDS]


def _check_reason(said: Said, what: str) -> None:
    if not said.because.strip() or len(said.because) > _MOST_WORDS:
        raise refuse(f"{what} needs a reason of 1 to {_MOST_WORDS} characters", "give one with --because")


def _check_named(named: Sequence[Named]) -> None:
    for record_id, predicate in named:
        check_evidence(record_id, predicate)
    _check_one_scope(named)


def _check_one_scope(named: Sequence[Named]) -> None:
    first_id, first = named[0]
    for record_id, predicate in named[1:]:
        if scope_of(predicate) != scope_of(first):
            raise refuse(
                f"{_short(record_id)} is of {', '.join(scope_of(predicate))} and {_short(first_id)} of "
                f"{', '.join(scope_of(first))}",
                "name the records of one scope at a time: an acceptance holds for one",
            )
