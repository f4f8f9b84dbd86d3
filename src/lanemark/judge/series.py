"""Which records are runs of one thing: a name for everything that must be equal. Pure.

Two records of one series have equal keys and equal factors, so that each can be a replicate of the other; covariates,
envelopes and noise may differ. Unknown never equals unknown: a record that lacks a key or a factor is in no series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from lanemark.judge.admission import Admitted
from lanemark.judge.comparing import BLOCKING
from lanemark.judge.facts import Derived, Facts
from lanemark.judge.metrics import metric_of


def series_of(record: Admitted, metric: str | None = None) -> str | None:
    """The name of a record's series for a metric, 16 hexadecimal digits; None where something it needs is unknown.

    Raises:
        KeyError: the record's lane has no such metric, or it names no lane.
    """
    chosen = metric_of(record.lane, metric)
    on_cpu = record.device_class in ("cpu", None)
    facts = record.facts(chosen.name, on_cpu=on_cpu)
    for path in facts.unknown:
        if facts.spot(path).role in BLOCKING:
            return None
    return _named(facts, record.lane, chosen.name)


def _named(facts: Facts, lane: str, metric: str) -> str:
    static, dynamic = facts.table.spots, facts.spots
    parts = [lane, metric]
    for path, value in facts.values.items():
        spot = dynamic.get(path) or static[path]
        if spot[0] in BLOCKING and type(value) is not Derived:
            parts.append(f"{path}={value!r}")
    parts[2:] = sorted(parts[2:])
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def grouped(records: Iterable[Admitted], metric: str | None = None) -> dict[str, list[Admitted]]:
    """Records by series, in the order given. Those of no series, and those that a gate refuses, are left out."""
    groups: dict[str, list[Admitted]] = {}
    for record in records:
        if any(reason.severity == "block" for reason in record.reasons) or not record.lane:
            continue
        name = series_of(record, metric)
        if name is not None:
            groups.setdefault(name, []).append(record)
    return groups


def values_of(records: Iterable[Admitted], metric: str | None = None) -> dict[str, list[float]]:
    """The metric's figures of comparable records, by label, one a record that has it."""
    found: dict[str, list[float]] = {}
    for record in records:
        chosen: Any = metric_of(record.lane, metric)
        for label, value in chosen.read(record.predicate).items():
            found.setdefault(label, []).append(value)
    return found
