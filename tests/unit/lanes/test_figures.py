"""The arithmetic of the measured loop, on hand-made stamps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.lanes.figures import (
    global_steps,
    last_compiling_step,
    percentile,
    rank_split,
    step_time,
    tokens_per_s,
)


@dataclass(frozen=True)
class Row:
    begin_ns: int
    data_ready_ns: int
    end_ns: int
    compile_ns: int = 0
    device_ns: int | None = None


@dataclass(frozen=True)
class Samples:
    rows: tuple[Row, ...]
    warmup: int = 1
    window_begin_ns: int | None = None
    window_end_ns: int | None = None


def loop(
    ends: list[int], *, warmup: int = 1, window: tuple[int | None, int | None] = (None, None), device=None
) -> Samples:
    """A rank whose steps end at `ends`, its first step beginning at 0 and its window where `window` says."""
    rows, begin = [], 0
    for index, end in enumerate(ends):
        if index == warmup and window[0] is not None:
            begin = window[0]
        rows.append(Row(begin, begin + 1, end, device_ns=None if device is None else device[index]))
        begin = end
    return Samples(tuple(rows), warmup, *window)


def test_a_global_step_ends_with_its_slowest_rank() -> None:
    fast = loop([100, 210, 300], window=(110, 320))
    slow = loop([105, 205, 310], window=(111, 318))
    steps = global_steps([fast, slow])
    assert steps.warmup_ns == (105,)
    assert steps.measured_ns == (210 - 111, 320 - 210)
    assert steps.window_ns == 320 - 111
    assert sum(steps.measured_ns) == steps.window_ns
    assert steps.clock == "host"


def test_work_queued_on_a_device_is_inside_the_window() -> None:
    """Host stamps of an asynchronous device end early; the synchronised end belongs to the last step."""
    steps = global_steps([loop([10, 20, 30], window=(12, 500))])
    assert sum(steps.measured_ns) == 488


def test_device_times_are_preferred_when_every_rank_has_them() -> None:
    ranks = [
        loop([10, 20, 30], window=(12, 500), device=[0, 7, 8]),
        loop([10, 20, 30], window=(12, 500), device=[0, 9, 6]),
    ]
    steps = global_steps(ranks)
    assert steps.measured_ns == (9, 8)
    assert steps.clock == "device"
    partly = [ranks[0], loop([10, 20, 30], window=(12, 500))]
    assert global_steps(partly).clock == "host"


def test_only_steps_that_every_rank_finished_count() -> None:
    dead = loop([10, 20], window=(12, None))
    alive = loop([10, 20, 30, 40], window=(12, None))
    steps = global_steps([alive, dead])
    assert len(steps.measured_ns) == 1
    assert steps.window_ns is None


def test_a_rank_without_steps_leaves_no_steps() -> None:
    assert global_steps([loop([10, 20], window=(12, 21)), Samples(())]).measured_ns == ()
    assert global_steps([]).measured_ns == ()


def test_a_run_that_never_left_its_warm_up_measured_nothing() -> None:
    steps = global_steps([loop([10, 20], warmup=5)])
    assert steps.warmup_ns == (10, 10)
    assert steps.measured_ns == ()


def test_figures_use_the_mean_and_name_stalls() -> None:
    figures = step_time([100_000_000] * 9 + [500_000_000])
    assert figures["mean_s"] == pytest.approx(0.14)
    assert figures["p50_s"] == pytest.approx(0.1)
    assert figures["stalls"] == 1
    assert tokens_per_s(1000, [100_000_000] * 9 + [500_000_000]) == pytest.approx(1000 / 0.14)


def test_no_steps_have_no_figures() -> None:
    with pytest.raises(ValueError, match="nothing"):
        step_time([])
    with pytest.raises(ValueError, match="no length"):
        tokens_per_s(1, [0, 0])


def test_the_split_counts_only_the_window() -> None:
    rows = (Row(0, 90, 100, compile_ns=50), Row(110, 115, 200, compile_ns=50), Row(200, 203, 300, compile_ns=60))
    split = rank_split(Samples(rows, 1, 110, 310))
    assert split is not None
    assert split.window_s == pytest.approx(200e-9)
    assert split.data_wait_s == pytest.approx(8e-9)
    assert split.compile_s == pytest.approx(10e-9)
    assert split.other_s == pytest.approx(182e-9)
    assert rank_split(Samples(rows, 1, 110, None)) is None


def test_the_last_compiling_step_is_over_all_ranks() -> None:
    early = Samples((Row(0, 0, 1, 5), Row(1, 1, 2, 5), Row(2, 2, 3, 5)))
    late = Samples((Row(0, 0, 1, 5), Row(1, 1, 2, 5), Row(2, 2, 3, 9)))
    never = Samples((Row(0, 0, 1), Row(1, 1, 2)))
    assert last_compiling_step([early, never]) == 0
    assert last_compiling_step([early, late]) == 2
    assert last_compiling_step([never]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_percentiles_stay_inside_the_data(values: list[float], fraction: float) -> None:
    got = percentile(values, fraction)
    assert min(values) - 1e-6 <= got <= max(values) + 1e-6


@given(
    st.lists(st.lists(st.integers(1, 10**6), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_steps_tile_the_window(durations: list[list[int]], drain: int) -> None:
    """Whatever the ranks did, the measured steps add up to the elapsed window exactly."""
    ranks = []
    for lengths in durations:
        ends, at = [], 0
        for length in lengths:
            at += length
            ends.append(at)
        ranks.append(ends)
    begin = max(ends[0] for ends in ranks)
    end = max(ends[-1] for ends in ranks) + drain
    made = [loop(ends, window=(min(begin, ends[1]), max(end, ends[-1]))) for ends in ranks]
    steps = global_steps(made)
    assert steps.window_ns is not None
    assert sum(steps.measured_ns) >= steps.window_ns - max(0, begin - min(e[1] for e in ranks))
