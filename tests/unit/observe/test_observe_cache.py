"""Compile-cache inventories, and the startup state that follows from two of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.compile_cache import inventory, listing
from lanemark.observe.startup import Origin, contradicts, startup_state
from lanemark.records.observation import Observation, absent, observed, unavailable


def fill(base: Path) -> Path:
    for name in (
        "fxgraph/55/f55tir/l2wt", "fxgraph/gm/fgmg/v4j7", "aotautograd/aovh/skxn", "24/c244.cpp", "24/c244.so", "jf/cjfz.py",
        "triton/HASH/k.cubin", "triton/HASH/k.json", "triton/HASH/__grp__k.json",
        "locks/c244.lock", "24/x.lock", "24/.12.34.tmp", "triton/tmp.pid_1_x/k.cubin",
    ):  # fmt: skip
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return base


def test_counts_keys_and_binaries_apart_and_leaves_temporaries_out(tmp_path: Path) -> None:
    seen = inventory(fill(tmp_path)).value
    assert seen is not None
    assert {key: seen[key] for key in ("files", "keys", "binaries")} == {"files": 9, "keys": 3, "binaries": 2}
    assert seen["bytes"] == sum(len(name) for name in (
        "fxgraph/55/f55tir/l2wt", "fxgraph/gm/fgmg/v4j7", "aotautograd/aovh/skxn", "24/c244.cpp", "24/c244.so", "jf/cjfz.py",
        "triton/HASH/k.cubin", "triton/HASH/k.json", "triton/HASH/__grp__k.json",
    ))  # fmt: skip


def test_digest_is_of_content_and_of_names(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "a"), fill(tmp_path / "b")
    assert inventory(first).value == inventory(second).value
    (second / "24/x2.lock").write_text("")
    assert inventory(first).value == inventory(second).value
    (second / "24/c244.so").write_text("24/c244.sO")
    changed = inventory(second).value
    assert changed is not None
    assert changed["binaries"] == 2
    assert changed["digest"] != (inventory(first).value or {})["digest"]


def test_missing_is_absent_and_odd_is_unavailable(tmp_path: Path) -> None:
    assert inventory(tmp_path / "none").status == "absent"
    (tmp_path / "file").write_text("")
    assert inventory(tmp_path / "file").status == "unavailable"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (inventory(empty).value or {})["files"] == 0


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.so"
    outside.write_text("x" * 999)
    cache = fill(tmp_path / "cache")
    before = inventory(cache).value
    (cache / "link.so").symlink_to(outside)
    (cache / "up").symlink_to(tmp_path)
    os.mkfifo(cache / "pipe.so")
    assert inventory(cache).value == before


def test_unreadable_part_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fill(tmp_path)
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("c244.so"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    seen = inventory(cache)
    assert (seen.status, seen.reason) == ("unavailable", "PermissionError: Permission denied")


def test_a_directory_given_by_mistake_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lanemark.observe.compile_cache.MAX_FILES", 3)
    seen = inventory(fill(tmp_path))
    assert seen.status == "unavailable"
    assert "no compile cache" in (seen.reason or "")


def cache(keys: int, binaries: int, digest: str = "sha256:a") -> Observation[dict[str, Any]]:
    return observed(
        {"files": keys + binaries, "bytes": 1, "keys": keys, "binaries": binaries, "digest": digest}, "walk"
    )


GONE = absent("walk", "the directory does not exist")
BLIND = unavailable("walk", "PermissionError: Permission denied")
FULL = cache(3, 10)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (GONE, FULL, "cold"),
        (GONE, GONE, "cold"),
        (cache(0, 0), FULL, "cold"),
        (FULL, FULL, "warm"),
        (FULL, cache(5, 12, "sha256:b"), "partly_warm"),
        (FULL, cache(3, 10, "sha256:b"), "partly_warm"),
        (cache(3, 0), cache(3, 10, "sha256:b"), "partly_warm"),
        (BLIND, FULL, None),
        (FULL, BLIND, None),
        (FULL, GONE, None),
        (cache(3, 0), cache(3, 0), None),
        (cache(0, 4), cache(0, 4), None),
    ],
)
def test_startup_states(before: Observation[Any], after: Observation[Any], expected: str | None) -> None:
    state = startup_state(before, after, compiled=True)
    assert state.value == expected
    if expected is None:
        assert state.status == "unavailable"
        assert state.reason


def test_eager_and_counted_evidence() -> None:
    assert startup_state(FULL, FULL, compiled=False).value == "not_compiled"
    assert startup_state(FULL, FULL, compiled=True, compilations=observed(0, "beacons")).value == "not_compiled"
    assert startup_state(FULL, FULL, compiled=True, compilations=observed(4, "beacons")).value == "warm"
    assert startup_state(FULL, FULL, compiled=True, compilations=BLIND).value == "warm"
    missed = Origin(misses=observed(2, "counters"))
    assert startup_state(FULL, FULL, compiled=True, origin=missed).value == "partly_warm"
    assert startup_state(GONE, FULL, compiled=True, origin=Origin(misses=observed(0, "counters"))).value == "cold"


@pytest.mark.parametrize(
    ("declared", "state", "disagree"),
    [
        ("require", "warm", False), ("require", "cold", True), ("require", "partly_warm", True), ("require", "not_compiled", False),
        ("cold", "cold", False), ("cold", "warm", True), ("cold", "partly_warm", True), ("cold", "not_compiled", False),
        ("seed", "cold", False), ("seed", "warm", False), ("seed", "partly_warm", False),
    ],
)  # fmt: skip
def test_declared_against_observed(declared: str, state: str, disagree: bool) -> None:
    assert (contradicts(declared, observed(state, "inventories")) is not None) is disagree
    assert contradicts(declared, unavailable("inventories", "no")) is None


def test_a_listing_has_what_a_seed_may_carry(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    headers = "tmp/torchinductor_me/precompiled_headers"
    for name in (
        "coverage/0123456789abcdef.json", "tmp/torchinductor/a.gch", "rank-1/tmp/a.gch", "rank-1/24/c1.so",
        f"{headers}/ca.h", f"{headers}/ca.h.gch", f"{headers}/locks/ca.lock", f"rank-1/{headers}/cb.h.gch",
    ):  # fmt: skip
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    rows = listing(cache).value
    assert rows is not None
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    kinds = {row.path: row.kind for row in rows}
    assert kinds == {
        "24/c244.cpp": "other", "24/c244.so": "binary", "aotautograd/aovh/skxn": "aot", "fxgraph/55/f55tir/l2wt": "fx",
        "fxgraph/gm/fgmg/v4j7": "fx", "jf/cjfz.py": "other", "rank-1/24/c1.so": "binary",
        "triton/HASH/__grp__k.json": "other", "triton/HASH/k.cubin": "binary", "triton/HASH/k.json": "other",
        f"{headers}/ca.h": "other", f"{headers}/ca.h.gch": "other", f"rank-1/{headers}/cb.h.gch": "other",
    }  # fmt: skip
    assert rows[0].sha256 == hashlib.sha256(b"24/c244.cpp").hexdigest()
    assert listing(tmp_path / "none").status == "absent"


def test_our_own_bookkeeping_changes_no_inventory(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    before = inventory(cache).value
    (cache / "coverage").mkdir()
    (cache / "coverage/seeded.json").write_text("{}")
    assert inventory(cache).value == before
