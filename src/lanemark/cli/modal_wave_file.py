"""A wave's file: from JSON to runs whose every argument was checked, before anything is launched or asked for.

{"name": "h100-or-h200", "at_once": 2, "max_dollars": 60,
 "common": ["training", "--surface", "modal", …],        arguments of every run, as `lanemark run` takes them
 "matrix": {"--gpu": ["H100!:8", "H200:8"], …},          each combination of these is a run
 "runs": [["--seed", "1"], …]}                           or these are; or both: each of these in each combination
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked, add_arguments, understand
from lanemark.cli.parsing import parser
from lanemark.collect.modal_waves import Entry, Wave
from lanemark.launch.modal_prices import Prices, dearest
from lanemark.launch.modal_request import modal_request
from lanemark.records.attempt import RUN_ID
from lanemark.records.errors import UsageError

_LARGEST_FILE_BYTES: Final = 256 * 1024
#: More than this is not a wave that somebody read before launching it.
MAX_RUNS: Final = 1000
_KNOWN: Final = frozenset({"name", "at_once", "max_dollars", "common", "matrix", "runs"})


@dataclass(frozen=True)
class Planned:
    """A wave, and what each of its runs asks."""

    wave: Wave
    asked: tuple[Asked, ...]


def read_wave(path: Path, prices: Prices) -> Planned:
    """Read and check a wave's file.

    Raises:
        UsageError: the file is none, or one of its runs could not be launched; the message says which.
    """
    try:
        with path.open("rb") as file:
            doc = json.loads(file.read(_LARGEST_FILE_BYTES))
        name, at_once, cap, runs = _parsed(doc)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "value-invalid", f"the wave {str(path)[:100]!r} cannot be read ({type(error).__name__}: {error})",
            "write it as `docs/modal.md` shows",
        ) from None  # fmt: skip
    asked = [_understood(number, words) for number, words in enumerate(runs)]
    entries = tuple(Entry(tuple(words), at_most_dollars(one, prices)) for words, one in zip(runs, asked, strict=True))
    return Planned(Wave(name, entries, at_once, cap), tuple(asked))


def _parsed(doc: Any) -> tuple[str, int, float, list[list[str]]]:
    unknown = set(doc) - _KNOWN
    if unknown:
        raise ValueError(f"it has {min(unknown)!r}, which means nothing in a wave")
    name, at_once, cap = doc["name"], doc.get("at_once", 1), float(doc["max_dollars"])
    if not isinstance(name, str) or RUN_ID.fullmatch(f"{name}-20260101T000000Z-00000000") is None:
        raise ValueError("its name is not of small letters alone")
    if not isinstance(at_once, int) or not 1 <= at_once <= 100 or not 0 < cap < 1e6:
        raise ValueError("at_once is from 1 to 100, and max_dollars a sum")
    columns = [[[flag, str(value)] for value in values] for flag, values in doc.get("matrix", {}).items()]
    rows = [[str(word) for word in words] for words in doc.get("runs", [[]])]
    common = [str(word) for word in doc["common"]]
    combined = [
        [*common, *row, *itertools.chain.from_iterable(choice)]
        for row in rows
        for choice in itertools.product(*columns)
    ]
    if not 1 <= len(combined) <= MAX_RUNS or len({tuple(words) for words in combined}) != len(combined):
        raise ValueError(f"it has {len(combined)} runs; from 1 to {MAX_RUNS} different ones make a wave")
    return name, at_once, cap, combined


def _understood(number: int, words: Sequence[str]) -> Asked:
    """One run's arguments, checked as `lanemark run` would. Raises UsageError that names the run."""
    reader = parser("run", "One run of a wave.")
    add_arguments(reader)
    try:
        asked = understand(reader.parse_args(list(words)))
    except UsageError as error:
        raise UsageError(error.slug, f"run {number} of the wave: {error.what}", error.remedy) from None
    if asked.rental is None:
        raise UsageError(
            "value-invalid", f"run {number} of the wave stays on this host, where one would disturb the other",
            "add --surface modal to `common`",
        )  # fmt: skip
    return asked


def at_most_dollars(asked: Asked, prices: Prices) -> float:
    """What a run can cost: its time limit, at the dearest device it may be served.

    Raises:
        UsageError: `value-invalid`: no price is known.
    """
    assert asked.rental is not None
    function = modal_request(asked.case, asked.rental)["function"]
    per_s = dearest(prices, [asked.case.gpu, *asked.rental.fallbacks])
    if per_s is None:
        raise UsageError(
            "value-invalid", f"no price is known for one of {', '.join(function['gpu'])}", "give --prices FILE"
        )
    return per_s * float(function["timeout_s"])
