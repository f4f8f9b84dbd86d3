"""Records as series over time: which belong together although the code changed, and what changed at a new level. Pure.

A series to *watch* is wider than a series to *replicate* (`lanemark.judge.series`). Replicates are equal in every
factor. Watched runs are equal in what was asked and in where it ran (every key; mode, compile posture, precision,
batch, backend) and may differ in what moves along with time: the code, torch, packages, the interpreter, the
environment. Such a change is what a watch is for.

Where a level changes, the last record of the old one and the first of the new one are compared, and what differs is
named. That is where to look. It is not the cause: whatever no record has a field for changes as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from lanemark.judge.admission import Admitted
from lanemark.judge.comparing import BLOCKING, compare
from lanemark.judge.metrics import Metric, metric_of
from lanemark.judge.regression import Change, Trend, trend
from lanemark.records.observation import value_of
from lanemark.records.verdict import Reason

#: Factors that move along with time, so that a series goes on across them.
MOVING: Final = frozenset({"source", "torch", "packages", "python", "environment", "argv", "cxx"})
#: What may be named as having changed between two runs, in the order in which it is worth looking at.
_NAMED: Final = ("UNDECLARED_FACTOR", "UNLISTED_FIELD", "OPAQUE_IMAGE_CHANGE", "COVARIATE_DIFFERS")


class Point(NamedTuple):
    """One run of a series: its record's id, when it was sealed, its figure, and its commit where one was observed."""

    id: str
    sealed_at: str
    value: float
    commit: str | None


class Watched(NamedTuple):
    """One series and what its figures say.

    Attributes:
        name: 16 hexadecimal digits: equal for equal series, whatever ledger they are in.
        label: for people.
        metric: what is watched.
        points: the runs, oldest first.
        trend: what they say.
        between: by place of a change, what differs between the last run of the old level and the first of the new one.
    """

    name: str
    label: str
    metric: Metric
    points: tuple[Point, ...]
    trend: Trend
    between: dict[int, tuple[Reason, ...]]

    def to_json(self) -> dict[str, Any]:
        """As `watch --json` prints it."""
        return {
            "series": self.name,
            "label": self.label,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "verdict": self.trend.verdict,
            "runs": [point._asdict() for point in self.points],
            **({} if self.trend.detectable is None else {"detectable": self.trend.detectable}),
            "changes": [self._change(change) for change in self.trend.changes],
        }

    def _change(self, change: Change) -> dict[str, Any]:
        told = {**change._asdict(), "record": self.points[change.at].id}
        return {**told, "between": [reason.to_json() for reason in self.between.get(change.at, ())]}


class Watch(NamedTuple):
    """All series that were looked at, by label; and how many records are in none: `refused`, `unknown`, `no_figure`."""

    series: tuple[Watched, ...]
    left_out: dict[str, int]


def watch(records: Iterable[Admitted], metric: str | None = None, runs: int | None = None) -> Watch:
    """Group records into series and search each.

    Args:
        records: admitted, in any order.
        metric: a metric that each record's lane has; None for each lane's default.
        runs: at most this many of the newest of each series; None for all.

    Raises:
        KeyError: a record's lane has no such metric.
    """
    groups: dict[tuple[str, str], list[tuple[Point, Admitted]]] = {}
    left_out: dict[str, int] = {}
    for record in records:
        name = watched_name(record, metric) if _admissible(record) else "refused"
        if name in _OUTSIDE:
            left_out[name] = left_out.get(name, 0) + 1
            continue
        for label, value in metric_of(record.lane, metric).read(record.predicate).items():
            groups.setdefault((name, label), []).append((_point(record, value), record))
    found = []
    for (name, label), members in groups.items():
        members.sort(key=lambda member: (member[0].sealed_at, member[0].id))
        found.append(_searched(name, label, members if runs is None else members[-runs:], metric))
    return Watch(tuple(sorted(found, key=lambda each: (each.label, each.name))), left_out)


#: What stands for the name of a series where a record is in none: it is refused on its own, something that its series
#: is named by is unknown, or it has no figure of the metric.
_OUTSIDE: Final = frozenset({"refused", "unknown", "no_figure"})


def _admissible(record: Admitted) -> bool:
    return bool(record.lane) and not any(reason.severity == "block" for reason in record.reasons)


def watched_name(record: Admitted, metric: str | None = None) -> str:
    """The name of the series to watch that a record is in, `unknown` where something that it needs is, or `no_figure`.

    Raises:
        KeyError: the record's lane has no such metric, or it names no lane.
    """
    chosen = metric_of(record.lane, metric)
    if not chosen.read(record.predicate):
        return "no_figure"
    facts = record.facts(chosen.name, on_cpu=record.device_class in ("cpu", None))
    if any(_binds(facts.spot(path)) for path in facts.unknown):
        return "unknown"
    parts = [f"{path}={value!r}" for path, value in facts.values.items() if _binds(facts.spot(path))]
    text = "\n".join([record.lane, chosen.name, *sorted(parts)])
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _binds(spot: Any) -> bool:
    """Whether records must be equal in a field to be in one series."""
    role: str = spot.role
    factor: str = spot.factor
    return role in BLOCKING and role != "unlisted" and factor.partition(".")[0] not in MOVING


def _point(record: Admitted, value: float) -> Point:
    commit = value_of(record.predicate["source"]["commit"])
    return Point(record.id, record.predicate["times"]["sealed_at"], value, commit if isinstance(commit, str) else None)


def _searched(name: str, label: str, members: Sequence[tuple[Point, Admitted]], metric: str | None) -> Watched:
    newest = members[-1][1]
    chosen = metric_of(newest.lane, metric)
    found = trend([point.value for point, _ in members], higher_is_better=chosen.higher_is_better)
    between = {
        change.at: differing(members[change.at - 1][1], members[change.at][1], metric) for change in found.changes
    }
    said = described(newest) + (f", {label}" if label else "")
    return Watched(name, said, chosen, tuple(point for point, _ in members), found, between)


def differing(before: Admitted, after: Admitted, metric: str | None = None) -> tuple[Reason, ...]:
    """What differs between two runs of one series: first what would be a factor of a comparison."""
    reasons = compare(before, after, metric).reasons
    return tuple(reason for code in _NAMED for reason in reasons if reason.code == code)


def described(record: Admitted) -> str:
    """A series in words, from one record of it."""
    doc = record.predicate
    case, seen = doc["case"], doc["distributed"]["observed"]
    posture = value_of(doc["compile"]["observed"]["posture"]) or case["compile"]
    world, mode = value_of(seen["world_size"]), value_of(seen["mode"])
    ranks = "" if world is None else f" over {world} rank{'' if world == 1 else 's'}"
    words = [f"{record.lane} {case['preset']}", f"{mode or 'no mode'}{ranks}", str(posture), str(case["dtype"])]
    return ", ".join([*words, f"{record.device_class or 'no device'} on {doc['surface']['name']}"])
