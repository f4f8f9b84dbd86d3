"""The pictures: nothing is hidden by an axis, a group or a cut."""

from __future__ import annotations

import math

import pytest
import sample_records as samples
from hypothesis import given
from hypothesis import strategies as st

from lanemark.report.charts import MAX_POINTS, step_chart, tick_values
from lanemark.report.phase_chart import phase_slug, timeline_chart
from lanemark.report.series import axis_top, nice_ceiling, step_series
from lanemark.report.timeline import timeline


def training_of(doc: samples.Doc) -> samples.Doc:
    return doc["predicate"]["training"]


def test_the_axis_ends_above_measured_steps_and_names_what_it_clips() -> None:
    series = step_series(training_of(samples.ok_cpu()))
    assert [step.number for step in series.clipped] == [0]
    assert [step.number for step in series.stalls] == [33]
    assert max(step.seconds for step in series.part("measured")) < series.top_s
    chart = step_chart(series)
    assert chart is not None
    assert chart.notes == ("The axis is clipped at 250 ms: step 0 took 4.13 s.",)
    assert [mark.words for mark in chart.clipped] == ["4.13 s"]
    assert [mark.hint for mark in chart.stalls] == ["step 33: 204.0 ms (stall)"]
    assert chart.y_ticks[0].text == "0 s"


def test_an_axis_that_reaches_everything_clips_nothing() -> None:
    series = step_series(training_of(samples.short_run()))
    chart = step_chart(series)
    assert chart is not None
    assert (series.clipped, chart.clipped, chart.notes) == ((), (), ())
    assert len(chart.curves) == 2
    assert [len(curve.dots) for curve in chart.curves] == [1, 4]


def test_many_steps_become_an_envelope_that_still_reaches_every_stall() -> None:
    series = step_series(training_of(samples.long_run()))
    chart = step_chart(series)
    assert chart is not None
    measured = chart.curves[1]
    assert len(measured.line.split()) <= MAX_POINTS
    tops = [float(point.split(",")[1]) for point in measured.envelope.split()]
    assert min(tops) == 0.0
    assert chart.stalls[0].hint == "step 1,253: 190.0 ms (stall)"
    assert [mark.hint for mark in chart.clipped] == [
        "step 0: 26.60 s (above the axis)",
        "step 4,051: 1.400 s (a stall above the axis)",
    ]
    assert not measured.dots


def test_a_run_that_ended_early_leaves_the_rest_of_its_axis_empty_and_says_so() -> None:
    chart = step_chart(step_series(training_of(samples.killed())))
    assert chart is not None
    assert chart.recorded_share == pytest.approx(46.0)
    assert chart.median_y is None
    assert "Nothing was recorded after step 22 of 50 declared." in chart.notes


def test_no_steps_no_picture() -> None:
    assert step_chart(step_series(training_of(samples.lost()))) is None
    assert timeline_chart(timeline(training_of(samples.lost()))) is None
    training = training_of(samples.short_run())
    training["samples"] = {"unit": "ns", "warmup": [0], "measured": [0, 0]}
    assert step_chart(step_series(training)) is None


@given(st.lists(st.floats(1e-6, 1e4), max_size=30), st.lists(st.floats(1e-6, 1e4), max_size=60))
def test_axis_top_is_never_below_the_median_and_never_far_above_what_is_drawn(
    warm: list[float], measured: list[float]
) -> None:
    top = axis_top(warm, measured)
    everything = [*warm, *measured]
    if not everything:
        assert top == 0.0
        return
    usual = sorted(measured or everything)[len(measured or everything) // 2 - (1 - len(measured or everything) % 2)]
    assert top >= usual
    assert top <= 2.2 * max(everything)


@given(st.floats(1e-9, 1e9))
def test_nice_numbers_are_at_or_above(value: float) -> None:
    top = nice_ceiling(value)
    assert value * (1 - 1e-9) <= top <= 1.7 * value


@given(st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_start_at_zero_and_stay_inside(end: float, wanted: int) -> None:
    values = tick_values(end, wanted)
    assert values[0] == 0
    assert values[-1] <= end * (1 + 1e-6)
    assert 1 <= len(values) <= 2 * wanted + 2
    assert all(math.isfinite(value) for value in values)


def test_compile_bars_lie_below_the_phase_they_fall_in() -> None:
    chart = timeline_chart(timeline(training_of(samples.ok_cpu())))
    assert chart is not None
    bars = {bar.slug: bar for bar in chart.lanes[0].bars}
    assert bars["compile"].y >= bars["warmup"].y + bars["warmup"].height
    assert bars["warmup"].words == "warm-up"
    assert not any(bar.cut for bar in chart.lanes[0].bars)
    assert ("compile", "compile") in chart.legend


def test_a_long_window_is_cut_and_the_caption_says_where_it_ends() -> None:
    picture = timeline(training_of(samples.ok_cuda()))
    chart = timeline_chart(picture)
    assert chart is not None
    assert len(chart.lanes) == 8
    assert [bar.slug for bar in chart.lanes[0].bars if bar.cut] == ["window"]
    assert all(bar.x + bar.width <= 100.2 for lane in chart.lanes for bar in lane.bars)
    assert "the run goes on to" in chart.notes[0]


def test_a_failed_rank_is_marked_where_it_failed() -> None:
    chart = timeline_chart(timeline(training_of(samples.killed())))
    assert chart is not None
    assert chart.lanes[0].failed_x is not None
    assert chart.lanes[1].failed_x is None


def test_silent_ranks_are_named() -> None:
    training = training_of(samples.ok_cpu())
    training["ranks"][1]["phases"] = []
    chart = timeline_chart(timeline(training))
    assert chart is not None
    assert "No phase was reported by rank 1." in chart.notes


def test_an_unknown_phase_has_a_colour_of_its_own_kind() -> None:
    assert phase_slug("init_process_group") == "init-process-group"
    assert phase_slug('"><script>') == "other"
