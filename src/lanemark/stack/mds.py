"""Packed rows of MosaicML's MDS as a loader: decoded by its own library, in the order, windows and shapes of shards.

What is decoded was checked before (`lanemark.observe.mds`), and the library is told just that: it reads no index again.
Its reader opens a shard's file for each row, and closes it. So each shard is mapped here as well, and stays so: what
the tokens are read through is told by the files that a rank has open. Nothing is kept, and nothing fetched.
"""

from __future__ import annotations

import importlib
import mmap
import os
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lanemark.observe.mds import VERSION, Entry, MdsSet, library_missing
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.stack.packed import DTYPES, RowLoader


def mds_reader() -> Any:
    """The library's `MDSReader`. Raises GateRefused `mds-missing`."""
    try:
        return importlib.import_module("streaming.base.format.mds.reader").MDSReader
    except Exception as error:  # it imports torchvision, and that raises what it likes where it does not fit torch
        why = f"{type(error).__name__}: {error}"
        raise library_missing(f"which this interpreter cannot import ({safe_text(why)[:200]})") from error


class MdsLoader(RowLoader):
    """Batches from rows of MDS (`lanemark.observe.packed.open_tokens`). Takes and raises what `RowLoader` does."""

    def __init__(self, packed: MdsSet, **asked: Any) -> None:
        super().__init__(packed, list(accumulate(entry.rows for entry in packed.entries)), **asked)
        made = mds_reader()
        self._entries, self._dtype = packed.entries, DTYPES[packed.entries[0].dtype]
        self._readers = [made.from_json(os.fspath(packed.directory), None, _told(entry)) for entry in packed.entries]
        self._mapped: list[mmap.mmap] = []
        for shard in packed.shards:
            with open(shard.path, "rb") as file:
                self._mapped.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def row(self, group: int, within: int) -> Tensor:
        """A decoded row, ids [row_tokens]. Raises DataError `shard-mislabelled`."""
        entry = self._entries[group]
        try:
            found = self._readers[group].get_item(within)[entry.column]
            ids = bytearray(found if entry.encoding == "bytes" else found.tobytes())
            made = torch.frombuffer(ids, dtype=self._dtype)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._unreadable(group, within, f"cannot be decoded ({type(error).__name__})") from error
        if made.numel() != self.packed.row_tokens:
            raise self._unreadable(group, within, f"is not of {self.packed.row_tokens} tokens")
        return made

    def _unreadable(self, group: int, within: int, why: str) -> DataError:
        path = safe_text(str(self.packed.shards[group].path))
        return DataError(
            "shard-mislabelled", f"row {within} of {path} {why}", "let nothing write to the data while it is read"
        )


def _told(entry: Entry) -> dict[str, Any]:
    """What the library is told of a shard: what was checked, and nothing else that an index may say."""
    return {
        "version": VERSION, "format": "mds", "compression": None, "hashes": [], "samples": entry.rows,
        "column_names": [entry.column], "column_encodings": [entry.encoding], "column_sizes": [entry.size],
        "raw_data": {"basename": entry.name, "bytes": entry.bytes, "hashes": {}}, "zip_data": None, "size_limit": None,
    }  # fmt: skip
