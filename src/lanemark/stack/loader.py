"""Token batches for one rank, memory-mapped from shards or made up and said to be so.

`ShardLoader` maps each shard once, copy-on-write, and copies just the rows of a batch; the page cache does the rest. A
sequence is `sequence + 1` neighbouring tokens of one shard: the inputs, and the same shifted by one as targets. All
batches have one shape. Which rows a rank gets is `lanemark.stack.order`.

`SyntheticLoader` has the same two methods and draws uniform ids from a seeded generator. Its loss cannot fall below
ln(vocab), and `kind` says what it is: it can never pass for a data path.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from lanemark.observe.shards import Shard, ShardSet
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.records.shards import HEADER_BYTES
from lanemark.stack.order import batch_positions, sequence_at

#: Tokens looked at in each shard, spread over it, when no manifest bounds the ids: 128 KiB of reads a shard.
SAMPLED_TOKENS: Final = 65_536


class Loader(Protocol):
    """What the training loop asks of a token source."""

    kind: Literal["shards", "synthetic"]

    def batch(self, forward_index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this rank's forward number `forward_index`, int64 [micro_batch, sequence] each."""
        ...


def map_tokens(shard: Shard) -> Tensor:
    """A shard's tokens as a uint16 tensor over its mapping. Raises DataError `shard-truncated` if it shrank since."""
    # ACCESS_COPY gives torch the writable buffer it asks for; a write would stay private and none is made. An mmap,
    # unlike `torch.from_file`, takes any file name that the operating system does.
    with open(shard.path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if len(pages) < shard.bytes:
        raise DataError(
            "shard-truncated",
            f"{safe_text(str(shard.path))} is {len(pages)} bytes, and was {shard.bytes} when it was checked",
            "let nothing write to the data while it is read",
        )
    return torch.frombuffer(pages, dtype=torch.uint16, count=shard.tokens, offset=HEADER_BYTES)


def check_ids(tokens: Tensor, shard: Shard, vocab: int) -> None:
    """Refuse a shard with an id the model has no row for, as far as a sample shows. Raises `vocab-mismatch`."""
    stride = max(1, tokens.numel() // SAMPLED_TOKENS)
    highest = int(tokens[::stride].to(torch.int64).max())
    if highest >= vocab:
        raise out_of_vocabulary(shard.path, highest, vocab)


def out_of_vocabulary(path: Path, token: int, vocab: int) -> DataError:
    """The refusal of an id that the model has no row for."""
    return DataError(
        "vocab-mismatch",
        f"{safe_text(str(path))} holds the token id {token}, and the preset's vocabulary ends at {vocab - 1}",
        "choose a preset with a larger vocabulary, or stage the data with a smaller one",
    )


class ShardLoader:
    """Batches from checked shards (`lanemark.observe.shards.open_shards`).

    Raises:
        DataError: `data-empty` when one step cannot be filled, `vocab-mismatch` when an id is out of range.
    """

    kind: Literal["shards", "synthetic"] = "shards"

    def __init__(
        self,
        shards: ShardSet,
        *,
        vocab: int,
        sequence: int,
        micro_batch: int,
        grad_accum: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        shards.check_vocab(vocab)
        shards.check_enough(sequence, world_size * micro_batch * grad_accum)
        used = [shard for shard in shards.shards if shard.tokens > sequence]
        self._tokens = [map_tokens(shard) for shard in used]
        for shard, tokens in zip(used, self._tokens, strict=True):
            check_ids(tokens, shard, vocab)
        self._ends = list(accumulate((shard.tokens - 1) // sequence for shard in used))
        self._directory = shards.directory
        self._vocab, self._sequence, self._micro_batch = vocab, sequence, micro_batch
        self._rank, self._world_size, self._seed = rank, world_size, seed

    @property
    def num_sequences(self) -> int:
        """Sequences of one epoch, over all ranks."""
        return self._ends[-1]

    def row(self, number: int) -> Tensor:
        """Sequence `number` with its last target: uint16 [sequence + 1], a view of the mapping."""
        index = bisect.bisect_right(self._ends, number)
        first = (number - (self._ends[index - 1] if index else 0)) * self._sequence
        return self._tokens[index][first : first + self._sequence + 1]

    def numbers(self, forward_index: int) -> list[int]:
        """The sequence numbers of this rank's forward `forward_index`."""
        positions = batch_positions(
            forward_index, rank=self._rank, world_size=self._world_size, micro_batch=self._micro_batch
        )
        return [sequence_at(position, self.num_sequences, self._seed) for position in positions]

    def batch(self, forward_index: int) -> tuple[Tensor, Tensor]:
        """As in `Loader`. Raises DataError `vocab-mismatch` for an id that the sample at the opening did not show."""
        rows = torch.stack([self.row(number) for number in self.numbers(forward_index)]).to(torch.int64)
        # Microseconds on the host, against an index error in a kernel, which on CUDA would name neither file nor id.
        highest = int(rows.max())
        if highest >= self._vocab:
            raise out_of_vocabulary(self._directory, highest, self._vocab)
        return rows[:, :-1], rows[:, 1:]


class SyntheticLoader:
    """Made-up batches: uniform ids, different in every rank and forward, the same for the same seed."""

    kind: Literal["shards", "synthetic"] = "synthetic"

    def __init__(
        self, *, vocab: int, sequence: int, micro_batch: int, rank: int = 0, world_size: int = 1, seed: int = 0
    ):
        self._vocab, self._shape = vocab, (micro_batch, sequence + 1)
        self._rank, self._world_size, self._seed = rank, world_size, seed

    def batch(self, forward_index: int) -> tuple[Tensor, Tensor]:
        name = f"{self._seed}:{forward_index * self._world_size + self._rank}"
        state = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        rows = torch.randint(0, self._vocab, self._shape, generator=torch.Generator().manual_seed(state))
        return rows[:, :-1], rows[:, 1:]
