"""The statistics of the judge against series in which the truth is known: how often they are wrong.

Simulated series have the difference that was put into them. Real ones are runs of the reference stack that were all
asked the same (`calibration/collect.py`), so that every difference found among them is a false one; what a change would
look like is made by scaling some of them. Real series are told apart by what the machine was doing when they were made:
those of a quiet one bear on every figure. Those of a busy one bear on false alarms only. Those that had a core to
themselves on a busy one bear on single comparisons and intervals; what else the machine did changed while they were
made, so that their order is no series without a change. What does not bear on a figure is reported beside it.

A figure is the worst of its parts, and its method names all of them.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SERIES = Path(__file__).with_name("calibration") / "series.npz"
FACTS = SERIES.with_suffix(".json")
TURNS = 1000
#: Spreads between runs at which it is shown how many 5 % drops would still be found: real machines have them.
WIDER = (0.02, 0.03, 0.04, 0.06)
#: Of a series of 60 runs, from which one on the changed ones are slower.
LENGTH, AT = 60, 40


class Rate(NamedTuple):
    """How often something happened, in what, and out of how many."""

    share: float
    of: str
    turns: int

    @property
    def text(self) -> str:
        return f"{self.of}: {self.share:.1%} of {self.turns}"


def real() -> dict[str, list[list[int]]]:
    """Step times of the measured window of each real run, by recipe and what the machine did, in the order made."""
    import numpy as np

    warmup = {name: facts["warmup"] for name, facts in json.loads(FACTS.read_text()).items()}
    with np.load(SERIES, allow_pickle=False) as held:
        return {name: [row[warmup[name] :].tolist() for row in held[name]] for name in held.files}


def speeds(runs: list[list[int]]) -> list[float]:
    """What throughput is made of: steps a second of each run."""
    return [1e9 * len(run) / sum(run) for run in runs]


def _differs(a: list[float], b: list[float], history: tuple[float, ...] = ()) -> bool:
    from lanemark.judge.effect import effect
    from lanemark.judge.metrics import metric_of

    return effect(a, b, metric_of("training"), history).verdict in ("faster", "slower")


def false_positives() -> list[Rate]:
    """Comparisons of a thing with itself that were called a difference."""
    drawn, found = random.Random(1), []
    for runs in (3, 5, 10):
        wrong = 0
        for _ in range(TURNS):
            a, b = ([drawn.lognormvariate(0.0, 0.02) for _ in range(runs)] for _ in range(2))
            wrong += _differs(a, b)
        found.append(Rate(wrong / TURNS, f"simulated, {runs} against {runs}", TURNS))
    for runs in (1, 2):
        wrong = 0
        for _ in range(TURNS):
            a, b, earlier = ([drawn.lognormvariate(0.0, 0.02) for _ in range(n)] for n in (runs, runs, 8))
            wrong += _differs(a, b, tuple(earlier))
        found.append(Rate(wrong / TURNS, f"simulated, {runs} against {runs} with 8 earlier runs", TURNS))
    for name, runs_of in real().items():
        figures = speeds(runs_of)
        for runs in (3, 5):
            outcomes = [_differs(a, b) for a, b in _splits(figures, runs)]
            if outcomes:
                share = sum(outcomes) / len(outcomes)
                found.append(Rate(share, f"{name}, every split of {2 * runs} runs in a row", len(outcomes)))
    return found


def _splits(figures: list[float], runs: int) -> Iterator[tuple[list[float], list[float]]]:
    """Every way to call half of some consecutive runs A and the other half B, each once; windows overlap by half."""
    for begin in range(0, len(figures) - 2 * runs + 1, runs):
        window = figures[begin : begin + 2 * runs]
        for chosen in itertools.combinations(range(1, 2 * runs), runs - 1):
            a = {0, *chosen}
            yield [window[k] for k in sorted(a)], [window[k] for k in range(2 * runs) if k not in a]


def coverage() -> list[Rate]:
    """Intervals within a run that hold the mean they are about."""
    from lanemark.judge.interval import within_run

    drawn, found = random.Random(2), []
    for phi in (0.0, 0.3, 0.6, 0.9):
        held = 0
        for _ in range(TURNS):
            value, steps = drawn.gauss(0.0, 1.0), []
            for _ in range(200):
                steps.append(300.0 + 3.0 * value)
                value = phi * value + math.sqrt(1.0 - phi * phi) * drawn.gauss(0.0, 1.0)
            interval = within_run(steps)
            held += interval is not None and interval.low <= 300.0 <= interval.high
        found.append(Rate(held / TURNS, f"simulated, 200 steps, autocorrelation {phi}", TURNS))
    return [*found, *_real_coverage(drawn)]


def _real_coverage(drawn: random.Random) -> list[Rate]:
    """The same with real steps: windows of 200, put together from stretches of 40 of a steady one of known mean."""
    from lanemark.judge.interval import within_run
    from lanemark.judge.steady import audit

    found = []
    for name, runs in real().items():
        steady = [run for run in runs if audit(run).word == "steady"]
        held = 0
        turns = TURNS // 2 if steady else 0
        for _ in range(turns):
            run = drawn.choice(steady)
            begins = [drawn.randrange(len(run)) for _ in range(5)]
            interval = within_run([run[(begin + k) % len(run)] for begin in begins for k in range(40)])
            held += interval is not None and interval.low <= sum(run) / len(run) <= interval.high
        if turns:
            found.append(Rate(held / turns, f"{name}, drawn from {len(steady)} steady windows", turns))
    return found


def _series(drawn: random.Random, drop: float, between: float = 0.01) -> list[float]:
    """Runs that spread by `between`, 3 % of them slow by 5 to 20 %; slower by `drop` from run `AT` on."""
    out = []
    for place in range(LENGTH):
        value = drawn.lognormvariate(0.0, between) * (1.0 - drop if place >= AT else 1.0)
        out.append(value * (1.0 - drawn.uniform(0.05, 0.2)) if drawn.random() < 0.03 else value)
    return out


def _reported(figures: list[float], place: int | None = None) -> bool:
    """Whether a regression is confirmed: anywhere, or within 3 runs of a place."""
    from lanemark.judge.regression import trend

    confirmed = [each for each in trend(figures, higher_is_better=True).regressions if each.certainty == "confirmed"]
    return any(place is None or abs(each.at - place) <= 3 for each in confirmed)


def _over_real(change: Callable[[list[float]], bool], seed: int) -> list[Rate]:
    """Over series of real runs: as they were made where there are enough, and in drawn orders."""
    drawn, found = random.Random(seed), []
    for name, runs in real().items():
        figures = speeds(runs)
        made = [figures[begin : begin + LENGTH] for begin in range(0, len(figures) - LENGTH + 1, 5)]
        if made:
            found.append(Rate(sum(map(change, made)) / len(made), f"{name}, {LENGTH} runs in a row", len(made)))
        if len(figures) >= LENGTH // 2:
            orders = [drawn.choices(figures, k=LENGTH) for _ in range(TURNS // 2)]
            found.append(Rate(sum(map(change, orders)) / len(orders), f"{name}, drawn orders", len(orders)))
    return found


def false_alarms() -> list[Rate]:
    """Series of 60 runs without a change that were reported as regressed."""
    drawn = random.Random(3)
    wrong = sum(_reported(_series(drawn, 0.0)) for _ in range(TURNS))
    return [Rate(wrong / TURNS, f"simulated, {LENGTH} runs", TURNS), *_over_real(_reported, 4)]


def found_drops() -> list[Rate]:
    """Series that became 5 % slower and were reported where they did."""
    drawn = random.Random(5)
    right = sum(_reported(_series(drawn, 0.05), AT) for _ in range(TURNS))

    def dropped(figures: list[float]) -> bool:
        return _reported([value * (0.95 if place >= AT else 1.0) for place, value in enumerate(figures)], AT)

    found = [Rate(right / TURNS, f"simulated, {LENGTH} runs that spread by 1 %", TURNS), *_over_real(dropped, 6)]
    for between in WIDER:
        held = sum(_reported(_series(drawn, 0.05, between), AT) for _ in range(TURNS // 2))
        found.append(Rate(held / (TURNS // 2), f"were the spread {between:.0%}", TURNS // 2))
    return found


def spread() -> str:
    """How far real runs spread, and how many of their windows were steady."""
    from lanemark.judge.statistics import sample
    from lanemark.judge.steady import audit

    said = []
    for name, runs in real().items():
        deviation = math.sqrt(sample([math.log(value) for value in speeds(runs)]).variance)
        steady = sum(audit(run).word == "steady" for run in runs)
        said.append(f"{name}: {len(runs)} runs spread by {deviation:.1%}, {steady} of their windows were steady")
    return "; ".join(said)


def _counts(rate: Rate, *but: str) -> bool:
    """Whether a rate bears on a figure: not that of runs made while others used the machine as well, so labelled."""
    return not rate.of.partition(",")[0].endswith(but) and not rate.of.startswith("were the spread")


def _of_real(rate: Rate) -> bool:
    """Whether it is of series of real runs."""
    return rate.of.partition(",")[0] in real()


def results() -> list[dict[str, Any]]:
    """The figures, as the benchmark runner collects them."""
    wrong, held, alarms, drops = false_positives(), coverage(), false_alarms(), found_drops()
    rows = (
        (
            "judge.false_positive",
            max(rate.share for rate in wrong),
            wrong,
            "worst share of comparisons of a thing with itself that are called a difference",
        ),
        (
            "judge.interval_coverage",
            min(rate.share for rate in held if _counts(rate, "_busy")),
            held,
            "least share of 95 % intervals within a run that hold the true mean, busy machines not counted",
        ),
        (
            "watch.false_alarm",
            max(rate.share for rate in alarms if _counts(rate, "_busy", "_pinned") or "drawn" in rate.of),
            alarms,
            "worst share of series without a change that are reported; runs in a row where nothing ran beside them",
        ),
        (
            "watch.finds_5pct",
            min(rate.share for rate in drops if rate.of.startswith("simulated")),
            [rate for rate in drops if not _of_real(rate)],
            "least share of simulated series that got 5 % slower and were reported there",
        ),
        (
            "watch.finds_5pct_real",
            min(rate.share for rate in drops if _of_real(rate) and "drawn" in rate.of and _counts(rate, "_busy")),
            [rate for rate in drops if _of_real(rate)],
            f"least share of series of real runs, in drawn orders, none of them busy, that got 5 % slower ({spread()})",
        ),
    )
    return [
        {
            "name": name,
            "value": round(value, 4),
            "unit": "ratio",
            "method": f"{what}. {'; '.join(rate.text for rate in parts)}",
        }
        for name, value, parts, what in rows
    ]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
