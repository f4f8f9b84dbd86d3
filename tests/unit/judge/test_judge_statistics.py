"""Tests over handfuls of runs, held against values computed elsewhere."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_records import admitted, another, predicate, put

from lanemark.judge.effect import effect
from lanemark.judge.metrics import metric_of
from lanemark.judge.repeated import one_side
from lanemark.judge.statistics import Difference, borrowed, chained, sample, welch

SPEED = metric_of("training", "tokens_per_s")
VALUES = st.lists(st.floats(min_value=-5.0, max_value=5.0), min_size=2, max_size=12)


def test_welch_is_the_one_that_others_compute() -> None:
    """Values of scipy.stats.ttest_ind(equal_var=False)."""
    a, b = [30.02, 29.99, 30.11, 29.97, 30.01, 29.99], [29.89, 29.93, 29.72, 29.98, 30.02, 29.98]
    found = welch(sample(a), sample(b))
    assert found.value / found.error == pytest.approx(-1.959, abs=5e-4)
    assert found.df == pytest.approx(7.031, abs=5e-4)
    assert found.p_value == pytest.approx(0.0908, abs=5e-4)


@given(VALUES, VALUES)
def test_welch_is_symmetric(a: list[float], b: list[float]) -> None:
    one, other = welch(sample(a), sample(b)), welch(sample(b), sample(a))
    assert one.value == pytest.approx(-other.value)
    assert one.p_value == pytest.approx(other.p_value)
    assert 0.0 <= one.p_value <= 1.0


def test_no_spread_is_certain_or_nothing() -> None:
    same, other = sample([1.0, 1.0]), sample([2.0, 2.0, 2.0])
    assert welch(same, same).p_value == 1.0
    assert welch(same, other).p_value == 0.0
    assert welch(same, other).df == 3.0


def test_not_different_is_no_proof_of_equal() -> None:
    wide, narrow = Difference(0.0, 0.05, 8.0), Difference(0.001, 0.002, 8.0)
    assert wide.p_value == 1.0
    assert not wide.is_within(0.02)
    assert narrow.is_within(0.02)
    assert not Difference(0.05, 0.002, 8.0).is_within(0.02)


def test_what_is_detectable_is_found_as_often_as_it_says() -> None:
    drawn = random.Random(11)
    error = 0.01 * math.sqrt(2 / 5)
    shift = Difference(0.0, error, 8.0).detectable()
    found = 0
    for _ in range(500):
        a, b = ([drawn.gauss(centre, 0.01) for _ in range(5)] for centre in (0.0, shift))
        found += welch(sample(a), sample(b)).p_value < 0.05
    assert found / 500 == pytest.approx(0.8, abs=0.07)


def test_a_borrowed_spread_is_pooled_with_what_the_sides_show() -> None:
    one, two = sample([0.0]), sample([0.1, 0.3])
    assert borrowed(one, one, []) is None
    alone = borrowed(one, two, [])
    assert alone is not None
    assert alone.df == 1.0
    lent = borrowed(one, two, [sample([0.0, 0.01, -0.01, 0.0])])
    assert lent is not None
    assert lent.df == 4.0
    assert lent.error < alone.error


@pytest.mark.parametrize("runs", [1, 2])
def test_with_a_borrowed_spread_few_of_no_difference_are_called_one(runs: int) -> None:
    drawn = random.Random(5)
    wrong = 0
    for _ in range(400):
        history = [100.0 * drawn.lognormvariate(0.0, 0.02) for _ in range(8)]
        a, b = ([100.0 * drawn.lognormvariate(0.0, 0.02) for _ in range(runs)] for _ in range(2))
        wrong += effect(a, b, SPEED, history).verdict in ("faster", "slower")
    assert wrong <= 32


def test_correlation_with_the_one_before() -> None:
    assert chained([1.0, 1.0, 1.0]) == 0.0
    assert chained([1.0, 2.0]) == 0.0
    assert chained([float(place) for place in range(50)]) > 0.9
    assert chained([float(place % 2) for place in range(50)]) < -0.8


def run(serial: str, speed: float, mode: str = "fsdp2") -> object:
    doc = another(predicate("cuda_h100_8"), serial)
    from lanemark.lanes.figures import step_time, tokens_per_s

    measured = [round(value / speed) for value in doc["training"]["samples"]["measured"]]
    doc["training"]["samples"]["measured"] = measured
    put(doc, "training.step_time", step_time(measured))
    put(doc, "training.tokens_per_s", tokens_per_s(doc["training"]["tokens_per_step"], measured))
    doc["case"]["mode"] = doc["distributed"]["requested"]["mode"] = mode
    put(doc, "distributed.observed.mode", mode)
    return admitted(doc, f"sha256:{serial}")


def test_runs_of_one_thing_have_a_spread_and_runs_of_two_have_none() -> None:
    together = one_side([run("a", 1.0), run("b", 1.02), run("c", 0.98)])  # type: ignore[list-item]
    assert together.reasons == ()
    found = together.figures[""]
    assert found.runs == 3
    assert found.interval[0] < found.mean < found.interval[1]
    assert found.between == pytest.approx(0.02, rel=0.1)
    assert "3 runs" in together.text
    assert together.to_json()["figures"][0]["runs"] == 3
    mixed = one_side([run("a", 1.0), run("b", 1.0, mode="ddp")])  # type: ignore[list-item]
    assert [reason.code for reason in mixed.reasons] == ["UNDECLARED_FACTOR", "UNDECLARED_FACTOR"] or mixed.reasons
    assert mixed.figures == {}
    assert "figures" not in mixed.to_json()
    assert "UNDECLARED_FACTOR" in mixed.text
