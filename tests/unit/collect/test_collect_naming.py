"""Live naming: told once and kept, whatever the disk does; and nothing is told of a run that only pauses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect import naming as module
from lanemark.collect.naming import LiveNaming
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.finding import Finding
from lanemark.records.look import Look, RankLook

SECOND = 1_000_000_000


def paths_of(home: Path) -> AttemptPaths:
    paths = Home(home).attempt("training-20260101T000000Z-00000000")
    paths.root.mkdir(parents=True)
    return paths


def case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "lane": "training", "preset": "dense-nano", "nproc": 2, "mode": "fsdp2", "compile": "regional", "dtype": "fp32",
        "steps": 8, "warmup": 2, "sequence": 8, "micro_batch": 1, "data": DataAsked("synthetic"),
    }  # fmt: skip
    return Case(**{**fields, **changes})


def look(number: int, *, new_files: int = 0) -> Look:
    """Rank 0 waits since the tenth second; rank 1 compiles, and has left so many files."""
    waits = RankLook(
        0, alive=True, phase="collective", label="all_gather_single", since_ns=10 * SECOND, step=0, collectives=3,
        compilations=1, compile_ns=SECOND, children=(), new_cache_files=0, process_state="S", sequence=8,
    )  # fmt: skip
    compiles = RankLook(
        1, alive=True, phase="compile", label="DYNAMO:0/0", since_ns=8 * SECOND, step=0, collectives=2, compilations=0,
        compile_ns=0, children=(), new_cache_files=new_files, process_state="R", sequence=6,
    )  # fmt: skip
    at_ns = 11 * SECOND + number * SECOND // 2
    return Look(number, at_ns, 0, 1.0 + number / 2, "shallow", (waits, compiles))


def test_a_hang_is_told_once_and_kept(tmp_path: Path) -> None:
    told: list[Finding] = []
    naming = LiveNaming(paths_of(tmp_path), case(), told.append)
    for number, files in enumerate([0, 0, 1, 2, 4, 6], 1):
        naming(look(number, new_files=files))
    assert [(finding.kind, finding.rank) for finding in told] == [("compile_divergence", 1)]
    lines = Home(tmp_path).attempt("training-20260101T000000Z-00000000").named.read_bytes().splitlines()
    docs = [json.loads(line) for line in lines]
    assert [(doc["look"], doc["finding"]["kind"], doc["finding"]["rank"]) for doc in docs] == [
        (4, "compile_divergence", 1)
    ]
    assert docs[0]["quiet_s"] == 3.0
    assert docs[0]["named_ns"] > 0


def test_a_warm_start_is_told_nothing(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    naming = LiveNaming(paths, case(), pytest.fail)
    for number in range(1, 10):
        naming(look(number))
    assert not paths.named.exists()


def test_a_full_disk_costs_the_file_and_not_the_telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_all", full)
    told: list[Finding] = []
    naming = LiveNaming(paths_of(tmp_path), case(), told.append)
    for number, files in enumerate([0, 1, 2], 1):
        naming(look(number, new_files=files))
    assert len(told) == 1
