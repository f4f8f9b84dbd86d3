"""May these two records be compared, for this metric and this question? Pure, and symmetric in the two.

The laws, each held by a test:

* lanes never mix, and a run is never compared with itself;
* every field has one role (`lanemark.lanes.shared_roles`), and one that has none blocks where it differs;
* unknown never equals unknown, so that taking an observation away never improves a verdict;
* what was asked for does not count, only what was observed;
* a question (`--vary`) admits factors, envelopes and covariates, never keys and never gates; more than one factor that
  really differs makes the question confounded;
* a few values of a key are circumstances of one thing, and differ with a caveat (`KINDRED`);
* a refusal for undeclared factors alone says which question would admit it. No figure is made without a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lanemark.judge.admission import Admitted
from lanemark.judge.facts import Derived, Facts
from lanemark.judge.metrics import metric_of
from lanemark.judge.table import Weight, rows_of
from lanemark.lanes.shared_roles import KINDRED
from lanemark.records.verdict import Reason, Severity, Verdict, ordered, word_for

#: Roles in which a difference, or not knowing, refuses a comparison.
BLOCKING: Final = frozenset({"key", "factor", "unlisted"})
_MAY_VARY: Final = frozenset({"factor", "envelope", "covariate"})
#: What a difference in a field of each role amounts to.
_DIFFERS: Final[dict[Weight, tuple[str, Severity]]] = {
    "key": ("KEY_MISMATCH", "block"),
    "factor": ("UNDECLARED_FACTOR", "block"),
    "envelope": ("OPAQUE_IMAGE_CHANGE", "caveat"),
    "covariate": ("COVARIATE_DIFFERS", "caveat"),
    "unlisted": ("UNLISTED_FIELD", "block"),
}


def compare(a: Admitted, b: Admitted, metric: str | None = None, vary: Sequence[str] = ()) -> Verdict:
    """The verdict on two records.

    Args:
        a: the one record, admitted.
        b: the other; which is which matters for the sides that reasons name, and for nothing else.
        metric: a metric of their lane; None for the lane's default.
        vary: names of factors, or paths of fields, that the question is about.

    Raises:
        KeyError: the lane has no such metric.
    """
    gates = [*a.reasons, *(reason.swapped() for reason in b.reasons)]
    if a.lane != b.lane or not a.lane:
        reason = Reason("DIFFERENT_LANE", "block", "lane", a=a.lane or None, b=b.lane or None)
        return _verdict("none", (), [*gates, reason], set())
    if not a.predicate or not b.predicate:
        return _verdict("none", (), gates, set())
    chosen = metric_of(a.lane, metric)
    run = a.predicate.get("run_id")
    if a.id == b.id or run == b.predicate.get("run_id"):
        gates.append(Reason("SAME_RUN", "block", "run_id", a=_short(run), b=_short(b.predicate.get("run_id"))))
    gates += _unmeasured(a, b, chosen.name)
    # A device that was not observed may have been a processor: its fields are then as strict as they can be.
    on_cpu = not {a.device_class, b.device_class}.isdisjoint({"cpu", None})
    return _compare_facts(
        a.facts(chosen.name, on_cpu=on_cpu), b.facts(chosen.name, on_cpu=on_cpu), chosen.name, vary, gates
    )


def _unmeasured(a: Admitted, b: Admitted, metric: str) -> list[Reason]:
    """A side that has no figure of the metric has nothing to compare."""
    chosen, found = metric_of(a.lane, metric), []
    for side, one in (("a", a), ("b", b)):
        try:
            values = chosen.read(one.predicate)
        except (KeyError, TypeError, AttributeError):
            values = {}
        if not values and metric != "none":
            found.append(Reason("MISSING_EVIDENCE", "block", metric, side))
    return found


def _compare_facts(a: Facts, b: Facts, metric: str, vary: Sequence[str], reasons: list[Reason]) -> Verdict:
    asked: set[str] = set()
    undeclared: set[str] = set()
    for path in _differing(a, b):
        in_a, in_b = path in a.values, path in b.values
        role, factor, unset = (a if in_a else b).spot(path)
        if (not in_a or not in_b) and not unset and role != "unlisted":
            if path not in a.unknown and path not in b.unknown:  # else said once, below
                reasons.append(_missing(path, role, "b" if in_a else "a", "the record lacks it"))
            continue
        if role in _MAY_VARY and vary and is_declared(path, factor, vary):
            asked.add(factor)
            continue
        if role == "factor":
            undeclared.add(factor)
        if path in KINDRED and all(value in sorted(KINDRED[path]) for value in (a.values[path], b.values[path])):
            role = "covariate"
        code, severity = _DIFFERS[role]
        sides = [_short(side.values[path]) if path in side.values else "not set" for side in (a, b)]
        reasons.append(Reason(code, severity, path, a=sides[0], b=sides[1]))
    for path, why in a.unknown.items():
        reasons.append(_missing(path, a.spot(path).role, "both" if path in b.unknown else "a", why))
    reasons += [_missing(path, b.spot(path).role, "b", why) for path, why in b.unknown.items() if path not in a.unknown]
    for name in vary:
        if not any(is_declared(path, factor, (name,)) for path, factor in _asked(a, b, asked)):
            reasons.append(Reason("VARIED_NOTHING", "caveat", name))
    return _verdict(metric, tuple(sorted(asked)), reasons, undeclared)


def _differing(a: Facts, b: Facts) -> list[str]:
    """The paths at which both have other values, or only one has any."""
    x, y = a.values, b.values
    if x == y:
        return []
    found = [path for path, value in x.items() if path not in y or y[path] != value]
    found += [path for path in y if path not in x]
    # Among the few that differ: what Lanemark set by itself on both sides, or on one and not at all on the other.
    return [path for path in found if not all(type(side[path]) is Derived for side in (x, y) if path in side)]


def _asked(a: Facts, b: Facts, asked: set[str]) -> Iterable[tuple[str, str]]:
    """The fields of declared factors that differ, with the factors."""
    for path in _differing(a, b) if asked else ():
        factor = (a if path in a.values else b).spot(path).factor
        if factor in asked:
            yield path, factor


def is_declared(path: str, factor: str, vary: Iterable[str]) -> bool:
    """Whether a field or its factor is named by a question: exactly, or by something that it lies within."""
    return any(
        name in (factor, path) or factor.startswith(f"{name}.") or path.startswith((f"{name}.", f"{name}["))
        for name in vary
    )


def may_vary(lane: str, name: str, sides: Sequence[Admitted]) -> str | None:
    """Why `--vary NAME` cannot be meant for these records; None when it can. Raises KeyError for what is no lane."""
    roles = {row.role for row in rows_of(lane) if is_declared(row.path, row.factor, (name,))}
    if roles & _MAY_VARY:
        return None
    for side in sides:
        facts = side.facts(metric_of(lane).name, on_cpu=False)
        for path in facts.values:
            spot = facts.spot(path)
            if spot.role in _MAY_VARY and is_declared(path, spot.factor, (name,)):
                return None
    if "key" in roles:
        return "must be equal on both sides, whatever is asked"
    return "is ignored by every comparison" if roles else "is no field or factor of this lane"


def factors_of(lane: str) -> tuple[str, ...]:
    """The names that `--vary` takes in a lane, but for those of single variables and packages."""
    return tuple(sorted({row.factor or row.path for row in rows_of(lane) if row.role == "factor"}))


def _missing(path: str, role: Weight, side: str, why: str) -> Reason:
    severity: Severity = "block" if role in BLOCKING else "caveat"
    return Reason("MISSING_EVIDENCE", severity, path, side, detail=why[:120])


def _short(value: Any) -> str:
    if isinstance(value, str):
        text = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except TypeError:
            text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _verdict(metric: str, question: tuple[str, ...], reasons: list[Reason], undeclared: set[str]) -> Verdict:
    if len(question) > 1:
        reasons.append(Reason("CONFOUNDED_QUESTION", "caveat", "", detail=", ".join(question)))
    listed = ordered(reasons) if reasons else ()
    word = word_for(listed)
    unblock: tuple[str, ...] | None = ()
    if word == "not_comparable":
        others = any(reason.severity == "block" and reason.code != "UNDECLARED_FACTOR" for reason in listed)
        unblock = None if others else tuple(sorted({*undeclared, *question}))
    return Verdict(word, metric, question, listed, unblock)
