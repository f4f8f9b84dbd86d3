"""Boot clocks: what the kernel's files say, and what is said when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanemark.observe.boot_clocks import NAMES, asleep_s, boot_clocks, parse_offset_s, parse_start_ticks

STAT = "1 (init (x) y) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {} 100 200"


def test_the_start_is_counted_after_a_name_with_parentheses() -> None:
    assert parse_start_ticks(STAT.format(4711)) == 4711
    for text in ("", "1 (init) S 0", STAT.format("soon")):
        with pytest.raises(ValueError):  # noqa: PT011 - what int() says is its own
            parse_start_ticks(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("monotonic           0         0\nboottime            0         0\n", 0.0),
        ("monotonic          -5         0\nboottime       -86400 500000000\n", -86_399.5),
        ("1 10 0\n7 20 0\n", 20.0),
    ],
)
def test_the_shift_of_the_boot_clock(text: str, seconds: float) -> None:
    assert parse_offset_s(text) == seconds


def test_a_file_without_the_boot_clock_is_no_shift_of_zero() -> None:
    with pytest.raises(ValueError, match="boot clock"):
        parse_offset_s("monotonic 0 0\n")


def test_reading_two_clocks_one_after_the_other_is_no_sleep() -> None:
    assert asleep_s(100.004, 100.0) == 0.0
    assert asleep_s(99.9, 100.0) == 0.0
    assert asleep_s(160.0, 100.0) == 60.0


def test_this_host_tells_all_three() -> None:
    seen = boot_clocks()
    assert tuple(seen) == NAMES
    age = seen["container_age_s"]
    assert age.value is not None
    assert age.value >= 0
    assert seen["asleep_s"].value is not None


def fake(root: Path, stat: str | None, offsets: str | None) -> Path:
    for name, text in (("1/stat", stat), ("self/timens_offsets", offsets)):
        if text is not None:
            path = root / "proc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def test_files_that_are_not_there_or_damaged_are_told_apart(tmp_path: Path) -> None:
    seen = boot_clocks(fake(tmp_path / "a", None, None))
    assert (seen["container_age_s"].status, seen["time_shift_s"].status) == ("absent", "absent")
    seen = boot_clocks(fake(tmp_path / "b", "1 (init) S", "boottime\n"))
    assert (seen["container_age_s"].status, seen["time_shift_s"].status) == ("unavailable", "unavailable")
    seen = boot_clocks(fake(tmp_path / "c", STAT.format(10**15), "boottime -10 0\n"))
    assert (seen["container_age_s"].status, seen["time_shift_s"].value) == ("unavailable", -10.0)
