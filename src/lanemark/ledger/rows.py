"""`IndexRow`: what the index keeps of a record, and which rows a question wants. Pure, tolerant, standard library only.

A row is a convenience for listing and never evidence: a figure is quoted from the record itself. What a record does not
have as observed is None in its row, whatever the reason was; the reason is in the record.

`row_from_bytes` gives the row of a record's bytes. For what our own writer leaves it does not parse the whole record,
most of which is samples and per-rank detail that no row shows: see `lanemark.ledger.skim`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from lanemark.records.encoding import decode, safe_text
from lanemark.records.observation import value_of


class IndexRow(NamedTuple):
    """One record as listed.

    Attributes:
        id: `sha256:…`.
        created: when it was sealed, RFC 3339 UTC with milliseconds, so that text order is time order.
        tokens_per_s: observed throughput of the global batch, or None where there is no receipt.
        step_p50_s: observed median global step, or None.
        device_class, world_size, mode, startup_state, path_class, git_commit: as observed, or None.
        run_id, lane, preset, compile, dtype, surface, plan_digest: as the case and the record say.
        outcome: final state. receipt: whether the throughput may be quoted.
    """

    id: str
    run_id: str
    lane: str
    preset: str
    created: str
    outcome: str
    receipt: bool
    device_class: str | None
    world_size: int | None
    mode: str | None
    compile: str | None
    dtype: str | None
    surface: str | None
    startup_state: str | None
    path_class: str | None
    tokens_per_s: float | None
    step_p50_s: float | None
    git_commit: str | None
    plan_digest: str | None

    def to_json(self) -> dict[str, Any]:
        """The row without what was not observed."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Filters(NamedTuple):
    """Which rows are wanted. None asks for nothing in particular.

    Attributes:
        lane, preset, surface, mode, startup, outcome: equal to. `startup` is the observed start-up state.
        gpu: observed device class, equal to but for letter case.
        since: RFC 3339 text or any prefix of it (`2026-11-22`): sealed then or later.
        until: the same: sealed then or earlier, all of the day or second that a prefix names included.
        commit: the observed commit begins with this.
        run_id: equal to.
        limit: at most this many of the newest.
    """

    lane: str | None = None
    gpu: str | None = None
    preset: str | None = None
    since: str | None = None
    run_id: str | None = None
    limit: int | None = None
    surface: str | None = None
    mode: str | None = None
    startup: str | None = None
    outcome: str | None = None
    until: str | None = None
    commit: str | None = None


#: Columns that together name a series: runs of one question on one kind of machine, of which the newest is current.
SERIES: Final = ("lane", "preset", "device_class", "world_size", "mode", "compile")
#: Sorts after every character that a time stamp or a commit has: the end of a range of texts with one prefix.
AFTER: Final = "\U0010ffff"


def row_from_bytes(record_id: str, data: bytes) -> IndexRow:
    """The row of a record's bytes. Raises ValueError (what is wrong) when they are no record.

    A record in the form that our own writer leaves is skimmed, anything else is parsed whole and strictly. Both give
    the same row for a well-formed record, which a test holds over the corpus. Skimming looks at what a row shows: a
    record that is broken elsewhere is refused by whoever reads it, not here.
    """
    from lanemark.ledger.skim import skim

    found = skim(record_id, data)
    return row_of(record_id, decode(data)) if found is None else found


def row_of(record_id: str, doc: Any) -> IndexRow:
    """The row of a parsed record. Raises ValueError when it has not even the fields that every record has."""
    predicate = _at(doc, "predicate")
    case = _at(predicate, "case")
    step_time = value_of(_at(predicate, "training", "step_time"))
    return IndexRow(
        id=record_id,
        run_id=_needed("run_id", _at(predicate, "run_id")),
        lane=_needed("lane", _at(predicate, "lane")),
        preset=_needed("preset", _at(case, "preset")),
        created=_needed("created", _at(predicate, "times", "sealed_at")),
        outcome=_needed("outcome", _at(predicate, "outcome", "state")),
        receipt=_at(predicate, "outcome", "receipt") is True,
        device_class=as_text(value_of(_at(predicate, "hardware", "observed", "device_class"))),
        world_size=as_whole(value_of(_at(predicate, "distributed", "observed", "world_size"))),
        mode=as_text(value_of(_at(predicate, "distributed", "observed", "mode"))),
        compile=as_text(_at(case, "compile")),
        dtype=as_text(_at(case, "dtype")),
        surface=as_text(_at(case, "surface")),
        startup_state=as_text(value_of(_at(predicate, "startup", "state"))),
        path_class=as_text(value_of(_at(predicate, "data", "path_class"))),
        tokens_per_s=as_number(value_of(_at(predicate, "training", "tokens_per_s"))),
        step_p50_s=as_number(_at(step_time, "p50_s")),
        git_commit=as_text(value_of(_at(predicate, "source", "commit"))),
        plan_digest=as_text(_at(predicate, "plan_digest")),
    )


def select(rows: Iterable[IndexRow], wanted: Filters, *, latest: bool = False) -> tuple[IndexRow, ...]:
    """The rows that are wanted, newest first: the same answer as the index gives, without an index.

    With `latest`, only the newest of each series (`SERIES`) among them.
    """
    kept = newest_first(row for row in rows if is_wanted(row, wanted))
    if latest:
        kept = latest_of(kept)
    return tuple(kept if wanted.limit is None else kept[: max(0, wanted.limit)])


def newest_first(rows: Iterable[IndexRow]) -> list[IndexRow]:
    """Rows by the time they were sealed, the newest first, and by id where two have the same."""
    kept = sorted(rows, key=lambda row: row.id)
    kept.sort(key=lambda row: row.created, reverse=True)
    return kept


def latest_of(rows: Iterable[IndexRow]) -> list[IndexRow]:
    """The first row of each series, in the order given."""
    first: dict[tuple[Any, ...], IndexRow] = {}
    for row in rows:
        first.setdefault(tuple(getattr(row, name) for name in SERIES), row)
    return list(first.values())


def is_wanted(row: IndexRow, wanted: Filters) -> bool:
    """Whether a row passes every filter but the limit."""
    return (
        (wanted.lane is None or row.lane == wanted.lane)
        and (wanted.preset is None or row.preset == wanted.preset)
        and (wanted.run_id is None or row.run_id == wanted.run_id)
        and (wanted.gpu is None or (row.device_class or "").lower() == wanted.gpu.lower())
        and (wanted.surface is None or row.surface == wanted.surface)
        and (wanted.mode is None or row.mode == wanted.mode)
        and (wanted.startup is None or row.startup_state == wanted.startup)
        and (wanted.outcome is None or row.outcome == wanted.outcome)
        and (wanted.since is None or row.created >= wanted.since)
        and (wanted.until is None or row.created < wanted.until + AFTER)
        and (wanted.commit is None or wanted.commit <= (row.git_commit or "") < wanted.commit + AFTER)
    )


def _needed(name: str, value: Any) -> str:
    text = as_text(value)
    if text is None:
        raise ValueError(f"is no record: it has no {name}")
    return text


def _at(doc: Any, *steps: str) -> Any:
    """What lies at a path of keys, or None where the path breaks off."""
    for step in steps:
        if not isinstance(doc, dict):
            return None
        doc = doc.get(step)
    return doc


#: Longer than any name or digest a record has, short enough that a hostile one cannot swell the index.
_MAX_TEXT: Final = 512


def as_text(value: Any) -> str | None:
    """A text as a row has it: not empty, not long, and one that can be written anywhere; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    cut = value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT]
    return cut if cut.isascii() else safe_text(cut)


def as_whole(value: Any) -> int | None:
    """A whole number as a row has it; None for anything else, a truth value among it."""
    return value if type(value) is int else None


def as_number(value: Any) -> float | None:
    """A number as a row has it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
