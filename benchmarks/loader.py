"""Our loader beside a bare memory map of the same windows and Hugging Face's iterable; what watching the path costs.

All three hand over what a training loop takes: inputs and targets, int64, in batches of one shape, from the same tokens
in a memory file system. Ours is the loader as ranks run it, through its prefetching thread, in the seeded order, its
ids checked and its windows named. The bare map is numpy's, told each window beforehand: it copies rows and does nothing
else. The iterable reads the same rows from an Arrow table, shuffled through its buffer, as its guide has it.

Sides take turns within one process, and the figure is of processor time, all threads of the process: a loader with a
thread must not win by having a second core. Tokens a second of wall time stand beside it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanemark.observe.hot_path import HotPath
from lanemark.observe.shards import ShardSet, open_shards
from lanemark.records.shards import HEADER_BYTES, header
from lanemark.stack.loader import ShardLoader
from lanemark.stack.prefetch import Prefetch

SEQUENCE, MICRO_BATCH, GRAD_ACCUM = 2_048, 8, 8
SHARDS, SHARD_TOKENS, VOCAB = 4, 8_000_000, 50_304
#: Steps of one turn, and turns of each side. A step is 131,072 tokens.
STEPS, TURNS = 20, 12
#: The iterable is slower: its turns are shorter.
HF_STEPS = 4
#: Shards that a rank has mapped while it looks at its data path, and the size of each.
LOOKED_AT, LOOKED_AT_TOKENS, LOOKS = 64, 1_000_000, 9

Batches = list[tuple[Tensor, Tensor]]


def write_shards(directory: Path, number: int, tokens: int) -> ShardSet:
    """Shards of drawn ids below `VOCAB`: the same ones every time."""
    directory.mkdir()
    for index in range(number):
        drawn = np.random.default_rng(index).integers(0, VOCAB, tokens, dtype=np.uint16)
        (directory / f"bench_train_{index:03d}.bin").write_bytes(header(tokens) + drawn.tobytes())
    return open_shards(directory)


def our_loader(shards: ShardSet) -> ShardLoader:
    return ShardLoader(shards, vocab=VOCAB, sequence=SEQUENCE, micro_batch=MICRO_BATCH, grad_accum=GRAD_ACCUM, seed=1)


def ours(loader: ShardLoader, steps: int) -> Iterator[Batches]:
    """As a rank's loop has it: a step's batches ahead."""
    with Prefetch(
        loader, steps=steps, grad_accum=GRAD_ACCUM, micro_batch=MICRO_BATCH, sequence=SEQUENCE,
        device=torch.device("cpu"),
    ) as ahead:  # fmt: skip
        for step in range(steps):
            yield ahead.take(step)


def bare_map(shards: ShardSet, windows: list[list[int]]) -> Iterator[Batches]:
    """Rows of a memory map into buffers made once, where to begin each being told: `windows` has one list a forward."""
    maps = [
        np.memmap(shard.path, np.uint16, "r", offset=HEADER_BYTES, shape=(shard.tokens,)) for shard in shards.shards
    ]
    each = (SHARD_TOKENS - 1) // SEQUENCE
    buffers = [np.empty((MICRO_BATCH, SEQUENCE + 1), np.int64) for _ in range(GRAD_ACCUM)]
    for first in range(0, len(windows), GRAD_ACCUM):
        batches = []
        for rows, numbers in zip(buffers, windows[first : first + GRAD_ACCUM], strict=True):
            for row, number in zip(rows, numbers, strict=True):
                shard, within = divmod(number, each)
                row[:] = maps[shard][within * SEQUENCE : within * SEQUENCE + SEQUENCE + 1]
            both = torch.from_numpy(rows)
            batches.append((both[:, :-1], both[:, 1:]))
        yield batches


def hf_iterable(directory: Path, shards: ShardSet) -> Callable[[int], Iterator[Batches]]:
    """Hugging Face's `IterableDataset` over an Arrow file of the same rows, formatted for torch and shuffled."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(directory / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import pyarrow as pa

    rows = np.concatenate([
        np.lib.stride_tricks.as_strided(
            tokens, ((SHARD_TOKENS - 1) // SEQUENCE, SEQUENCE + 1), (2 * SEQUENCE, 2), writeable=False
        )
        for tokens in (np.fromfile(shard.path, np.uint16, offset=HEADER_BYTES) for shard in shards.shards)
    ])  # fmt: skip
    table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), SEQUENCE + 1)})
    kept = datasets.Dataset(table)

    def take(steps: int) -> Iterator[Batches]:
        stream = kept.to_iterable_dataset().shuffle(seed=1, buffer_size=1_000).with_format("torch")
        batches: Batches = []
        for batch in stream.batch(MICRO_BATCH):
            tokens = batch["tokens"].to(torch.int64)
            batches.append((tokens[:, :-1], tokens[:, 1:]))
            if len(batches) == GRAD_ACCUM:
                yield batches
                batches, steps = [], steps - 1
                if not steps:
                    return

    return take


def cost(batches: Iterator[Batches], steps: int) -> tuple[float, float]:
    """Processor and wall seconds a token of a whole turn, which has to hand over the right shapes."""
    cpu, wall, tokens = time.process_time(), time.perf_counter(), 0
    for step in batches:
        for inputs, targets in step:
            assert inputs.shape == targets.shape == (MICRO_BATCH, SEQUENCE)
            assert inputs.dtype == torch.int64
            tokens += inputs.numel()
    assert tokens == steps * GRAD_ACCUM * MICRO_BATCH * SEQUENCE
    return (time.process_time() - cpu) / tokens, (time.perf_counter() - wall) / tokens


def versus(directory: Path) -> list[dict[str, Any]]:
    """Both ratios, from turns taken one after the other, the order of each round turned about."""
    shards = write_shards(directory / "shards", SHARDS, SHARD_TOKENS)
    named = our_loader(shards)
    windows = [
        [window % named.num_sequences for window in named.windows(forward)] for forward in range(STEPS * GRAD_ACCUM)
    ]
    for (mine, _), (bare, _) in zip(next(ours(named, 1)), next(bare_map(shards, windows)), strict=True):
        assert torch.equal(mine, bare), "both hand over the same tokens"
    iterable = hf_iterable(directory, shards)
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "ours": lambda: cost(ours(named, STEPS), STEPS),
        "bare": lambda: cost(bare_map(shards, windows), STEPS),
        "iterable": lambda: cost(iterable(HF_STEPS), HF_STEPS),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            taken[name].append(sides[name]())
    for turns in taken.values():
        del turns[0]  # pages are mapped and libraries loaded in the first

    def rate(name: str) -> str:
        return f"{1e-6 / statistics.median(wall for _, wall in taken[name]):.0f} Mtok/s"

    out = []
    for figure, other, limit in (("loader.vs_memmap", "bare", 0.9), ("loader.vs_hf_iterable", "iterable", 5.0)):
        ratios = [theirs / mine for (theirs, _), (mine, _) in zip(taken[other], taken["ours"], strict=True)]
        value = statistics.median(ratios)
        method = (
            f"processor time a token, {other} over ours, median of {TURNS} turns "
            f"({min(ratios):.2f} to {max(ratios):.2f}); sequences of {SEQUENCE}, {MICRO_BATCH} a batch, {GRAD_ACCUM} "
            f"batches a step, tokens in memory; wall: ours {rate('ours')}, {other} {rate(other)}"
        )
        row = {"name": figure, "value": value, "unit": "ratio", "target": f">= {limit:g}", "ok": value >= limit}
        out.append({**row, "method": method})
    return out


def class_ms(directory: Path) -> dict[str, Any]:
    """All looks of one rank at its data path, with its shards mapped and torch's libraries beside them."""
    shards = write_shards(directory / "looked-at", LOOKED_AT, LOOKED_AT_TOKENS)
    scratch = directory / "rank"
    scratch.mkdir()
    taken, waited = [], []
    for _ in range(LOOKS):
        began = time.process_time()
        watch = HotPath([shard.path for shard in shards.shards], scratch=scratch)
        first = time.process_time() - began
        loader = ShardLoader(shards, vocab=VOCAB, sequence=SEQUENCE, micro_batch=MICRO_BATCH)
        began = time.process_time()
        seen = watch.opened()
        watch.window_opens()
        after = watch.window_closed()
        taken.append(1e3 * (first + time.process_time() - began))
        waited.append(1e3 * after["look_s"])
        assert len(seen["data_files"]) == LOOKED_AT, "every shard was found open"
        assert after["resident_after"]["status"] == "observed", after["resident_after"]
        assert loader.num_sequences
    value = max(taken)
    method = (
        f"mounts, page cache before and after, counters: processor time of one rank's looks at {LOOKED_AT} mapped "
        f"shards of {2 * LOOKED_AT_TOKENS / 1e6:.0f} MB; slowest of {LOOKS} (median {statistics.median(taken):.1f}; "
        f"wall, median {statistics.median(waited):.1f})"
    )
    row = {"name": "datapath.class_ms", "value": value, "unit": "ms", "target": "<= 50", "ok": value <= 50}
    return {**row, "method": method}


def results() -> list[dict[str, Any]]:
    """The three figures of this file."""
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        rows = versus(Path(folder))
    with tempfile.TemporaryDirectory() as folder:  # on a disk: what is in memory anyway would be too easy to look at
        return [*rows, class_ms(Path(folder))]


if __name__ == "__main__":
    for each in results():
        print(each["name"], round(each["value"], 3), each["target"], each["method"])
