"""Exact bytes: deterministic out, strict in."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.records import encoding
from lanemark.records.encoding import (
    MAX_DEPTH,
    MAX_INT,
    MAX_KEYS,
    MAX_RECORD_BYTES,
    Survey,
    decode,
    decode_surveyed,
    depth_of,
    digest,
    encode,
    safe_text,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS)
def test_what_is_encoded_decodes_to_itself_and_encodes_to_the_same_bytes(doc):
    data = encode(doc)
    assert decode(data) == doc
    assert encode(decode(data)) == data
    assert data.endswith(b"\n")


def test_the_order_of_keys_does_not_matter():
    assert encode({"b": 1, "a": [1.5, "é"]}) == encode({"a": [1.5, "é"], "b": 1}) == '{"a":[1.5,"é"],"b":1}\n'.encode()
    assert digest(b"").startswith("sha256:e3b0c44298fc1c14")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800"])
def test_what_json_does_not_have_is_not_written(value):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own texts
        encode({"a": value})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":9007199254740992}', "outside the range"),
        (b'{"a":-9007199254740992}', "outside the range"),
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b'{"a":1', "line 1 column"),
        (b"{} {}", "line 1 column"),
        (b"{'a':1}", "line 1 column"),
        (b'{"a":1,}', "line 1 column"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"", "line 1 column"),
        (b'"' + b"a" * MAX_RECORD_BYTES + b'"', "is more than"),
        (b"[" * 100_000, "deeper|line 1"),
    ],
)
def test_strictness(data, says):
    with pytest.raises(ValueError, match=says):
        decode(data)


def test_bounds_are_where_they_are_said_to_be():
    assert decode(str(MAX_INT).encode()) == MAX_INT
    assert decode(str(-MAX_INT).encode()) == -MAX_INT
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert depth_of(decode(deepest)) == MAX_DEPTH
    with pytest.raises(ValueError, match="deeper"):
        decode(b"[" + deepest + b"]")


#: What may make the plain parse see something else than the checked one, in all orders.
PIECES = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', '"a"', '"a":', '"a" :', '"b":1', '":', '\\"', "\\u003a", " ", "\n", "\t", "-", ".",
     "1", "e9", "E+400", "9007199254740991", "9007199254740992", "0.12345678901234567", "null", "true", "NaN",
     "Infinity", "é", "a12345678901234567"]
)  # fmt: skip


def outcome(parse, text):
    try:
        return repr(parse(text)[0])
    except ValueError as error:
        return f"refused: {error}"


@settings(max_examples=2000, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_parsing_plainly_first_never_changes_what_is_read_or_refused(text):
    for whole in (text, f"[{text}]", f'{{"a":{text}}}', f'{{"a":1,{text}}}'):
        assert outcome(decode_surveyed, whole.encode()) == outcome(encoding._decode_checked, whole)


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 1, "\t"]), st.sampled_from([(",", ":"), (", ", ": "), (",", " : ")]))
def test_every_layout_of_a_document_is_read_alike(doc, indent, separators):
    text = json.dumps(doc, indent=indent, separators=separators, ensure_ascii=False)
    assert outcome(decode_surveyed, text.encode()) == outcome(encoding._decode_checked, text) == repr(doc)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a" :1,"a" :2}',
        '{"a":1,"b":"\\":","a":2}',
        '{"a":{"b":1},"a":{"c":"\\":\\":"}}',
        '[{"a":1,"a":1},{"b":"x\\":"}]',
    ],
)
def test_a_key_that_stands_twice_is_found_however_it_is_laid_out(text):
    with pytest.raises(ValueError, match="stands twice"):
        decode(text.encode())


def test_an_object_too_wide_and_a_number_too_long_are_refused_in_the_writers_own_layout():
    with pytest.raises(ValueError, match="more than"):
        decode(encode({str(number): number for number in range(MAX_KEYS + 1)}))
    for number in (MAX_INT + 1, -MAX_INT - 1, 10**400):
        with pytest.raises(ValueError, match="outside the range"):
            decode(encode({"a": 0.12345678901234567, "b": "x9007199254740993", "c": [number]}))


def test_a_survey_finds_what_a_walk_finds():
    doc = {"a": [1, {"b": "x", "c": [[]]}], "d": {}}
    survey = Survey(doc)
    assert survey.parts == [doc, doc["a"], {}, {"b": "x", "c": [[]]}, [[]], []]
    assert (survey.depth, survey.num_keys, survey.widest, survey.has_null) == (5, 4, 2, False)
    assert Survey({"a": [{"b": None}]}).has_null
    assert Survey(None).has_null
    assert (Survey(3).depth, Survey(3).parts) == (0, [])


def test_undecodable_bytes_become_letters():
    name = b"caf\xe9 \xf0\x9f\x98\x80".decode("utf-8", "surrogateescape")
    assert safe_text(name) == "caf\\udce9 😀"
    encode(safe_text(name))
