"""A record of the promotion lane and a wave of them, on a terminal and in HTML: no rate anywhere, nothing left to colour."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lanemark.lanes.wave import contradicted, manifest_document, wave_row
from lanemark.report.columns import cells
from lanemark.report.html import render_html
from lanemark.report.terminal import render
from lanemark.report.view import RecordView, record_view
from lanemark.report.wave import blocks, render_wave, wave_view
from lanemark.report.wave_page import render_wave_html

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good"
GOLDEN = Path(__file__).parents[2] / "golden" / "report"
RECORDS = sorted(GOOD.glob("promotion_*.json"))


def predicate_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOOD / f"{name}.json").read_bytes())["predicate"]
    return found


def view_of(predicate: dict[str, Any]) -> RecordView:
    return record_view("sha256:" + "0" * 64, predicate)


def wave(**changes: Any) -> dict[str, Any]:
    rows = [wave_row(f"sha256:{place:064x}", predicate_of(path.stem)) for place, path in enumerate(RECORDS)]
    left = [
        {"candidate": "sdpa_flash", "dtype": "bf16", "direction": "backward", "case": "causal-s128-d192x128-h8",
         "reason": "value_dim_unsupported", "words": "head dimensions differ"},
        {"candidate": "flex", "dtype": "", "direction": "", "case": None, "reason": "slow_on_cpu", "words": "slow"},
    ]  # fmt: skip
    made = manifest_document("sample", "matrix", rows, created_at="2026-11-28T16:00:00.000Z", whole=True, left_out=left)
    return {**made, **changes}


@pytest.mark.parametrize("name", ["promotion_ready_fa4", "promotion_rejected", "promotion_compiled_only"])
def test_golden_text_at_80_columns(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    text = render(view_of(predicate_of(name)), width=80) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


def test_golden_wave(update_golden: bool) -> None:
    path = GOLDEN / "promotion_wave.txt"
    text = render_wave(wave_view(wave(), "sha256:" + "d" * 64), width=90) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_no_page_states_a_rate_or_runs_over_its_width(path: Path) -> None:
    view = view_of(predicate_of(path.stem))
    page = render_html([view])
    for text in (render(view), page):
        for unit in ("tok/s", "/s<", "per second", "FLOP/s"):
            assert unit not in text
    assert "<script" not in page
    for width in (40, 80):
        assert all(cells(line) <= width for line in render(view, width=width).split("\n"))


def test_a_ready_record_says_ready_and_a_rejected_one_says_why() -> None:
    assert view_of(predicate_of("promotion_ready_fa4")).headline.figure == "ready"
    rejected = view_of(predicate_of("promotion_rejected"))
    assert rejected.headline.figure == "rejected"
    assert "forward parity failed" in rejected.headline.qualifier
    assert "1.3e-02 of 2.5e-03 allowed" in render(rejected)


def test_a_record_that_calls_itself_ready_and_owes_something_lists_it() -> None:
    doc = predicate_of("promotion_ready_fa4")
    doc["promotion"]["execute_proof"] = {"status": "unavailable", "source": "worker", "reason": "nothing ran"}
    assert "no execution was observed" in render(view_of(doc)).replace("\n             ", " ")


def test_a_surviving_mutant_is_told() -> None:
    page = render_html([view_of(predicate_of("promotion_no_power"))])
    assert "SURVIVES" in page


def test_a_wave_fits_its_width_and_the_ascii_form_has_no_other_letters() -> None:
    view = wave_view(wave(), "sha256:" + "d" * 64)
    for width in (70, 80, 90):
        assert all(cells(line) <= width for line in render_wave(view, width=width).split("\n"))
    assert render_wave(view, unicode=False).isascii()


CASES = tuple(f"causal-s{number}-d64-h2" for number in range(1, 22))


def matrix_row(candidate: str, dtype: str, cases: tuple[str, ...]) -> dict[str, Any]:
    row = wave_row(f"sha256:{candidate}{dtype}".ljust(71, "0"), predicate_of("promotion_backward"))
    parity = [
        {"name": case, "direction": direction, "verdict": "pass"}
        for case in cases
        for direction in ("forward", "backward")
    ]
    return {
        **row, "candidate": candidate, "dtype": dtype, "parity": parity, "cases": len(cases), "state": "inconclusive",
        "reason": "unobserved", "ready": False, "rungs": ["planned", "compiled", "imported", "executed"],
    }  # fmt: skip


def full_wave() -> dict[str, Any]:
    """As a CPU leaves it: three types, one candidate that does not claim every case, one case that failed."""
    rows = [matrix_row("sdpa_math", dtype, CASES) for dtype in ("bf16", "fp16", "fp32")]
    rows.append(matrix_row("sdpa_flash", "bf16", CASES[:18]))
    rows[2]["parity"][0]["verdict"] = "fail"
    left = [
        {"candidate": "sdpa_flash", "dtype": "bf16", "direction": "backward", "case": case, "words": "",
         "reason": "value_dim_unsupported"} for case in CASES[18:20]
    ]  # fmt: skip
    left += [
        {"candidate": name, "dtype": "bf16", "direction": "forward", "case": None, "words": "", "reason": "arch_unsupported"}
        for name in ("fa2", "fa3")
    ]  # fmt: skip
    return manifest_document("full", "matrix", rows, created_at="2026-11-28T16:00:00.000Z", whole=True, left_out=left)


def test_golden_full_wave_at_80_columns(update_golden: bool) -> None:
    path = GOLDEN / "promotion_wave_full.txt"
    text = render_wave(wave_view(full_wave(), "sha256:" + "d" * 64), width=80) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


def test_what_was_not_asked_is_no_case_that_was_not_run() -> None:
    view = wave_view(full_wave(), "sha256:" + "d" * 64)
    assert view.matrices[0].rows[3].cases[17:] == ("pass", "not_asked", "not_asked", "not_run")
    assert view.matrices[0].rows[2].cases[0] == "fail"
    assert (view.where, view.rows[0].scope) == ("sm_90", "bf16 backward")
    assert view.left_out == (
        "sdpa_flash: causal-s19-d64-h2, causal-s20-d64-h2 (value dim unsupported)",
        "fa2, fa3: bf16 forward (arch unsupported)",
    )
    assert [len(why.records) for why in view.why] == [3, 1]


def test_parity_that_was_shown_over_a_rung_that_is_not_held_is_told_apart() -> None:
    rows = wave_view(full_wave(), "sha256:" + "d" * 64).rows
    assert rows[0].rungs[-3:] == ("missing", "shown", "shown")
    assert rows[2].rungs[-2:] == ("missing", "shown"), "a case failed forward"
    less = {**matrix_row("sdpa_math", "bf16", CASES[:20]), "cases": 21}
    assert wave_view({**full_wave(), "records": [less]}, "sha256:x").rows[0].rungs[-2:] == ("missing", "missing")


def test_a_host_without_a_device_says_once_that_it_can_make_nothing_ready() -> None:
    on_cpu = full_wave()
    for row in on_cpu["records"]:
        row["arch"] = "x86_64"
    assert render_wave(wave_view(on_cpu, "sha256:x")).count("only a run on a device can be ready") == 1
    assert "a run on a device can be ready" in render_wave_html(wave_view(on_cpu, "sha256:x"))
    assert wave_view(full_wave(), "sha256:x").note == ""
    on_cpu["records"] = [{**row, "state": "rejected", "reason": "zero_output: x"} for row in on_cpu["records"]]
    assert wave_view(on_cpu, "sha256:x").note == ""


@pytest.mark.parametrize(
    ("num_cases", "room", "expected"),
    [
        (5, 15, [(0, 5, 3)]),
        (5, 14, [(0, 5, 2)]),
        (21, 42, [(0, 21, 2)]),
        (21, 41, [(0, 20, 2), (20, 21, 2)]),
        (3, 1, [(0, 1, 2), (1, 2, 2), (2, 3, 2)]),
    ],
)
def test_columns_of_cases_fit_or_go_on_below(num_cases: int, room: int, expected: list[tuple[int, int, int]]) -> None:
    assert blocks(num_cases, room) == expected


def test_a_wave_counts_what_its_records_say() -> None:
    view = wave_view(wave(), "sha256:" + "d" * 64)
    ready = sum(predicate_of(path.stem)["promotion"]["promotion_ready"] for path in RECORDS)
    assert view.claim.startswith(f"{ready} of {len(RECORDS)} records ready")
    assert {row.rungs[-1] for row in view.rows if "forward" in row.scope} == {"not_asked"}
    assert any("sdpa_flash: causal-s128-d192x128-h8 (value dim unsupported)" in line for line in view.left_out)
    ended = wave_view(wave(whole=False), "sha256:" + "d" * 64)
    assert "not every case of the wave has a record" in ended.states
    assert wave_view(wave(records=[], whole=False), "sha256:" + "d" * 64).states == (
        "not every case of the wave has a record"
    )


def test_a_wave_page_is_whole_and_says_every_mark_in_words() -> None:
    hostile = wave()
    hostile["records"][0]["candidate"] = "<script>alert(1)</script>"
    page = render_wave_html(wave_view(hostile, "sha256:" + "d" * 64, ("x is not what the record says",)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "x is not what the record says" in page
    assert re.search(r"(src|href)=", page) is None
    for words in ("held", "not held", "not asked", "passed", "failed", "no power"):
        assert f">{words}</span>" in page or words in page


def test_a_row_that_says_more_than_its_record_is_contradicted() -> None:
    made = wave()
    mine = {row["record_id"]: copy.deepcopy(row) for row in made["records"]}
    assert contradicted(made, mine) == ()
    made["records"][1]["ready"] = not made["records"][1]["ready"]
    first = made["records"][0]["record_id"]
    del mine[first]
    assert contradicted(made, mine) == (
        f"{first[:19]} is not in the ledger", f"{made['records'][1]['record_id'][:19]}: ready is not what the record says",
    )  # fmt: skip
