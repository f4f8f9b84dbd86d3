"""Ask a record every rule of its lane. The rules themselves are tables: `shared_rules` and one table a lane.

A well-formed record can still lie, and a schema cannot tell. Each rule looks at the plain JSON of a record's predicate
and answers None or the problem in one sentence. They are asked twice: by the sealing code before the bytes are fixed,
and by everyone who verifies the record later.

Rules judge one record by itself. Whether two may be compared is `lanemark.judge`.
"""

from __future__ import annotations

from functools import cache

from lanemark.lanes.rule import Broken, Doc, Judged, Rule
from lanemark.lanes.shared_rules import SHARED_RULES
from lanemark.records.encoding import Survey


@cache
def rules_of(lane: object) -> tuple[Rule, ...]:
    """The rules of one lane, its own first; the shared ones alone for what names no lane. Order is that of reports.

    A lane's table is imported when it is first asked for: whoever seals a training record has no use for the others,
    and leaving a record is on the clock.
    """
    if lane == "training":
        from lanemark.lanes.training_rules import TRAINING_RULES

        return (*TRAINING_RULES, *SHARED_RULES)
    if lane == "sparse":
        from lanemark.lanes.sparse_rules import SPARSE_RULES

        return (*SPARSE_RULES, *SHARED_RULES)
    if lane == "promotion":
        from lanemark.lanes.promotion_rules import PROMOTION_RULES

        return (*PROMOTION_RULES, *SHARED_RULES)
    return SHARED_RULES


def broken_rules(predicate: Doc, survey: Survey | None = None) -> tuple[Broken, ...]:
    """Every rule that the record breaks, in the order of its lane's table; empty when it keeps them all.

    Never raises: a record that a rule cannot even read breaks that rule, and one of no lane breaks `lane-part-alone`
    among others.

    Args:
        predicate: the `predicate` of the statement, as plain JSON.
        survey: of the predicate or of the statement around it, where the caller has it.
    """
    broken = []
    lane = predicate.get("lane") if isinstance(predicate, dict) else None
    if isinstance(predicate, dict):
        predicate = Judged(predicate, survey)
    for rule in rules_of(lane if isinstance(lane, str) else None):
        try:
            problem = rule.check(predicate)
        except Exception as error:  # the document is not even shaped like a record; that is no reason to pass it
            problem = f"cannot be judged ({type(error).__name__}: {str(error)[:80]})"
        if problem is not None:
            broken.append(Broken(rule.name, rule.why, problem))
    return tuple(broken)
