"""The data path on a page: classes with their evidence, stalls, and nothing of either for records that lack them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import sample_records as samples

from lanemark.report.data_ranks import residency_words, windows_words
from lanemark.report.html import render_html
from lanemark.report.terminal import render
from lanemark.report.view import RecordView, record_view

CORPUS = Path(__file__).parents[2] / "assets" / "records" / "good"


def predicate(name: str) -> dict[str, Any]:
    return dict(json.loads((CORPUS / f"{name}.json").read_bytes())["predicate"])


def view_of(predicate: dict[str, Any]) -> RecordView:
    return record_view("sha256:" + "a" * 64, predicate)


def test_a_mount_that_was_said_to_be_a_disk() -> None:
    view = view_of(predicate("data_object_mount"))
    (asked,) = [row for row in view.asked if row.label == "data path"]
    assert (asked.requested.text, asked.observed.text, asked.agreement) == ("local disk", "object mount", "differs")
    text = " ".join(render(view, width=200).split())
    assert "1 step waited 62.5 ms in all, the longest 62.5 ms in step 3 of rank 1" in text
    assert "exactly the case's 24, disjoint over the ranks" in text
    assert "at least 0.0 % of the shards before, 0.0 % after" in text
    page = render_html([view])
    assert "Data path by rank" in page
    assert "Steps that waited for their tokens" in page
    assert "0:52" in page
    assert [cell.text for cell in view.stalls.rows[0]] == ["1", "3", "62.5 ms", "125 ms", "50.0 %"]


def test_a_cached_disk_shows_its_evidence() -> None:
    view = view_of(predicate("data_page_cache"))
    assert [cell.text for cell in view.path_ranks.rows[1]] == [
        "1", "page cache", "1", "100.0 % of 1.91 MiB", "100.0 % of 1.91 MiB", "0 B fetched, 4.00 KiB read", "12",
        "1.75 ms",
    ]  # fmt: skip
    assert view.stalls.rows == ()
    assert "stalls      none" in render(view)


def test_what_is_not_known_has_its_reason_and_what_was_never_looked_at_no_line() -> None:
    doc = copy.deepcopy(predicate("data_page_cache"))
    why = {"status": "unavailable", "source": "cachestat, mincore", "reason": "a control file was called resident"}
    for each in doc["data"]["ranks"]:
        each["resident_before"] = each["resident_after"] = why
    view = view_of(doc)
    assert view.path_ranks.rows[0][3].text == "unavailable: a control file was called resident"
    assert "page cache " not in " ".join(row.label for group in view.brief for row in group.rows)
    old = record_view("sha256:" + "b" * 64, samples.SAMPLES["ok_cpu"]()["predicate"])
    assert old.path_ranks.rows == old.stalls.rows == ()
    assert "Data path by rank" not in render_html([old])


def test_words() -> None:
    seen = {"bytes": 4096, "resident_bytes": 1024, "files": 3, "files_open": 90}
    assert residency_words(seen) == "25.0 % of 4.00 KiB, in 3 of 90 files"
    assert residency_words({**seen, "bytes": 0}) == "of no bytes"
    sets = {"read": {"count": 5, "sum": "0"}, "expected": {"count": 6, "sum": "1"}, "as_expected": False}
    assert windows_words(sets) == "NOT the case's 6: 5"
    assert windows_words({**sets, "read": {"count": 6, "sum": "0"}}) == "NOT the case's 6: other ones"
