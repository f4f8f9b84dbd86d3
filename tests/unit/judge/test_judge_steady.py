"""The audit of the window: what is called steady, what is not, and what it refuses to say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_records import admitted, predicate

from lanemark.judge.admission import admit
from lanemark.judge.comparing import compare
from lanemark.judge.steady import FEWEST, audit, audited, despiked, noise, segments
from lanemark.records.encoding import digest, encode


def noisy(levels: list[float], *, spread: float = 0.008, phi: float = 0.3, seed: int = 1) -> list[float]:
    """Step times around given levels, with first-order autocorrelated noise."""
    drawn = random.Random(seed)
    state, out = drawn.gauss(0.0, 1.0), []
    for level in levels:
        out.append(level * (1.0 + spread * state))
        state = phi * state + math.sqrt(1.0 - phi * phi) * drawn.gauss(0.0, 1.0)
    return out


def flat(num: int = 200) -> list[float]:
    return [300.0] * num


@pytest.mark.parametrize("seed", range(5))
def test_one_level_is_steady_from_its_beginning(seed: int) -> None:
    found = audit(noisy(flat(), seed=seed))
    assert (found.word, found.start, found.refuses, found.unknown) == ("steady", 0, None, None)
    assert (found.levels[0][0], found.levels[-1][1]) == (0, 200)
    assert [level[2] for level in found.levels] == pytest.approx([300.0] * len(found.levels), rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_wandering_is_not_a_change_of_level(seed: int) -> None:
    assert audit(noisy(flat(), spread=0.02, phi=0.6, seed=seed)).word == "steady"


def test_stalls_are_no_levels() -> None:
    drawn = random.Random(3)
    spiky = [value * (1.5 if drawn.random() < 0.04 else 1.0) for value in noisy(flat())]
    assert audit(spiky).word == "steady"


def test_a_warm_up_that_was_too_short_is_settling() -> None:
    found = audit(noisy([300.0 * (40.0 if step == 0 else 2.0 if step < 3 else 1.0) for step in range(200)]))
    assert (found.word, found.start) == ("settling", 3)
    late = audit(noisy([318.0] * 40 + [7500.0] + [300.0] * 159))
    assert late.word == "settling"
    assert late.start in range(40, 44)
    assert "steady from step" in str(late.refuses)


def test_a_beginning_that_does_not_move_the_mean_is_immaterial() -> None:
    found = audit(noisy([360.0, 350.0, *flat(198)]))
    assert (found.word, found.start, found.refuses) == ("steady", 2, None)
    assert "moves its mean by only" in found.reason


def test_a_late_change_for_good_is_a_shift() -> None:
    found = audit(noisy([300.0] * 160 + [315.0] * 40))
    assert found.word == "shifted"
    assert found.start in range(157, 164)
    assert [level[2] for level in found.levels] == pytest.approx([300.0, 315.0], rel=0.01)


def test_drift_and_oscillation_have_no_steady_part() -> None:
    drift = audit(noisy([300.0 * (1.0 + 0.0005 * step) for step in range(200)], phi=0.0))
    assert (drift.word, drift.start) == ("drifting", None)
    gentle = audit(noisy([300.0 * (1.0 + 0.0001 * step) for step in range(400)], phi=0.0, spread=0.004))
    assert gentle.word in ("drifting", "settling", "shifted")
    swing = audit(noisy([300.0 * (1.04 if step // 25 % 2 else 1.0) for step in range(200)], phi=0.0))
    assert (swing.word, swing.start) == ("oscillating", None)
    assert "back and forth" in swing.reason


def test_too_few_steps_are_unknown_and_never_steady() -> None:
    found = audit(flat(FEWEST - 1))
    assert (found.word, found.start, found.refuses) == ("unknown", None, None)
    assert "too few" in str(found.unknown)
    assert audit(flat(FEWEST)).word == "steady"
    assert audit([0.0] * 40).word == "unknown"


def test_compiled_steps_are_looked_past_before_anything_else() -> None:
    samples = [9000.0] * 4 + noisy(flat(100))
    assert audit(samples).word == "settling"
    behind = audit(samples, compiled=4)
    assert (behind.word, behind.start, behind.levels[0][:2]) == ("steady", 4, (4, 104))
    assert audit(samples, compiled=90).word == "unknown"


def test_long_windows_are_looked_at_in_batches() -> None:
    found = audit(noisy([300.0] * 4000 + [330.0] * 5000, spread=0.02))
    assert found.word == "settling"
    assert found.start == pytest.approx(4000, abs=40)
    assert found.levels[-1][1] == 9000


def test_identical_steps_have_no_noise_and_one_level() -> None:
    assert noise(flat()) == (0.0, 0.0)
    assert segments([1.0] * 50) == [50]
    two = audit([100] * 50 + [120] * 150)
    assert (two.word, two.start) == ("settling", 50)


def test_a_spike_is_clipped_to_its_neighbourhood_and_a_level_is_not() -> None:
    values = [1.0 + 0.01 * (step % 3) for step in range(60)]
    assert despiked([*values[:30], 9.0, *values[31:]])[30] < 1.1
    stepped = [*values[:30], *(value + 1.0 for value in values[30:])]
    assert despiked(stepped) == stepped


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(min_value=1.0, max_value=1e12), min_size=FEWEST, max_size=120),
    st.floats(min_value=1e-3, max_value=1e3),
)
def test_whatever_is_measured_has_an_answer_and_the_unit_does_not_matter(samples: list[float], unit: float) -> None:
    found, other = audit(samples), audit([value * unit for value in samples])
    assert found.word == other.word or found.word != "unknown"
    assert found.levels[0][0] == 0
    assert found.levels[-1][1] == len(samples)
    assert all(before[1] == after[0] for before, after in zip(found.levels, found.levels[1:], strict=False))


def test_only_what_was_measured_is_audited() -> None:
    assert audited(predicate("sparse_h100_triton")) is None
    doc = predicate("cuda_h100_8")
    found = audited(doc)
    assert found is not None
    doc["training"]["samples"]["measured"] = []
    assert audited(doc) is None


def test_an_audit_that_refuses_closes_the_gate_and_one_that_cannot_tell_is_said() -> None:
    data = encode({"predicate": predicate("cuda_h100_8")})
    other = admitted(predicate("cuda_h100_8") | {"run_id": "training-20260101T000000Z-00000000"})
    refused = compare(admit(digest(data), data, unsteady="it drifted"), other)
    assert "NO_STEADY_STATE" in refused.codes("block")
    unknown = compare(admit(digest(data), data, unaudited="9 steps"), other)
    assert "STEADINESS_UNKNOWN" in unknown.codes("caveat")
    assert unknown.comparable
