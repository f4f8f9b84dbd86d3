"""One look at the ranks from outside, taken by the supervisor while they run: what is kept, and how it is read back.

A look is a bundle of facts and no conclusion. Every field of a rank that could not be seen is None, with the reason
under `not_seen`: "no compiler child was seen" is `()`, "the children could not be listed" is None. Looks are kept in
the attempt as `looks.jsonl`, one JSON object a line, so whoever reads them back may be reading a file that was cut
short, made up, or written by a later version: `look_of` takes nothing on trust, and anything that does not have the
shape below is a `ValueError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

Depth = Literal["shallow", "deep"]

#: More ranks than one launch of ours may have, and longer lists than a look keeps: a bound for what is read back.
_RANKS: Final = 1024
_ROWS: Final = 4096


@dataclass(frozen=True)
class FlightEntry:
    """One row of a rank's flight recorder.

    Attributes:
        seq: number of the operation in its process group, from 1.
        operation: name as the recorder has it (`all_gather`, `gloo:all_reduce`).
        state: `scheduled`, `started` or `completed`.
        created_ns: when it was enqueued, in the recorder's own clock, or None.
    """

    seq: int
    operation: str
    state: str
    created_ns: int | None = None


@dataclass(frozen=True)
class RankLook:
    """One rank, from outside. A field is None where it could not be seen, with the reason in `not_seen`.

    Attributes:
        rank: global rank.
        alive: whether its process was there (a zombie is not).
        phase, label, since_ns: innermost open phase on its beacon page, what it is about, CLOCK_MONOTONIC of its start.
        step: last step on the page.
        sequence: the page's sequence number, which moves with every write.
        collectives: collectives entered so far.
        compilations: compilations that have ended so far.
        compile_ns: time in compilations that have ended.
        cpu_s: processor seconds of the process and the children it has waited for.
        process_state: the letter in /proc (`R`, `S`, `D`, `T`).
        wait_channel: the kernel function it sleeps in.
        children: command names of its live descendants (`cc1plus`, `ptxas`).
        new_cache_files: files in its cache directory that are newer than the launch.
        waiting_for_data: whether it is inside its loader right now.
        flight: rows of its flight recorder, oldest first.
        stack: frames of its main thread, innermost first, each `function (file:line)`.
        not_seen: field name to the reason it could not be looked at.
    """

    rank: int
    alive: bool
    phase: str | None = None
    label: str | None = None
    since_ns: int | None = None
    step: int | None = None
    sequence: int | None = None
    collectives: int | None = None
    compilations: int | None = None
    compile_ns: int | None = None
    cpu_s: float | None = None
    process_state: str | None = None
    wait_channel: str | None = None
    children: tuple[str, ...] | None = None
    new_cache_files: int | None = None
    waiting_for_data: bool | None = None
    flight: tuple[FlightEntry, ...] | None = None
    stack: tuple[str, ...] | None = None
    not_seen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """All ranks at one moment.

    Attributes:
        number: 1, 2, … in this attempt.
        at_ns: CLOCK_MONOTONIC at which it was taken.
        launched_ns: CLOCK_MONOTONIC at which the ranks were started.
        quiet_s: seconds since anything moved but processor time.
        depth: `deep` when flight recorders and stacks were asked for.
        ranks: in order of rank.
    """

    number: int
    at_ns: int
    launched_ns: int
    quiet_s: float
    depth: Depth
    ranks: tuple[RankLook, ...]

    def to_json(self) -> dict[str, Any]:
        """Shape: the field names above; what was not seen is null."""
        # Not `asdict`, which copies every value deeply: this runs beside the ranks twice a second.
        ranks = [
            {**vars(rank), "flight": None if rank.flight is None else [vars(entry) for entry in rank.flight]}
            for rank in self.ranks
        ]
        return {**vars(self), "ranks": ranks}


T = TypeVar("T")


def _unlike(value: Any, what: str) -> ValueError:
    return ValueError(f"not {what}: {value!r:.80}")


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**64:
        raise _unlike(value, "an integer")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e18 < value < 1e18:
        raise _unlike(value, "a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _ROWS:
        raise _unlike(value, "a short text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _unlike(value, "true or false")
    return value


def _list(value: Any, read: Callable[[Any], T], limit: int = _ROWS) -> tuple[T, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > limit:
        raise _unlike(value, f"a list of at most {limit}")
    return tuple(read(item) for item in value)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unlike(value, "an object")
    return value


def _maybe(doc: Mapping[str, Any], key: str, read: Callable[[Any], T]) -> T | None:
    value = doc.get(key)
    return None if value is None else read(value)


def _entry(value: Any) -> FlightEntry:
    doc = _object(value)
    return FlightEntry(
        seq=_integer(doc.get("seq")),
        operation=_text(doc.get("operation")),
        state=_text(doc.get("state")),
        created_ns=_maybe(doc, "created_ns", _integer),
    )


def _rank(value: Any) -> RankLook:
    doc = _object(value)
    not_seen = doc.get("not_seen") or {}
    return RankLook(
        rank=_integer(doc.get("rank")),
        alive=_flag(doc.get("alive")),
        phase=_maybe(doc, "phase", _text),
        label=_maybe(doc, "label", _text),
        since_ns=_maybe(doc, "since_ns", _integer),
        step=_maybe(doc, "step", _integer),
        sequence=_maybe(doc, "sequence", _integer),
        collectives=_maybe(doc, "collectives", _integer),
        compilations=_maybe(doc, "compilations", _integer),
        compile_ns=_maybe(doc, "compile_ns", _integer),
        cpu_s=_maybe(doc, "cpu_s", _number),
        process_state=_maybe(doc, "process_state", _text),
        wait_channel=_maybe(doc, "wait_channel", _text),
        children=_maybe(doc, "children", lambda items: _list(items, _text)),
        new_cache_files=_maybe(doc, "new_cache_files", _integer),
        waiting_for_data=_maybe(doc, "waiting_for_data", _flag),
        flight=_maybe(doc, "flight", lambda items: _list(items, _entry)),
        stack=_maybe(doc, "stack", lambda items: _list(items, _text)),
        not_seen={_text(key): _text(reason) for key, reason in _object(not_seen).items()},
    )


def look_of(line: bytes | str) -> Look:
    """One line of `looks.jsonl`. The types of every field are checked; nothing else is.

    Raises:
        ValueError: it is not JSON, or not a look.
    """
    try:
        doc = _object(json.loads(line))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    depth = doc.get("depth")
    if depth not in ("shallow", "deep"):
        raise ValueError(f"no such depth: {depth!r:.80}")
    return Look(
        number=_integer(doc.get("number")),
        at_ns=_integer(doc.get("at_ns")),
        launched_ns=_integer(doc.get("launched_ns")),
        quiet_s=_number(doc.get("quiet_s")),
        depth=depth,
        ranks=_list(doc.get("ranks"), _rank, _RANKS),
    )
