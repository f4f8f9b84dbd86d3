"""Packed rows as a loader, and those of Parquet files: the same order, windows and shapes as from shards.

Parquet has no rows to point at: a row group is decoded whole. So decoded groups are kept, up to `KEPT_BYTES` of them,
and the least recently used one goes. Where the data set fits, each group is decoded once; where it does not, the seeded
order decodes a group for nearly every row, and the record's data wait says so. Shards are the fast path.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections import OrderedDict
from itertools import accumulate
from typing import Any, Final, Literal

import torch
from torch import Tensor

from lanemark.lanes.order import Order, batch_positions
from lanemark.observe.packed import PackedSet, parquet_reader
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.stack.loader import out_of_vocabulary

#: Decoded row groups that a rank keeps. Eight ranks of a node keep that many times as much.
KEPT_BYTES: Final = 256 * 1024 * 1024
DTYPES: Final = {"uint16": torch.uint16, "int32": torch.int32, "uint32": torch.uint32, "int64": torch.int64}


class RowLoader(ABC):
    """Batches from equally long rows, wherever they lie: in groups of rows, which a subclass decodes.

    Args:
        packed: what was found of them.
        ends: of each group, how many rows there are up to its end.
        vocab, sequence, micro_batch, grad_accum, rank, world_size, seed: as in `lanemark.stack.loader.ShardLoader`.

    Raises:
        DataError: `data-empty` when one step cannot be filled.
    """

    kind: Literal["shards", "synthetic"] = "shards"

    def __init__(
        self,
        packed: PackedSet,
        ends: list[int],
        *,
        vocab: int,
        sequence: int,
        micro_batch: int,
        grad_accum: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        packed.check_enough(sequence, world_size * micro_batch * grad_accum)
        self.packed, self._ends, self._vocab, self._sequence = packed, ends, vocab, sequence
        self._micro_batch, self._rank, self._world_size = micro_batch, rank, world_size
        self._pieces = (packed.row_tokens - 1) // sequence
        self._order = Order(self.num_sequences, seed)

    @property
    def num_sequences(self) -> int:
        return self._ends[-1] * self._pieces

    @abstractmethod
    def row(self, group: int, within: int) -> Tensor:
        """Row `within` of a group, ids [row_tokens]. Raises DataError `shard-mislabelled`."""

    def windows(self, forward_index: int) -> list[int]:
        """The windows of this rank's forward `forward_index`."""
        positions = batch_positions(
            forward_index, rank=self._rank, world_size=self._world_size, micro_batch=self._micro_batch
        )
        size = self.num_sequences
        return [position - position % size + self._order.at(position) for position in positions]

    def fill(self, forward_index: int, rows: Tensor) -> list[int]:
        """As in `lanemark.stack.loader.Loader`. Raises DataError `vocab-mismatch` or `shard-mislabelled`."""
        windows, size = self.windows(forward_index), self.num_sequences
        for row, window in zip(rows, windows, strict=True):
            number, piece = divmod(window % size, self._pieces)
            group = bisect.bisect_right(self._ends, number)
            within = number - (self._ends[group - 1] if group else 0)
            first = piece * self._sequence
            row.copy_(self.row(group, within)[first : first + self._sequence + 1])
            lowest, highest = (int(value) for value in torch.aminmax(row))
            if highest >= self._vocab or lowest < 0:
                raise out_of_vocabulary(self.packed.directory, highest if lowest >= 0 else lowest, self._vocab)
        return windows


class PackedLoader(RowLoader):
    """Batches from Parquet (`lanemark.observe.packed.open_tokens`). Takes and raises what `RowLoader` does."""

    def __init__(self, packed: PackedSet, **asked: Any) -> None:
        reader = parquet_reader()
        # Mapped and kept open: what the tokens are read through is told by the files that a rank has open.
        self._files: list[Any] = [reader.ParquetFile(shard.path, memory_map=True) for shard in packed.shards]
        self._groups = [
            (number, group) for number, file in enumerate(self._files) for group in range(file.num_row_groups)
        ]
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        counts = (self._files[number].metadata.row_group(group).num_rows for number, group in self._groups)
        super().__init__(packed, list(accumulate(counts)), **asked)

    def row(self, group: int, within: int) -> Tensor:
        return self._group(group)[within]

    def _group(self, index: int) -> Tensor:
        """A decoded row group, ids [rows, row_tokens]. Raises DataError `shard-mislabelled`."""
        found = self._kept.get(index)
        if found is not None:
            self._kept.move_to_end(index)
            return found
        file, group = self._groups[index]
        column = self._files[file].read_row_group(group, columns=[self.packed.column]).column(0).combine_chunks()
        ids, length = column.flatten(), self.packed.row_tokens
        if column.null_count or ids.null_count or len(ids) != len(column) * length:
            raise self._unequal(file)
        if hasattr(column, "offsets") and set(column.value_lengths().unique().to_pylist()) != {length}:
            raise self._unequal(file)
        dtype = DTYPES[str(ids.type)]
        whole = torch.frombuffer(bytearray(memoryview(ids.buffers()[1])), dtype=dtype)
        made = whole[ids.offset : ids.offset + len(ids)].view(len(column), length)
        self._kept[index] = made
        while len(self._kept) > 1 and sum(one.numel() * one.element_size() for one in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return made

    def _unequal(self, file: int) -> DataError:
        return DataError(
            "shard-mislabelled",
            f"{safe_text(str(self.packed.shards[file].path))} has packed rows that are not all of"
            f" {self.packed.row_tokens} tokens",
            "pack rows of equal length, or name another directory",
        )
