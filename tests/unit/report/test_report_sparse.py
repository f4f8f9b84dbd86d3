"""A record of the sparse lane on a terminal and in HTML: what ran first, its witnesses, and no rate anywhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.records.observation import unavailable
from lanemark.report.columns import cells
from lanemark.report.html import render_html
from lanemark.report.terminal import render
from lanemark.report.view import RecordView, record_view

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good"
GOLDEN = Path(__file__).parents[2] / "golden" / "report"


def predicate_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOOD / f"{name}.json").read_bytes())["predicate"]
    return found


def view_of(predicate: dict[str, Any]) -> RecordView:
    return record_view("sha256:" + "0" * 64, predicate)


@pytest.mark.parametrize("name", ["sparse_smoke", "sparse_rerouted_detached", "sparse_error"])
def test_golden_text_at_80_columns(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    text = render(view_of(predicate_of(name)), width=80) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


@pytest.mark.parametrize("path", sorted(GOOD.glob("sparse_*.json")), ids=lambda path: path.stem)
def test_no_page_states_a_rate_or_runs_over_its_width(path: Path) -> None:
    view = view_of(predicate_of(path.stem))
    page = render_html([view])
    for text in (render(view), page):
        for unit in ("tok/s", "/s<", "per second", "FLOP/s"):
            assert unit not in text
    assert "<script" not in page
    for width in (40, 80):
        assert all(cells(line) <= width for line in render(view, width=width).split("\n"))


def test_a_fallback_is_in_the_headline() -> None:
    view = view_of(predicate_of("sparse_rerouted_detached"))
    assert view.headline.figure == "0 of 1 ran as asked"
    assert "1 fallback (seq_le_topk × 1)" in view.headline.qualifier
    assert "fallback: seq le topk" in render(view).replace("\n", " ")


def test_what_was_not_seen_is_said_and_not_filled_in() -> None:
    view = view_of(predicate_of("sparse_unobserved"))
    assert not view.headline.receipt.quotable
    text = render(view)
    assert "not seen, block superset" in text
    assert "flex ran" not in text
    assert "unobserved, op level" in render_html([view])


def test_a_result_without_parity_cannot_look_like_one() -> None:
    doc = copy.deepcopy(predicate_of("sparse_smoke"))
    doc["sparse"]["results"][0]["parity"]["value"].update(passed=False, max_relative_error=0.25)
    doc["sparse"]["results"][1]["parity"] = unavailable("output against float64", "it is not finite").to_json()
    doc["outcome"].update(receipt=False, receipt_reason="its output is off")
    text = render(view_of(doc))
    assert "NO PARITY, off by 2.5e-01" in text
    assert "held against nothing" in text
    assert text.startswith("no identity receipt: its output is off")
