"""One thing changed in a good record: how bad ones and cheats are made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from good_records import SAMPLES, Doc, case_of, predicate_of, sealed

from lanemark.records.encoding import digest, encode


def base() -> Doc:
    """The smallest good record, as a whole statement."""
    return dict(json.loads(sealed(predicate_of(case_of(), serial="base", samples=SAMPLES)).data))


def statement_of(predicate: Doc) -> Doc:
    """A record's whole statement."""
    return dict(json.loads(sealed(predicate).data))


def at(doc: Doc, path: str) -> tuple[Any, Any]:
    """The container and the last key of a path such as `predicate.training.ranks.0.tokens`."""
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    node: Any = doc
    for step in parents:
        node = node[step]
    return node, last


def with_value(path: str, value: Any, start: Doc | None = None) -> Doc:
    doc = base() if start is None else copy.deepcopy(start)
    node, last = at(doc, path)
    node[last] = value
    return doc


def without(path: str, start: Doc | None = None) -> Doc:
    doc = base() if start is None else copy.deepcopy(start)
    node, last = at(doc, path)
    del node[last]
    return doc


def cheat_of(change: Callable[[Doc], None], start: Doc | None = None) -> bytes:
    """A whole record whose predicate was changed and whose digests are all in order."""
    # Through JSON and not by a deep copy: a case that two parts share must not be changed in both at once.
    predicate = json.loads(encode(base()["predicate"] if start is None else start))
    change(predicate)
    predicate["plan_digest"] = digest(encode(predicate["case"]))
    return sealed(predicate).data


def put(*pairs: tuple[str, Any]) -> Callable[[Doc], None]:
    def change(predicate: Doc) -> None:
        for path, value in pairs:
            node, last = at(predicate, path)
            node[last] = value

    return change


def leave_out(path: str, *names: str) -> Callable[[Doc], None]:
    def change(predicate: Doc) -> None:
        parent, last = at(predicate, path)
        for name in names:
            del parent[last][name]

    return change
