"""What the measured loop costs: against the same step without Lanemark, and against a plain nanoGPT-style loop.

One process, one thread, fp32, eager. The two sides take turns in short blocks (A B B A …) so that whatever else the
machine does falls on both; each pair of blocks gives one ratio and the median over the pairs is the figure.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from peers.nanogpt_style import Config, PlainLoop

from lanemark.lanes.presets import Preset, preset
from lanemark.measure.device import device_clock
from lanemark.measure.session import RankSession
from lanemark.observe.shards import open_shards
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.shards import header
from lanemark.stack.loader import ShardLoader, batch
from lanemark.stack.model import count_parameters
from lanemark.stack.parallel import build, distribute, make_optimizer
from lanemark.stack.step import Batch, TrainStep, make_step
from lanemark.stack.train import Consumed, run_steps

CPU = torch.device("cpu")
SHARD_TOKENS = 2_000_000


def write_shard(directory: Path, vocab: int) -> Path:
    """A shard of ids in [0, vocab): the same ones every time. What they say does not matter to a loop's speed."""
    drawn = torch.randint(0, vocab, (SHARD_TOKENS,), generator=torch.Generator().manual_seed(0))
    path = directory / "bench_train.bin"
    path.write_bytes(header(SHARD_TOKENS) + array("H", drawn.tolist()).tobytes())
    return path


def our_step(recipe: Preset, shards: Path) -> tuple[TrainStep, Callable[[int], list[Batch]], int]:
    """The reference stack's step and batches on one rank, and its parameter count."""
    model = build(recipe, recipe.sequence, "fp32")
    count = count_parameters(model)
    module = distribute(model, mode="single", posture="eager", dtype="fp32", device=CPU, seed=0)
    step = make_step(module, make_optimizer(module, recipe, CPU), autocast=False, device=CPU)
    loader = ShardLoader(
        open_shards(shards), vocab=recipe.vocab, sequence=recipe.sequence, micro_batch=recipe.micro_batch
    )
    return step, lambda index: [batch(loader, index, recipe.micro_batch, recipe.sequence)], count


class MeasuredLoop:
    """The loop as ranks run it: a real session with its beacon, sample file and recorder, in blocks."""

    def __init__(
        self, directory: Path, recipe: Preset, step: TrainStep, take: Callable[[int], list[Batch]], steps: int
    ):
        case = Case(
            lane="training", preset=recipe.name, nproc=1, mode="single", compile="eager", dtype="fp32", steps=steps,
            warmup=1, sequence=recipe.sequence, micro_batch=recipe.micro_batch, data=DataAsked("synthetic"),
        )  # fmt: skip
        paths = AttemptPaths(directory / recipe.name)
        paths.rank(0).root.mkdir(parents=True)
        paths.case.write_bytes(encode(case.to_json()))
        self.session = RankSession.from_environment(
            {
                "RANK": "0",
                "WORLD_SIZE": "1",
                "LOCAL_RANK": "0",
                "LANEMARK_ATTEMPT_DIR": str(paths.root),
                "LANEMARK_RANK_DIR": str(paths.rank(0).root),
            }
        )
        self.recorder = self.session.recorder()
        self.recorder.begin()
        self.clock, self.consumed = device_clock("cpu"), Consumed([], [])
        self.step, self.take = step, take

    def run(self, steps: int) -> None:
        first = self.recorder.step
        run_steps(
            range(first, first + steps),
            self.consumed,
            take=self.take,
            step=self.step,
            recorder=self.recorder,
            clock=self.clock,
        )


def paired(ours: Callable[[], None], theirs: Callable[[], None], pairs: int) -> list[float]:
    """Their time over our time, one ratio a pair of blocks; who goes first alternates.

    Processor time of a single-threaded process that never waits: on a machine to itself that is the wall-clock time,
    and on a shared one it leaves out the moments at which somebody else had the core.
    """

    def timed(block: Callable[[], None]) -> float:
        begin = time.process_time()
        block()
        return time.process_time() - begin

    ratios = []
    for pair in range(pairs):
        if pair % 2:
            mine, other = timed(ours), timed(theirs)
        else:
            other, mine = timed(theirs), timed(ours)
        ratios.append(other / mine)
    return ratios


def loop_vs_bare(directory: Path, pairs: int = 240, block: int = 2) -> dict[str, Any]:
    """The recorded loop against the very same step called bare, on the smallest preset: the strictest case we have."""
    recipe = preset("diagnostic")
    step, take, _ = our_step(recipe, directory)
    measured = MeasuredLoop(directory, recipe, step, take, steps=(pairs + 2) * block)
    position = 0
    kept: list[torch.Tensor] = []

    def bare() -> None:
        nonlocal position
        kept.extend([step(take(index)) for index in range(position, position + block)])
        position += block

    for _ in range(2):
        bare()
        measured.run(block)
    ratios = paired(lambda: measured.run(block), bare, pairs)
    value = statistics.median(ratios)
    return {
        "name": "training.loop_vs_bare",
        "value": round(value, 4),
        "unit": "ratio of throughput",
        "target": ">= 0.99",
        "ok": value >= 0.99,
        "method": f"{recipe.name}, 1 thread, eager fp32;"
        f" median of {pairs} interleaved pairs of {block}-step blocks, processor time",
    }


def loop_vs_nanogpt(directory: Path, shard: Path, pairs: int = 60, block: int = 1) -> dict[str, Any]:
    """dense-nano in the recorded loop against a plain GPT of the same depth, width, batch and number of weights."""
    recipe = preset("dense-nano")
    step, take, count = our_step(recipe, directory)
    measured = MeasuredLoop(directory, recipe, step, take, steps=(pairs + 1) * block)
    config = Config(recipe.depth, recipe.width, recipe.num_heads, recipe.vocab, recipe.sequence)
    plain = PlainLoop(
        config, shard, batch=recipe.micro_batch, learning_rate=recipe.learning_rate, steps=(pairs + 1) * block
    )
    theirs = count_parameters(plain.model)
    if not 0.98 < theirs / count < 1.02:
        raise ValueError(f"the models are not of equal size: {count} and {theirs} parameters")
    measured.run(block)
    plain.run(block)
    ratios = paired(lambda: measured.run(block), lambda: plain.run(block), pairs)
    value = statistics.median(ratios)
    return {
        "name": "training.loop_vs_nanogpt",
        "value": round(value, 4),
        "unit": "ratio of throughput",
        "target": ">= 1.0",
        "ok": value >= 1.0,
        "method": f"{recipe.name} ({count:,} parameters) against a nanoGPT-style loop ({theirs:,}), same batch,"
        f" 1 thread, eager fp32, fused AdamW, memory-mapped tokens;"
        f" median of {pairs} interleaved pairs of {block}-step blocks, processor time",
    }


def results() -> list[dict[str, Any]]:
    """Both figures, in about two minutes on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="lanemark-bench-") as name:
            directory = Path(name)
            shard = write_shard(directory, 4096)
            return [loop_vs_bare(directory), loop_vs_nanogpt(directory, shard)]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for row in results():
        sys.stdout.write(json.dumps(row) + "\n")
