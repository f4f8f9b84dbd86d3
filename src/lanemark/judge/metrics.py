"""What may be compared in each lane: the metrics, which way is better, and where a record has them. Pure.

A metric is a figure of one *run*. Steps of one run are not independent of one another, so they never stand for runs.
The promotion lane has none: it proves acceptance, and a ratio made of two acceptances would be quoted as a speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: as `--metric` takes it; its unit is in it.
        lane: whose it is.
        unit: for people.
        higher_is_better: whether more of it is faster.
        read: a record's predicate to label → value. A label tells several figures of one record apart; one figure has
            the label "". What was not observed is not in it.
    """

    name: str
    lane: str
    unit: str
    higher_is_better: bool
    read: Callable[[Doc], dict[str, float]]


def _one(value: Any) -> dict[str, float]:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return {"": float(value)} if usable else {}


def _throughput(doc: Doc) -> dict[str, float]:
    return _one(value_of(doc["training"]["tokens_per_s"]))


def _step(name: str) -> Callable[[Doc], dict[str, float]]:
    def read(doc: Doc) -> dict[str, float]:
        return _one((value_of(doc["training"]["step_time"]) or {}).get(name))

    return read


def _first_step(doc: Doc) -> dict[str, float]:
    return _one(value_of(doc["startup"]["time_to_first_step_s"]))


def _latency(doc: Doc) -> dict[str, float]:
    found = {}
    for result in doc["sparse"]["results"]:
        latency = value_of(result["latency"])
        for value in _one(latency.get("p50")).values() if isinstance(latency, dict) else ():
            found[f"{result['case']['name']}/{result['backend_identity']['requested']}"] = value
    return found


def _nothing(_doc: Doc) -> dict[str, float]:
    return {}


#: By lane, the default first.
METRICS: Final[dict[str, tuple[Metric, ...]]] = {
    "training": (
        Metric("tokens_per_s", "training", "tok/s", higher_is_better=True, read=_throughput),
        Metric("step_mean_s", "training", "s", higher_is_better=False, read=_step("mean_s")),
        Metric("step_p50_s", "training", "s", higher_is_better=False, read=_step("p50_s")),
        Metric("step_p95_s", "training", "s", higher_is_better=False, read=_step("p95_s")),
        Metric("time_to_first_step_s", "training", "s", higher_is_better=False, read=_first_step),
    ),
    "sparse": (Metric("latency_p50_ns", "sparse", "ns", higher_is_better=False, read=_latency),),
    "promotion": (Metric("none", "promotion", "", higher_is_better=True, read=_nothing),),
}


def metric_of(lane: str, name: str | None = None) -> Metric:
    """A lane's metric by name, or its default. Raises KeyError when the lane has none of that name."""
    metrics = METRICS[lane]
    if name is None:
        return metrics[0]
    found = next((metric for metric in metrics if metric.name == name), None)
    if found is None:
        raise KeyError(name)
    return found
