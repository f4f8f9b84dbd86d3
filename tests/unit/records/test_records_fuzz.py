"""Records of every lane with something changed at random: read or refused, by two readers alike, and never a crash."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanemark.lanes.rules import broken_rules
from lanemark.ledger.verify import verify_bytes
from lanemark.records.encoding import encode
from lanemark.records.errors import RecordError
from lanemark.records.reading import read_record
from lanemark.records.schema import json_schema

GOOD = {
    path.stem: path.read_bytes() for path in (Path(__file__).parents[2] / "assets" / "records" / "good").glob("*.json")
}
NAMES = st.sampled_from(sorted(GOOD))
SCHEMA = jsonschema_rs.validator_for(json_schema())
QUIET = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

#: No fraction is whole here: to a JSON Schema 1.0 is an integer, and our reader wants 1.
NUMBERS = st.integers(-5, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not x.is_integer()
)
WORDS = st.sampled_from(
    ["observed", "absent", "unavailable", "ok", "1.0", "1.3", "sparse", "training", "", "sha256:", "x" * 70]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["status", "source", "value", "reason", "lane", "name", "x"]), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


def place(doc, data):
    """A container of `doc` and a key in it, drawn at random on the way down."""
    node = doc
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.integers(0, 3)) == 0:
            return node, key
        node = node[key]


def accepted(doc):
    try:
        read_record(encode(doc))
    except RecordError:
        return False
    return True


@QUIET
@given(NAMES, st.data(), JSON, st.sampled_from(["1.0", "1.4"]))
def test_a_value_changed_is_judged_alike_by_both_readers(name, data, value, version):
    doc = json.loads(GOOD[name])
    doc["predicate"]["record_version"] = version
    node, key = place(doc, data)
    node[key] = value
    assert SCHEMA.is_valid(doc) is accepted(doc)


@QUIET
@given(NAMES, st.data(), st.sampled_from(["1.0", "1.4"]))
def test_a_field_removed_or_moved_is_judged_alike_by_both_readers(name, data, version):
    doc = json.loads(GOOD[name])
    doc["predicate"]["record_version"] = version
    node, key = place(doc, data)
    moved = node.pop(key)
    if data.draw(st.booleans()):
        node, key = place(doc, data)
        node[key] = moved
    assert SCHEMA.is_valid(doc) is accepted(doc)


@QUIET
@given(NAMES, st.data(), JSON)
def test_rules_answer_whatever_a_record_holds(name, data, value):
    doc = json.loads(GOOD[name])["predicate"]
    node, key = place(doc, data)
    node[key] = value
    for item in broken_rules(doc):
        assert item.problem


@QUIET
@given(NAMES, st.integers(0, 10**6), st.integers(0, 60), st.binary(max_size=12))
def test_verifying_mutated_bytes_ends_in_a_report(name, start, drop, insert):
    data = GOOD[name]
    start %= len(data)
    report = verify_bytes(data[:start] + insert + data[start + drop :])
    failure = report.failure
    assert report.ok or (failure is not None and failure.slug)


@pytest.mark.parametrize(
    "doc", [None, [], "x", 7, {"lane": []}, {"lane": "training"}, {"lane": "inference"}, {"lane": None}]
)
def test_rules_refuse_what_is_no_predicate_at_all(doc):
    assert broken_rules(doc)
