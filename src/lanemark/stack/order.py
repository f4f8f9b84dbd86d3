"""Which sequences a rank reads, in which order. Pure arithmetic: no torch, no table the size of the data.

All sequences of an epoch are put in a seeded order, and position `g` of that order belongs to one rank, one forward and
one row only:

    g = ((step · grad_accum + forward) · world_size + rank) · micro_batch + row

Ranks are therefore disjoint by construction, and the set of sequences a step takes depends on the size of the global
batch alone: one rank with a micro-batch of 4 and two ranks with 2 train on the same tokens.

The order is a Feistel network over the sequence numbers (Luby and Rackoff, 1988) whose rounds are keyed BLAKE2s, walked
until it lands inside the range (Black and Rogaway, 2002). It is a permutation for every seed, needs no memory, and is
the same on every machine and in every torch version, which a seeded `randperm` is not promised to be.
"""

from __future__ import annotations

import hashlib
from typing import Final

#: Four rounds make a Feistel network a pseudo-random permutation (Luby and Rackoff, theorem 1 and its remark).
_ROUNDS: Final = 4


def permuted(index: int, size: int, key: bytes) -> int:
    """Where a seeded permutation of `range(size)` puts `index`. Raises ValueError outside the range.

    Args:
        index: 0 ≤ index < size.
        size: how many there are; at least 1.
        key: up to 32 bytes.
    """
    if not 0 <= index < size:
        raise ValueError(f"{index} is outside range({size})")
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:  # the network's domain is at most 4 × size, so this ends after about two turns on average
        left, right = index >> half_bits, index & mask
        for turn in range(_ROUNDS):
            state = hashlib.blake2s(turn.to_bytes(1, "big") + right.to_bytes(8, "big"), digest_size=8, key=key)
            left, right = right, left ^ (int.from_bytes(state.digest(), "big") & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


def epoch_key(seed: int, epoch: int) -> bytes:
    """The key of one epoch's order."""
    return hashlib.sha256(f"lanemark data order {seed} {epoch}".encode()).digest()


def batch_positions(forward_index: int, *, rank: int, world_size: int, micro_batch: int) -> range:
    """Positions `g` that a rank takes in its forward number `forward_index` (`step · grad_accum + forward`)."""
    first = (forward_index * world_size + rank) * micro_batch
    return range(first, first + micro_batch)


def sequence_at(position: int, num_sequences: int, seed: int) -> int:
    """The sequence number at position `g`, epochs following one another, each in an order of its own."""
    epoch, within = divmod(position, num_sequences)
    return permuted(within, num_sequences, epoch_key(seed, epoch))
