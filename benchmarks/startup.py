"""What a warm start costs: against a cold one, and against one on an untouched copy of the same compile cache.

Two ranks of dense-nano, sharded, blocks compiled, each with a cache of its own, are started as `lanemark run` starts
them. The cold run fills empty caches; they are captured into an archive, and every warm run starts from a fresh
directory that was seeded from it. Beside each goes one on a plain copy, which is as warm as a start can be.

Each rank has its own cache because that is what a cold start costs where it costs most: on GPUs the device's index is
part of a key, and containers keep their own disks. Ranks that share one empty directory share the work as well, through
its locks, while each waits; what a cold start takes then is measured too, and stands in the method.

What counts is **step 0**: processor time of the ranks and of their children (the compilers) while they compile ahead,
and from the moment they open their data to the end of the first step. What every start pays alike is left out: starting
the interpreter, importing torch and its compiler, forming the process group, building and sharding the model. With
those in, the quotient would say how large torch is.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.cache_manifest import Layout
from lanemark.lanes.presets import preset
from lanemark.launch.environment import apply_settings
from lanemark.launch.local import LocalSurface
from lanemark.launch.supervise import Limits, supervise
from lanemark.launch.surface import Placement
from lanemark.observe.devices import device_facts
from lanemark.observe.fingerprint import fingerprint
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.stage.capture import capture_cache
from lanemark.stage.coverage import write_coverage
from lanemark.stage.seed_source import parse_sources
from lanemark.stage.seeding import seed_cache

RANK: Final = Path(__file__).resolve().parent / "peers" / "startup_rank.py"
RECIPE: Final = preset("dense-nano")
CASE: Final = Case(
    lane="training", preset=RECIPE.name, nproc=2, mode="fsdp2", compile="regional", dtype="fp32", steps=4, warmup=1,
    sequence=RECIPE.sequence, micro_batch=RECIPE.micro_batch, data=DataAsked("synthetic"), gpu="cpu",
)  # fmt: skip
LAYOUT: Final[Layout] = "per_rank"
#: Cold starts are long and vary little; warm ones are short and vary more.
COLD_RUNS: Final = 2
PAIRS: Final = 5
#: Far above what two ranks take to start cold on a busy machine.
LIMITS: Final = Limits(stall_s=300.0, wall_s=600.0)


@dataclass(frozen=True)
class Start:
    """One start: processor seconds of step 0 and of the whole way there, over all ranks; and what ranks reported."""

    step_0_s: float
    to_step_0_s: float
    misses: int
    reports: tuple[dict[str, Any], ...]
    environment: dict[str, str]


def start(home: Path, cache_dir: Path, layout: Layout = LAYOUT) -> Start:
    """Run the case on a cache directory. Raises RuntimeError when a rank does not end well."""
    surface, number = LocalSurface(), len(list(home.iterdir()))
    paths = AttemptPaths(home / f"training-20260101T000000Z-{number:08x}")
    paths.root.mkdir()
    paths.case.write_bytes(encode(CASE.to_json()))
    request = surface.request(CASE, Placement(Home(home), cache_dir=cache_dir, cache_layout=layout))
    request = replace(request, argv=(sys.executable, str(RANK)))
    launched = surface.launch(request, paths)
    supervise(surface, launched, paths, limits=LIMITS)
    step_0_s = to_step_0_s = 0.0
    misses, reports = 0, []
    for rank in range(CASE.nproc):
        mine = paths.rank(rank)
        try:
            report = json.loads(mine.end.read_bytes())["compile_cache"]
            spent_s, whole_s = phases(json.loads((mine.root / "cpu.json").read_bytes()))
            misses += sum(report["value"]["misses"].values())
        except (OSError, KeyError) as error:
            raise RuntimeError(f"rank {rank} of a start did not end: {mine.stderr.read_text()[-500:]}") from error
        step_0_s, to_step_0_s = step_0_s + spent_s, to_step_0_s + whole_s
        reports.append(report)
    environment = apply_settings(os.environ, request.settings)
    return Start(step_0_s, to_step_0_s, misses, tuple(reports), environment)


def phases(stamps: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """Processor seconds of step 0, and from the process's start to the end of step 0.

    Args:
        stamps: each phase with the processor seconds at its beginning, and `first step done` among them.
    """
    counted_s, from_data_on = 0.0, False
    for (phase, begin_s), (_, end_s) in pairwise(stamps):
        if phase == "first step done":
            return counted_s, begin_s
        from_data_on = from_data_on or phase == "load"
        if from_data_on or phase == "prewarm":
            counted_s += end_s - begin_s
    raise RuntimeError("a rank ended without a first step")


def seeded(archive: Path, cache_dir: Path, environment: dict[str, str]) -> None:
    """A fresh directory, seeded from the archive. Raises RuntimeError when the archive is not used."""
    told = fingerprint(environment, devices=device_facts(environment))
    sources = parse_sources([str(archive)], {})
    (outcome,) = seed_cache(sources, cache_dir, case=CASE, layout=LAYOUT, fingerprint=told)
    if outcome.outcome != "used":
        raise RuntimeError(f"the archive was not used: {outcome.outcome}, {outcome.reason}")


def captured(cache_dir: Path, archive: Path, cold: Start) -> None:
    """The archive of a good run's cache. Raises RuntimeError when there is none."""
    told = fingerprint(cold.environment, devices=device_facts(cold.environment))
    written = write_coverage(cache_dir, CASE, LAYOUT, cold.reports, "training-cold", fingerprint=told)
    if not isinstance(written, Path):
        raise RuntimeError(f"the cold run left no manifest: {written}")  # noqa: TRY004 - it is the reason why
    outcome = capture_cache(cache_dir, archive, case=CASE, layout=LAYOUT, fingerprint=told)
    if not outcome.captured:
        raise RuntimeError(f"the cache was not captured: {outcome.reason}")


def row(name: str, value: float, target: float, method: str) -> dict[str, Any]:
    return {
        "name": name, "value": round(value, 4), "unit": "ratio", "target": f"<= {target:.4g}", "ok": value <= target,
        "method": method,
    }  # fmt: skip


def results() -> list[dict[str, Any]]:
    """Both figures, in about five minutes on two cores."""
    ours: list[Start] = []
    ideal: list[Start] = []
    with tempfile.TemporaryDirectory(prefix="lanemark-startup-") as folder:
        root = Path(folder)
        home, cache, archive = root / "home", root / "cache-0", root / "seed.tar.zst"
        home.mkdir()
        cold = [start(home, root / f"cache-{number}") for number in range(COLD_RUNS)]
        shared = start(home, root / "shared", "shared")
        captured(cache, archive, cold[0])
        for pair in range(PAIRS):
            fresh, copy = root / f"seeded-{pair}", root / f"copied-{pair}"
            seeded(archive, fresh, cold[0].environment)
            shutil.copytree(cache, copy, symlinks=True)
            turns = [(ours, fresh), (ideal, copy)]
            for kept, directory in turns if pair % 2 == 0 else reversed(turns):
                kept.append(start(home, directory))
                shutil.rmtree(directory)
    return rows(cold, shared, ours, ideal)


def rows(cold: Sequence[Start], shared: Start, ours: Sequence[Start], ideal: Sequence[Start]) -> list[dict[str, Any]]:
    """The figures of what was measured."""
    warm_s = statistics.median(run.step_0_s for run in ours)
    cold_s = statistics.median(run.step_0_s for run in cold)
    against = statistics.median(mine.step_0_s / other.step_0_s for mine, other in zip(ours, ideal, strict=True))
    whole_cold_s = statistics.median(run.to_step_0_s for run in cold)
    whole_warm_s = statistics.median(run.to_step_0_s for run in ours)
    missed = sum(run.misses for run in (*ours, *ideal))
    what = (
        f"processor time of {CASE.nproc} ranks of {CASE.preset} ({CASE.mode}, {CASE.compile}, a cache each) and their"
        " compilers, for compiling ahead and from opening the data to the end of step 0"
    )
    return [
        row(
            "startup.warm_vs_cold_cpu",
            warm_s / cold_s,
            1 / 7,
            f"{what}: {warm_s:.2f} s on seeded caches (median of {PAIRS}) over {cold_s:.1f} s on empty ones (median of"
            f" {COLD_RUNS}; {shared.step_0_s:.1f} s where the ranks share one empty cache); {missed} lookups of warm"
            f" starts missed; with imports and all else up to there {whole_warm_s:.1f} over {whole_cold_s:.1f} s",
        ),
        row(
            "startup.warm_vs_ideal",
            against,
            1.15,
            f"{what}: on caches seeded from the captured archive over on an untouched copy of them; median of {PAIRS}"
            " interleaved pairs",
        ),
    ]


if __name__ == "__main__":
    for result in results():
        sys.stdout.write(json.dumps(result) + "\n")
