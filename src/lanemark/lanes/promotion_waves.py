"""Waves: which candidates, element types and directions one `lanemark run promotion` asks for. Pure.

A wave is a list of questions, and each becomes a record of its own: an acceptance holds for one candidate, surface,
architecture, element type and direction, and for nothing that stood beside it. What a candidate does not claim to cover
is left out here, with its reason, and never asked; the worker asks the claims again with the device it really has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from lanemark.lanes.promotion_claims import CANDIDATES, Claims, case_applies, check_candidate, scope_applies
from lanemark.lanes.promotion_matrix import DENSE, DENSE_SMOKE, MATRIX, SPARSE, SPARSE_SMOKE, problem_of
from lanemark.records.errors import DataError, UsageError
from lanemark.records.questions import PromotionAsked
from lanemark.records.terms import Direction, PromotionDtype

DTYPES: Final[tuple[str, ...]] = get_args(PromotionDtype)
DIRECTIONS: Final[tuple[str, ...]] = get_args(Direction)
#: Left out of `smoke` when nobody names a candidate: its first call compiles for 13 to 23 s a shape on a CPU. Over the
#: whole matrix that is little beside the rest (docs/promotion.md).
_SLOW_ON_CPU: Final = frozenset({"flex"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_QUESTIONS: Final = 200


@dataclass(frozen=True)
class Question:
    """One record's worth: what is asked, in which element type."""

    asked: PromotionAsked
    dtype: str


@dataclass(frozen=True)
class LeftOut:
    """What a wave does not ask, and why: `reason` is one of `promotion_claims.INAPPLICABLE` or `slow_on_cpu`."""

    candidate: str
    dtype: str
    direction: str
    case: str | None
    reason: str
    words: str


@dataclass(frozen=True)
class Wave:
    """A wave. `cases` by mode; `directions` is None where each candidate gets the furthest that it claims."""

    preset: str
    candidates: tuple[str, ...]
    dtypes: tuple[str, ...]
    directions: tuple[str, ...] | None
    dense: tuple[str, ...]
    sparse: tuple[str, ...]


PRESETS: Final[dict[str, Wave]] = {
    "smoke": Wave("smoke", (), ("bf16",), None, DENSE_SMOKE, SPARSE_SMOKE),
    "matrix": Wave("matrix", (), DTYPES, None, DENSE, SPARSE),
}


def questions(
    wave: Wave, arch: str, *, mode_of_own: str = "dense_attention"
) -> tuple[tuple[Question, ...], tuple[LeftOut, ...]]:
    """The records that a wave asks for on an architecture, and what it leaves out.

    Args:
        wave: with its candidates; none means all known ones.
        arch: expected, `cpu` or `sm_90`.
        mode_of_own: the family of a user's own candidate, whose claims are only known once it is imported.
    """
    asked: list[Question] = []
    left: list[LeftOut] = []
    for name in wave.candidates or tuple(CANDIDATES):
        claims = CANDIDATES.get(name)
        if not wave.candidates and wave.preset == "smoke" and name in _SLOW_ON_CPU and arch == "cpu":
            left.append(LeftOut(name, "", "", None, "slow_on_cpu", "compiling takes minutes on a CPU"))
            continue
        for dtype in wave.dtypes:
            for direction in wave.directions or (_furthest(claims, arch, dtype),):
                cases, out = _cases(name, wave, arch, dtype, direction) if claims is not None else (None, [])
                left += out
                mode = mode_of_own if claims is None else claims.mode
                chosen = _of_mode(wave, mode) if cases is None else cases
                if chosen:
                    question = PromotionAsked(mode, name, direction, MATRIX, chosen)  # type: ignore[arg-type]
                    asked.append(Question(question, dtype))
    return tuple(asked), tuple(left)


def _furthest(claims: Claims | None, arch: str, dtype: str) -> str:
    """`backward`, which includes forward, wherever a candidate claims it; a user's own is asked for forward."""
    if claims is not None and scope_applies(claims, claims.mode, arch, dtype, "backward").applies:
        return "backward"
    return "forward"


def _of_mode(wave: Wave, mode: str) -> tuple[str, ...]:
    return wave.sparse if mode == "sparse_validation" else wave.dense


def _cases(name: str, wave: Wave, arch: str, dtype: str, direction: str) -> tuple[tuple[str, ...], list[LeftOut]]:
    """The cases that a known candidate claims, and what is left out.

    One that a user named is asked all of them where it does not apply at all: its record says that it is blocked.
    """
    claims = CANDIDATES[name]
    wanted = _of_mode(wave, claims.mode)
    scope = scope_applies(claims, claims.mode, arch, dtype, direction)
    if not scope.applies:
        if wave.candidates:
            return wanted, []
        return (), [LeftOut(name, dtype, direction, None, scope.reason, scope.words)]
    found = [(case, case_applies(claims, problem_of(case), arch)) for case in wanted]
    out = [LeftOut(name, dtype, direction, case, no.reason, no.words) for case, no in found if not no.applies]
    return tuple(case for case, each in found if each.applies), out


def wave_of_document(name: str, doc: Any) -> Wave:
    """A user's own wave: `candidates`, `dtypes`, `cases`, and optionally `directions`.

    Raises:
        DataError: `wave-invalid`, saying which part cannot be meant.
        UsageError: a case or a candidate that there is none of.
    """

    def refuse(why: str) -> DataError:
        return DataError(
            "wave-invalid", f"the wave {name[:80]!r} {why}",
            "give candidates, dtypes and cases as lists of text; docs/promotion.md has an example",
        )  # fmt: skip

    if not isinstance(doc, Mapping):
        raise refuse("is no object")
    unknown = sorted(set(doc) - {"candidates", "dtypes", "directions", "cases"})
    if unknown:
        raise refuse(f"has the unknown key {str(unknown[0])[:40]!r}")
    for key in ("candidates", "dtypes", "cases", "directions"):
        if key == "directions" and key not in doc:
            continue
        if not _texts(doc.get(key)):
            raise refuse(f"has no list of text as {key}")
    if not set(doc["dtypes"]) <= set(DTYPES) or not set(doc.get("directions", ())) <= set(DIRECTIONS):
        raise refuse(f"names an element type or a direction beside {', '.join((*DTYPES, *DIRECTIONS))}")
    for candidate in doc["candidates"]:
        check_candidate(candidate, CANDIDATES)
    cases = tuple(dict.fromkeys(doc["cases"]))
    sparse = tuple(case for case in cases if problem_of(case).masking == "sparse")
    if not _NAME.fullmatch(name):
        raise refuse("is named by characters that a name may not have")
    return Wave(
        name, tuple(dict.fromkeys(doc["candidates"])), tuple(dict.fromkeys(doc["dtypes"])),
        tuple(dict.fromkeys(doc["directions"])) if "directions" in doc else None,
        tuple(case for case in cases if case not in sparse), sparse,
    )  # fmt: skip


def _texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and 0 < len(value) <= MAX_QUESTIONS
        and all(isinstance(item, str) and item for item in value)
    )  # fmt: skip


def check_size(asked: Sequence[Question], wave: Wave) -> None:
    """A wave asks for something, and for no more than a person would read. Raises UsageError `wave-empty`."""
    if not asked:
        raise UsageError(
            "wave-empty", f"the wave {wave.preset} asks for nothing that its candidates cover on this device",
            "name other candidates with --candidate, or other cases; `lanemark plan promotion` says what is left out",
        )  # fmt: skip
