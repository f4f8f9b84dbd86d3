"""Figures derived again from the ranks' samples: what agrees, every figure that does not, and what cannot be looked at."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.lanes.rules import broken_rules
from lanemark.ledger import rederive
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.rederive import NotAtHandError, check_figures
from lanemark.ledger.verify import verify_bytes
from lanemark.records.errors import RecordError

CORPUS = Path(__file__).parents[2] / "assets" / "records"
DATA = (CORPUS / "good" / "fsdp2_regional_warm.json").read_bytes()
PREDICATE = json.loads(DATA)["predicate"]
FILES = {
    entry["name"]: CORPUS / "evidence" / entry["digest"][7:9] / entry["digest"][7:] for entry in PREDICATE["evidence"]
}


def stating(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    predicate = copy.deepcopy(PREDICATE)
    change(predicate["training"])
    return predicate


def in_keeping(training: dict[str, Any], measured: list[int]) -> None:
    training["samples"]["measured"] = measured
    training["step_time"]["value"] = step_time(measured)
    training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], measured)
    training["split"]["window_s"]["value"] = sum(measured) / 1e9


def test_an_honest_record_is_what_its_files_say():
    assert "12 measured steps" in check_figures(PREDICATE, FILES)
    assert "2 ranks" in check_figures(PREDICATE, FILES)


@pytest.mark.parametrize("place", [0, 5, 11])
@pytest.mark.parametrize("by_ns", [-1, 1, -1_000_000])
def test_one_sample_edited_with_all_that_follows_from_it_is_seen(place, by_ns):
    def edit(training):
        measured = list(training["samples"]["measured"])
        measured[place] += by_ns
        in_keeping(training, measured)

    predicate = stating(edit)
    assert broken_rules(predicate) == ()
    with pytest.raises(RecordError, match=f"measured step {place} took") as caught:
        check_figures(predicate, FILES)
    assert caught.value.slug == "figures-not-derived"


OTHERS = {
    "warm-up step 1": lambda t: t["samples"]["warmup"].__setitem__(1, 1),
    "11 measured steps": lambda t: t["samples"]["measured"].pop(),
    "1 warm-up steps": lambda t: t["samples"]["warmup"].pop(),
    "step_time.p50_s": lambda t: t["step_time"]["value"].update(p50_s=0.1),
    "step_time.p95_s": lambda t: t["step_time"]["value"].update(p95_s=0.1),
    "step_time.stalls": lambda t: t["step_time"]["value"].update(stalls=1),
    "tokens_per_s": lambda t: t["tokens_per_s"].update(value=t["tokens_per_s"]["value"] * 1.001),
    "split.window_s": lambda t: t["split"]["window_s"].update(value=1.0),
    "split.compile_s": lambda t: t["split"]["compile_s"].update(value=0.5),
    "split.other_s": lambda t: t["split"]["other_s"].update(value=0.5),
    r"ranks\[1\].step_p50_s": lambda t: t["ranks"][1]["step_p50_s"].update(value=0.5),
    r"ranks\[0\].data_wait_s": lambda t: t["ranks"][0]["data_wait_s"].update(value=0.0),
    r"ranks\[1\].steps_recorded": lambda t: t["ranks"][1].update(steps_recorded=13),
}


@pytest.mark.parametrize("said", OTHERS)
def test_every_figure_of_the_steps_is_held_against_the_files(said):
    with pytest.raises(RecordError, match=said) as caught:
        check_figures(stating(OTHERS[said]), FILES)
    assert caught.value.slug == "figures-not-derived"


def test_a_figure_that_is_not_stated_is_none_that_could_be_wrong():
    hidden = {"status": "unavailable", "source": "x", "reason": "not quoted"}
    predicate = stating(lambda t: t.update(tokens_per_s=hidden, step_time=hidden))
    predicate["outcome"]["receipt"] = False
    assert check_figures(predicate, FILES)


def test_files_that_belong_elsewhere_are_refused(tmp_path):
    one, two = FILES

    def changed(where: slice, to: bytes) -> dict[str, Path]:
        data = bytearray(FILES[two].read_bytes())
        data[where] = to
        (tmp_path / "changed").write_bytes(data)
        return {**FILES, two: tmp_path / "changed"}

    with pytest.raises(RecordError, match="samples of rank 1"):
        check_figures(PREDICATE, {one: FILES[two], two: FILES[one]})
    with pytest.raises(RecordError, match="files have 0"):
        check_figures(PREDICATE, changed(slice(0, 1), b"X"))
    with pytest.raises(RecordError, match="no end of the window"):
        check_figures(PREDICATE, changed(slice(48, 56), bytes(8)))


@pytest.mark.parametrize(
    ("why", "predicate", "files"),
    [
        ("ranks/1/samples.bin is not at hand", PREDICATE, {"ranks/0/samples.bin": FILES["ranks/0/samples.bin"]}),
        ("samples of every rank", PREDICATE | {"evidence": PREDICATE["evidence"][:1]}, FILES),
        (
            "names no ranks/1/samples.bin",
            PREDICATE | {"evidence": [PREDICATE["evidence"][0], PREDICATE["evidence"][1] | {"name": "other"}]},
            FILES,
        ),
        ("sparse lane states no figures", PREDICATE | {"lane": "sparse"}, FILES),
        ("larger than", PREDICATE | {"evidence": [e | {"bytes": 2**40} for e in PREDICATE["evidence"]]}, FILES),
    ],
    ids=["not-at-hand", "fewer-named", "not-named", "lane", "large"],
)
def test_what_cannot_be_looked_at_is_no_refusal_and_says_so(why, predicate, files):
    with pytest.raises(NotAtHandError, match=why):
        check_figures(predicate, files)


def test_the_step_of_verification_says_what_it_found(tmp_path):
    ledger = Ledger(tmp_path, {})
    record_id = ledger.append(DATA, FILES.items()).id
    step = ledger.verify(record_id).steps[8]
    assert (step.name, step.status) == ("figures", "ok")
    assert verify_bytes(DATA).steps[8].status == "skipped"


def test_too_many_samples_for_memory_are_not_read(monkeypatch):
    monkeypatch.setattr(rederive, "MAX_SAMPLES_BYTES", sum(path.stat().st_size for path in FILES.values()) - 1)
    with pytest.raises(NotAtHandError, match="larger than"):
        check_figures(PREDICATE, FILES)
