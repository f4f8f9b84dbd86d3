"""Old records stay readable: every version's frozen records read as they did, and old minor versions are brought to ours.

The files under `versions/` are never regenerated. A change that this test refuses is a change that breaks records which
people have.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.ledger.rows import row_from_bytes
from lanemark.ledger.verify import verify_bytes
from lanemark.records import reading
from lanemark.records.case import LANES
from lanemark.records.encoding import digest
from lanemark.records.reading import read_record
from lanemark.records.statement import RECORD_VERSION
from lanemark.records.upcast import UPCASTERS, not_recorded, upcast

VERSIONS = Path(__file__).parents[2] / "assets" / "records" / "versions"
FROZEN = sorted(path for path in VERSIONS.glob("*/*.json") if path.name != "index.json")


def test_there_is_a_frozen_corpus_of_our_version_and_every_one_before():
    major, _, minor = RECORD_VERSION.partition(".")
    assert {path.name for path in VERSIONS.iterdir()} == {f"{major}.{n}" for n in range(int(minor) + 1)}
    for version in VERSIONS.iterdir():
        listed = json.loads((version / "index.json").read_bytes())
        assert {name[7:] for name in listed} == {path.stem for path in version.glob("*.json")} - {"index"}
        assert {one["row"]["lane"] for one in listed.values()} == set(LANES)


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: f"{path.parent.name}-{path.stem[:8]}")
def test_a_frozen_record_is_read_verified_and_listed_as_when_it_was_frozen(path):
    data = path.read_bytes()
    assert digest(data) == f"sha256:{path.stem}"
    view = read_record(data)
    assert view.data == data
    assert json.loads(data)["predicate"]["record_version"] == path.parent.name
    assert view.predicate["record_version"] == RECORD_VERSION
    assert verify_bytes(data, expected_id=f"sha256:{path.stem}").ok
    expected = json.loads((path.parent / "index.json").read_bytes())[f"sha256:{path.stem}"]["row"]
    assert row_from_bytes(view.id, data).to_json() == expected


@pytest.mark.parametrize("version", [path.name for path in sorted(VERSIONS.iterdir())])
def test_the_figures_of_frozen_records_follow_from_their_frozen_samples(version):
    """A change to how figures are computed must not turn what people have measured into forgeries."""
    steps = [
        verify_bytes(path.read_bytes(), ledger_root=VERSIONS / version).steps[8]
        for path in FROZEN
        if path.parent.name == version
    ]
    assert {step.name for step in steps} == {"figures"}
    assert {step.status for step in steps} == {"ok", "skipped"}
    assert sum(step.status == "ok" for step in steps) >= 2


def test_a_frozen_record_that_was_edited_would_be_noticed():
    path = FROZEN[0]
    edited = path.read_bytes().replace(b'"attempt":1', b'"attempt":2')
    failure = verify_bytes(edited, expected_id=f"sha256:{path.stem}").failure
    assert failure is not None
    assert failure.slug == "record-corrupt"


def test_every_minor_version_before_ours_has_its_step():
    assert set(UPCASTERS) == set(range(int(RECORD_VERSION.partition(".")[2])))


def test_what_1_0_did_not_record_reads_as_not_looked_at_and_the_case_keeps_its_bytes():
    path = next(path for path in FROZEN if path.parent.name == "1.0" and b'"lane":"training"' in path.read_bytes())
    raw = json.loads(path.read_bytes())["predicate"]
    view = read_record(path.read_bytes())
    for name in ("purpose", "layout", "layers", "coverage_before", "prewarm"):
        assert name not in raw["startup"]
        assert view.predicate["startup"][name] == not_recorded()
    assert set(view.predicate["startup"]["clocks"]) == {"container_age_s", "asleep_s", "time_shift_s", "earlier_run"}
    for rank in view.predicate["training"]["ranks"]:
        assert rank["first_step"] == not_recorded()
        assert rank["cache"] == {"used": not_recorded(), "new_files": not_recorded()}
    assert not_recorded()["status"] == "unavailable"
    assert view.predicate["case"] == raw["case"]
    typed = view.statement.predicate
    assert typed.startup.purpose.reason == "version 1.0 did not record it"


def test_what_a_1_0_record_does_say_is_left_as_it_is():
    doc = {"predicate": {"record_version": "1.0", "startup": {"layers": "odd"}, "training": {"ranks": ["odd"]}}}
    brought = upcast(doc, minor=0, to=1)["predicate"]
    assert (brought["startup"]["layers"], brought["training"]["ranks"]) == ("odd", ["odd"])
    bare = {"predicate": {"record_version": "1.0", "startup": [], "training": None}}
    assert upcast(bare, minor=0, to=1)["predicate"]["startup"] == []


def _rename(doc: dict[str, Any]) -> dict[str, Any]:
    doc["predicate"]["place"] = doc["predicate"].pop("surface")
    return doc


def _add(doc: dict[str, Any]) -> dict[str, Any]:
    unseen = {"status": "unavailable", "source": "record of version 1.1", "reason": "nobody looked then"}
    return {**doc, "predicate": {**doc["predicate"], "weather": unseen}}


CHAIN = {0: _rename, 1: _add}


def old() -> dict[str, Any]:
    return {"predicate": {"record_version": "1.0", "surface": {"name": "local"}, "lane": "training"}}


def test_steps_follow_one_another_and_leave_the_document_alone():
    given = old()
    kept = copy.deepcopy(given)
    once = upcast(given, minor=0, to=2, table=CHAIN)
    assert given == kept
    assert once["predicate"]["place"] == {"name": "local"}
    assert once["predicate"]["weather"]["status"] == "unavailable"
    assert once["predicate"]["record_version"] == "1.2"
    assert upcast(upcast(given, minor=0, to=1, table=CHAIN), minor=1, to=2, table=CHAIN) == once
    assert upcast(once, minor=2, to=2, table=CHAIN) is once


def test_a_newer_document_is_left_as_it_is_and_a_missing_step_is_an_error():
    newer = {"predicate": {"record_version": "1.7"}}
    assert upcast(newer, minor=7, to=2, table=CHAIN) is newer
    with pytest.raises(LookupError):
        upcast(old(), minor=0, to=3, table=CHAIN)


@pytest.mark.parametrize("lane", LANES)
def test_reading_shows_an_old_record_in_our_form_and_keeps_its_bytes(monkeypatch, lane):
    """As if another difference of 1.1 were a word in the reason of the outcome."""

    def step(doc: dict[str, Any]) -> dict[str, Any]:
        doc["predicate"]["outcome"]["receipt_reason"] += " (as of version 1.0)"
        return doc

    both = {0: lambda doc: step(UPCASTERS[0](doc))}
    monkeypatch.setattr(reading, "_OUR_MINOR", 1)
    monkeypatch.setattr(reading, "upcast", lambda doc, *, minor, to: upcast(doc, minor=minor, to=to, table=both))
    data = next(data for path in FROZEN if json.loads(data := path.read_bytes())["predicate"]["lane"] == lane)
    view = read_record(data)
    assert view.data == data
    assert view.predicate["record_version"] == "1.1"
    assert view.predicate["outcome"]["receipt_reason"].endswith("(as of version 1.0)")
    assert view.predicate["outcome"]["receipt_reason"].count("as of version") == 1
    assert view.statement.predicate.record_version == "1.1"
