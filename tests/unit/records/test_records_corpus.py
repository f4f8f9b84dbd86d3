"""The record corpus: every file is accepted or refused where `expected.json` says, by two independent readers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from lanemark.lanes.rules import broken_rules, rules_of
from lanemark.ledger.verify import verify_file
from lanemark.records.case import LANES
from lanemark.records.encoding import digest, encode
from lanemark.records.errors import RecordError
from lanemark.records.reading import parse, read_record
from lanemark.records.schema import json_schema

CORPUS = Path(__file__).parents[2] / "assets" / "records"
EXPECTED = json.loads((CORPUS / "expected.json").read_bytes())


@pytest.fixture(scope="module")
def schema():
    return jsonschema_rs.validator_for(json_schema())


def test_the_corpus_is_what_its_generator_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(CORPUS))
    for name in [path.stem for path in CORPUS.glob("*.py")]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    files = importlib.import_module("generate").build()
    kept = [
        path for part in ("good", "bad", "cheat", "evidence") for path in (CORPUS / part).rglob("*") if path.is_file()
    ]
    on_disk = {str(path.relative_to(CORPUS)): path.read_bytes() for path in [CORPUS / "expected.json", *kept]}
    assert set(files) == set(on_disk)
    stale = [name for name, data in files.items() if on_disk[name] != data]
    assert stale == [], "run `python tests/assets/records/generate.py`"


def test_the_corpus_is_as_large_as_it_should_be():
    lanes = {
        json.loads((CORPUS / "good" / f"{name}.json").read_bytes())["predicate"]["lane"] for name in EXPECTED["good"]
    }
    assert lanes == set(LANES)
    assert len(EXPECTED["bad"]) >= 60
    assert len(EXPECTED["cheat"]) >= 30
    parts = [path for part in ("good", "bad", "cheat", "evidence") for path in (CORPUS / part).rglob("*")]
    assert sum(path.stat().st_size for path in parts if path.is_file()) < 4_000_000


@pytest.mark.parametrize("name", EXPECTED["good"])
def test_good_records_verify(name, schema):
    path = CORPUS / "good" / f"{name}.json"
    data = path.read_bytes()
    view = read_record(data)
    assert view.data == data
    assert view.id == digest(data) == EXPECTED["good"][name]["id"]
    assert view.statement.predicate.outcome.state == EXPECTED["good"][name]["state"]
    assert broken_rules(view.predicate) == ()
    assert schema.is_valid(view.doc)
    report = verify_file(path, ledger_root=CORPUS, attempt_dir=CORPUS / "evidence")
    assert report.ok
    assert [step.status for step in report.steps[:8]] == ["ok", "skipped", "ok", "ok", "ok", "ok", "ok", "ok"]
    derived = (
        view.predicate["lane"] == "training" and len(view.predicate["evidence"]) == view.predicate["case"]["nproc"]
    )
    assert report.steps[8].status == ("ok" if derived else "skipped"), report.steps[8].detail


@pytest.mark.parametrize("name", EXPECTED["bad"])
def test_bad_records_are_refused_at_the_intended_step(name):
    path, expected = CORPUS / "bad" / f"{name}.json", EXPECTED["bad"][name]
    report = verify_file(path, attempt_dir=CORPUS / "evidence")
    assert not report.ok
    failure = report.failure
    assert failure is not None
    assert (failure.name, failure.slug) == (expected["step"], expected["slug"])
    assert expected.get("says", "") in failure.detail
    assert all(step.status == "skipped" for step in report.steps[failure.number :])
    with pytest.raises(RecordError, match="does not verify at step") as caught:
        report.raise_if_failed()
    assert caught.value.slug == expected["slug"]
    if expected["step"] in ("size", "syntax", "version", "schema"):
        with pytest.raises(RecordError) as caught:
            read_record(path.read_bytes())
        assert caught.value.slug == expected["slug"]
        assert "pydantic" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EXPECTED["cheat"])
def test_cheats_are_well_formed_and_caught_by_their_rule_or_their_evidence(name):
    path, expected = CORPUS / "cheat" / f"{name}.json", EXPECTED["cheat"][name]
    view = read_record(path.read_bytes())
    broken = [item.rule for item in broken_rules(view.predicate)]
    assert expected["rule"] in broken if "rule" in expected else broken == []
    # Files by digest are the true ones: beside a record lie those that somebody put there.
    report = verify_file(
        path, ledger_root=CORPUS if expected["step"] == "figures" else None, attempt_dir=CORPUS / "evidence"
    )
    assert not report.ok
    assert report.failure is not None
    assert (report.failure.name, report.failure.slug) == (expected["step"], expected["slug"])


def test_a_cheat_of_evidence_stands_where_its_files_are_not_at_hand(tmp_path):
    """The files are what gives it away: without them the record is only unproven, and the report says which are missing."""
    source = CORPUS / "cheat" / "swapped_evidence.json"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    report = verify_file(tmp_path / source.name)
    assert report.ok
    assert report.not_at_hand == ("ranks/0/beacon.page", "ranks/1/beacon.page")


def everything():
    for part in ("good", "bad", "cheat"):
        for path in sorted((CORPUS / part).glob("*.json")):
            try:
                yield f"{part}/{path.stem}", parse(path.read_bytes())
            except RecordError:
                continue  # no document at all: a JSON Schema judges documents


def accepted(doc):
    try:
        read_record(encode(doc))
    except RecordError:
        return False
    return True


def test_another_projects_validator_accepts_exactly_what_our_reader_does(schema):
    verdicts = {name: (schema.is_valid(doc), accepted(doc)) for name, doc in everything()}
    assert len(verdicts) > 100
    assert {name: both for name, both in verdicts.items() if both[0] != both[1]} == {}


@pytest.mark.parametrize("lane", LANES)
def test_a_lanes_own_schema_accepts_its_lane_and_no_other(lane):
    schema = jsonschema_rs.validator_for(json_schema(lane))
    verdicts = {
        name: (schema.is_valid(doc), doc["predicate"]["lane"]) for name, doc in everything() if name[:4] == "good"
    }
    assert {name for name, (valid, own) in verdicts.items() if valid != (own == lane)} == set()


OBSERVATIONS = [
    {"status": "observed", "source": "x", "value": 1.5},
    {"status": "observed", "source": "x", "value": 1.5, "reason": None},
    {"status": "observed", "source": "x", "value": 1.5, "reason": "y"},
    {"status": "observed", "source": "x", "value": None},
    {"status": "observed", "source": "x"},
    {"status": "observed", "source": "", "value": 1.5},
    {"status": "observed", "value": 1.5},
    {"status": "absent", "source": "x"},
    {"status": "absent", "source": "x", "reason": "y"},
    {"status": "absent", "source": "x", "value": None, "reason": None},
    {"status": "absent", "source": "x", "value": 1.5},
    {"status": "absent", "source": "x", "reason": ""},
    {"status": "unavailable", "source": "x", "reason": "y"},
    {"status": "unavailable", "source": "x", "reason": None},
    {"status": "unavailable", "source": "x"},
    {"status": "unavailable", "source": "x", "reason": "y", "value": 0},
    {"status": "unavailable", "source": "x", "reason": "y", "note": "z"},
    {"status": "unknown", "source": "x"},
    {},
    None,
    1.5,
]


@pytest.mark.parametrize(
    "version", ["1.0", "1.000", "1.1", "1.2", "1.10", "1.0001", "1.00000", "1.0 ", "2.0", "1", "01.0"]
)
@pytest.mark.parametrize("entry", OBSERVATIONS)
def test_both_readers_agree_on_every_pairing_and_version(version, entry, schema):
    doc = json.loads((CORPUS / "good" / "synthetic.json").read_bytes())
    doc["predicate"]["record_version"] = version
    doc["predicate"]["training"]["tokens_per_s"] = entry
    assert schema.is_valid(doc) is accepted(doc)


def test_both_readers_ignore_what_a_newer_minor_adds_and_nothing_else(schema):
    for name, doc in everything():
        if not name.startswith("good/"):
            continue
        doc["predicate"]["weather"] = {"sky": "blue"}
        doc["predicate"]["times"]["duration_s"]["confidence"] = 0.9
        assert (schema.is_valid(doc), accepted(doc)) == (False, False), name
        doc["predicate"]["record_version"] = "1.2"
        assert (schema.is_valid(doc), accepted(doc)) == (True, True), name
        del doc["predicate"]["image"]
        assert (schema.is_valid(doc), accepted(doc)) == (False, False), name


def test_rules_have_names_of_their_own_and_say_why():
    for rules in map(rules_of, LANES):
        assert len({rule.name for rule in rules}) == len(rules)
        assert all(rule.why.endswith(".") for rule in rules)
