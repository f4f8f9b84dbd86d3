"""What two widely used ways of comparing benchmarks would say of the same runs: their rules written anew, not run here.

`benchstat`     golang.org/x/perf/cmd/benchstat: runs of one name are samples; a two-sided Mann-Whitney U test at 0.05,
                `~` where it is not significant, and at least four samples a side before it can be. Runs are told apart
                by name and by the machine's processor, which its input format carries; other processors stand in other
                tables.
`pytest`        pytest-benchmark, `--benchmark-compare --benchmark-compare-fail=mean:5%`: the newest saved run of each
                side, their means over rounds, a threshold. It warns where the machine it recorded differs (host,
                processor, interpreter), and prints the comparison all the same; the warning is counted in its favour
                here.

Both are told what such tools are told: a name, the machine's processor, and figures. Neither is at fault for what its
input does not carry; the point is what the figures alone suggest.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from lanemark.records.observation import value_of

Doc = dict[str, Any]
ALPHA = 0.05
THRESHOLD = 0.05


def times_ns(statement: Doc) -> list[float]:
    """Step times, or times of isolated calls, that a harness would have printed; empty for a lane without any."""
    predicate = statement["predicate"]
    if predicate["lane"] == "training":
        return [float(value) for value in predicate["training"]["samples"]["measured"]]
    results = predicate.get("sparse", {}).get("results", ())
    return [float(value) for result in results for value in (value_of(result["latency"]) or {}).get("samples", ())]


def figure(statement: Doc, metric: str | None) -> float | None:
    """One figure a run, more being better: what people put into a table."""
    predicate = statement["predicate"]
    if metric == "time_to_first_step_s":
        seconds = value_of(predicate["startup"]["time_to_first_step_s"])
        return None if not seconds else 1.0 / seconds
    stated = value_of(predicate["training"]["tokens_per_s"]) if predicate["lane"] == "training" else None
    if stated is not None:
        return float(stated)
    times = times_ns(statement)
    if not times:
        return None
    tokens = predicate["training"]["tokens_per_step"] if predicate["lane"] == "training" else 1.0
    return float(tokens / (statistics.fmean(times) / 1e9))


def name_of(statement: Doc) -> str:
    """What the benchmark would be called."""
    predicate = statement["predicate"]
    return f"{predicate['lane']}/{predicate['case']['preset']}-{predicate['case']['nproc']}"


def _processor(statement: Doc) -> Any:
    return value_of(statement["predicate"]["hardware"]["observed"]["cpu_model"])


def benchstat(a: tuple[Doc, ...], b: tuple[Doc, ...], metric: str | None) -> str:
    """`refuses`, `faster`, `slower` or `no call`."""
    if name_of(a[0]) != name_of(b[0]) or _processor(a[0]) != _processor(b[0]):
        return "refuses"
    xs, ys = ([figure(each, metric) for each in side] for side in (a, b))
    x, y = ([value for value in values if value is not None] for values in (xs, ys))
    if not x or not y:
        return "refuses"
    if mann_whitney(x, y) >= ALPHA:
        return "no call"
    return "faster" if statistics.median(y) > statistics.median(x) else "slower"


def mann_whitney(x: list[float], y: list[float]) -> float:
    """Two-sided p of the Mann-Whitney U test, exact, by counting every split of the pooled ranks."""
    pooled = sorted((*x, *y))
    ranks = {value: statistics.fmean(i + 1 for i, other in enumerate(pooled) if other == value) for value in pooled}
    observed = abs(sum(ranks[value] for value in x) - len(x) * (len(pooled) + 1) / 2)
    everything = [ranks[value] for value in pooled]
    splits = list(itertools.combinations(range(len(pooled)), len(x)))
    centre = len(x) * (len(pooled) + 1) / 2
    extreme = sum(1 for split in splits if abs(sum(everything[i] for i in split) - centre) >= observed - 1e-9)
    return extreme / len(splits)


def pytest_benchmark(a: tuple[Doc, ...], b: tuple[Doc, ...], metric: str | None) -> str:
    """`refuses` (another name), `warns` (another machine), `faster`, `slower` or `same`."""
    if name_of(a[0]) != name_of(b[0]):
        return "refuses"
    old, new = figure(a[-1], metric), figure(b[-1], metric)
    if old is None or new is None:
        return "refuses"
    if _machine(a[-1]) != _machine(b[-1]):
        return "warns"
    change = new / old - 1.0
    return "faster" if change > THRESHOLD else "slower" if change < -THRESHOLD else "same"


def _machine(statement: Doc) -> tuple[Any, ...]:
    predicate = statement["predicate"]
    surface, environment = predicate["surface"], predicate["environment"]
    return (value_of(surface["hostname"]), _processor(statement), environment["python"], environment["platform"])
