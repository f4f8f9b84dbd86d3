"""Runs are the unit: what may be concluded from a handful, and what from one."""

from __future__ import annotations

import random

import pytest
from judge_records import admitted, another, good, predicate, put

from lanemark.judge.effect import effect
from lanemark.judge.interval import within_run
from lanemark.judge.metrics import METRICS, metric_of
from lanemark.judge.series import grouped, series_of
from lanemark.judge.sets import compare_sets
from lanemark.judge.student import incomplete_beta, t_cdf, t_quantile

SPEED, TIME = metric_of("training", "tokens_per_s"), metric_of("training", "step_mean_s")


@pytest.mark.parametrize(
    ("p", "df", "value"),
    # Tabulated: Abramowitz and Stegun, table 26.10.
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.95, 9, 1.833),
        (0.975, 30, 2.042),
        (0.995, 120, 2.617),
    ],
)
def test_quantiles_are_those_of_the_tables(p: float, df: float, value: float) -> None:
    assert t_quantile(p, df) == pytest.approx(value, abs=6e-4)
    assert t_quantile(1 - p, df) == pytest.approx(-value, abs=6e-4)
    assert t_cdf(t_quantile(p, df), df) == pytest.approx(p, abs=1e-9)


def test_the_edges_of_the_distribution() -> None:
    assert incomplete_beta(2.0, 3.0, 0.0) == 0.0
    assert incomplete_beta(2.0, 3.0, 1.0) == 1.0
    assert t_cdf(0.0, 3.0) == pytest.approx(0.5)
    for p, df in [(0.0, 3.0), (1.0, 3.0), (0.9, 0.0)]:
        with pytest.raises(ValueError, match="quantile"):
            t_quantile(p, df)


def test_a_difference_larger_than_the_spread_is_one() -> None:
    found = effect([100.0, 101.0, 99.0], [110.0, 111.0, 109.0], SPEED)
    assert found.verdict == "faster"
    assert found.ratio == pytest.approx(1.1, abs=1e-3)
    assert found.interval is not None
    assert found.interval[0] < 1.1 < found.interval[1]
    assert effect([100.0, 101.0, 99.0], [110.0, 111.0, 109.0], TIME).verdict == "slower"


def test_no_difference_that_could_be_shown_is_inconclusive_or_equivalent() -> None:
    assert effect([100.0, 100.1, 99.9], [100.2, 100.1, 100.0], SPEED).verdict == "equivalent"
    noisy = effect([100.0, 110.0, 92.0], [103.0, 95.0, 108.0], SPEED)
    assert noisy.verdict == "inconclusive"
    assert noisy.minimum_detectable is not None
    assert noisy.minimum_detectable > 0.1


def test_identical_figures_have_no_spread_and_still_an_answer() -> None:
    assert effect([5.0] * 3, [5.0] * 3, SPEED).verdict == "equivalent"
    assert effect([5.0] * 3, [6.0] * 3, SPEED).verdict == "faster"


def test_one_run_a_side_concludes_nothing_without_a_history() -> None:
    found = effect([100.0], [150.0], SPEED)
    assert (found.verdict, found.interval, found.minimum_detectable) == ("unreplicated", None, None)
    assert "spread between runs is not known" in found.reason
    assert effect([100.0, 101.0], [150.0], SPEED).verdict == "unreplicated"
    borrowed = effect([100.0], [150.0], SPEED, [100.0, 101.0, 99.0, 100.5])
    assert borrowed.verdict == "faster"
    assert "earlier runs" in borrowed.reason
    assert effect([100.0], [101.0], SPEED, [90.0, 110.0, 100.0]).verdict == "inconclusive"
    assert set(found.to_json()) == {"verdict", "ratio", "reason"}
    assert set(borrowed.to_json()) == {"verdict", "ratio", "reason", "interval", "minimum_detectable"}


def test_figures_that_cannot_be_are_refused() -> None:
    for a, b in [([], [1.0]), ([1.0], []), ([0.0], [1.0])]:
        with pytest.raises(ValueError, match="positive"):
            effect(a, b, SPEED)


def test_of_things_that_do_not_differ_few_are_called_different() -> None:
    """3 against 3 runs of one thing, 400 times: about 5 % would be right, far less than pooling steps would give."""
    drawn = random.Random(20261122)
    wrong = 0
    for _ in range(400):
        a, b = ([100.0 * drawn.lognormvariate(0.0, 0.02) for _ in range(3)] for _ in range(2))
        wrong += effect(a, b, SPEED).verdict in ("faster", "slower")
    assert wrong <= 30


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_intervals_cover_what_they_say_for_correlated_steps(phi: float) -> None:
    drawn = random.Random(7)
    held = 0
    for _ in range(200):
        value = drawn.gauss(0.0, 1.0) / (1.0 - phi * phi) ** 0.5
        samples = []
        for _ in range(150):
            value = phi * value + drawn.gauss(0.0, 1.0)
            samples.append(1000.0 + value)
        found = within_run(samples)
        assert found is not None
        held += found.low <= 1000.0 <= found.high
    assert held >= 180


def test_an_interval_needs_steps_and_says_how_many_they_amount_to() -> None:
    assert within_run([1.0] * 7) is None
    equal = within_run([2.0] * 20)
    assert equal is not None
    assert (equal.low, equal.mean, equal.high) == (2.0, 2.0, 2.0)
    drift = within_run([100.0 + 0.5 * step for step in range(60)])
    assert drift is not None
    assert drift.few
    assert drift.effective < 10


def runs(letter: str, speeds: tuple[float, ...], *, mode: str = "fsdp2") -> list:
    from lanemark.lanes.figures import step_time, tokens_per_s

    out = []
    for place, speed in enumerate(speeds):
        doc = another(predicate("cuda_h100_8"), f"{letter}{place}")
        measured = [round(value / speed) for value in doc["training"]["samples"]["measured"]]
        doc["training"]["samples"]["measured"] = measured
        put(doc, "training.step_time", step_time(measured))
        put(doc, "training.tokens_per_s", tokens_per_s(doc["training"]["tokens_per_step"], measured))
        doc["case"]["mode"] = doc["distributed"]["requested"]["mode"] = mode
        put(doc, "distributed.observed.mode", mode)
        out.append(admitted(doc, f"sha256:{letter}{place}"))
    return out


def test_no_figure_is_made_of_what_may_not_be_compared() -> None:
    a, b = runs("a", (1.0, 1.001, 0.999)), runs("b", (1.2, 1.201, 1.199), mode="ddp")
    refused = compare_sets(a, b)
    assert refused.verdict.word == "not_comparable"
    assert refused.effects == {}
    assert "ratio" not in str(refused.to_json())
    assert refused.verdict.unblock == ("mode",)
    asked = compare_sets(a, b, None, ("mode",))
    assert asked.effects[""].verdict == "faster"
    assert asked.to_json()["effects"][0]["verdict"] == "faster"


def test_a_mixed_side_is_refused() -> None:
    mixed = [*runs("a", (1.0, 1.001)), *runs("c", (1.0,), mode="ddp")]
    found = compare_sets(mixed, runs("b", (1.0, 1.0)), None, ("mode",))
    assert "MIXED_SIDE" in found.verdict.codes("block")
    assert found.verdict.unblock is None
    assert found.effects == {}


def test_history_of_the_series_lends_its_spread() -> None:
    a, b, earlier = runs("a", (1.0,)), runs("b", (1.3,)), runs("h", (1.0, 1.01, 0.99, 1.005))
    assert compare_sets(a, b).effects[""].verdict == "unreplicated"
    assert compare_sets(a, b, None, (), earlier).effects[""].verdict == "faster"


def test_series_are_runs_of_one_thing() -> None:
    one, two = runs("a", (1.0, 1.1)), runs("b", (1.0,), mode="ddp")
    assert series_of(one[0]) == series_of(one[1]) != series_of(two[0])
    assert series_of(one[0]) != series_of(one[0], "time_to_first_step_s")
    groups = grouped([*one, *two, good("lost")])
    assert sorted(len(group) for group in groups.values()) == [1, 2]
    unknown = another(predicate("cuda_h100_8"))
    put(unknown, "hardware.observed.mig", {"status": "unavailable", "source": "nvml", "reason": "no library"})
    assert series_of(admitted(unknown)) is None


def test_every_lane_has_metrics_and_promotion_has_no_figure() -> None:
    assert [metric.name for metric in METRICS["promotion"]] == ["none"]
    assert metric_of("promotion").read(predicate("promotion_ready_fa4")) == {}
    assert metric_of("sparse").read(predicate("sparse_h100_triton")) == {"indexer-8k/triton": 11_000_000.0}
    assert metric_of("training").read(predicate("lost")) == {}
    same = compare_sets([good("promotion_ready_fa4")], [admitted(another(predicate("promotion_ready_fa4")))])
    assert same.verdict.comparable
    assert same.effects == {}
