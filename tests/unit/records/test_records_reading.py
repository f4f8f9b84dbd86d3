"""The strict reader: versions before shapes, one sentence a refusal, and bytes that never change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanemark.records import reading
from lanemark.records.encoding import MAX_RECORD_BYTES, encode
from lanemark.records.errors import RecordError
from lanemark.records.reading import check_version, json_path, read_record

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good" / "synthetic.json"
BYTES = GOOD.read_bytes()


def changed(**predicate):
    doc = json.loads(BYTES)
    doc["predicate"].update(predicate)
    return doc


def test_reading_keeps_the_bytes_whatever_their_layout():
    pretty = json.dumps(json.loads(BYTES), indent=2).encode()
    view = read_record(pretty)
    assert view.data == pretty
    assert view.id != read_record(BYTES).id
    assert view.predicate["lane"] == "training"


def test_a_view_is_frozen_and_its_model_is_built_once():
    view = read_record(BYTES)
    with pytest.raises(AttributeError):
        view.id = "sha256:0"
    assert view.statement is view.statement
    assert view.statement.predicate.case.preset == "dense-nano"


def test_fields_of_a_newer_minor_are_ignored_and_kept_in_the_bytes():
    doc = changed(record_version="1.7", weather={"sky": "blue"})
    doc["predicate"]["training"]["tokens_per_s"]["confidence"] = "high"
    doc["signed_by"] = ["somebody"]
    view = read_record(encode(doc))
    assert view.statement.predicate.record_version == "1.7"
    assert view.predicate["weather"] == {"sky": "blue"}


def test_unknown_fields_of_a_newer_minor_may_stand_in_some_items_of_a_list_only():
    doc = changed(record_version="1.7")
    steps = doc["predicate"]["transitions"]
    steps[1]["by"], steps[2]["host"], steps[2]["by"] = "a person", "bench-02", "a program"
    doc["predicate"]["toolchain"]["packages"][2]["version"]["seen_by"] = "somebody"
    doc["predicate"]["toolchain"]["packages"][0]["imported"]["seen_by"] = "somebody"
    assert read_record(encode(doc)).predicate["transitions"][2]["host"] == "bench-02"
    steps[2]["state"] = "fine"
    with pytest.raises(RecordError, match=r"transitions\[2\]\.state"):
        read_record(encode(doc))


def test_a_newer_minor_whose_items_all_differ_is_refused_and_not_searched_for_ever():
    doc = changed(record_version="1.7")
    step = doc["predicate"]["transitions"][0]
    doc["predicate"]["transitions"] = [{**step, f"field{place}": 1} for place in range(200)]
    with pytest.raises(RecordError, match="newer Lanemark"):
        read_record(encode(doc))


def test_an_object_of_very_many_keys_is_refused_before_its_shape_is_looked_at():
    with pytest.raises(RecordError, match="keys, more than 10000"):
        read_record(encode(changed(**{f"k{place}": 0 for place in range(10_000)})))


def test_a_list_of_very_many_wrong_items_is_one_complaint():
    doc = changed()
    doc["predicate"]["training"]["samples"]["measured"] = [-1] * 200_000
    with pytest.raises(RecordError, match=r"measured\[0\]: .*equal to 0; get"):
        read_record(encode(doc))


def test_a_newer_minor_still_needs_what_its_major_needs():
    doc = changed(record_version="1.7", weather="blue")
    del doc["predicate"]["image"]
    with pytest.raises(RecordError, match=r"image is missing .*newer Lanemark"):
        read_record(encode(doc))


def test_unknown_fields_of_our_own_minor_are_refused():
    with pytest.raises(RecordError, match=r"\$\.predicate\.weather is no field of a record of version 1\.1"):
        read_record(encode(changed(weather="blue")))


def test_a_newer_major_is_told_apart_before_the_shape_is_looked_at():
    data = encode({"_type": "something/else", "predicate": {"record_version": "3.1"}})
    with pytest.raises(RecordError, match=r"version 3\.1, and this Lanemark reads major version 1") as caught:
        read_record(data)
    assert caught.value.slug == "record-too-new"


def test_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(RecordError) as caught:
        read_record(b"[" * (MAX_RECORD_BYTES + 1))
    assert caught.value.slug == "record-too-large"


@pytest.mark.parametrize("text", ["1", "null", '"a"', "[]", "true", "1.5"])
def test_json_that_is_no_object_is_refused_by_its_kind(text):
    with pytest.raises(RecordError, match="and a record is an object"):
        read_record(text.encode())


@pytest.mark.parametrize(
    "version", ["1", "1.0.0", "v1.0", " 1.0", "1.٣", "1.0\n", "", "-1.0", "1e0", 1.0, None, ["1.0"]]
)
def test_what_is_no_version_is_refused(version):
    with pytest.raises(RecordError, match=r"MAJOR\.MINOR"):
        check_version(changed(record_version=version))


def test_several_problems_are_counted_and_no_value_is_quoted():
    doc = changed(run_id="s3cr3t", attempt="s3cr3t")
    with pytest.raises(RecordError, match=r"and 1 more problem\)") as caught:
        read_record(encode(doc))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("lane", ["s3cr3t", 7, None, ["training"], {}])
def test_an_unknown_lane_is_refused_without_quoting_it(lane):
    with pytest.raises(RecordError, match=r"\$\.predicate\.lane is none of training, sparse, promotion") as caught:
        read_record(encode(changed(lane=lane)))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("predicate", [[], "x", 1, None, [["record_version", "1.0"]]])
def test_a_predicate_that_is_no_object_is_refused(predicate):
    doc = json.loads(BYTES)
    doc["predicate"] = predicate
    with pytest.raises(RecordError) as caught:
        read_record(encode(doc))
    assert caught.value.slug == "record-foreign"


def test_paths_are_short_enough_for_a_line():
    assert json_path(("predicate", "data", "shards", 0, "name")) == "$.predicate.data.shards[0].name"
    assert len(json_path(["x" * 100] * 50)) <= 200


def test_hostile_keys_do_not_break_the_message():
    doc = changed(**{"\x1b[31m\n" + "k" * 5000: 1})
    with pytest.raises(RecordError) as caught:
        read_record(encode(doc))
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def mutate(data: bytes, start: int, drop: int, insert: bytes) -> bytes:
    start %= len(data)
    return data[:start] + insert + data[start + drop :]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_record_error(data):
    with pytest.raises(RecordError):
        read_record(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=12))
def test_a_mutated_record_is_read_or_refused_and_nothing_else(start, drop, insert):
    try:
        view = read_record(mutate(BYTES, start, drop, insert))
    except RecordError as error:
        str(error).encode()
    else:
        assert view.data == mutate(BYTES, start, drop, insert)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), JSON)
def test_any_value_at_any_place_is_read_or_refused_and_nothing_else(data, value):
    doc = json.loads(BYTES)
    node = doc
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    try:
        text = json.dumps(doc).encode()
        read_record(text)
    except RecordError as error:
        str(error).encode()


def test_a_model_is_only_built_where_records_are_kept():
    """Importing the reader needs no pydantic: it is imported by the function that validates."""
    assert "pydantic" not in vars(reading)
