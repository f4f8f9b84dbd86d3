"""Watching a series: what is confirmed, what is only suspected, and what is neither."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.judge.regression import FEWEST, TELLING, trend


def series(num: int = 60, *, drop: float = 0.0, at: int = 40, seed: int = 1, outliers: float = 0.0) -> list[float]:
    drawn = random.Random(seed)
    out = []
    for place in range(num):
        value = 1e5 * drawn.lognormvariate(0.0, 0.01) * (1.0 - drop if place >= at else 1.0)
        out.append(value * (1.0 - drawn.uniform(0.05, 0.2)) if drawn.random() < outliers else value)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_a_drop_that_holds_is_confirmed_where_it_is(seed: int) -> None:
    found = trend(series(drop=0.05, seed=seed), higher_is_better=True)
    assert found.verdict == "regressed"
    change = min(found.regressions, key=lambda each: each.p_value)
    assert change.certainty == "confirmed"
    assert abs(change.at - 40) <= 2
    assert change.ratio == pytest.approx(0.95, abs=0.02)
    assert change.p_value < 0.001


def test_the_same_drop_in_a_time_is_an_improvement_and_turned_round_a_regression() -> None:
    assert trend(series(drop=0.05, seed=2), higher_is_better=False).verdict == "quiet"
    slower = [1.0 / value for value in series(drop=0.05)]
    assert trend(slower, higher_is_better=False).verdict == "regressed"
    [better] = trend(series(drop=0.05, seed=2), higher_is_better=False).changes
    assert not better.worse
    assert not better.standing


def test_false_alarms_over_runs_without_a_change_are_few() -> None:
    alarms = sum(
        trend(series(seed=1000 + seed, outliers=0.03), higher_is_better=True).verdict == "regressed"
        for seed in range(200)
    )
    assert alarms <= 12


def test_one_slow_run_in_the_middle_is_nothing_and_at_the_end_a_suspicion() -> None:
    values = series(30)
    middle = [*values[:15], values[15] * 0.8, *values[16:]]
    assert trend(middle, higher_is_better=True).verdict == "quiet"
    end = [*values, values[-1] * 0.8]
    found = trend(end, higher_is_better=True)
    assert found.verdict == "suspected"
    assert found.regressions[-1].at == 30
    assert trend([*values, values[-1] * 1.2], higher_is_better=True).verdict == "quiet"


def test_more_runs_confirm_a_suspicion_or_drop_it() -> None:
    before, low = series(40), [value * 0.9 for value in series(6, seed=9)]
    assert trend([*before, *low[:2]], higher_is_better=True).verdict == "suspected"
    assert trend([*before, *low], higher_is_better=True).verdict == "regressed"
    assert trend([*before, *low[:2], *series(20, seed=4)], higher_is_better=True).verdict == "quiet"


def test_a_drop_that_was_recovered_from_stands_no_longer() -> None:
    values = [*series(25, seed=2), *(0.9 * value for value in series(25, seed=3)), *series(25, seed=4)]
    found = trend(values, higher_is_better=True)
    assert found.verdict == "quiet"
    assert [(change.worse, change.standing) for change in found.changes] == [(True, False), (False, False)]


def test_half_a_recovery_leaves_the_drop_standing() -> None:
    values = [
        *series(25, seed=2),
        *(0.9 * value for value in series(25, seed=3)),
        *(0.95 * v for v in series(25, seed=4)),
    ]
    assert trend(values, higher_is_better=True).verdict == "regressed"


def test_small_changes_are_not_reported_however_certain() -> None:
    drawn = random.Random(3)
    values = [1e5 * drawn.lognormvariate(0.0, 0.0005) * (0.995 if place >= 30 else 1.0) for place in range(60)]
    assert trend(values, higher_is_better=True).changes == ()


def test_runs_that_come_in_tides_are_counted_as_fewer() -> None:
    """A machine whose neighbours stay a while: hardly any of such series may be called regressed."""
    alarms = 0
    for seed in range(100):
        drawn = random.Random(seed)
        state, values = drawn.gauss(0.0, 1.0), []
        for _ in range(60):
            values.append(1e5 * math.exp(0.02 * state))
            state = 0.5 * state + math.sqrt(0.75) * drawn.gauss(0.0, 1.0)
        alarms += trend(values, higher_is_better=True).verdict == "regressed"
    assert alarms <= 12


def test_too_few_runs_have_no_level_to_leave() -> None:
    found = trend([100.0] * (FEWEST - 1), higher_is_better=True)
    assert (found.verdict, found.changes, found.detectable) == ("too_few", (), None)
    assert trend([100.0] * FEWEST, higher_is_better=True).verdict == "quiet"
    assert trend([], higher_is_better=True).verdict == "too_few"


def test_what_could_be_confirmed_is_said() -> None:
    narrow = trend(series(40), higher_is_better=True).detectable
    assert narrow is not None
    assert 0.01 < narrow < 0.06
    hits, turns = 0, 60
    for seed in range(turns):
        values = series(30 + TELLING, drop=narrow / (1.0 + narrow), at=30, seed=200 + seed)
        hits += trend(values, higher_is_better=True).verdict == "regressed"
    assert hits >= 0.7 * turns


def test_figures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        trend([1.0, 0.0], higher_is_better=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(min_value=1.0, max_value=1e9), min_size=0, max_size=40), st.booleans())
def test_whatever_was_measured_has_an_answer(figures: list[float], higher: bool) -> None:
    found = trend(figures, higher_is_better=higher)
    assert found.runs == len(figures)
    assert list(found.changes) == sorted(found.changes)
    assert all(0 < change.at < len(figures) for change in found.changes)
    assert all(change.worse or not change.standing for change in found.changes)
