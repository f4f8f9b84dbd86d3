"""What a record says, for a comparison: one walk over its raw JSON gives every field that can matter. Pure.

Known fields have their value, unknown ones their reason, and noise is left out. A field that the table does not know is
kept as `unlisted`, and one that the table wants and the record lacks is kept as unknown: neither an addition nor an
omission goes unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from lanemark.judge.table import Node, Spot, Table
from lanemark.lanes.rule import Doc
from lanemark.lanes.shared_roles import NOISE_VARIABLES, PINNED_FLAGS, PINNED_SWITCHES, TORCH_PACKAGES
from lanemark.observe.redaction import REDACTED


class Facts(NamedTuple):
    """What one record says, for a comparison.

    Attributes:
        values: path → value of every field that matters and has one.
        unknown: path → why there is none, for the others.
        spots: path → what it is, for fields inside lists and open objects; the table has the others'.
        table: the table that they were found by.
    """

    values: dict[str, Any]
    unknown: dict[str, str]
    spots: dict[str, Spot]
    table: Table

    def spot(self, path: str) -> Spot:
        """What the field at a path is to a comparison."""
        return self.spots.get(path) or self.table.spots[path]


class _Absent:
    """The value of an observation that looked and found nothing. Equal to itself alone."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


class Derived(str):
    """A setting that Lanemark chose by itself: it follows from the case, the device and the package, which are judged.

    Two of them do not differ, nor does one from none; against an operator's own setting it is a value like any other.
    """

    __slots__ = ()


def facts_of(predicate: Doc, table: Table) -> Facts:
    """What a record's predicate, as the JSON of its bytes, says for a comparison. Never raises for a misshapen one."""
    facts = Facts({}, {}, {}, table)
    _walk(predicate, table.root, "", "", facts)
    return facts


def _walk(doc: Any, node: Node, prefix: str, suffix: str, facts: Facts) -> None:
    """Collect the fields of one object. In lists `prefix` stands for the tree's path, and `suffix` joins factors."""
    if type(doc) is not dict:
        _unknown(node, prefix, suffix, "is not an object", facts)
        return
    values, get = facts.values, doc.get
    for name, path, plain, child in node.wanted:
        value = get(name)
        if plain and not prefix and value is not None:  # most fields come this way
            if type(value) is not dict or "status" not in value:
                values[path] = value
            elif value["status"] == "observed" and "value" in value:
                values[path] = value["value"]
            else:
                _leaf(value, child, path, suffix, facts)
        elif value is None:
            if child.spot.role != "unlisted" and (not child.optional or name in doc):
                _unknown(child, f"{prefix}.{name}" if prefix else "", suffix, "the record lacks it", facts)
        else:
            _below(value, child, prefix, suffix, facts)
    if not node.names.issuperset(doc):
        _others(doc, node, prefix, facts)


def _below(value: Any, node: Node, prefix: str, suffix: str, facts: Facts) -> None:
    """Whatever is no plain field at the top: a container, a list, or a field that needs a second look."""
    if node.children or node.open is not None:
        if not prefix and type(value) is dict and "status" not in value:
            _walk(value, node, "", suffix, facts)
        else:
            _container(value, node, f"{prefix}.{node.name}" if prefix else "", suffix, facts)
    elif node.item is not None:
        _list(value, node, f"{prefix}.{node.name}" if prefix else node.path, facts)
    else:
        _leaf(value, node, f"{prefix}.{node.name}" if prefix else node.path, suffix, facts)


def _others(doc: Doc, node: Node, prefix: str, facts: Facts) -> None:
    """The members of an object that no row names: of an open one by its row, of any other unlisted."""
    for key, value in doc.items():
        if key in node.children:
            continue
        path = f"{prefix or node.path}.{key}" if prefix or node.path else key
        inner = node.open
        if inner is None:
            facts.values[path] = value
            facts.spots[path] = Spot("unlisted", path)
        elif not inner.ignored and not (inner.unset and key in NOISE_VARIABLES):
            _leaf(value, inner, path, f".{key}", facts)


def _container(value: Any, node: Node, prefix: str, suffix: str, facts: Facts) -> None:
    """An object with rows of its own below, which may be the value of an observation."""
    if type(value) is dict and "status" in value and "source" in value:
        if value["status"] == "observed":
            _walk(value.get("value"), node, prefix or node.path, suffix, facts)
        elif node.spot.role != "unlisted":  # of one that holds nothing but noise it does not matter that there is none
            _leaf(value, node, prefix or node.path, suffix, facts)
    else:
        _walk(value, node, prefix, suffix, facts)


def _leaf(value: Any, node: Node, path: str, suffix: str, facts: Facts) -> None:
    """One field: an observation or a bare value."""
    if path is not node.path:
        facts.spots[path] = node.spot._replace(factor=node.factor + suffix) if suffix else node.spot
    if type(value) is dict and "status" in value:
        status = value["status"]
        if status == "absent":
            facts.values[path] = ABSENT
            return
        if status != "observed" or "value" not in value:
            facts.unknown[path] = str(value.get("reason", "not observed"))
            return
        value = value["value"]
    if node.redactable:
        if path == "source.argv":
            value = free_arguments(value)
        if _is_hidden(value):
            facts.unknown[path] = "it was redacted or left out"
            return
    facts.values[path] = value


def _unknown(node: Node, path: str, suffix: str, reason: str, facts: Facts) -> None:
    if path:
        facts.spots[path] = node.spot._replace(factor=node.factor + suffix) if suffix else node.spot
    facts.unknown[path or node.path] = reason


def _list(value: Any, node: Node, path: str, facts: Facts) -> None:
    """The items of a list of objects, each under the name that tells it apart, or under its place."""
    item = node.item
    assert item is not None, "the tree has items here"
    if type(value) is not list:
        _unknown(node, path, "", "is not a list", facts)
        return
    if not node.keys and not item.wanted:  # noise throughout: only names that nobody knows are looked for
        for place, each in enumerate(value):
            if type(each) is not dict or not item.names.issuperset(each):
                _walk(each, item, f"{path}[{place}]", "", facts)
        return
    seen: set[str] = set()
    for place, each in enumerate(value):
        name = _name_of(each, node, place)
        if item.unset and name in NOISE_VARIABLES:
            continue
        if name in seen:  # a second item of one name must not hide the first
            name = f"{name}#{place}"
        seen.add(name)
        if not node.joins:
            _walk(each, item, f"{path}[{name}]", "", facts)
        elif type(each) is dict and item.names.issuperset(each):
            _joined(each, item, path, name, facts)
        else:
            _walk(each, item, f"{path}[{name}]", f".{name}", facts)


def _joined(each: Doc, item: Node, path: str, name: str, facts: Facts) -> None:
    """An item of a list whose names are factors: packages, variables."""
    chosen = item.unset and each.get("origin") == "lanemark"
    for child, inner, spot in _plan(item, path, name):
        if child.name in each:
            facts.spots[inner] = spot
            value = each[child.name]
            if chosen and type(value) is str:
                facts.values[inner] = Derived(value)
            else:
                _filled(value, child, inner, facts)
        elif not child.optional:
            facts.spots[inner] = spot
            facts.unknown[inner] = "the record lacks it"


@lru_cache(maxsize=1024)
def _plan(item: Node, path: str, name: str) -> tuple[tuple[Node, str, Spot], ...]:
    """For a list item of one name: each field that matters, its path, and what it is. The names are few and recur."""
    plan = []
    for _, _, _, child in item.wanted:
        factor = "torch" if path == "toolchain.packages" and name in TORCH_PACKAGES else f"{child.factor}.{name}"
        plan.append((child, f"{path}[{name}].{child.name}", child.spot._replace(factor=factor)))
    return tuple(plan)


def _filled(value: Any, node: Node, path: str, facts: Facts) -> None:
    """As `_leaf`, for a field whose spot is already noted."""
    if type(value) is dict and value.get("status") == "observed" and "value" in value:
        value = value["value"]
    elif type(value) is dict and "status" in value:
        if value["status"] == "absent":
            facts.values[path] = ABSENT
        else:
            facts.unknown[path] = str(value.get("reason", "not observed"))
        return
    if node.redactable and _is_hidden(value):
        facts.unknown[path] = "it was redacted or left out"
    else:
        facts.values[path] = value


def _name_of(item: Any, node: Node, place: int) -> str:
    """What a list's item is called: by what tells it apart, or by its place where it does not say."""
    parts = [_named(item, key) for key in node.keys]
    return str(place) if not parts or None in parts else "+".join(str(part) for part in parts)


def _named(item: Any, key: tuple[str, ...]) -> Any:
    for step in key:
        item = item.get(step) if type(item) is dict else None
    return item if isinstance(item, (str, int)) else None


def _is_hidden(value: Any) -> bool:
    """Whether a value stands for one that is not in the record: two of them are not equal for that."""
    if type(value) is str:
        return REDACTED in value or value.startswith("[left out: ")
    return type(value) is list and any(type(each) is str and REDACTED in each for each in value)


def free_arguments(argv: Any) -> Any:
    """A command line without what the case pins, without where things lie, and without the user's own command.

    The program's name is cut to its last part, and what stands behind `--` is the case's `command`.
    """
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        return argv
    return _free(argv)


def _free(argv: Sequence[str]) -> list[str]:
    kept, words = [os.path.basename(argv[0])] if argv else [], iter(argv[1:])
    for word in words:
        if word == "--":
            break
        flag, equals, _ = word.partition("=")
        if flag in PINNED_FLAGS:
            if not equals:
                next(words, None)
        elif word not in PINNED_SWITCHES:
            kept.append(word)
    return kept
