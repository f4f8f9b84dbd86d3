"""Manifests come from strangers: what is read back, and every lie that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seed_caches as made
from lanemark.lanes.cache_manifest import Manifest, checked_path, manifest_name, rank_use, read_manifest
from lanemark.lanes.coverage import compile_question


@pytest.fixture
def known(tmp_path: Path) -> Manifest:
    return made.manifest(made.fill(tmp_path / "cache"))


def test_reading_back_changes_nothing(known: Manifest) -> None:
    again = read_manifest(known.encoded())
    assert again == known
    assert again.encoded() == known.encoded()
    assert known.name == manifest_name(compile_question(made.case()))


def row(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "bytes": 1, "sha256": "0" * 64, "kind": "other", **more}


def with_file(path: str, **more: Any) -> Callable[[dict[str, Any]], None]:
    def change(doc: dict[str, Any]) -> None:
        doc["files"] = sorted([*doc["files"], row(path, **more)], key=lambda one: str(one["path"]))

    return change


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda doc: doc.update({name: value})


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "climbs": (with_file("../../etc/passwd"), "climbs"),
    "climbs in the middle": (with_file("a/../../b"), "climbs"),
    "absolute": (with_file("/etc/passwd"), "absolute"),
    "empty part": (with_file("a//b"), "shortest form"),
    "dot": (with_file("./a"), "shortest form"),
    "NUL": (with_file("a\0b"), "NUL"),
    "empty": (with_file(""), "empty"),
    "no text": (lambda doc: doc["files"].append(row(7)), "no text"),  # type: ignore[arg-type]
    "long name": (with_file("a" * 300), "longer than 255"),
    "long path": (with_file("a/" * 1500 + "a"), "longer than 2048"),
    "lone surrogate": (with_file("a\udc80"), "not UTF-8|no UTF-8|not JSON|surrogate"),
    "bookkeeping": (with_file("coverage/x.json"), "no part of a cache"),
    "lock": (with_file("inductor/locks/a.lock"), "a lock"),
    "temporary": (with_file("triton/tmp.pid_1/k"), "temporary"),
    "TMPDIR": (with_file("tmp/a.gch"), "temporary"),
    "a rank's TMPDIR": (with_file("rank-3/tmp/a.gch"), "temporary"),
    "twice": (lambda doc: doc["files"].insert(0, doc["files"][0]), "twice or out of order"),
    "out of order": (lambda doc: doc["files"].reverse(), "twice or out of order"),
    "file and directory": (with_file("inductor/aa"), "a file and a directory"),
    "negative size": (with_file("z", bytes=-1), "whole number"),
    "a size that is a truth": (with_file("z", bytes=True), "whole number"),
    "one too large": (with_file("z", bytes=2**40), "whole number"),
    "too large together": (
        lambda doc: doc["files"].extend(row(f"z{n}", bytes=60 * 2**30) for n in range(2)),
        "bytes together",
    ),
    "upper-case hash": (with_file("z", sha256="A" * 64), "no sha256"),
    "wrong kind": (with_file("z.so", kind="other"), "not of the kind"),
    "unknown kind": (with_file("z", kind="spell"), "not of the kind"),
    "another field": (with_file("z", mode=0o777), "fields are others"),
    "files no list": (put("files", {}), "no list"),
    "rank beyond the world": (lambda doc: doc["ranks"][1].update(rank=5), "whole number"),
    "rank twice": (lambda doc: doc["ranks"][1].update(rank=0), "twice or out of order"),
    "more ranks than the world": (put("world_size", 1), "more than its world size"),
    "a key that climbs": (lambda doc: doc["ranks"][0]["fx"].append("../../x"), "no key"),
    "a binary that climbs": (lambda doc: doc["ranks"][0]["binaries"].append("../x.so"), "climbs"),
    "no question": (put("question", []), "no object"),
    "no fingerprint": (put("fingerprint", "x"), "no object"),
    "unknown layout": (put("cache_layout", "scattered"), "layout"),
    "another version": (put("version", 2), "version"),
    "a field too many": (put("more", 1), "fields are others"),
    "a run of two lines": (put("run_id", "a\nb"), "no line of text"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(known: Manifest, lie: str) -> None:
    doc = json.loads(known.encoded())
    change, words = LIES[lie]
    change(doc)
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(json.dumps(doc).encode("utf-8", "surrogatepass"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"version":NaN}', b"\xff", b"[" * 100_000])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_manifest(data)


def test_ordinary_paths_pass() -> None:
    for path in ("a", "a/b", "inductor/fxgraph/ab/fab/x", "triton/ÄÖ/k.cubin", "..a/b..", "a b"):
        assert checked_path(path) == path


def test_a_ranks_word_is_sorted_and_checked() -> None:
    use = rank_use(3, {"fx": ["fb", "fa", "fa"], "aot": [], "binaries": ["b.so", "a.so"], "hits": {"fx": 1}})
    assert (use.rank, use.fx, use.binaries) == (3, ("fa", "fb"), ("a.so", "b.so"))
    for wrong in (None, 7, {}, {"fx": [], "aot": []}, {"fx": "ab", "aot": [], "binaries": []}):
        with pytest.raises(ValueError, match=r"\w"):
            rank_use(0, wrong)
