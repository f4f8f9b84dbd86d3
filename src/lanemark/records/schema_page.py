"""The page that documents every field of a record, written from the schema's own classes. Client side: needs pydantic.

Nothing here knows a field by name: what a field means is said once, beside its type, and this turns it into Markdown.
`lanemark schema --markdown` prints the page; a test holds the published copy to it.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from lanemark.records.schema import PREDICATES, Predicate, Statement
from lanemark.records.schema_parts import Count, Digest, Magnitude, Name, Observed, Part, Positive, Seconds, Stamp, Text
from lanemark.records.statement import RECORD_VERSION

#: How the page calls the kinds of value that have a name of their own.
_KINDS: Final[tuple[tuple[Any, str, str], ...]] = (
    (Digest, "digest", "`sha256:` and 64 hexadecimal digits"),
    (Stamp, "stamp", "UTC wall-clock time, `YYYY-MM-DDTHH:MM:SS.mmmZ`"),
    (Text, "text", "1 to 20,000 characters"),
    (Name, "name", "a letter, digit or `_`, then up to 119 of those and `.`, `:`, `+`, `-`"),
    (Count, "count", "a whole number from 0"),
    (Positive, "positive", "a whole number from 1"),
    (Seconds, "seconds", "a number from 0, in seconds"),
    (Magnitude, "magnitude", "a number from 0"),
)
_PLAIN: Final = {str: "string", int: "integer", float: "number", bool: "true or false"}
_HEAD: Final = f"""# The record, version {RECORD_VERSION}

This page is written from the schema itself: `lanemark schema --markdown` prints it, and `lanemark schema` prints the
JSON Schema (draft 2020-12) that any validator can hold a record to; `--lane` asks for one lane's.

A record is an in-toto statement: one JSON file named by the sha256 of its bytes. Every record has the fields of the
[predicate](#predicate), and the part of exactly one lane: [`training`](#trainingpart), [`sparse`](#sparsepart) or
[`promotion`](#promotionpart). What a schema cannot say, the rules of the lanes do: `lanemark verify` asks both.

## Kinds of value

| kind | is |
|---|---|
"""
_OBSERVED: Final = """
## Observed

A field of kind *observed X* holds a value with its source, or the reason why there is none. Nothing stands in for it:
no empty text, no -1, no null. What was declared or requested never becomes an observation, and its source never names
a request.

| status | `source` | `value` | `reason` | means |
|---|---|---|---|---|
| `observed` | required | required | not there | we looked, and saw this |
| `absent` | required | not there | optional | we looked, and it is not there |
| `unavailable` | required | not there | required | we could not look: no evidence of absence |
"""


def page() -> str:
    """The whole page, Markdown."""
    lines = [_HEAD + "\n".join(f"| {name} | {means} |" for _, name, means in _KINDS), _OBSERVED]
    lines += ["## The statement\n", *_section(Statement)]
    lines += ["## Predicate\n", "What a record of every lane says.\n", *_table(Predicate)]
    common = set(get_type_hints(Predicate))
    for lane, predicate in PREDICATES.items():
        own = [name for name in predicate.model_fields if name not in common]
        lines += [f"## {predicate.__name__}\n", f"{_first_line(predicate)}\n"]
        lines += [f"All of [Predicate](#predicate), with `lane` being `{lane}`, and:\n", *_table(predicate, own)]
    for part in _parts():
        lines += [f"## {part.__name__}\n", *_section(part)]
    return "\n".join(lines).rstrip() + "\n"


def _first_line(part: type[Part]) -> str:
    return " ".join((part.__doc__ or "").split())


def _section(part: type[Part]) -> list[str]:
    return [f"{_first_line(part)}\n", *_table(part)]


def _table(part: type[Part], names: list[str] | None = None) -> list[str]:
    hints = get_type_hints(part, include_extras=True)
    rows = ["| field | kind | means |", "|---|---|---|"]
    for name in names if names is not None else list(part.model_fields):
        info = part.model_fields[name]
        kind = _kind(hints[name]) + ("" if info.is_required() else ", may be missing")
        rows.append(f"| `{info.alias or name}` | {kind} | {(info.description or '').replace('|', chr(92) + '|')} |")
    return [*rows, ""]


def _kind(hint: Any) -> str:
    named = next((name for kind, name, _ in _KINDS if hint == kind), None)
    if named is not None:
        return named
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(inside[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is list:
        return f"list of {_kind(inside[0])}"
    if origin is dict:
        return "object of strings"
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in inside if one is not type(None))
    if hint in _PLAIN:
        return _PLAIN[hint]
    if issubclass(hint, Observed):
        return f"observed {_kind(_observed_type(hint))}"
    return f"[{hint.__name__}](#{hint.__name__.lower()})"


def _observed_type(hint: type[Observed[Any]]) -> Any:
    """What an `Observed[X]` observes."""
    return hint.__pydantic_generic_metadata__["args"][0]


def _parts() -> Iterator[type[Part]]:
    """Every part that a record holds, each once, in the order in which the predicates come to it."""
    seen: set[type[Part]] = {Statement, *PREDICATES.values()}
    waiting: list[Any] = [Statement, *PREDICATES.values()]
    while waiting:
        part = waiting.pop(0)
        if part not in seen:
            seen.add(part)
            yield part
        waiting[:0] = [inner for inner in _held(part) if inner not in seen]


def _held(part: type[Part]) -> list[type[Part]]:
    found: list[type[Part]] = []
    waiting = list(get_type_hints(part, include_extras=True).values())
    while waiting:
        hint = waiting.pop(0)
        if isinstance(hint, type) and issubclass(hint, Observed):
            waiting.insert(0, _observed_type(hint))
        elif isinstance(hint, type) and issubclass(hint, Part):
            found += [hint] if hint not in found else []
        else:
            waiting[:0] = get_args(hint) if get_origin(hint) is not Literal else ()
    return found
