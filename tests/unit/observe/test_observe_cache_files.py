"""Listings of a compile cache before and after a run, and how many files are new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lanemark.observe.cache_files import list_files, new_files
from lanemark.records.observation import absent, observed, unavailable


def fill(base: Path, *names: str) -> Path:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return base


def test_content_is_listed_and_nothing_else(tmp_path: Path) -> None:
    fill(
        tmp_path, "inductor/fxgraph/ab/k/e", "inductor/24/c.so", "rank-1/inductor/24/c.so", "coverage/0.json",
        "tmp/headers.pch", "rank-1/tmp/x", "inductor/locks/c.lock", "inductor/24/.1.tmp",
    )  # fmt: skip
    (tmp_path / "inductor" / "link.so").symlink_to(tmp_path / "inductor/24/c.so")
    seen = list_files(tmp_path)
    assert seen.value == {"inductor/fxgraph/ab/k/e": 23, "inductor/24/c.so": 16, "rank-1/inductor/24/c.so": 23}


def test_what_cannot_be_listed_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_files(tmp_path / "none").status == "absent"
    (tmp_path / "file").write_text("x")
    assert list_files(tmp_path / "file").status == "unavailable"
    monkeypatch.setattr("lanemark.observe.cache_files.MAX_FILES", 2)
    full = fill(tmp_path / "cache", "a/1.so", "a/2.so", "a/3.so")
    assert "no compile cache" in (list_files(full).reason or "")


def test_a_directory_that_goes_away_while_it_is_walked_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(tmp_path / "cache", "a/1.so", "b/2.so")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "b":
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list_files(cache).value == {"a/1.so": 6}


def test_new_and_changed_files_count_and_removed_ones_do_not() -> None:
    before = observed({"a": 1, "b": 2, "gone": 3}, "x")
    after = observed({"a": 1, "b": 5, "c": 1}, "x")
    assert new_files(before, after).value == 2
    assert new_files(after, after).value == 0
    assert new_files(absent("x"), after).value == 3
    assert new_files(before, absent("x")).value == 0


def test_a_ranks_own_directory_is_not_another_ranks() -> None:
    after = observed({f"rank-1{os.sep}a": 1, f"rank-11{os.sep}a": 1, f"rank-11{os.sep}b": 1}, "x")
    assert new_files(absent("x"), after, "rank-1").value == 1
    assert new_files(absent("x"), after, "rank-11").value == 2


def test_an_unseen_side_makes_no_number() -> None:
    blind, full = unavailable("x", "PermissionError: no"), observed({"a": 1}, "x")
    assert "before the run: PermissionError" in (new_files(blind, full).reason or "")
    assert "after the run: PermissionError" in (new_files(full, blind).reason or "")
