"""What is looked at around a launch: coverage, new files by rank, the run before; and what a good run leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.starting import CacheWatch, Start, coverage_observed, coverage_seen
from lanemark.lanes.coverage import Coverage
from lanemark.launch.surface import Placement
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import observed, value_of
from lanemark.stage.coverage import check_coverage

CASE = Case(
    lane="training", preset="diagnostic", nproc=2, mode="fsdp2", compile="regional", dtype="fp32", steps=5, warmup=2,
    sequence=64, micro_batch=2, data=DataAsked("synthetic"),
)  # fmt: skip
PRINT = {"torch": observed("2.13.0", "torch/version.py").to_json()}
RUN = "training-20261122T152233Z-aaaaaaaa"


def fill(base: Path, *names: str) -> None:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "home")
    place.attempts.mkdir(parents=True)
    return place


def watch(home: Home, cache: Path | None, *, layout: Any = "shared", case: Case = CASE, **start: Any) -> CacheWatch:
    placement = Placement(home, cache_dir=cache, cache_layout=layout)
    return CacheWatch(home, home.attempt(RUN), case, placement, Start(**{"fingerprint": PRINT, **start}))


def word(**changes: Any) -> dict[str, Any]:
    counts = {name: {"fx": 0, "aot": 0} for name in ("hits", "misses", "bypasses")}
    used = {"fx": ["fkey"], "aot": ["akey"], "binaries": ["inductor/24/c.so"], **counts, **changes}
    return observed(used, "the rank").to_json()


def say(paths: AttemptPaths, rank: int, said: dict[str, Any]) -> None:
    paths.rank(rank).root.mkdir(parents=True)
    paths.rank(rank).observed.write_text(json.dumps({"compile_cache": said}))


CONTENT = ("inductor/fxgraph/ke/fkey/entry", "inductor/aotautograd/akey/entry", "inductor/24/c.so")


def test_a_good_run_is_remembered_and_covers_the_next(home: Home, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill(cache, *CONTENT)
    assert not check_coverage(cache, CASE, "shared", fingerprint=PRINT).covered
    for rank in range(2):
        say(home.attempt(RUN), rank, word())
    looking = watch(home, cache)
    looking.before({}, "boot")
    assert looking.remember() is None
    covered = coverage_seen(cache, CASE, "shared", lambda: PRINT)
    assert value_of(covered)["covered"] is True
    (cache / "inductor/24/c.so").unlink()
    short = value_of(coverage_seen(cache, CASE, "shared", lambda: PRINT))
    assert (short["covered"], len(short["missing"])) == (False, 2)


def test_a_rank_that_said_nothing_leaves_no_manifest_and_a_reason(home: Home, tmp_path: Path) -> None:
    fill(tmp_path / "cache", *CONTENT)
    say(home.attempt(RUN), 0, word())
    looking = watch(home, tmp_path / "cache")
    looking.before({}, "boot")
    assert "rank 1" in (looking.remember() or "")
    assert not (tmp_path / "cache" / "coverage").exists()


def test_what_compiles_nothing_has_no_coverage_and_nothing_to_remember(home: Home) -> None:
    eager = replace(CASE, compile="eager")
    looking = watch(home, None, case=eager, fingerprint=None)
    assert looking.before({}, "boot")["coverage_before"]["status"] == "absent"
    assert looking.after()["new_files"]["value"] == 0
    assert looking.remember() is None


def test_what_the_gate_saw_is_what_is_recorded(home: Home, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    gate = coverage_observed(Coverage(covered=False, required=3, missing=("rank 0: x",) * 50, mismatches=())).to_json()
    looking = watch(home, tmp_path / "cache", coverage=gate, layers=[{"outcome": "used"}])
    doc = looking.before({}, "boot")
    assert doc["coverage_before"] == gate
    assert len(value_of(gate)["missing"]) == 20
    assert doc["layers"] == [{"outcome": "used"}]


def test_new_files_are_counted_by_rank_where_ranks_keep_caches_apart(home: Home, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill(cache, "rank-0/inductor/24/c.so")
    looking = watch(home, cache, layout="per_rank")
    looking.before({}, "boot")
    fill(cache, "rank-1/inductor/24/c.so", "rank-1/inductor/fxgraph/ke/f/e", "rank-1/tmp/headers.pch")
    seen = looking.after()
    assert seen["new_files"]["value"] == 2
    assert {rank: entry["value"] for rank, entry in seen["new_files_by_rank"].items()} == {"0": 0, "1": 2}


def test_a_shared_cache_is_every_ranks(home: Home, tmp_path: Path) -> None:
    looking = watch(home, tmp_path / "cache")
    looking.before({}, "boot")
    fill(tmp_path / "cache", *CONTENT)
    assert {entry["value"] for entry in looking.after()["new_files_by_rank"].values()} == {3}


def manifest(home: Home, name: str, cache: Path, **changes: Any) -> None:
    steps = [{"state": "prepared"}, {"state": "running"}]
    doc = {"run_id": name, "boot_id": "boot", "placement": {"cache_dir": str(cache)}, "transitions": steps, **changes}
    paths = home.attempt(name)
    paths.root.mkdir()
    paths.manifest.write_text(json.dumps(doc))


def test_the_run_before_is_the_newest_of_this_boot_with_this_cache(home: Home, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    manifest(home, "training-20261120T000000Z-bbbbbbbb", cache)
    manifest(home, "training-20261121T000000Z-cccccccc", cache)
    manifest(home, "training-20261122T000000Z-dddddddd", tmp_path / "other")
    manifest(home, RUN, cache)
    (home.attempts / "notes").mkdir()
    home.attempt("training-20261123T000000Z-eeeeeeee").root.mkdir()
    seen = watch(home, cache).before({}, "boot")["clocks"]["earlier_run"]
    assert value_of(seen) == "training-20261121T000000Z-cccccccc"
    assert watch(home, cache).before({}, "another boot")["clocks"]["earlier_run"]["status"] == "absent"


def test_a_home_that_cannot_be_listed_is_not_a_home_without_runs(tmp_path: Path) -> None:
    seen = watch(Home(tmp_path / "gone"), None).before({}, "boot")["clocks"]["earlier_run"]
    assert seen["status"] == "unavailable"
