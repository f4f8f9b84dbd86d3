"""The laws of comparing, over many changes: symmetric, never better for knowing less, and never raising."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from judge_records import UNKNOWN, Doc, admitted, another, at, good, put, quiet

from lanemark.judge.admission import admit
from lanemark.judge.comparing import compare
from lanemark.judge.metrics import METRICS
from lanemark.records.encoding import digest, encode
from lanemark.records.verdict import VERDICTS

H100 = "cuda_h100_8"
CHANGES = (
    ("distributed.observed.mode", "ddp"), ("compile.observed.posture", "model"), ("source.commit", "a" * 40),
    ("hardware.observed.driver", "1"), ("hardware.observed.device_class", "H200"), ("image.digest", "sha256:" + "a" * 64),
    ("startup.state", "warm"), ("source.dirty", True), ("environment.variables.NCCL_ALGO", "Ring"),
    ("toolchain.torch_build", "9"), ("hardware.observed.power_limit_w", 1.0), ("case.dtype", "fp32"),
    ("data.path_class", "ram"), ("later", 1), ("case.gpu", "H200!:8"), ("hardware.observed.mig", True),
)  # fmt: skip
VARIES = ("mode", "compile", "torch", "source", "environment", "dtype", "hardware.observed.driver", "image.digest")


def observations(node: Any, path: str = "") -> list[str]:
    """The paths of all observations of a predicate."""
    if isinstance(node, dict):
        found = [path] if "status" in node and "source" in node else []
        return found + [
            each for key, child in node.items() for each in observations(child, f"{path}.{key}".lstrip("."))
        ]
    if isinstance(node, list):
        return [each for place, child in enumerate(node) for each in observations(child, f"{path}.{place}")]
    return []


OBSERVED = observations(quiet())


def changed(which: list[int]) -> Doc:
    doc = another(quiet())
    for place in which:
        put(doc, *CHANGES[place])
    return doc


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(range(len(CHANGES))), max_size=4, unique=True),
    st.lists(st.sampled_from(range(len(CHANGES))), max_size=2, unique=True),
    st.lists(st.sampled_from(VARIES), max_size=3, unique=True),
    st.sampled_from([metric.name for metric in METRICS["training"]]),
)
def test_a_verdict_is_symmetric(b: list[int], a: list[int], vary: list[str], metric: str) -> None:
    first, second = admitted(another(changed(a), "first")), admitted(changed(b))
    one, other = compare(first, second, metric, vary), compare(second, first, metric, vary)
    assert one == other.swapped()


def without(doc: Doc, path: str, *, whole: bool) -> Doc:
    """The document with one observation made unavailable, or taken out of it."""
    out = copy.deepcopy(doc)
    *parents, last = path.split(".")
    node = at(out, ".".join(parents))
    if whole:
        node.pop(last, None)
    elif last in node:
        node[last] = UNKNOWN
    return out


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from(range(len(CHANGES))), max_size=4, unique=True),
    st.lists(st.sampled_from(OBSERVED), min_size=1, max_size=3, unique=True),
    st.sampled_from(["a", "b", "both"]),
    st.booleans(),
    st.lists(st.sampled_from(VARIES), max_size=3, unique=True),
    st.sampled_from([metric.name for metric in METRICS["training"]]),
)
def test_taking_an_observation_away_never_improves_a_verdict(
    b: list[int], paths: list[str], side: str, whole: bool, vary: list[str], metric: str
) -> None:
    one, other = another(quiet(), "first"), changed(b)
    before = compare(admitted(one), admitted(other), metric, vary)
    for path in sorted(paths, reverse=True):
        if any(path.startswith(done + ".") for done in paths if done != path):
            continue
        try:
            one = without(one, path, whole=whole) if side in ("a", "both") else one
            other = without(other, path, whole=whole) if side in ("b", "both") else other
        except (KeyError, TypeError, IndexError):
            continue
    after = compare(admitted(one), admitted(other), metric, vary)
    assert VERDICTS.index(after.word) >= VERDICTS.index(before.word)


OTHER_LANES = {
    name: observations(quiet(name)) for name in ("sparse_h100_triton", "sparse_smoke", "promotion_ready_fa4")
}


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(sorted(OTHER_LANES)), st.sampled_from(["a", "b", "both"]), st.booleans())
def test_nor_in_the_other_lanes(data: st.DataObject, name: str, side: str, whole: bool) -> None:
    paths = data.draw(st.lists(st.sampled_from(OTHER_LANES[name]), min_size=1, max_size=2, unique=True))
    one, other = another(quiet(name), "first"), another(quiet(name))
    change = data.draw(st.sampled_from(["hardware.observed.driver", "hardware.observed.kernel", "startup.state", ""]))
    if change:
        put(other, change, "changed")
    before = compare(admitted(one), admitted(other))
    for path in sorted(paths, reverse=True):
        if not any(path.startswith(done + ".") for done in paths if done != path):
            one = without(one, path, whole=whole) if side in ("a", "both") else one
            other = without(other, path, whole=whole) if side in ("b", "both") else other
    assert VERDICTS.index(compare(admitted(one), admitted(other)).word) >= VERDICTS.index(before.word)


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["lane", "training", "status", "value", "source", "run_id"]), inner,
                                      max_size=4), max_leaves=12))  # fmt: skip
def test_no_document_makes_the_judge_raise(doc: Any) -> None:
    data = encode({"predicate": doc})
    record = admit(digest(data), data)
    assert compare(record, good(H100)).word == "not_comparable"
    assert compare(good(H100), record).word == "not_comparable"


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([path for path in OBSERVED if not path.startswith("training.ranks")]),
       st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=2))  # fmt: skip
def test_a_misshapen_part_never_makes_the_judge_raise(path: str, value: Any) -> None:
    doc = another(quiet())
    *parents, last = path.split(".")
    at(doc, ".".join(parents))[last] = value
    assert compare(admitted(quiet()), admitted(doc)).word in VERDICTS
