"""The terminal rendering: golden texts, and a width that is never exceeded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sample_records as samples
from hypothesis import given
from hypothesis import strategies as st

from lanemark.report.columns import cells, cut, to_ascii, wrap
from lanemark.report.terminal import RUN_COLUMNS, render, table
from lanemark.report.view import RecordView, record_view

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
ANSI = re.compile(r"\x1b\[\d+m")


def view_of(name: str) -> RecordView:
    doc = samples.SAMPLES[name]()
    return record_view(samples.record_id(doc), doc["predicate"])


@pytest.mark.parametrize("name", ["ok_cpu", "ok_cuda", "killed", "synthetic", "lost"])
def test_golden_text_at_80_columns(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    text = render(view_of(name), width=80) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


@pytest.mark.parametrize("width", [20, 40, 41, 60, 80, 100, 200])
@pytest.mark.parametrize("name", samples.SAMPLES)
def test_no_line_is_wider_than_asked(name: str, width: int) -> None:
    view = view_of(name)
    for unicode in (True, False):
        for line in render(view, width=width, unicode=unicode).split("\n"):
            assert cells(line) <= max(40, width)
            assert line == line.rstrip()


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_plain_output_is_ascii_and_colour_changes_no_text(name: str) -> None:
    view = view_of(name)
    assert render(view, unicode=False).isascii()
    assert "\x1b" not in render(view)
    assert ANSI.sub("", render(view, color=True)) == render(view)


def test_hostile_text_cannot_reach_the_terminal() -> None:
    text = render(view_of("hostile"))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_limits_of_the_number_are_on_the_page() -> None:
    text = render(view_of("ok_cpu"))
    assert "What this does not prove" in text
    assert "anything about convergence" in text


def test_a_listing_lines_up_and_shows_no_figure_without_a_receipt() -> None:
    rows = [
        {"id": samples.sha("a"), "created": "2026-11-22T15:23:20.871Z", "preset": "dense-nano", "device_class": "cpu", "world_size": 2,
         "mode": "fsdp2", "compile": "regional", "tokens_per_s": 11892.4, "receipt": True, "outcome": "ok", "path_class": "local_disk"},
        {"id": samples.sha("b"), "created": "2026-11-22T15:24:20.871Z", "preset": "dense-nano", "device_class": None, "world_size": None,
         "mode": None, "compile": None, "tokens_per_s": 5.0, "receipt": False, "outcome": "error", "path_class": None},
        {"id": samples.sha("c"), "created": "2026-11-22T15:25:20.871Z", "preset": "dense-nano", "device_class": "cpu", "world_size": 2,
         "mode": "fsdp2", "compile": "eager", "tokens_per_s": 5.0, "receipt": True, "outcome": "ok", "path_class": "synthetic"},
    ]  # fmt: skip
    assert table(rows).split("\n") == [
        "record        sealed               preset      device  ranks  mode   compile   data             tok/s  outcome",
        "ca978112ca1b  2026-11-22 15:23:20  dense-nano  cpu         2  fsdp2  regional  local_disk      11,892  ok",
        "3e23e8160039  2026-11-22 15:24:20  dense-nano  -           -  -      -         -           no receipt  error",
        "2e7d2c03a950  2026-11-22 15:25:20  dense-nano  cpu         2  fsdp2  eager     synthetic            5  ok",
    ]
    assert all(cells(line) <= 60 for line in table(rows, width=60).split("\n"))
    assert table(rows, width=60, unicode=False).isascii()


def test_a_listing_of_attempts() -> None:
    rows = [
        {
            "run_id": "training-20261122T152233Z-7k3f9q2x",
            "state": "running",
            "preset": "dense-nano",
            "age_s": 61.4,
            "where": "window, step 4 of 8",
            "last_polled_at": "2026-11-22T15:22:33.190Z",
            "reason": "2 ranks\nwere started",
        }
    ]
    assert table(rows, RUN_COLUMNS).split("\n")[1] == (
        "training-20261122T152233Z-7k3f9q2x  running  dense-nano  61 s  window, step 4 of 8  2026-11-22 15:22:33  -       "
        "2 ranks\\nwere started"
    )
    assert table([], RUN_COLUMNS).split() == ["run", "state", "preset", "age", "where", "looked", "record", "reason"]


@given(st.text(), st.integers(2, 60))
def test_wrapped_lines_fit_and_lose_no_word(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert lines
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(st.text(), st.integers(1, 30))
def test_cut_text_fits(text: str, width: int) -> None:
    assert cells(cut(text, width)) <= width
    assert to_ascii(text).isascii()
