"""The view decides what may be shown: figures only with a receipt, and never a blank."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import sample_records as samples

from lanemark.records.encoding import encode
from lanemark.records.errors import RecordError
from lanemark.records.schema import Statement
from lanemark.report.asked import gpu_agreement
from lanemark.report.cells import Cell, group, row, shown
from lanemark.report.html import render_html
from lanemark.report.terminal import render
from lanemark.report.view import RecordView, record_view

#: A throughput as this project prints one.
TOKENS_PER_S = re.compile(r"\d[\d,.]* tok/s")


def view_of(doc: samples.Doc) -> RecordView:
    return record_view(samples.record_id(doc), doc["predicate"])


def everything(view: RecordView) -> str:
    return render(view) + render_html([view])


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_samples_are_records(name: str) -> None:
    Statement.model_validate_json(encode(samples.SAMPLES[name]()))


def cells_in(value: Any) -> list[Cell]:
    if isinstance(value, Cell):
        return [value]
    if is_dataclass(value):
        return [cell for field in fields(value) for cell in cells_in(getattr(value, field.name))]
    if isinstance(value, tuple):
        return [cell for item in value for cell in cells_in(item)]
    return []


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_no_cell_is_blank_or_a_stand_in(name: str) -> None:
    cells = cells_in(view_of(samples.SAMPLES[name]()))
    assert len(cells) > 100
    for cell in cells:
        assert cell.text.strip() == cell.text != ""
        assert cell.text not in ("None", "nan", "null", "-1", "{}")
        assert "\n" not in cell.text


def test_a_receipt_gives_the_narrowest_sentence() -> None:
    assert view_of(samples.ok_cpu()).headline.sentence == (
        "dense-nano, 2 ranks, fsdp2, regional, fp32, cpu (requested any → observed cpu): "
        "11,892 tok/s over 40 measured steps after 10 warm-up steps"
    )


def test_a_failure_names_its_first_cause() -> None:
    assert view_of(samples.killed()).headline.claim == "no throughput receipt: rank 1 was killed by SIGKILL"


def without_receipt() -> samples.Doc:
    doc = samples.ok_cpu()
    doc["predicate"]["outcome"].update(receipt=False, receipt_reason="the loss was not finite")
    return doc


def failed_with_figure() -> samples.Doc:
    """A record that contradicts itself: it failed, and still carries a throughput and a receipt."""
    doc = samples.ok_cpu()
    doc["predicate"]["outcome"].update(state="error", first_cause={"kind": "undecided", "summary": "it failed"})
    return doc


def test_synthetic_tokens_are_named_in_the_same_breath_as_the_figure() -> None:
    view = view_of(samples.synthetic())
    assert view.headline.receipt.quotable
    assert view.headline.claim.endswith("on synthetic tokens: no data path was measured")


def synthetic_by_sight() -> samples.Doc:
    """Real shards were asked for, and the ranks were seen to make their tokens up."""
    doc = samples.ok_cpu()
    doc["predicate"]["data"]["path_class"] = samples.seen("synthetic", "rank reports")
    return doc


@pytest.mark.parametrize(
    "build", [samples.killed, samples.lost, without_receipt, failed_with_figure, synthetic_by_sight]
)
def test_without_a_receipt_no_throughput_is_shown_anywhere(build: Any) -> None:
    view = view_of(build())
    assert not view.headline.receipt.quotable
    assert view.headline.claim.startswith("no throughput receipt: ")
    assert not TOKENS_PER_S.search(everything(view))


def test_a_withheld_figure_says_why_and_mfu_goes_with_it() -> None:
    doc = samples.ok_cuda()
    doc["predicate"]["outcome"].update(receipt=False, receipt_reason="the loss was not finite")
    text = everything(view_of(doc))
    assert "withheld: the loss was not finite" in text
    assert "34.7 %" not in text


def test_what_differs_from_the_request_is_said() -> None:
    view = view_of(samples.ok_cuda())
    assert {line.label for line in view.asked if line.agreement == "differs"} == {"device", "start-up"}
    assert "H200 (requested H100:8 → observed H200)" in view.headline.subject


def test_a_mode_that_differs_is_in_the_sentence() -> None:
    doc = samples.ok_cpu()
    doc["predicate"]["distributed"]["observed"]["mode"] = samples.seen("ddp")
    doc["predicate"]["distributed"]["observed"]["world_size"] = samples.seen(1)
    assert "1 rank (requested 2 ranks), ddp (requested fsdp2)" in view_of(doc).headline.subject


@pytest.mark.parametrize(
    ("requested", "observed", "agreement"),
    [
        ("any", "cpu", "unconstrained"), ("any", None, "unknown"), ("cpu", "cpu", "same"), ("H100:8", "H100", "same"),
        ("H100!:8", "H200", "differs"), ("A100", "A100-80GB", "same"), ("A100-40GB", "A100-80GB", "differs"), ("H100!:8", "H100-PCIe", "differs"),
        ("B200+", "B300", "same"), ("B200+", "cpu", "differs"), ("H100", "cpu", "differs"), ("no such spec!", "H100", "unknown"),
    ],
)  # fmt: skip
def test_agreement_of_devices(requested: str, observed: str | None, agreement: str) -> None:
    assert gpu_agreement(requested, observed) == agreement


@pytest.mark.parametrize(
    ("declared", "state", "agreement"),
    [
        ("require", "warm", "same"), ("require", "cold", "differs"), ("cold", "cold", "same"), ("cold", "warm", "differs"),
        ("seed", "cold", "unconstrained"), ("seed", "warm", "unconstrained"), ("seed", None, "unknown"), ("require", None, "unknown"),
    ],
)  # fmt: skip
def test_agreement_of_the_starting_line(declared: str, state: str | None, agreement: str) -> None:
    doc = samples.ok_cpu()
    seen = samples.hidden("directory", "gone") if state is None else samples.seen(state, "directory")
    doc["predicate"]["startup"].update(declared=declared, state=seen)
    assert {line.label: line.agreement for line in view_of(doc).asked}["start-up"] == agreement


def test_ranks_that_share_a_cpu_are_not_short_of_devices() -> None:
    assert "devices" not in {line.label for line in view_of(samples.ok_cpu()).asked}
    doc = samples.ok_cuda()
    doc["predicate"]["hardware"]["observed"]["device_count"] = samples.seen(7)
    assert {line.label: line.agreement for line in view_of(doc).asked}["devices"] == "differs"


def test_the_three_statuses_look_different() -> None:
    assert shown(samples.seen(3)) == Cell("3", "observed", "torch")
    assert shown(samples.gone("nvml")).text == "absent"
    assert shown(samples.gone("nvml", "no driver")).text == "absent: no driver"
    assert shown(samples.hidden("nvml", "no permission")).text == "unavailable: no permission"
    with pytest.raises(ValueError, match="cannot be"):
        shown({"status": "guessed", "source": "hope"})


def test_neighbours_without_a_value_share_a_line_and_keep_their_names() -> None:
    none = samples.gone("nvml", "no driver")
    merged = group(
        "Devices",
        row("class", samples.seen("cpu")),
        row("driver", none),
        row("MIG", none),
        row("ECC", samples.gone("nvml")),
    )
    assert [line.label for line in merged.rows] == ["class", "driver · MIG", "ECC"]


def test_findings_stand_worst_first_and_transitions_in_order() -> None:
    view = view_of(samples.ok_cuda())
    assert [finding.severity for finding in view.findings] == ["caveat"] * 4 + ["note"]
    assert [line[0].text for line in view.transitions.rows] == ["prepared", "running", "ok"]


def test_ranks_of_a_killed_run() -> None:
    ranks = view_of(samples.killed()).ranks
    ended = [line[1].text for line in ranks.rows]
    assert ended == [
        "exit 1, no end marker, last in measured window at step 23",
        "SIGKILL, no end marker, last in measured window at step 23",
    ]
    assert ranks.columns[-1] == "exception"
    assert ranks.rows[0][-1].text.startswith("RuntimeError: Connection closed by peer")


def test_a_rank_that_only_one_side_knows_still_has_its_line() -> None:
    doc = samples.killed()
    doc["predicate"]["training"]["ranks"].pop()
    doc["predicate"]["outcome"]["ranks"].pop(0)
    ranks = view_of(doc).ranks
    assert [line[0].text for line in ranks.rows] == ["0", "1"]
    assert ranks.rows[0][1].text == "unavailable: the supervisor did not see it end"
    assert ranks.rows[1][2].text == "unavailable: the rank left no report"


def test_scrubbed_and_kept_settings_are_told_apart() -> None:
    settings = view_of(samples.ok_cpu()).settings
    assert [line[1].text for line in settings.rows] == ["1", "2", "removed"]


@pytest.mark.parametrize("path", ["training", "outcome", "case", "hardware"])
def test_a_document_that_is_no_record_is_refused_with_a_sentence(path: str) -> None:
    doc = samples.ok_cpu()
    del doc["predicate"][path]
    with pytest.raises(RecordError, match="cannot be shown") as caught:
        view_of(doc)
    assert caught.value.slug == "record-malformed"


def test_building_a_view_leaves_the_document_alone() -> None:
    doc = samples.ok_cuda()
    before = json.dumps(doc)
    everything(view_of(doc))
    assert json.dumps(doc) == before


CORPUS = sorted((Path(__file__).parents[2] / "assets" / "records" / "good").glob("*.json"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_good_record_of_the_corpus_can_be_shown(path: Path) -> None:
    predicate = json.loads(path.read_bytes())["predicate"]
    view = record_view("sha256:" + "0" * 64, predicate)
    quotes_a_rate = view.headline.receipt.quotable and predicate["lane"] == "training"
    assert bool(TOKENS_PER_S.search(everything(view))) == quotes_a_rate
    assert view.headline.receipt.quotable == (predicate["outcome"]["receipt"])
