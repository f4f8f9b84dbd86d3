"""Exact bytes: deterministic out, strict in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.records.encoding import MAX_DEPTH, MAX_INT, MAX_RECORD_BYTES, decode, depth_of, digest, encode, safe_text

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


def test_undecodable_bytes_become_letters():
    name = b"caf\xe9 \xf0\x9f\x98\x80".decode("utf-8", "surrogateescape")
    assert safe_text(name) == "caf\\udce9 😀"
    encode(safe_text(name))
