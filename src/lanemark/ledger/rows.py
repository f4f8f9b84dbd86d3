"""`IndexRow`: what the index keeps of a record, drawn from its plain JSON. Pure, tolerant, standard library only.

A row is a convenience for listing and never evidence: a figure is quoted from the record itself. What a record does not
have as observed is None in its row, whatever the reason was; the reason is in the record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from lanemark.records.encoding import safe_text
from lanemark.records.observation import value_of


@dataclass(frozen=True)
class IndexRow:
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
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


class Filters(NamedTuple):
    """Which rows are wanted. None asks for nothing in particular.

    Attributes:
        lane, preset: equal to.
        gpu: observed device class, equal to but for letter case.
        since: RFC 3339 text or any prefix of it (`2026-11-22`): sealed then or later.
        run_id: equal to.
        limit: at most this many of the newest.
    """

    lane: str | None = None
    gpu: str | None = None
    preset: str | None = None
    since: str | None = None
    run_id: str | None = None
    limit: int | None = None


def row_of(record_id: str, doc: Any) -> IndexRow:
    """The row of a parsed record. Raises ValueError when it has not even the fields that every record has."""
    predicate = _at(doc, "predicate")
    case = _at(predicate, "case")
    required = {
        "run_id": _text(_at(predicate, "run_id")),
        "lane": _text(_at(predicate, "lane")),
        "preset": _text(_at(case, "preset")),
        "created": _text(_at(predicate, "times", "sealed_at")),
        "outcome": _text(_at(predicate, "outcome", "state")),
    }
    for name, text in required.items():
        if text is None:
            raise ValueError(f"is no record: it has no {name}")
    observed_world = value_of(_at(predicate, "distributed", "observed", "world_size"))
    step_time = value_of(_at(predicate, "training", "step_time"))
    return IndexRow(
        id=record_id,
        **{name: str(text) for name, text in required.items()},
        receipt=_at(predicate, "outcome", "receipt") is True,
        device_class=_text(value_of(_at(predicate, "hardware", "observed", "device_class"))),
        world_size=observed_world if type(observed_world) is int else None,
        mode=_text(value_of(_at(predicate, "distributed", "observed", "mode"))),
        compile=_text(_at(case, "compile")),
        dtype=_text(_at(case, "dtype")),
        surface=_text(_at(case, "surface")),
        startup_state=_text(value_of(_at(predicate, "startup", "state"))),
        path_class=_text(value_of(_at(predicate, "data", "path_class"))),
        tokens_per_s=_number(value_of(_at(predicate, "training", "tokens_per_s"))),
        step_p50_s=_number(_at(step_time, "p50_s")),
        git_commit=_text(value_of(_at(predicate, "source", "commit"))),
        plan_digest=_text(_at(predicate, "plan_digest")),
    )


def select(rows: Iterable[IndexRow], wanted: Filters) -> tuple[IndexRow, ...]:
    """The rows that are wanted, newest first: the same answer as the index gives, without an index."""
    kept = [row for row in rows if _wanted(row, wanted)]
    kept.sort(key=lambda row: row.id)
    kept.sort(key=lambda row: row.created, reverse=True)
    return tuple(kept if wanted.limit is None else kept[: max(0, wanted.limit)])


def _wanted(row: IndexRow, wanted: Filters) -> bool:
    return (
        (wanted.lane is None or row.lane == wanted.lane)
        and (wanted.preset is None or row.preset == wanted.preset)
        and (wanted.run_id is None or row.run_id == wanted.run_id)
        and (wanted.gpu is None or (row.device_class or "").lower() == wanted.gpu.lower())
        and (wanted.since is None or row.created >= wanted.since)
    )


def _at(doc: Any, *steps: str) -> Any:
    """What lies at a path of keys, or None where the path breaks off."""
    for step in steps:
        if not isinstance(doc, dict):
            return None
        doc = doc.get(step)
    return doc


#: Longer than any name or digest a record has, short enough that a hostile one cannot swell the index.
_MAX_TEXT: Final = 512


def _text(value: Any) -> str | None:
    return safe_text(value[:_MAX_TEXT]) if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
