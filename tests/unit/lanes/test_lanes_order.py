"""The data order: a permutation for every seed, and disjoint shares for the ranks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.lanes.order import Order, batch_positions, epoch_key, permuted, sequence_at


@settings(deadline=None)
@given(size=st.integers(1, 300), seed=st.integers(0, 2**63 - 1))
def test_every_index_has_its_own_place(size: int, seed: int):
    key = epoch_key(seed, 0)
    assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_the_range_is_refused(index: int):
    with pytest.raises(ValueError, match="outside"):
        permuted(index, 5, b"")


def test_the_order_is_the_same_on_every_machine():
    # Fixed once and for all: another order would be another data set under the same case digest.
    assert [sequence_at(position, 10, seed=0) for position in range(20)] == [
        *(7, 4, 9, 6, 8, 0, 1, 2, 3, 5),
        *(8, 9, 1, 0, 5, 4, 7, 6, 3, 2),
    ]


def test_seeds_and_epochs_have_orders_of_their_own():
    def order(seed: int, epoch: int) -> list[int]:
        return [sequence_at(epoch * 1000 + position, 1000, seed) for position in range(50)]

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_large_range_is_spread_over():
    size = 10**12
    taken = [permuted(index, size, epoch_key(1, 0)) for index in range(500)]
    assert len(set(taken)) == 500
    assert min(taken) < size // 50
    assert max(taken) > size - size // 50


@settings(deadline=None)
@given(world_size=st.integers(1, 6), micro_batch=st.integers(1, 5), forwards=st.integers(1, 6), start=st.integers(0, 9))
def test_ranks_share_the_positions_without_gap_or_overlap(world_size: int, micro_batch: int, forwards: int, start: int):
    taken = [
        position
        for forward in range(start, start + forwards)
        for rank in range(world_size)
        for position in batch_positions(forward, rank=rank, world_size=world_size, micro_batch=micro_batch)
    ]
    first = start * world_size * micro_batch
    assert taken == list(range(first, first + forwards * world_size * micro_batch))


@settings(deadline=None)
@given(size=st.integers(1, 400), seed=st.integers(0, 2**31), start=st.integers(0, 2000))
def test_what_is_remembered_gives_the_same_order(size: int, seed: int, start: int):
    order = Order(size, seed)
    positions = [*range(start, start + 50), start, start + size]
    assert [order.at(position) for position in positions] == [sequence_at(one, size, seed) for one in positions]
