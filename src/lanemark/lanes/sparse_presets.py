"""The case sets of the sparse lane, by name, and the form of a set that a user wrote. Pure.

`smoke` shows in seconds that the lane works here. `matrix` covers what backends are known to get wrong: sequences that
are no multiple of a block, padding, empty rows, S ≤ topk, grouped heads, both precisions, sets that are local, random
and chosen by an indexer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, NamedTuple, get_args

from lanemark.records.errors import DataError
from lanemark.records.questions import AttentionCase
from lanemark.records.terms import IndexSet, SparseDtype

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
#: Larger problems than this are written by mistake: 2^20 positions of 2^13 slots are 32 GiB of indices.
_LARGEST: Final = {"batch": 1024, "sequence": 2**20, "topk": 2**13, "heads": 1024, "kv_heads": 1024, "head_dim": 1024}
_MOST_CASES: Final = 200


class CaseSet(NamedTuple):
    """A named set of cases.

    Attributes:
        name: `smoke`, `matrix`, or a file's own.
        cases: in order.
        backends: what is asked for where nothing else is.
        warmup: leading calls that are never reported.
        repeats: calls that are timed.
    """

    name: str
    cases: tuple[AttentionCase, ...]
    backends: tuple[str, ...]
    warmup: int
    repeats: int


def _case(name: str, sequence: int, topk: int, **changes: Any) -> AttentionCase:
    plain: dict[str, Any] = {
        "batch": 1, "heads": 8, "kv_heads": 8, "head_dim": 64, "dtype": "fp32", "index_set": "random", "empty_rows": 0,
        "seed": 11,
    }  # fmt: skip
    return AttentionCase(**{"name": name, "sequence": sequence, "topk": topk, **plain, **changes})


_SMOKE: Final = CaseSet(
    "smoke",
    (
        _case("local-512", 512, 64, index_set="local"),
        _case("indexer-512", 512, 64, index_set="indexer", heads=4, kv_heads=1, empty_rows=3),
    ),
    ("gather", "union", "dense"),
    warmup=1,
    repeats=5,
)
_MATRIX: Final = CaseSet(
    "matrix",
    (
        _case("random-127", 127, 64, heads=4, kv_heads=4),
        _case("short-48", 48, 64, heads=4, kv_heads=4),
        _case("random-512", 512, 64),
        _case("local-512", 512, 64, index_set="local"),
        _case("indexer-512", 512, 64, index_set="indexer"),
        _case("grouped-512", 512, 64, kv_heads=2, index_set="local"),
        _case("single-512", 512, 64, kv_heads=1, index_set="indexer", head_dim=128),
        _case("empty-512", 512, 64, empty_rows=17),
        _case("batch-384", 384, 96, batch=2, heads=4, kv_heads=2, empty_rows=5),
        _case("odd-1000", 1000, 256, heads=4, kv_heads=4, index_set="local"),
        _case("bf16-512", 512, 64, dtype="bf16", index_set="local", kv_heads=1),
        _case("bf16-indexer-512", 512, 64, dtype="bf16", index_set="indexer", kv_heads=1, empty_rows=3),
        _case("local-2048", 2048, 256, index_set="local"),
    ),
    ("gather", "sdpa_masked", "flex", "union", "dense"),
    warmup=1,
    repeats=3,
)
SPARSE_PRESETS: Final[dict[str, CaseSet]] = {"smoke": _SMOKE, "matrix": _MATRIX}


def parse_case_set(name: str, doc: Any) -> CaseSet:
    """A set that a user wrote, from its TOML or JSON document.

    The document has `cases`, a list of tables: `name`, `sequence` and `topk`, and whatever else differs from the plain
    case (one sequence, 8 heads of 64, fp32, random indices, no empty row, seed 11); and beside it, where wanted,
    `backends`, `warmup` and `repeats`.

    Raises:
        DataError: `case-set-invalid`, naming what is wrong and where.
    """
    if _NAME.fullmatch(name) is None:
        raise _refused(name, "is named by no plain word of letters, digits, `_`, `.`, `+` and `-`")
    if not isinstance(doc, Mapping) or not isinstance(doc.get("cases"), list) or not doc["cases"]:
        raise _refused(name, "has no list of `cases`")
    unknown = sorted(set(doc) - {"cases", "backends", "warmup", "repeats"})
    if unknown:
        raise _refused(name, f"has {unknown[0][:40]!r}, which no case set has")
    if len(doc["cases"]) > _MOST_CASES:
        raise _refused(name, f"has {len(doc['cases'])} cases, more than {_MOST_CASES}")
    cases = tuple(_parsed(name, place, entry) for place, entry in enumerate(doc["cases"], 1))
    names = [case.name for case in cases]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise _refused(name, f"has two cases called {twice}")
    backends = doc.get("backends", list(_SMOKE.backends))
    if not isinstance(backends, list) or not backends or not all(isinstance(each, str) for each in backends):
        raise _refused(name, "has `backends` that are no list of names")
    counts = {key: doc.get(key, default) for key, default in (("warmup", 1), ("repeats", 5))}
    for key, value in counts.items():
        if type(value) is not int or not (key == "repeats") <= value <= 10_000:
            raise _refused(name, f"has {key} = {str(value)[:40]}, which is no number of calls")
    return CaseSet(name, cases, tuple(backends), counts["warmup"], counts["repeats"])


def _parsed(name: str, place: int, entry: Any) -> AttentionCase:
    if not isinstance(entry, Mapping):
        raise _refused(name, f"has a case {place} that is no table")
    known = {each.name for each in fields(AttentionCase)}
    unknown = sorted(str(key) for key in set(entry) - known)
    if unknown:
        raise _refused(name, f"gives case {place} {unknown[0][:40]!r}, which no case has")
    missing = sorted({"name", "sequence", "topk"} - set(entry))
    if missing:
        raise _refused(name, f"gives case {place} no {missing[0]}")
    own = {key: value for key, value in entry.items() if key not in ("name", "sequence", "topk")}
    case = _case(entry["name"], entry["sequence"], entry["topk"], **own)
    problem = case_problem(case)
    if problem is not None:
        raise _refused(name, f"gives case {place} {problem}")
    return case


def case_problem(case: AttentionCase) -> str | None:
    """What is wrong with a case, or None."""
    if not isinstance(case.name, str) or _NAME.fullmatch(case.name) is None:
        return "a name that is no plain word"
    for key, most in _LARGEST.items():
        value = getattr(case, key)
        if type(value) is not int or not 1 <= value <= most:
            return f"{key} = {str(value)[:40]}, which is no whole number from 1 to {most}"
    if case.heads % case.kv_heads:
        return f"{case.heads} heads over {case.kv_heads} key and value heads, which do not divide them"
    if case.dtype not in get_args(SparseDtype):
        return f"dtype = {str(case.dtype)[:40]}, which is none of {', '.join(get_args(SparseDtype))}"
    if case.index_set not in get_args(IndexSet) or case.index_set == "file":
        return f"index_set = {str(case.index_set)[:40]}, which is none of random, local, indexer"
    if type(case.empty_rows) is not int or not 0 <= case.empty_rows < case.sequence:
        return f"empty_rows = {str(case.empty_rows)[:40]}, which leaves no query that holds an index"
    if type(case.seed) is not int or not 0 <= case.seed < 2**31:
        return f"seed = {str(case.seed)[:40]}, which is no whole number below 2^31"
    return None


def _refused(name: str, what: str) -> DataError:
    return DataError("case-set-invalid", f"the case set {name[:80]!r} {what}", "mend it; docs/sparse.md shows one")
