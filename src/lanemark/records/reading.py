"""The strict reader: exact bytes in, a checked record out, and the bytes kept as they came.

Three questions in a fixed order, each with its own refusal:

1. `parse`          is this strict JSON of a bearable size?          `record-too-large`, `record-malformed`
2. `check_version`  was it written for readers like us?              `record-too-new`, `record-foreign`
3. `validate`       has it the shape that `records.schema` defines?  `record-unfit`

The version is asked *before* the shape, because a newer record fails any older schema and "unfit" would then be a
wrong accusation. Within our major version a newer minor may carry fields that we do not know: they are ignored.
A record of our own minor or an older one may not, since nobody wrote them.

Nothing here re-serialises: `RecordView.data` is what was read, and writing it back gives the same file and the same id.
Standard library only, but for `validate`, which imports pydantic when it is called.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from lanemark.records.case import LANES
from lanemark.records.encoding import MAX_RECORD_BYTES, Survey, decode_surveyed, digest, encode, safe_text
from lanemark.records.errors import RecordError
from lanemark.records.statement import PREDICATE_TYPE, RECORD_VERSION, STATEMENT_TYPE
from lanemark.records.upcast import upcast

if TYPE_CHECKING:
    from pydantic import ValidationError

    from lanemark.records.schema import Statement

_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_PREDICATE: Final = re.compile(r"urn:x-lanemark:record:v([0-9]{1,4})")
_OUR_MINOR: Final = int(RECORD_VERSION.partition(".")[2])
#: How often unknown fields of a newer minor are looked for: once, and once more for each list whose items differ.
_MAX_ROUNDS: Final = 50
_REFETCH: Final = "get the file again from where it was written; a record is never edited by hand"


@dataclass(frozen=True)
class RecordView:
    """A record that was read and found well-formed: its exact bytes and frozen views of them.

    Attributes:
        id: `sha256:…` of `data`.
        data: exactly the bytes that were read.
        doc: the whole statement as plain JSON, an older minor version brought to ours (`lanemark.records.upcast`).
            Treat it as read-only: it is never written back.
    """

    id: str
    data: bytes
    doc: dict[str, Any]

    @property
    def predicate(self) -> dict[str, Any]:
        """The record proper, inside its in-toto envelope."""
        part: dict[str, Any] = self.doc["predicate"]
        return part

    @cached_property
    def statement(self) -> Statement:
        """The typed, frozen model of the record. Built on first use and kept."""
        return validate(self.doc)


def read_record(data: bytes) -> RecordView:
    """Bytes to a checked record. Raises RecordError and nothing else, whatever the bytes are."""
    doc = parse(data)
    _, minor = check_version(doc)
    view = RecordView(digest(data), data, upcast(doc, minor=minor, to=_OUR_MINOR))
    assert view.statement is not None  # built now, so that a view is never handed out before its shape was checked
    return view


def malformed(what: str, remedy: str = _REFETCH) -> RecordError:
    """A `record-malformed` error whose text can be printed whatever the record held."""
    return RecordError("record-malformed", printable(what), remedy)


def _foreign(what: str) -> RecordError:
    return RecordError("record-foreign", printable(what), "name a record's file")


def printable(text: str) -> str:
    """Text from a record as it may stand in one line of a terminal: nothing in it moves a cursor or ends a line."""
    if text.isprintable():  # a lone surrogate is not
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe_text(text))


def parse(data: bytes) -> dict[str, Any]:
    """Strict JSON of a bearable size, whose top is an object. Raises RecordError."""
    return parse_surveyed(data)[0]


def parse_surveyed(data: bytes) -> tuple[dict[str, Any], Survey]:
    """As `parse`, with what walking through the document found."""
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(
            "record-too-large",
            f"the file is larger than the {MAX_RECORD_BYTES} bytes that a record may have",
            "name a record; raw samples and logs are evidence, kept beside it",
        )
    if not data:
        raise malformed("the file is empty, and a record is a JSON object")
    try:
        doc, survey = decode_surveyed(data)
        if b"\\" in data and b"\\u" in data:  # one byte is looked for much faster than two
            encode(doc)  # a lone surrogate is valid in JSON's grammar and is not text: it could never be written back
    except UnicodeEncodeError:
        raise malformed("the record holds an escaped lone surrogate, which is not text") from None
    except ValueError as error:
        raise malformed(f"the record does not parse: {error}") from None
    if not isinstance(doc, dict):
        raise malformed(f"the file holds a JSON {_kind(doc)}, and a record is an object")
    return doc, survey


def check_version(doc: dict[str, Any]) -> tuple[int, int]:
    """(major, minor) of a record that this version can read. Raises RecordError `record-too-new` or `-foreign`."""
    ours = _VERSION.fullmatch(RECORD_VERSION)
    assert ours is not None, "our own version parses"
    predicate = doc.get("predicate")
    stated = predicate.get("record_version") if isinstance(predicate, dict) else None
    kind = _PREDICATE.fullmatch(doc["predicateType"]) if isinstance(doc.get("predicateType"), str) else None
    match = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    major = max(int(found[1]) for found in (kind, match) if found) if kind or match else None
    if major is not None and major > int(ours[1]):
        named = stated if match and int(match[1]) == major else f"{major} (its predicate type)"
        raise RecordError(
            "record-too-new",
            f"the record is of version {named}, and this Lanemark reads major version {ours[1]} ({RECORD_VERSION})",
            "read it with a newer Lanemark",
        )
    if doc.get("_type") != STATEMENT_TYPE:
        raise _foreign(f"$._type is not {STATEMENT_TYPE!r}, so the file is no in-toto statement")
    if doc.get("predicateType") != PREDICATE_TYPE:
        raise _foreign(f"$.predicateType is not {PREDICATE_TYPE!r}, so the statement is not a Lanemark record")
    if match is None:
        raise _foreign("$.predicate.record_version is not a version of the form MAJOR.MINOR")
    if int(match[1]) < int(ours[1]):
        raise _foreign(f"the record says version {stated}, and no such version was ever released")
    return int(match[1]), int(match[2])


def validate(doc: dict[str, Any]) -> Statement:
    """The typed model of a parsed record of our major version. Raises RecordError `record-unfit`."""
    from pydantic import ValidationError

    from lanemark.records.schema import Statement

    _, minor = check_version(doc)
    newer = minor > _OUR_MINOR
    doc = upcast(doc, minor=minor, to=_OUR_MINOR)
    try:
        return Statement.model_validate(doc)
    except ValidationError as error:
        problem = error
    if newer:
        known = copy.deepcopy(doc)
        for _ in range(_MAX_ROUNDS):
            if not _dropped_unknown(known, problem):
                break
            try:
                return Statement.model_validate(known)
            except ValidationError as error:
                problem = error
    remedy = "read it with a newer Lanemark" if newer else _REFETCH
    raise RecordError("record-unfit", printable(_sentence(problem, newer=newer)), remedy) from None


def _dropped_unknown(doc: dict[str, Any], error: ValidationError) -> bool:
    """Take the fields that the schema does not know out of `doc`; False, and nothing taken, when that is not all.

    pydantic's own `extra="ignore"` at validation came later than the oldest version we accept; the list of what was
    extra is in every version's error. Of a list only the first item that has something wrong is reported, so what is
    unknown in one item is taken out of all of them.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    if any(problem["type"] != "extra_forbidden" for problem in problems):
        return False
    for problem in problems:
        _drop(doc, _location(problem["loc"]))
    return True


def _drop(node: Any, path: tuple[int | str, ...]) -> None:
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        for item in node:
            _drop(item, rest)
    elif isinstance(node, dict) and step in node:
        if rest:
            _drop(node[step], rest)
        else:
            del node[step]


def _location(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where a problem lies in the document: pydantic puts the lane it chose by behind `predicate`, which is no key."""
    return (loc[0], *loc[2:]) if loc[:1] == ("predicate",) else loc


def json_path(steps: Iterable[int | str]) -> str:
    """`("predicate", "data", "shards", 0, "name")` as `$.predicate.data.shards[0].name`, cut to what fits a line."""
    text = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step[:60]}" for step in steps)
    return text if len(text) <= 200 else text[:199] + "…"


def _sentence(error: ValidationError, *, newer: bool) -> str:
    """The first problem in one sentence, with its path, and how many more there are. Never quotes a value.

    Of a newer minor an unknown field is no problem while there is another one.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = min(problems, key=lambda problem: newer and problem["type"] == "extra_forbidden")
    where = json_path(_location(first["loc"]))
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        text = f"{where}.lane is none of {', '.join(LANES)}"
    elif first["type"] == "missing":
        text = f"{where} is missing"
    elif first["type"] == "extra_forbidden":
        text = f"{where} is no field of a record of version {RECORD_VERSION}"
    else:
        text = f"{where}: {first['msg'].removeprefix('Value error, ')[:200]}"
    more = len(problems) - 1
    return text + (f" (and {more} more {'problem' if more == 1 else 'problems'})" if more else "")


def _kind(doc: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(doc), "value")
