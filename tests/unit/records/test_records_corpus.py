"""The record corpus: every file is accepted or refused where `expected.json` says, by two independent readers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from lanemark.lanes.rules import RULES, broken_rules
from lanemark.ledger.verify import verify_file
from lanemark.records.encoding import digest
from lanemark.records.errors import RecordError
from lanemark.records.reading import read_record
from lanemark.records.schema import json_schema

CORPUS = Path(__file__).parents[2] / "assets" / "records"
EXPECTED = json.loads((CORPUS / "expected.json").read_bytes())


@pytest.fixture(scope="module")
def schema():
    return jsonschema_rs.validator_for(json_schema())


def test_the_corpus_is_what_its_generator_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(CORPUS))
    for name in ("generate", "good_records"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    files = importlib.import_module("generate").build()
    on_disk = {
        str(path.relative_to(CORPUS)): path.read_bytes()
        for path in CORPUS.rglob("*")
        if path.is_file() and path.suffix in (".json", ".bin")
    }
    assert set(files) == set(on_disk)
    stale = [name for name, data in files.items() if on_disk[name] != data]
    assert stale == [], "run `python tests/assets/records/generate.py`"


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(EXPECTED["good"]) >= 7
    assert len(EXPECTED["bad"]) >= 20
    assert len(EXPECTED["cheat"]) >= 8


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
    report = verify_file(path, attempt_dir=CORPUS / "evidence")
    assert report.ok
    assert [step.status for step in report.steps] == ["ok", "skipped", "ok", "ok", "ok", "ok", "ok", "ok"]


@pytest.mark.parametrize("name", EXPECTED["bad"])
def test_bad_records_are_refused_at_the_intended_step(name, schema):
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
    if "json_schema" in expected:
        assert schema.is_valid(json.loads(path.read_bytes())) is not expected["json_schema"]


@pytest.mark.parametrize("name", EXPECTED["cheat"])
def test_cheats_are_well_formed_and_caught_by_their_rule(name, schema):
    path, expected = CORPUS / "cheat" / f"{name}.json", EXPECTED["cheat"][name]
    view = read_record(path.read_bytes())
    assert schema.is_valid(view.doc)
    assert expected["rule"] in [broken.rule for broken in broken_rules(view.predicate)]
    report = verify_file(path, attempt_dir=CORPUS / "evidence")
    assert not report.ok
    assert report.failure is not None
    assert (report.failure.name, report.failure.slug) == ("rules", "lane-rule-broken")


def test_rules_have_names_of_their_own_and_say_why():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.why.endswith(".") for rule in RULES)
