"""The multi-rank hang with real ranks: how soon it is named, whether seeded launches pass, and what is named wrongly.

The launch is always the same: every rank has a compile cache of its own, and one rank's is empty. Left alone, it hangs
in its first forward until the process group's time-out. Seeded from an archive that a good run left, under the policy
that demands coverage, it must pass, twenty times out of twenty, eight ranks on however few cores included; and nothing
may be named while it does.

The model is the smallest on the same path (preset `diagnostic`), and pre-warm is off, which would prevent the hang.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from lanemark.measure.beacon import read_beacon

#: Hangs: ranks, the rank whose cache is empty, and the time-out as a part of what a cold compilation takes here, which
#: a cold rank cannot meet however fast the machine is. Eight ranks are further apart when they get there.
HANGS = ((2, 1, 0.4), (2, 0, 0.4), (8, 3, 0.5))
#: Seeded launches: twenty in all.
SEEDED = ((2, 16), (8, 4))
STEPS, WARMUP = 5, 2
LAUNCH_S = 600.0


class Launch(NamedTuple):
    """One launch: what it printed, what was named while it ran (name, rank, seconds after the last progress)."""

    doc: dict[str, Any]
    named: list[tuple[str, int | None, float]]
    said: str

    @property
    def passed(self) -> bool:
        return self.doc.get("state") == "ok"

    @property
    def alarmed(self) -> bool:
        return bool(self.named) or "first_cause" in self.doc


def lanemark(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, with a home and no other cache."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "LANEMARK_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "lanemark", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=LAUNCH_S,
        # The number of threads is part of every key, and would follow from the number of ranks.
        env={**environ, "LANEMARK_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def asked(nproc: int, timeout_s: float) -> list[str]:
    """The arguments of every launch."""
    return [
        "training", "--preset", "diagnostic", "--mode", "fsdp2", "--compile", "regional", "--gpu", "cpu", "--data",
        "synthetic", "--steps", str(STEPS), "--warmup", str(WARMUP), "--cache-layout", "per-rank", "--prewarm", "off",
        "--nproc", str(nproc), "--collective-timeout", f"{timeout_s:g}", "--json",
    ]  # fmt: skip


def launch(home: Path, nproc: int, timeout_s: float, *more: str) -> Launch:
    """Launch once and read what was named live."""
    done = lanemark(home, "run", *asked(nproc, timeout_s), *more)
    if not done.stdout:
        return Launch({"state": "refused"}, [], done.stderr)
    doc = json.loads(done.stdout)
    named = []
    path = home / "attempts" / doc.get("run_id", "none") / "named.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        entry = json.loads(line)
        named.append((entry["finding"]["kind"], entry["finding"].get("rank"), entry["quiet_s"]))
    return Launch(doc, named, done.stderr)


def mixed(warm: Path, home: Path, nproc: int, empty: int | None) -> Path:
    """A home whose ranks have warm caches, but one."""
    for rank in range(nproc):
        if rank != empty:
            shutil.copytree(warm, home / "cache" / f"rank-{rank}", symlinks=True)
    return home


def timeout_of(part: float, compile_s: float) -> float:
    """A collective time-out in seconds."""
    return min(max(part * compile_s, 5.0), 30.0)


def hangs(warm: Path, root: Path, compile_s: float) -> list[float]:
    """Seconds from the last progress to the right name, of each hang."""
    seconds = []
    for number, (nproc, empty, part) in enumerate(HANGS):
        timeout_s = timeout_of(part, compile_s)
        hung = launch(mixed(warm, root / f"hung-{number}", nproc, empty), nproc, timeout_s, "--cache-policy", "seed")
        if hung.passed:
            raise RuntimeError(f"{nproc} ranks with rank {empty} cold passed within {timeout_s:g} s: nothing hung")
        if not hung.named or hung.named[0][:2] != ("compile_divergence", empty):
            raise RuntimeError(f"{nproc} ranks with rank {empty} cold were named {hung.named[:1]}")
        cause = hung.doc.get("first_cause", {})
        if (cause.get("kind"), cause.get("rank")) != ("compile_divergence", empty):
            raise RuntimeError(f"the record of {nproc} ranks with rank {empty} cold names {cause.get('kind')}")
        seconds.append(hung.named[0][2])
    return seconds


def seeded(warm: Path, root: Path, compile_s: float) -> list[Launch]:
    """The same launches with an archive to seed from, which a good run of as many ranks left."""
    done = []
    for nproc, count in SEEDED:
        empty, timeout_s = next((empty, timeout_of(part, compile_s)) for n, empty, part in HANGS if n == nproc)
        good = mixed(warm, root / f"good-{nproc}", nproc, None)
        archive = root / f"seed-{nproc}.tar.zst"
        run = launch(good, nproc, 600.0, "--cache-policy", "seed", "--cache-to", str(archive))
        if not (run.passed and archive.exists()):
            raise RuntimeError(f"no archive of a good run of {nproc} ranks: {run.said[-500:]}")
        for number in range(count):
            home = mixed(warm, root / f"seeded-{nproc}-{number}", nproc, empty)
            words = ("--cache-policy", "require", "--cache-from", str(archive))
            done.append(launch(home, nproc, timeout_s, *words))
            shutil.rmtree(home)
    return done


def results() -> list[dict[str, Any]]:
    """The three figures of this file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cold = launch(root / "first", 1, 600.0, "--cache-policy", "seed")
        if not cold.passed:
            raise RuntimeError(f"the first run of one rank did not pass: {cold.said[-500:]}")
        warm = root / "first" / "cache" / "rank-0"
        page = read_beacon(root / "first" / "attempts" / cold.doc["run_id"] / "ranks" / "0" / "beacon.page")
        first = next(span for span in page.spans if span.phase == "compile" and span.end_ns is not None)
        compile_s = ((first.end_ns or 0) - first.begin_ns) / 1e9
        seconds = hangs(warm, root, compile_s)
        launches = seeded(warm, root, compile_s)
    passed = sum(run.passed for run in launches)
    alarms = sum(run.alarmed for run in launches)
    each = ", ".join(
        f"{nproc} ranks with rank {empty} cold {s:.1f} s" for (nproc, empty, _), s in zip(HANGS, seconds, strict=True)
    )
    cores = len(os.sched_getaffinity(0))
    runs = " and ".join(f"{count} of {nproc} ranks" for nproc, count in SEEDED)
    how = (
        f"{runs} on {cores} cores, preset diagnostic, FSDP2, one compiled block, a cache directory a rank, no pre-warm"
    )
    worst, unlike = max(seconds), [run for run in launches if not run.passed]
    return [
        {
            "name": "hang.seconds_to_name",
            "value": worst,
            "unit": "s",
            "target": "<= 5",
            "ok": worst <= 5,
            "method": f"worst of {len(seconds)} real hangs, from the last progress of any rank to the live name of the "
            f"rank that compiles, which the sealed record confirms: {each}",
        },
        {
            "name": "hang.false_alarms_in_20",
            "value": alarms,
            "unit": "count",
            "target": "<= 0",
            "ok": alarms == 0,
            "method": f"runs of {len(launches)} healthy ones in which anything was named live or in the record: {how}",
        },
        {
            "name": "hang.seeded_passes_of_20",
            "value": passed,
            "unit": "count",
            "target": ">= 20",
            "ok": passed >= 20,
            "method": f"launches that pass once seeded from an archive, where they hang without it: {how}"
            + (f"; first failure: {unlike[0].said.strip()[-200:]}" if unlike else ""),
        },
    ]
