"""Records for the judge's tests: the corpus's good ones, brought in by name and changed in one place."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from lanemark.judge.admission import Admitted, admit, admit_predicate
from lanemark.records.encoding import digest

ROOT = Path(__file__).resolve().parents[3]
GOOD = ROOT / "tests" / "assets" / "records" / "good"
CHEAT = ROOT / "tests" / "assets" / "records" / "cheat"
Doc = dict[str, Any]


@cache
def _bytes(name: str) -> bytes:
    return (GOOD / f"{name}.json").read_bytes()


def good(name: str) -> Admitted:
    """A record of the corpus as it lies there."""
    data = _bytes(name)
    return admit(digest(data), data)


def predicate(name: str) -> Doc:
    """Its predicate, to be changed."""
    found: Doc = json.loads(_bytes(name))["predicate"]
    return found


def another(doc: Doc, serial: str = "other") -> Doc:
    """A copy under another run id, so that it is another run."""
    out = copy.deepcopy(doc)
    out["run_id"] = out["run_id"][:-8] + f"{serial:0>8}"
    return out


def admitted(doc: Doc, name: str = "") -> Admitted:
    return admit_predicate(name or f"sha256:{doc['run_id'][-8:]}", doc)


def at(doc: Any, path: str) -> Any:
    for step in path.split("."):
        doc = doc[int(step)] if step.isdigit() else doc[step]
    return doc


def put(doc: Doc, path: str, value: Any) -> Doc:
    """Set the value of an observation, or a bare value, at a path; returns the document."""
    *parents, last = path.split(".")
    node = at(doc, ".".join(parents)) if parents else doc
    held = node[last] if isinstance(node, dict) and last in node else None
    if isinstance(held, dict) and "status" in held and not (isinstance(value, dict) and "status" in value):
        node[last] = {"status": "observed", "source": held["source"], "value": value}
    else:
        node[last] = value
    return doc


UNKNOWN = {"status": "unavailable", "source": "nowhere", "reason": "it could not be looked at"}


def quiet(name: str = "cuda_h100_8") -> Doc:
    """A predicate of which everything that bears on a comparison is known."""
    return put(predicate(name), "hardware.observed.cgroup_cpu_quota", {"status": "absent", "source": "cpu.max"})
