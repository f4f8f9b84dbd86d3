"""Stamps and steps of the wall clock."""

from __future__ import annotations

import re

import pytest

from lanemark.observe.clock import ClockPoint, ClockWatch, compare, format_stamp, stamp

S = 1_000_000_000


def test_stamp_is_utc_with_milliseconds() -> None:
    assert format_stamp(1_795_361_553_123_999_999) == "2026-11-22T15:32:33.123Z"
    assert format_stamp(0) == "1970-01-01T00:00:00.000Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp())


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "step_s"), [(100, 100, 0.0), (3700, 100, 3600.0), (-500, 100, -600.0)]
)
def test_a_step_is_the_difference(wall_s: int, monotonic_s: int, step_s: float) -> None:
    start = ClockPoint(1000 * S, 5 * S)
    assert compare(start, ClockPoint((1000 + wall_s) * S, (5 + monotonic_s) * S)) == pytest.approx(step_s)


def test_slewing_is_no_step_and_a_small_jump_is() -> None:
    start = ClockPoint(0, 0)
    assert compare(start, ClockPoint(3_601_500_000_000, 3600 * S)) == 0.0
    assert compare(start, ClockPoint(10 * S + S // 10, 10 * S)) == pytest.approx(0.1)


def test_watch_sees_no_step_on_a_quiet_host() -> None:
    watch = ClockWatch()
    assert abs(watch.stepped_s().value or 0.0) < 5
    back = ClockPoint(watch.start.wall_ns - 7 * S, watch.start.monotonic_ns)
    assert watch.stepped_s(back).value == pytest.approx(-7)
