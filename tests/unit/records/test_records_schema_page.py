"""The published schema and its page: every field is described, every link leads somewhere, and neither is stale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.lanes.rules import rules_of
from lanemark.records.case import LANES
from lanemark.records.schema import SCHEMA_ID, json_schema
from lanemark.records.schema_page import page

ROOT = Path(__file__).resolve().parents[3]


def properties(schema):
    for name, definition in schema["$defs"].items():
        if name.startswith("newer."):
            continue  # the same fields again, admitting more; they carry no text
        for field, value in definition.get("properties", {}).items():
            yield f"{name}.{field}", value


def test_every_field_is_described_in_a_sentence():
    fields = dict(properties(json_schema()))
    assert len(fields) > 250
    assert [name for name, value in fields.items() if len(value.get("description", "")) < 4] == []
    assert [name for name, value in fields.items() if not value["description"].endswith(".")] == []


def test_a_field_without_a_description_would_be_noticed():
    assert list(properties({"$defs": {"A": {"properties": {"x": {"type": "string"}}}}})) == [
        ("A.x", {"type": "string"})
    ]


def test_units_in_names_are_units_in_descriptions():
    words = {"_s": "econds", "_bytes": "ytes", "_mhz": "MHz", "_w": "watts"}
    missing = [
        name
        for name, value in properties(json_schema())
        for ending, word in words.items()
        if name.endswith(ending) and not name.endswith(("compile_s_max", "tokens_per_s"))
        if word not in value["description"]
        and not name.startswith("CacheInventory")
        and "ince" not in value["description"]
    ]
    assert missing == []


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_schema_is_of_that_lane_alone(lane, capsys):
    assert main(["schema", "--lane", lane]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema(lane)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"{SCHEMA_ID}:{lane}"
    predicates = [name for name in schema["$defs"] if name.endswith("Predicate") and not name.startswith("newer.")]
    assert predicates == [f"{lane.capitalize()}Predicate"]


def test_the_schema_of_all_lanes_is_what_the_command_prints(capsys):
    assert main(["schema", "--json"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    assert schema["$id"] == SCHEMA_ID


def test_an_unknown_lane_is_refused(capsys):
    assert main(["schema", "--lane", "inference"]) == 2
    assert "[arguments-invalid]" in capsys.readouterr().err


def test_no_lane_but_training_has_a_field_for_a_rate():
    for lane in ("sparse", "promotion"):
        names = {name.partition(".")[2] for name, _ in properties(json_schema(lane))}
        assert {name for name in names if "per_s" in name or "throughput" in name or name == "mfu"} == set()


def test_the_published_page_is_the_one_the_schema_gives(capsys):
    assert main(["schema", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(page())
    published = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")
    assert published == printed, "run `lanemark schema --markdown > docs/record.md`"


def test_the_page_names_every_field_and_every_rule():
    published = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")
    fields = {name.partition(".")[2] for name, _ in properties(json_schema())}
    assert {name for name in fields if f"`{name}`" not in published} == set()
    rules = {rule.name for table in map(rules_of, LANES) for rule in table}
    assert {name for name in rules if f"| `{name}` |" not in published} == set()


def test_every_link_of_the_page_leads_to_a_heading():
    text = page()
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    targets = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(targets) > 40
    assert targets <= anchors
