"""Collect real A/A runs of the reference stack, for calibrating the statistics: the same question asked many times.

Every run is a whole `lanemark run training` in a process of its own, so that what differs between runs (memory
layout, clocks, what else the machine does) is in the series; nothing here knows a true difference between any two.
Run it by hand when the statistics change, not with the benchmarks: a few hundred runs take the better part of an hour.

    python benchmarks/calibration/collect.py --runs 240 --preset diagnostic --steps 420 --warmup 20 --label quiet

It appends to `benchmarks/calibration/series.npz` (plain arrays, nothing pickled): for each recipe one matrix of step
times in nanoseconds, one row a run in the order the runs were made, warm-up steps first. The label says what the
machine was doing: `busy` where other work shared it, `quiet` where none did, and `pinned` where other work shared the
machine and the runs had one core to themselves (`--core`, as root: real-time priority there, so that nothing else is
scheduled on it). The three are never pooled, because what they show differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SERIES = Path(__file__).with_name("series.npz")
FACTS = Path(__file__).with_name("series.json")


def one_run(home: Path, arguments: list[str], before: list[str]) -> tuple[list[int], str]:
    """The step times of one run, warm-up first, in nanoseconds, and its record's id.

    Raises:
        RuntimeError: the run was no good; its last words are in the message.
    """
    lanemark = [*before, sys.executable, "-m", "lanemark"]
    command = [*lanemark, "run", "training", *arguments, "--data", "synthetic", "--json"]
    env = {**os.environ, "LANEMARK_HOME": str(home)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
    if ended.returncode != 0:
        raise RuntimeError(f"a run failed: {ended.stderr[-400:]}")
    answer = json.loads(ended.stdout)
    samples = json.loads(Path(answer["record_path"]).read_bytes())["predicate"]["training"]["samples"]
    return [*samples["warmup"], *samples["measured"]], answer["record_id"]


def keep(name: str, rows: list[list[int]], facts: dict[str, Any]) -> None:
    """Append the rows of one recipe to what is kept, replacing the file in one move."""
    held = dict(np.load(SERIES, allow_pickle=False)) if SERIES.exists() else {}
    fresh = np.asarray(rows, dtype=np.uint32)
    held[name] = np.concatenate([held[name], fresh]) if name in held else fresh
    temporary = SERIES.with_name(".series.npz")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **held)
    temporary.replace(SERIES)
    known = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    known[name] = {**facts, "runs": len(held[name])}
    FACTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Make the runs, keeping them in batches so that stopping half-way loses little."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument("--preset", default="diagnostic")
    parser.add_argument("--steps", type=int, default=420)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--sequence", type=int, default=None, help="tokens in a sequence (default: the preset's)")
    parser.add_argument("--label", choices=("quiet", "busy"), default="quiet", help="what else the machine does")
    parser.add_argument("--core", type=int, default=None, help="give the runs this core alone; the label is `pinned`")
    asked = parser.parse_args()
    before = [] if asked.core is None else ["chrt", "--fifo", "10", "taskset", "--cpu-list", str(asked.core)]
    label = asked.label if asked.core is None else "pinned"
    name = f"{asked.preset.replace('-', '_')}_{label}"
    words = ["--preset", asked.preset, "--steps", str(asked.steps), "--warmup", str(asked.warmup)]
    words += [] if asked.sequence is None else ["--sequence", str(asked.sequence)]
    facts = {
        "arguments": words,
        "warmup": asked.warmup,
        "unit": "ns",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, shared",
    }
    rows: list[list[int]] = []
    with tempfile.TemporaryDirectory(prefix="lanemark-calibration-") as home:
        for number in range(asked.runs):
            rows.append(one_run(Path(home), words, before)[0])
            if len(rows) == 20 or number == asked.runs - 1:
                keep(name, rows, facts)
                rows = []
                print(f"{number + 1} of {asked.runs}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
