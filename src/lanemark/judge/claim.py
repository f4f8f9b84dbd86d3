"""A text, the record it is said to rest on, and what a rule about the two is (`lanemark.judge.claims`). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from lanemark.judge.admission import Admitted
from lanemark.judge.citing import Citation
from lanemark.judge.sets import Comparison
from lanemark.lanes.rule import Doc

ANY_CASE: Final = re.IGNORECASE
#: A number as people write it: with grouped thousands, or plain.
NUMBER: Final = r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.,])\d+(?:\.\d+)?(?:e-?\d+)?"
#: A rate of tokens, in the spellings that are seen.
RATE_UNIT: Final = r"(?:k\s?|M\s?)?(?:tok(?:en)?s?\s*(?:/|per)\s*s(?:ec(?:ond)?)?|tps)\b"
_DENIED: Final = re.compile(r"\b(?:no|not|never|without|nor)\b[^.;:,]*$", ANY_CASE)


class Claim(NamedTuple):
    """What is asked of a text.

    Attributes:
        text: as it was written.
        record: what it is said to rest on.
        citation: the sentence that the record supports, or None where it supports none.
        comparison: of this record (side B) with another, where the text rests on one.
    """

    text: str
    record: Admitted
    citation: Citation | None
    comparison: Comparison | None

    @property
    def doc(self) -> Doc:
        """The record's predicate."""
        return self.record.predicate


class Overreach(NamedTuple):
    """One thing that a text claims and its record does not show: the rule, the words, and why not."""

    rule: str
    words: str
    why: str

    def to_json(self) -> dict[str, str]:
        """As `cite --check --json` prints it."""
        return self._asdict()


class ClaimRule(NamedTuple):
    """One rule: its name, what would be believed wrongly without it, and the check."""

    name: str
    why: str
    check: Callable[[Claim], Iterable[tuple[str, str]]]


def said(pattern: re.Pattern[str], text: str) -> list[str]:
    """What a pattern finds and the text does not deny in the same clause (`no training throughput follows`)."""
    return [match[0] for match in pattern.finditer(text) if not _DENIED.search(text[: match.start()])]
