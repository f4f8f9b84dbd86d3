"""Numbers become words in one way only, and foreign text becomes visible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.report import quantities as q


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.0831, "83.1 ms"), (4.13, "4.13 s"), (1.5e-6, "1.50 µs"), (3e-9, "3.00 ns"), (2e-10, "0.200 ns"),
        (0.99996, "1.00 s"), (59.96, "60.0 s"), (141.2, "141 s"), (300, "5 min 00 s"), (3599.7, "60 min 00 s"), (7500, "2 h 05 min"),
        (-0.02, "-20.0 ms"), (-400, "-6 min 40 s"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert q.duration(seconds) == text


def test_a_duration_may_carry_more_digits() -> None:
    assert q.duration(0.082493, 4) == "82.49 ms"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (1_741_824, "1.66 MiB"),
        (71_940_702_208, "67.0 GiB"),
        (2**60, "1,024 PiB"),
    ],
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert q.size(num_bytes) == text


def test_counts_rates_and_shares() -> None:
    assert q.count(1_235_814_400) == "1,235,814,400"
    assert q.scaled(8.59e9, "FLOP") == "8.59 GFLOP"
    assert q.scaled(12, "FLOP") == "12.0 FLOP"
    assert (q.throughput(12344.6), q.throughput(3.14159)) == ("12,345 tok/s", "3.14 tok/s")
    assert q.percent(0.3471) == "34.7 %"
    assert (q.plural(1, "rank"), q.plural(2, "rank"), q.plural(2, "key", "binaries")) == (
        "1 rank",
        "2 ranks",
        "2 binaries",
    )


def test_rounding_up_does_not_add_a_digit() -> None:
    assert q.significant(9.996) == "10.0"
    assert q.significant(0.09996) == "0.100"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", "a\\nb\\tc\\r"), ("\x1b[31m", "\\x1b[31m"), ("\u202eexe", "\\u202eexe"), ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"), ("שלום µ → 日本", "שלום µ → 日本"), ("plain", "plain"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_spelled_out(text: str, shown: str) -> None:
    assert q.visible(text) == shown


@given(st.text())
def test_visible_text_is_one_printable_line_that_can_be_encoded(text: str) -> None:
    shown = q.visible(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    shown.encode("utf-8")


@given(st.floats(min_value=1e-9, max_value=1e7))
def test_a_duration_is_short_and_has_a_unit(seconds: float) -> None:
    text = q.duration(seconds)
    assert 3 <= len(text) <= 14
    assert text[0].isdigit()
    assert "e" not in text.split()[0]
