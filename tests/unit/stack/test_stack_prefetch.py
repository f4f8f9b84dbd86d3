"""Batches made ahead: the same ones, one step ahead and no more, and a wait that is a wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from test_stack_loader import shards_of

from lanemark.stack.loader import ShardLoader, batch
from lanemark.stack.prefetch import Prefetch

CPU = torch.device("cpu")


class Gated:
    """A loader whose forward `n` waits until it is let through; every row is `n`."""

    kind: Literal["shards", "synthetic"] = "shards"
    num_sequences = 1_000

    def __init__(self, forwards: int) -> None:
        self.begun = [threading.Event() for _ in range(forwards)]
        self.may = [threading.Event() for _ in range(forwards)]

    def fill(self, forward_index: int, rows: torch.Tensor) -> Sequence[int]:
        self.begun[forward_index].set()
        assert self.may[forward_index].wait(timeout=30)
        rows.fill_(forward_index)
        return [forward_index]


def ahead_of(loader: Gated, steps: int) -> Prefetch:
    return Prefetch(loader, steps=steps, grad_accum=1, micro_batch=2, sequence=4, device=CPU)


def test_the_batches_are_those_of_the_loader_in_its_order(tmp_path):
    shards = shards_of(tmp_path, 16 * 100 + 1)
    # Two of them: a loader stages rows in memory of its own and serves one thread, here the one that makes batches ahead.
    loader, other = (
        ShardLoader(shards, vocab=2000, sequence=16, micro_batch=2, rank=1, world_size=2, seed=3) for _ in range(2)
    )
    with Prefetch(loader, steps=5, grad_accum=3, micro_batch=2, sequence=16, device=CPU) as ahead:
        for step in range(5):
            for forward, (inputs, targets) in enumerate(ahead.take(step)):
                expected = batch(other, step * 3 + forward, 2, 16)
                assert torch.equal(inputs, expected[0])
                assert torch.equal(targets, expected[1])
                assert inputs.shape == (2, 16)
    assert [list(windows) for windows in ahead.windows] == [
        [window for forward in range(step * 3, step * 3 + 3) for window in other.windows(forward)] for step in range(5)
    ]


def test_one_step_ahead_and_never_two():
    loader = Gated(4)
    for gate in loader.may:
        gate.set()
    with ahead_of(loader, 4) as ahead:
        assert loader.begun[0].wait(timeout=30), "the first step's are begun before they are asked for"
        (first,) = ahead.take(0)
        assert loader.begun[1].wait(timeout=30), "and the next step's as soon as the first are handed over"
        time.sleep(0.05)
        assert not loader.begun[2].is_set()
        assert int(first[0].max()) == 0, "what is in hand is not written to"
        (second,) = ahead.take(1)
        assert int(second[0].min()) == 1
    assert ahead.windows == [[0], [1]], "what was made and never taken was not consumed"


def test_waiting_is_seen_where_the_batches_are_asked_for():
    loader = Gated(2)
    loader.may[0].set()
    with ahead_of(loader, 2) as ahead:
        ahead.take(0)
        taken: list[int] = []

        def loop() -> None:
            taken.append(int(ahead.take(1)[0][0].max()))

        waiting = threading.Thread(target=loop)
        waiting.start()
        waiting.join(timeout=0.1)
        assert waiting.is_alive(), "the step's tokens are not in hand"
        loader.may[1].set()
        waiting.join(timeout=30)
        assert taken == [1]


def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop():
    class Broken(Gated):
        def fill(self, forward_index: int, rows: torch.Tensor) -> Sequence[int]:
            if forward_index == 1:
                raise OSError("the shard went away")
            return super().fill(forward_index, rows)

    loader = Broken(3)
    loader.may[0].set()
    with ahead_of(loader, 3) as ahead:
        ahead.take(0)
        for _ in range(2):
            with pytest.raises(OSError, match="went away"):
                ahead.take(1)


def test_steps_are_asked_for_in_order_and_once():
    loader = Gated(2)
    for gate in loader.may:
        gate.set()
    with ahead_of(loader, 2) as ahead:
        with pytest.raises(ValueError, match="step 1 was asked for"):
            ahead.take(1)
        ahead.take(0)
        ahead.take(1)
        with pytest.raises(ValueError, match="step 2 of 2"):
            ahead.take(2)


def test_leaving_early_leaves_no_thread_at_work():
    loader = Gated(9)
    loader.may[0].set()
    with ahead_of(loader, 9) as ahead:
        thread = ahead._thread
    loader.may[1].set()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert not loader.begun[2].is_set()
