"""Which sequences a rank reads, in which order. Pure arithmetic: no torch, no table the size of the data.

All sequences of an epoch are put in a seeded order, and position `g` of that order belongs to one rank, one forward and
one row only:

    g = ((step · grad_accum + forward) · world_size + rank) · micro_batch + row

Ranks are therefore disjoint by construction, and the set of sequences a step takes depends on the size of the global
batch alone: one rank with a micro-batch of 4 and two ranks with 2 train on the same tokens.

The order is a Feistel network over the sequence numbers (Luby and Rackoff, 1988) whose rounds are keyed BLAKE2s, walked
until it lands inside the range (Black and Rogaway, 2002). It is a permutation for every seed, needs no memory, and is
the same on every machine and in every torch version, which a seeded `randperm` is not promised to be.

It lies in this room and not beside the loader because a record's sealing asks it again: what the ranks say they read is
held to what they had to read (`lanemark.lanes.windows`).
"""

from __future__ import annotations

import hashlib
from typing import Final

#: Four rounds make a Feistel network a pseudo-random permutation (Luby and Rackoff, theorem 1 and its remark).
ROUNDS: Final = 4


def half_bits(size: int) -> int:
    """Bits of one half of the network over `range(size)`: its domain is at most 4 × size."""
    return max(1, ((size - 1).bit_length() + 1) // 2)


def round_value(turn: int, right: int, key: bytes) -> int:
    """The round function: 64 bits, of which a round uses as many as a half has."""
    state = hashlib.blake2s(turn.to_bytes(1, "big") + right.to_bytes(8, "big"), digest_size=8, key=key)
    return int.from_bytes(state.digest(), "big")


def permuted(index: int, size: int, key: bytes) -> int:
    """Where a seeded permutation of `range(size)` puts `index`. Raises ValueError outside the range.

    Args:
        index: 0 ≤ index < size.
        size: how many there are; at least 1.
        key: up to 32 bytes.
    """
    if not 0 <= index < size:
        raise ValueError(f"{index} is outside range({size})")
    bits = half_bits(size)
    mask = (1 << bits) - 1
    while True:  # the network's domain is at most 4 × size, so this ends after about two turns on average
        left, right = index >> bits, index & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (round_value(turn, right, key) & mask)
        index = (left << bits) | right
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


class Order:
    """`sequence_at` for many positions: what a round gave once is remembered.

    A round has only as many different inputs as half a sequence number has values: 1,024 for a million sequences. So a
    walk soon costs a few look-ups, where computing it anew costs a dozen hashes.
    """

    def __init__(self, num_sequences: int, seed: int) -> None:
        self._size, self._seed = num_sequences, seed
        self._bits = half_bits(num_sequences)
        self._mask = (1 << self._bits) - 1
        self._epoch = -1
        self._key = b""
        self._known: list[dict[int, int]] = []

    def at(self, position: int) -> int:
        """The sequence number at a position, as `sequence_at` gives it."""
        epoch, index = divmod(position, self._size)
        if epoch != self._epoch:
            self._epoch, self._key = epoch, epoch_key(self._seed, epoch)
            self._known = [{} for _ in range(ROUNDS)]
        bits, mask = self._bits, self._mask
        while True:
            left, right = index >> bits, index & mask
            for turn, known in enumerate(self._known):
                value = known.get(right)
                if value is None:
                    known[right] = value = round_value(turn, right, self._key) & mask
                left, right = right, left ^ value
            index = (left << bits) | right
            if index < self._size:
                return index
