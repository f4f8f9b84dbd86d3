"""What measuring a script of the user's own costs it, whether its ranks are found, and what a step costs beside peers.

`script.vs_bare`: the same training loop bare, counted by torch's optimizer-step hook, and with marks, in turns in one
process; the worse of the two ways counts. `script.ranks_found`: fifty launches of unmodified programs by
launchers of several kinds, some of them torchrun with torch. `script.step_vs_peers`: a marked step against logging one
number a step with MLflow, Weights & Biases offline and TensorBoard, the cheapest of them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from lanemark.launch.command import CommandSurface
from lanemark.launch.surface import Placement
from lanemark.measure.claim import read_claim
from lanemark.measure.marks import _marked
from lanemark.measure.samples import read_samples
from lanemark.measure.script import Script
from lanemark.measure.torch_hooks import TorchProbes, install
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.script import ScriptAsked

PAIRS, BLOCK = 160, 4
PEER_STEPS, OUR_STEPS, ROUNDS = 1_000, 100_000, 5
LAUNCHES, OF_TORCH = 50, 4
PROGRAMS = Path(__file__).resolve().parents[1] / "tests" / "real" / "programs"


def case_of(command: tuple[str, ...], *, nproc: int, steps: int) -> Case:
    return Case(
        lane="training", preset="script", nproc=nproc, mode="any", compile="any", dtype="any", steps=steps, warmup=1,
        sequence=1, micro_batch=1, data=DataAsked("own"), gpu="cpu", command=command, script=ScriptAsked(),
    )  # fmt: skip


def attempt(folder: Path, name: str, steps: int) -> Script:
    """A rank's part in an attempt, as the import hook would make it."""
    paths = AttemptPaths(folder / name)
    paths.root.mkdir(parents=True)
    paths.case.write_bytes(encode(case_of(("x",), nproc=1, steps=steps).to_json()))
    return Script(paths)


def training() -> Callable[[], None]:
    """One step of a small network, several milliseconds on one core."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(320, 320) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(128, 320)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turns(ours: Callable[[], None], bare: Callable[[], None]) -> float:
    """Our processor time over the bare loop's, the median over pairs of blocks; who goes first alternates."""

    def timed(block: Callable[[], None]) -> float:
        begin = time.process_time()
        block()
        return time.process_time() - begin

    ratios = []
    for pair in range(PAIRS):
        if pair % 2:
            mine, other = timed(ours), timed(bare)
        else:
            other, mine = timed(bare), timed(ours)
        ratios.append(mine / other)
    return statistics.median(ratios)


def vs_bare(folder: Path) -> dict[str, Any]:
    step, steps = training(), (PAIRS + 4) * BLOCK

    def bare() -> None:
        for _ in range(BLOCK):
            step()

    marked = attempt(folder, "marks", steps)
    batches = _marked(marked, itertools.repeat(None), 4096, 1)

    def marks() -> None:
        for _ in range(BLOCK):
            next(batches)
            step()

    for _ in range(2):
        bare()
        marks()
    by_marks = in_turns(marks, bare)

    hooked = attempt(folder, "hooks", steps)
    install(hooked)
    probes = hooked.probes
    assert isinstance(probes, TorchProbes)
    probes.hooked.remove()  # the hook is torch's own and global: it is there for our blocks and gone for the bare ones

    def hooks() -> None:
        handle = register_optimizer_step_post_hook(probes.after_optimizer_step)
        bare()
        handle.remove()

    def unhooked() -> None:  # putting a hook there and taking it away is ours to pay for in neither block
        register_optimizer_step_post_hook(probes.after_optimizer_step).remove()
        bare()

    for _ in range(2):
        unhooked()
        hooks()
    by_hooks = in_turns(hooks, unhooked)
    counted = [read_samples(one.attempt.rank(0).samples) for one in (marked, hooked) if one.attempt is not None]
    assert all(len(samples.rows) >= PAIRS * BLOCK for samples in counted)  # they were really counted
    value = max(abs(by_marks - 1.0), abs(by_hooks - 1.0))
    return {
        "name": "script.vs_bare", "value": round(value, 5), "unit": "ratio", "target": "<= 0.01", "ok": value <= 0.01,
        "method": f"processor time of the measured over the bare loop, {PAIRS} interleaved pairs of {BLOCK}-step "
        f"blocks: marks {by_marks:.4f}, optimizer hook {by_hooks:.4f}; the distance from 1 of the worse one",
    }  # fmt: skip


def launches(folder: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Commands of several kinds that start ranks in their own ways, and how many."""
    plain = folder / "plain.py"
    plain.write_text("import json, os\njson.dumps(dict(os.environ))\n", "utf-8")
    tiny, launcher = str(PROGRAMS / "train_tiny.py"), str(PROGRAMS / "light_launcher.py")
    shell = folder / "train.sh"
    shell.write_text(
        f"for r in 0 1; do RANK=$r LOCAL_RANK=$r WORLD_SIZE=2 {sys.executable} {plain} & done; wait\n", "utf-8"
    )
    for number in range(LAUNCHES - OF_TORCH):
        kind = number % 3
        if kind == 0:
            yield (sys.executable, launcher, "2", "0", str(plain)), 2
        elif kind == 1:
            yield ("sh", str(shell)), 2
        else:
            yield (sys.executable, launcher, "4", "0", str(plain)), 4
    for _ in range(OF_TORCH - 1):
        yield (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", tiny, "4"), 2
    yield (sys.executable, tiny, "4"), 1


def ranks_found(folder: Path) -> dict[str, Any]:
    surface = CommandSurface()
    whole = ranks = started = 0
    for number, (command, nproc) in enumerate(launches(folder)):
        paths = Home(folder / "home").attempt(f"training-20260101T000000Z-{number:08d}")
        paths.root.mkdir(parents=True)
        case = case_of(command, nproc=nproc, steps=4)
        paths.case.write_bytes(encode(case.to_json()))
        launched = surface.launch(surface.request(case, Placement(Home(folder / "home"))), paths)
        try:
            while surface.poll(launched).alive:
                surface.wait(launched, 0.5)
        finally:
            surface.cleanup(launched)
        found = sum(read_claim(paths.rank(rank).claim) is not None for rank in range(nproc))
        started, ranks, whole = started + nproc, ranks + found, whole + (found == nproc)
    value = whole / LAUNCHES
    return {
        "name": "script.ranks_found", "value": value, "unit": "ratio", "target": ">= 1", "ok": value >= 1.0,
        "method": f"share of {LAUNCHES} launches of unmodified programs in which every rank was found ({ranks} of "
        f"{started} ranks): a launcher as torchrun is one, a shell script with ranks in the background, and {OF_TORCH} "
        "with torch, by torchrun and alone",
    }  # fmt: skip


def our_step_us(folder: Path, number: int) -> float:
    """One marked step over a bare loop's, microseconds of processor time."""
    mine = attempt(folder, f"step-{number}", OUR_STEPS + 2)
    marked = _marked(mine, itertools.repeat(None, OUR_STEPS + 2), 4096, 1)
    for _ in range(2):
        next(marked)
    began = time.process_time_ns()
    for _ in marked:
        pass
    measured = time.process_time_ns() - began
    began = time.process_time_ns()
    for _ in itertools.repeat(None, OUR_STEPS):
        pass
    return (measured - (time.process_time_ns() - began)) / OUR_STEPS / 1e3


def peers(folder: Path) -> tuple[dict[str, Callable[[int], None]], Callable[[], None]]:
    """One number a step, as each peer's own documentation logs it; and what ends them all."""
    os.environ |= {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }  # fmt: skip
    logging.disable(logging.WARNING)
    import mlflow
    import wandb
    from torch.utils.tensorboard import SummaryWriter

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("step")
    mlflow.start_run()
    run = wandb.init(project="step", dir=str(folder), settings=wandb.Settings(console="off"))
    writer = SummaryWriter(str(folder / "tensorboard"))

    def end() -> None:
        mlflow.end_run()
        run.finish()
        writer.close()

    return {
        "MLflow": lambda step: mlflow.log_metric("step_time", 0.1, step=step),
        "W&B offline": lambda step: run.log({"step_time": 0.1}, step=step),
        "TensorBoard": lambda step: writer.add_scalar("step_time", 0.1, step),
    }, end


def step_vs_peers(folder: Path) -> dict[str, Any]:
    logged, end = peers(folder)
    counts = {"MLflow": PEER_STEPS // 10}
    costs: dict[str, list[float]] = {name: [] for name in logged}
    ours, at = [], 0
    for number in range(ROUNDS):
        ours.append(our_step_us(folder, number))
        for name, log in logged.items():
            count = counts.get(name, PEER_STEPS)
            began = time.process_time_ns()
            for step in range(at, at + count):
                log(step)
            costs[name].append((time.process_time_ns() - began) / count / 1e3)
        at += PEER_STEPS
    end()
    mine = statistics.median(ours)
    theirs = {name: statistics.median(rounds) for name, rounds in costs.items()}
    value = mine / min(theirs.values())
    shown = ", ".join(f"{name} {cost:.1f} us" for name, cost in theirs.items())
    return {
        "name": "script.step_vs_peers", "value": round(value, 5), "unit": "ratio", "target": "<= 0.05",
        "ok": value <= 0.05,
        "method": f"processor time of a step marked by `lanemark.steps` ({mine:.2f} us) over that of the cheapest peer "
        f"logging one number a step ({shown}; what W&B's own service process spends is not counted against it); "
        f"medians of {ROUNDS} rounds in turns",
    }  # fmt: skip


def results() -> list[dict[str, Any]]:
    """The three figures, in about two minutes on two cores."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lanemark-bench-") as name:
        folder = Path(name)
        return [step_vs_peers(folder), ranks_found(folder), vs_bare(folder)]


if __name__ == "__main__":
    for row in results():
        sys.stdout.write(json.dumps(row) + "\n")
