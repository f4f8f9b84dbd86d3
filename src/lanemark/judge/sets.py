"""Two sets of runs against each other: every run with every other, then what their figures say. Pure.

All runs of one side must be runs of one thing. Each is compared with each other run of its side, without any question,
and what would refuse those two refuses the set (`MIXED_SIDE`). Then every run of A is compared with every run of B; the
verdict is the worst of all and has all their reasons. Only after that, and only if nothing refuses, is there an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lanemark.judge.admission import Admitted
from lanemark.judge.comparing import compare
from lanemark.judge.effect import Effect, effect
from lanemark.judge.metrics import metric_of
from lanemark.judge.series import values_of
from lanemark.records.verdict import Reason, Verdict, ordered, word_for


class Comparison(NamedTuple):
    """A verdict, and what the figures say where it admits one.

    Attributes:
        verdict: on the two sets.
        effects: by label (one figure a record has the label ""). Empty where the verdict refuses, and in a lane that
        has
            no metric.
    """

    verdict: Verdict
    effects: dict[str, Effect]

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` prints it."""
        effects = [{**({"of": label} if label else {}), **found.to_json()} for label, found in self.effects.items()]
        return {**self.verdict.to_json(), **({"effects": effects} if effects else {})}


def compare_sets(
    a: Sequence[Admitted],
    b: Sequence[Admitted],
    metric: str | None = None,
    vary: Sequence[str] = (),
    history: Sequence[Admitted] = (),
) -> Comparison:
    """Compare two sets of at least one run each.

    Args:
        a: the runs of one side, admitted.
        b: the runs of the other.
        metric: a metric of their lane; None for the lane's default.
        vary: what the question is about.
        history: earlier runs of the same series as A's, for the spread between runs where a side has few.

    Raises:
        KeyError: the lane has no such metric.
    """
    mixed = [*_mixed(a, "a", metric), *_mixed(b, "b", metric)]
    verdicts = [compare(one, other, metric, vary) for one in a for other in b]
    verdict = _together(verdicts, mixed)
    if not verdict.comparable:
        return Comparison(verdict, {})
    chosen = metric_of(a[0].lane, metric)
    of_a, of_b, earlier = values_of(a, chosen.name), values_of(b, chosen.name), values_of(history, chosen.name)
    effects = {
        label: effect(of_a[label], of_b[label], chosen, earlier.get(label, ())) for label in of_a if label in of_b
    }
    return Comparison(verdict, effects)


def _mixed(side: Sequence[Admitted], name: str, metric: str | None) -> list[Reason]:
    """What keeps the runs of one side from being runs of one thing."""
    found = []
    for place, one in enumerate(side):
        for other in side[place + 1 :]:
            inner = compare(one, other, metric)
            if one.lane == other.lane and not inner.comparable:
                blocks = [reason for reason in inner.reasons if reason.severity == "block"]
                found += [Reason("MIXED_SIDE", "block", each.path, name, detail=each.code) for each in blocks]
    return found


def _together(verdicts: list[Verdict], mixed: list[Reason]) -> Verdict:
    """One verdict of many: all reasons, the worst word, and the question that admits all of them."""
    if len(verdicts) == 1 and not mixed:
        return verdicts[0]
    reasons = ordered([*mixed, *(reason for verdict in verdicts for reason in verdict.reasons)])
    question = tuple(sorted({factor for verdict in verdicts for factor in verdict.question}))
    refused = [verdict for verdict in verdicts if not verdict.comparable]
    unblock: tuple[str, ...] | None = ()
    if mixed or any(verdict.unblock is None for verdict in refused):
        unblock = None
    elif refused:
        unblock = tuple(sorted({factor for verdict in refused for factor in verdict.unblock or ()}))
    return Verdict(word_for(reasons), verdicts[0].metric, question, reasons, unblock)
