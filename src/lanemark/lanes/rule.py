"""What a lane rule is, and the few readings that rules share. Pure, standard library only.

A rule looks at the plain JSON of a record's predicate and answers None, or the problem in one sentence fragment. Its
table row has its reason beside it, so that a refusal can say what would be believed wrongly without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from lanemark.records.encoding import Survey
from lanemark.records.observation import value_of

Doc = dict[str, Any]
#: The figures are sums of a few thousand doubles: recomputing them elsewhere agrees to far better than this.
REL_TOLERANCE: Final = 1e-9
_OBSERVATION: Final = frozenset({"status", "source", "value", "reason"})


class Rule(NamedTuple):
    """One rule.

    Attributes:
        name: slug, stable.
        why: one sentence: what would be believed wrongly without it.
        check: the record's predicate to None, or to the problem in one sentence fragment.
    """

    name: str
    why: str
    check: Callable[[Doc], str | None]


class Broken(NamedTuple):
    """A rule that a record does not keep: its name, why the rule exists, and the problem found."""

    rule: str
    why: str
    problem: str


def is_receipt(doc: Doc) -> bool:
    """Whether the record says that its lane's result may be quoted."""
    return doc["outcome"]["receipt"] is True


def is_ok(doc: Doc) -> bool:
    """Whether the record says that the run ended well."""
    return bool(doc["outcome"]["state"] == "ok")


def is_seen(observation: Doc) -> bool:
    """Whether an observation has a value."""
    return value_of(observation) is not None


def close(stated: Any, computed: float) -> bool:
    """Whether a stated figure is the one that can be recomputed."""
    return isinstance(stated, (int, float)) and math.isclose(stated, computed, rel_tol=REL_TOLERANCE, abs_tol=1e-12)


def short(value: Any) -> str:
    """A value as it may stand in a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


class Judged(Doc):
    """A predicate while its rules are asked, with the survey that several of them begin with.

    `survey` may be of the whole statement that the predicate stands in: what it does not find is not in the predicate
    either, and what it finds is looked for again by path.
    """

    __slots__ = ("survey",)

    def __init__(self, predicate: Doc, survey: Survey | None = None) -> None:
        super().__init__(predicate)
        self.survey = Survey(predicate) if survey is None else survey


def surveyed(doc: Doc) -> Survey:
    """Everything below `doc`, without paths. Walking a record so takes a third of the time that it takes to name the
    paths as well, so rules look here first and ask for paths only once they have something to say.
    """
    return doc.survey if isinstance(doc, Judged) else Survey(doc)


def observations(node: Any, path: str) -> list[tuple[str, Doc]]:
    """Every observation below `node`, with its path."""
    found: list[tuple[str, Doc]] = []
    if isinstance(node, dict):
        if "status" in node and "source" in node and node.keys() <= _OBSERVATION:
            found.append((path, node))
        for key, child in node.items():
            if isinstance(child, (dict, list)):  # most of a record are scalars: a call for each would cost most
                found += observations(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for place, child in enumerate(node):
            if isinstance(child, (dict, list)):
                found += observations(child, f"{path}[{place}]")
    return found


def nulls(node: Any, path: str) -> list[str]:
    """The path of every null below `node`."""
    if node is None:
        return [path]
    found: list[str] = []
    if isinstance(node, dict):
        for key, child in node.items():
            if child is None or isinstance(child, (dict, list)):
                found += nulls(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for place, child in enumerate(node):
            if child is None or isinstance(child, (dict, list)):
                found += nulls(child, f"{path}[{place}]")
    return found


def keys(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every key below `node`, with its path."""
    if isinstance(node, dict):
        for key, child in node.items():
            here = f"{path}.{key}".lstrip(".")
            yield key, here
            yield from keys(child, here)
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from keys(child, f"{path}[{place}]")
