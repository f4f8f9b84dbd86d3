"""`Verdict`: whether two records may be compared, with typed reasons. Never a figure, and no figure without one.

    comparable               the same question under the same circumstances, as far as both records show
    comparable_with_caveats  a difference is to be said in the same breath as any figure
    not_comparable           a figure made of the two would mean nothing; `unblock` says what question would

A reason is a code of `REASONS`, the path in the record that it is about, and the values of both sides. Its severity is
the reason's own: a `block` refuses, a `caveat` qualifies. The same code may do either (`MISSING_EVIDENCE` in a field
that must be equal blocks, and in one that may differ qualifies).

Standard library only: verdicts are printed, written as JSON and rendered by different rooms.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

Severity = Literal["block", "caveat"]
VerdictWord = Literal["comparable", "comparable_with_caveats", "not_comparable"]
#: From best to worst: several verdicts taken together are the worst of them.
VERDICTS: Final[tuple[VerdictWord, ...]] = ("comparable", "comparable_with_caveats", "not_comparable")

#: Every code that a reason may have, with what it means, in the order in which reasons are listed.
#: `docs/messages.md` explains each.
REASONS: Final[dict[str, str]] = {
    "BAD_DIGEST": "the bytes of a record are not the ones that it is named by",
    "BAD_EVIDENCE": "a file that a record rests on is not the one that it names",
    "DIFFERENT_LANE": "the records are of different lanes",
    "SAME_RUN": "both sides are the same run",
    "UNSEALED": "a record's attempt had not come to its end",
    "BROKEN_RULE": "a record breaks a rule of its lane",
    "NO_RECEIPT": "a record says that its result may not be quoted",
    "TOKEN_PARITY_BROKEN": "it was not seen that a run consumed exactly the tokens of its case",
    "NO_STEADY_STATE": "the measured window of a record was not steady",
    "STEADINESS_UNKNOWN": "it could not be told whether the measured window of a record was steady",
    "SEEDING_PASS": "a run filled a compile cache and is no benchmark",
    "MIXED_SIDE": "the runs of one side are not runs of one thing",
    "KEY_MISMATCH": "a field that must be equal differs",
    "UNDECLARED_FACTOR": "a field differs that the question did not declare",
    "UNLISTED_FIELD": "a field differs that no table knows",
    "MISSING_EVIDENCE": "a field is unknown on at least one side, and unknown never equals unknown",
    "GPU_SUBSTITUTED": "a run was given another device than it asked for; only the observed one counts",
    "NOT_AS_REQUESTED": "a run did otherwise than it was asked to; only what was observed counts",
    "CONFOUNDED_QUESTION": "more than one declared factor differs, so that no effect can be put down to one",
    "VARIED_NOTHING": "a field that was declared to vary is equal on both sides",
    "OPAQUE_IMAGE_CHANGE": "the images differ, and what else changed in them is not known",
    "COVARIATE_DIFFERS": "a circumstance differs that may bear on the figure",
    "UNCOMMITTED_SOURCE": "a working tree had changes that no commit names",
    "RECORD_CAVEAT": "a finding of a record belongs beside its figure",
}
_ORDER: Final = {code: place for place, code in enumerate(REASONS)}


class Reason(NamedTuple):
    """One reason of a verdict.

    Attributes:
        code: a key of `REASONS`.
        severity: `block` or `caveat`.
        path: the field in the record's predicate, or what else it is about.
        side: `a`, `b` or `both`.
        a, b: the sides' values as text, or None where the side has none or it does not matter.
        detail: one clause that says more, or nothing.
    """

    code: str
    severity: Severity
    path: str
    side: str = "both"
    a: str | None = None
    b: str | None = None
    detail: str = ""

    @property
    def text(self) -> str:
        """The reason in one line."""
        return self._said(f" (side {self.side})" if self.side in ("a", "b") else "")

    @property
    def alone(self) -> str:
        """The same of one record that is compared with nothing: it has no sides."""
        return self._said("")

    def _said(self, on: str) -> str:
        where = f"{self.path}: " if self.path else ""
        more = f"; {self.detail}" if self.detail else ""
        if self.side in ("a", "b"):
            mine = self.a if self.side == "a" else self.b
            values = "" if mine is None else f": {mine}"
        else:
            values = "" if self.a is None and self.b is None else f": {self.a or 'unknown'} | {self.b or 'unknown'}"
        return f"{where}{REASONS[self.code]}{on}{values}{more}"

    def swapped(self) -> Reason:
        """The same reason with the sides exchanged."""
        side = {"a": "b", "b": "a"}.get(self.side, self.side)
        return self._replace(side=side, a=self.b, b=self.a)

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` prints it: only the keys that apply."""
        doc = {"code": self.code, "severity": self.severity, "path": self.path, "side": self.side, "text": self.text}
        more = {"a": self.a, "b": self.b, "detail": self.detail or None}
        return {**doc, **{name: value for name, value in more.items() if value is not None}}


class Verdict(NamedTuple):
    """Whether two records, or two sets of them, may be compared for one metric and one question.

    Attributes:
        word: `comparable`, `comparable_with_caveats` or `not_comparable`.
        metric: what would be compared.
        question: the declared factors that do differ.
        reasons: blocks before caveats, in the order of `REASONS`.
        unblock: what `--vary` would have to name for the refusal to fall, or None where nothing would do.
            Empty where nothing is refused.
    """

    word: VerdictWord
    metric: str
    question: tuple[str, ...]
    reasons: tuple[Reason, ...]
    unblock: tuple[str, ...] | None

    @property
    def comparable(self) -> bool:
        """Whether a figure may be made of the two, with whatever caveats."""
        return self.word != "not_comparable"

    def codes(self, severity: Severity | None = None) -> tuple[str, ...]:
        """The codes of the reasons, each once, in order."""
        return tuple(dict.fromkeys(r.code for r in self.reasons if severity in (None, r.severity)))

    def swapped(self) -> Verdict:
        """The verdict with the sides exchanged."""
        return self._replace(reasons=ordered([reason.swapped() for reason in self.reasons]))

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` prints it."""
        return {
            "verdict": self.word,
            "metric": self.metric,
            "question": list(self.question),
            "reasons": [reason.to_json() for reason in self.reasons],
            **({} if self.unblock is None else {"unblock": list(self.unblock)}),
        }


def ordered(reasons: list[Reason]) -> tuple[Reason, ...]:
    """Reasons as they are listed: blocks first, then by code, then by path; each once."""
    unique = dict.fromkeys(reasons)
    return tuple(sorted(unique, key=lambda r: (r.severity != "block", _ORDER[r.code], r.path, r.side)))


def word_for(reasons: tuple[Reason, ...]) -> VerdictWord:
    """The verdict that reasons in listed order amount to."""
    if not reasons:
        return "comparable"
    return "not_comparable" if reasons[0].severity == "block" else "comparable_with_caveats"
