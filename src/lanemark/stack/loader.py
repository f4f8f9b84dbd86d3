"""Token rows for one rank, memory-mapped from shards or made up and said to be so.

`ShardLoader` maps each shard once, copy-on-write, and copies just the rows of a batch; the page cache does the rest. A
sequence is `sequence + 1` neighbouring tokens of one shard: the inputs, and the same shifted by one as targets. All
batches have one shape. Which rows a rank gets is `lanemark.lanes.order`.

A loader *fills* a buffer that it is given, and says which windows it put there (`lanemark.lanes.windows`); who gives it
one, ahead of the step that needs it, is `lanemark.stack.prefetch`. A row is copied by the C library, called so that it
lets go of the interpreter's lock meanwhile: a page that storage is slow to give keeps this thread waiting, and not the
loop's. Slicing a tensor and copying the slice costs two to three times as much as the bytes of a row do.

`SyntheticLoader` has the same two methods and draws uniform ids from a seeded generator. Its loss cannot fall below
ln(vocab), and `kind` says what it is: it can never pass for a data path.
"""

from __future__ import annotations

import bisect
import ctypes
import hashlib
import mmap
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from lanemark.lanes.order import Order, batch_positions
from lanemark.observe.shards import Shard, ShardSet
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.records.shards import HEADER_BYTES, TOKEN_BYTES

#: Tokens looked at in each shard, spread over it, when no manifest bounds the ids: 128 KiB of reads a shard.
SAMPLED_TOKENS: Final = 65_536
#: torch looks at larger tensors with several threads (ATen's GRAIN_SIZE): a second set of them would wait, spinning,
#: for the processors that the step is using.
_ONE_THREAD: Final = 32_767
_C_COPY: Final = ctypes.CDLL(None).memmove
_C_COPY.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_C_COPY.restype = None


class Loader(Protocol):
    """What the training loop asks of a token source. One thread at a time: rows are staged in memory of its own."""

    kind: Literal["shards", "synthetic"]

    @property
    def num_sequences(self) -> int:
        """Sequences of one epoch, over all ranks; 0 for tokens that have no epochs."""
        ...

    def fill(self, forward_index: int, rows: Tensor) -> Sequence[int]:
        """Put this rank's rows of forward number `forward_index` into `rows`, int64 [micro_batch, sequence + 1].

        Returns:
            The windows that they are, in their order; none for made-up tokens, which are no part of a data set.
        """
        ...


def batch(loader: Loader, forward_index: int, micro_batch: int, sequence: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one forward in memory of their own, int64 [micro_batch, sequence] each."""
    rows = torch.empty((micro_batch, sequence + 1), dtype=torch.int64)
    loader.fill(forward_index, rows)
    return split(rows)


def split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets: the same rows, a token apart. Views."""
    return rows[:, :-1], rows[:, 1:]


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
        self._rank, self._world_size = rank, world_size
        self._order = Order(self.num_sequences, seed)
        self._starts = [0, *self._ends[:-1]]
        self._addresses = [tokens.data_ptr() for tokens in self._tokens]
        self._staged = torch.empty((micro_batch, sequence + 1), dtype=torch.int16)
        rows = max(1, _ONE_THREAD // (sequence + 1))
        self._pieces = [slice(first, first + rows) for first in range(0, micro_batch, rows)]

    @property
    def num_sequences(self) -> int:
        return self._ends[-1]

    def row(self, number: int) -> Tensor:
        """Sequence `number` with its last target: uint16 [sequence + 1], a view of the mapping."""
        index = bisect.bisect_right(self._ends, number)
        first = (number - (self._ends[index - 1] if index else 0)) * self._sequence
        return self._tokens[index][first : first + self._sequence + 1]

    def windows(self, forward_index: int) -> list[int]:
        """The windows of this rank's forward `forward_index`."""
        positions = batch_positions(
            forward_index, rank=self._rank, world_size=self._world_size, micro_batch=self._micro_batch
        )
        size = self.num_sequences
        return [position - position % size + self._order.at(position) for position in positions]

    def fill(self, forward_index: int, rows: Tensor) -> list[int]:
        """As in `Loader`. Raises DataError `vocab-mismatch` for an id that the sample at the opening did not show."""
        windows, size, sequence = self.windows(forward_index), self.num_sequences, self._sequence
        ends, starts, addresses = self._ends, self._starts, self._addresses
        row_bytes = TOKEN_BYTES * (sequence + 1)
        to = self._staged.data_ptr()
        for window in windows:
            number = window % size
            shard = bisect.bisect_right(ends, number)
            _C_COPY(to, addresses[shard] + TOKEN_BYTES * sequence * (number - starts[shard]), row_bytes)
            to += row_bytes
        for piece in self._pieces:
            rows[piece].copy_(self._staged[piece].view(torch.uint16))
            # Microseconds on the host, against an index error in a kernel, which on CUDA names neither file nor id.
            highest = int(rows[piece].amax())
            if highest >= self._vocab:
                raise out_of_vocabulary(self._directory, highest, self._vocab)
        return windows


class SyntheticLoader:
    """Made-up batches: uniform ids, different in every rank and forward, the same for the same seed."""

    kind: Literal["shards", "synthetic"] = "synthetic"
    num_sequences = 0

    def __init__(self, *, vocab: int, rank: int = 0, world_size: int = 1, seed: int = 0):
        self._vocab, self._rank, self._world_size, self._seed = vocab, rank, world_size, seed

    def fill(self, forward_index: int, rows: Tensor) -> tuple[int, ...]:
        name = f"{self._seed}:{forward_index * self._world_size + self._rank}"
        state = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        torch.randint(0, self._vocab, rows.shape, generator=torch.Generator().manual_seed(state), out=rows)
        return ()
