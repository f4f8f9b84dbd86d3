"""Batches: the right tokens, the right shape, different on every rank, the same every time."""

from __future__ import annotations

import itertools
from array import array
from pathlib import Path

import pytest
import torch

from lanemark.observe.shards import Shard, ShardSet, open_shards
from lanemark.records.errors import DataError
from lanemark.records.shards import header
from lanemark.stack.loader import ShardLoader, SyntheticLoader, batch, map_tokens


def shards_of(directory: Path, *counts: int, first: int = 0) -> ShardSet:
    """Shards whose tokens count upwards from `first`, through all of them."""
    directory.mkdir(exist_ok=True)
    for number, count in enumerate(counts):
        data = array("H", range(first, first + count))
        (directory / f"s{number}.bin").write_bytes(header(count) + data.tobytes())
        first += count
    return open_shards(directory)


def test_targets_are_the_inputs_shifted_by_one(tmp_path: Path):
    loader = ShardLoader(shards_of(tmp_path, 200), vocab=256, sequence=16, micro_batch=3)
    inputs, targets = batch(loader, 0, 3, 16)
    assert inputs.shape == targets.shape == (3, 16)
    assert inputs.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert all(int(row[0]) % 16 == 0 for row in inputs)


def test_a_sequence_never_crosses_two_shards(tmp_path: Path):
    loader = ShardLoader(shards_of(tmp_path, 40, 100, 8, 33), vocab=256, sequence=16, micro_batch=1)
    firsts = sorted(int(loader.row(number)[0]) for number in range(loader.num_sequences))
    assert firsts == [0, 16, 40, 56, 72, 88, 104, 120, 148, 164]
    for number in range(loader.num_sequences):
        row = loader.row(number).to(torch.int64)
        assert row.shape == (17,)
        assert torch.equal(row, torch.arange(int(row[0]), int(row[0]) + 17))


def test_an_epoch_visits_every_sequence_once_over_all_ranks(tmp_path: Path):
    shards = shards_of(tmp_path, 16 * 12 + 1)
    loaders = [
        ShardLoader(shards, vocab=256, sequence=16, micro_batch=2, rank=rank, world_size=3, seed=5) for rank in range(3)
    ]
    taken = [number for forward, loader in itertools.product(range(2), loaders) for number in loader.windows(forward)]
    assert sorted(taken) == list(range(12))
    again = [
        number for forward, loader in itertools.product(range(2, 4), loaders) for number in loader.windows(forward)
    ]
    assert sorted(again) == list(range(12, 24)), "the second epoch's windows have numbers of their own"
    assert [window % 12 for window in again] != taken


def test_a_step_takes_the_same_sequences_however_its_batch_is_split(tmp_path: Path):
    shards = shards_of(tmp_path, 16 * 64 + 1)

    def taken(world_size: int, micro_batch: int, grad_accum: int) -> list[int]:
        return sorted(
            number
            for rank in range(world_size)
            for forward in range(3 * grad_accum, 4 * grad_accum)  # step 3
            for number in ShardLoader(
                shards,
                vocab=2000,
                sequence=16,
                micro_batch=micro_batch,
                grad_accum=grad_accum,
                rank=rank,
                world_size=world_size,
            ).windows(forward)
        )

    assert taken(1, 8, 1) == taken(2, 4, 1) == taken(4, 1, 2) == taken(1, 2, 4)


def test_the_same_seed_gives_the_same_batches_and_another_does_not(tmp_path: Path):
    shards = shards_of(tmp_path, 2000)

    def third(seed: int) -> torch.Tensor:
        return batch(ShardLoader(shards, vocab=2000, sequence=16, micro_batch=8, seed=seed), 3, 8, 16)[0]

    assert torch.equal(third(1), third(1))
    assert not torch.equal(third(1), third(2))


def test_too_little_data_for_all_ranks_is_refused(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        ShardLoader(shards_of(tmp_path, 100), vocab=256, sequence=16, micro_batch=4, world_size=2)
    assert caught.value.slug == "data-empty"


def test_an_id_outside_the_vocabulary_is_refused_at_the_opening(tmp_path: Path):
    shards = shards_of(tmp_path, 200)
    ShardLoader(shards, vocab=200, sequence=16, micro_batch=1)
    with pytest.raises(DataError, match=r"s0\.bin holds the token id 199") as caught:
        ShardLoader(shards, vocab=199, sequence=16, micro_batch=1)
    assert caught.value.slug == "vocab-mismatch"


def test_an_id_that_the_sample_missed_is_refused_in_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lanemark.stack.loader.SAMPLED_TOKENS", 2)
    loader = ShardLoader(shards_of(tmp_path, 200), vocab=150, sequence=16, micro_batch=12)
    with pytest.raises(DataError) as caught:
        batch(loader, 0, 12, 16)
    assert caught.value.slug == "vocab-mismatch"


def test_the_largest_id_of_16_bits_is_read_unsigned(tmp_path: Path):
    loader = ShardLoader(shards_of(tmp_path, 17, first=65_519), vocab=65_536, sequence=16, micro_batch=1)
    assert int(batch(loader, 0, 1, 16)[1].max()) == 65_535


def test_a_shard_that_shrank_since_it_was_checked_is_refused(tmp_path: Path):
    shard = shards_of(tmp_path, 100).shards[0]
    shard.path.write_bytes(shard.path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"s0\.bin") as caught:
        map_tokens(shard)
    assert caught.value.slug == "shard-truncated"


def test_mapping_writes_nothing_to_the_shard(tmp_path: Path):
    shard: Shard = shards_of(tmp_path, 100).shards[0]
    before = shard.path.read_bytes()
    map_tokens(shard)[:] = 7
    assert shard.path.read_bytes() == before


def test_synthetic_batches_say_what_they_are_and_are_the_same_every_time():
    def drawn(forward: int, **where: int) -> torch.Tensor:
        return batch(SyntheticLoader(vocab=100, **where), forward, 3, 16)[0]

    assert SyntheticLoader(vocab=100).kind == "synthetic"
    assert ShardLoader.kind == "shards"
    assert drawn(0).shape == (3, 16)
    assert int(drawn(0).max()) < 100
    assert torch.equal(drawn(4), drawn(4))
    different = [drawn(0), drawn(1), drawn(0, rank=2, world_size=3), drawn(0, seed=1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(different, 2))
