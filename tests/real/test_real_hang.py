"""The hang itself, with real ranks: some have compiled code, others do not, and the first forward never returns.

The mechanism is the one that costs people hours. Every rank keeps its compile cache in a directory of its own, some of
those directories are warm, and one is empty. The warm ranks wait in the second all-gather of the first forward while the
cold one compiles, until the process group's time-out ends them with an exception that accuses somebody else. Nothing is
planted in the ranks: the warm directories were left by a real run.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lanemark.ledger.ledger import Ledger
from lanemark.measure.beacon import read_beacon

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(400)]

#: The smallest model on the same path: two blocks of one kind, so that the second all-gather follows a compilation.
CASE = (
    "run", "training", "--preset", "diagnostic", "--mode", "fsdp2", "--compile", "regional", "--gpu", "cpu",
    "--data", "synthetic", "--steps", "5", "--warmup", "2", "--cache-layout", "per-rank", "--cache-policy", "seed",
    "--prewarm", "off", "--json",
)  # fmt: skip


def run(home: Path, nproc: int, timeout_s: float) -> tuple[dict[str, Any], str, Path]:
    """One launch of the command line: what it printed, what it said on the way, and its attempt."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "LANEMARK_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "lanemark", *CASE, "--nproc", str(nproc), "--collective-timeout", f"{timeout_s:g}"],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        # The number of threads is part of every key, and would follow from the number of ranks.
        env={**environ, "LANEMARK_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout, done.stderr
    doc = json.loads(done.stdout)
    return doc, done.stderr, home / "attempts" / doc["run_id"]


class Warm(NamedTuple):
    """A rank's cache directory, as a real cold run of one rank left it, and how long its first compilation took."""

    cache: Path
    compile_s: float

    def timeout_s(self, part: float) -> float:
        """A time-out that a cold rank cannot meet, however fast this machine is: part of what compiling takes on it."""
        return min(max(part * self.compile_s, 5.0), 25.0)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """The world size is no part of the keys: one rank's cache serves any rank."""
    home = tmp_path_factory.mktemp("warm")
    doc, said, attempt = run(home, 1, 600)
    assert doc["state"] == "ok", said
    spans = read_beacon(attempt / "ranks" / "0" / "beacon.page").spans
    first = next(span for span in spans if span.phase == "compile" and span.end_ns is not None)
    return Warm(home / "cache" / "rank-0", ((first.end_ns or 0) - first.begin_ns) / 1e9)


def give(warm: Warm, home: Path, ranks: list[int]) -> None:
    for rank in ranks:
        shutil.copytree(warm.cache, home / "cache" / f"rank-{rank}", symlinks=True)


def named(attempt: Path) -> list[dict[str, Any]]:
    path = attempt / "named.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def looks(attempt: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (attempt / "looks.jsonl").read_bytes().splitlines()]


def stretch(attempt: Path, rank: int) -> float:
    """How many seconds this machine took to give the rank one second of processor time while it traced; 1 when idle."""
    wall_s = cpu_s = 0.0
    for before, after in itertools.pairwise(looks(attempt)):
        was, now = before["ranks"][rank], after["ranks"][rank]
        if was["phase"] == now["phase"] == "compile" and was["children"] == now["children"] == []:
            wall_s += (after["at_ns"] - before["at_ns"]) / 1e9
            cpu_s += now["cpu_s"] - was["cpu_s"]
    return max(1.0, wall_s / cpu_s) if cpu_s > 0 else 1.0


def held_to(home: Path, doc: dict[str, Any], attempt: Path, *, cold: int, nproc: int, timeout_s: float) -> None:
    """What every such hang must leave: the right rank, in time, live and in the sealed record."""
    first = named(attempt)[0]
    assert (first["finding"]["kind"], first["finding"]["rank"]) == ("compile_divergence", cold)
    # Five seconds on a machine that has a processor for every rank, and in proportion where tests share it with others.
    assert first["quiet_s"] <= 5.0 * stretch(attempt, cold)
    # In any case with the second look that could know: at least one rank waits, and the cold one has left a file.
    telling = [
        look["number"]
        for look in looks(attempt)
        if look["ranks"][cold]["new_cache_files"] and any(rank["phase"] == "collective" for rank in look["ranks"])
    ]
    assert first["look"] <= telling[1]
    assert [entry["finding"]["kind"] for entry in named(attempt)] == ["compile_divergence"]

    assert doc["state"] == "error"
    ledger = Ledger(home / "ledger")
    assert ledger.verify(doc["record_id"]).ok
    statement = ledger.get(doc["record_id"]).doc
    cause = statement["predicate"]["outcome"]["first_cause"]
    assert (cause["kind"], cause["rank"]) == ("compile_divergence", cold)
    # The innocent ranks died of the time-out, after the name was given; what they say accuses somebody else.
    innocent = next(rank for rank in range(nproc) if rank != cold)
    error = json.loads((attempt / "ranks" / str(innocent) / "error.json").read_bytes())["message"]["message"]
    assert "ompil" not in error
    failed_ns = next(
        rank["since_ns"] + timeout_s * 1e9
        for look in looks(attempt)
        for rank in look["ranks"]
        if rank["rank"] == innocent and rank["phase"] == "collective"
    )
    assert first["named_ns"] < failed_ns
    # Ranks were asked while they waited: who sits in which collective, and where in the code.
    deep = [look for look in looks(attempt) if look["depth"] == "deep" and look["ranks"][innocent]["flight"]]
    waiting = deep[-1]["ranks"][innocent]
    assert waiting["flight"][-1]["state"] != "completed"
    assert any("distributed" in frame for look in deep for frame in look["ranks"][innocent]["stack"] or ())
    names = {entry["name"] for entry in statement["predicate"]["evidence"]}
    assert {"looks.jsonl", "named.jsonl"} <= names
    assert any(name.startswith("looks/") and name.endswith("-flight.json") for name in names)
    assert not (attempt / "ranks" / "0" / "control.sock").exists()


def test_two_ranks_hang_when_one_cache_is_empty_and_pass_when_both_are_warm(warm: Warm, tmp_path: Path) -> None:
    hung, timeout_s = tmp_path / "hung", warm.timeout_s(0.4)
    give(warm, hung, [0])
    doc, said, attempt = run(hung, 2, timeout_s)
    held_to(hung, doc, attempt, cold=1, nproc=2, timeout_s=timeout_s)
    assert "rank 1 is compiling" in said
    assert f"see `lanemark doctor {doc['run_id']}`" in said

    covered = tmp_path / "covered"
    give(warm, covered, [0, 1])
    doc, said, attempt = run(covered, 2, timeout_s)
    assert doc["state"] == "ok", said
    assert named(attempt) == []
    assert all(rank["new_cache_files"] == 0 for look in looks(attempt) for rank in look["ranks"])


def test_eight_ranks_hang_and_the_one_that_compiles_is_named(warm: Warm, tmp_path: Path) -> None:
    """Seven warm ranks trace on the cores of this machine meanwhile, apart by seconds: none of them is accused."""
    give(warm, tmp_path, [0, 1, 2, 4, 5, 6, 7])
    timeout_s = warm.timeout_s(0.5)
    doc, _, attempt = run(tmp_path, 8, timeout_s)
    held_to(tmp_path, doc, attempt, cold=3, nproc=8, timeout_s=timeout_s)
