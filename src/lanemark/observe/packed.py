"""Token files of any kind in a directory: llm.c shards, Parquet files of packed rows, or MDS (`lanemark.observe.mds`).

A *packed row* is a row of one Parquet column, `tokens` or `input_ids`, that holds a list of token ids; all rows of all
files are equally long, and at least one token longer than a sequence. Where a directory has several kinds, its `.bin`
files are the data set, and else its Parquet files, as they were before the next kind was read.

A footer is read here, by pyarrow, which is imported when it is needed and not before; rows are read in
`lanemark.stack.packed`. There is no manifest for packed rows: the files are hashed like shards, and that is their name.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.observe.shards import Shard, ShardSet, is_held_out, open_shards
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError, GateRefused

#: Names that the field's tools give the column of packed token ids, in the order they are looked for.
COLUMNS: Final = ("tokens", "input_ids")
SUFFIX: Final = ".parquet"
#: Widths that ids of a vocabulary of up to 65,536 are kept in.
ID_TYPES: Final = ("uint16", "int32", "uint32", "int64")


@dataclass(frozen=True)
class PackedSet(ShardSet):
    """Packed rows, checked as far as their footers and first rows tell.

    Attributes:
        column: which column has the ids.
        row_tokens: tokens of every row.
    """

    column: str
    row_tokens: int

    def rows(self, shard: Shard) -> int:
        """Rows of one file."""
        return shard.tokens // self.row_tokens

    def num_sequences(self, sequence: int) -> int:
        """Whole training sequences: each needs one token more than it is long, and lies in one row."""
        return sum(self.rows(shard) for shard in self.shards) * ((self.row_tokens - 1) // sequence)


def open_tokens(directory: Path | str) -> ShardSet:
    """The token files of a directory.

    Raises what `open_shards` does, and GateRefused `parquet-missing` or `mds-missing`.
    """
    directory = Path(directory)
    try:
        names = os.listdir(directory)
    except OSError:
        return open_shards(directory)  # which says what is wrong with it
    packed = sorted(name for name in names if name.endswith(SUFFIX))
    if any(name.endswith(".bin") for name in names):
        return open_shards(directory)
    if packed:
        return _open_packed(directory, packed)
    if "index.json" in names:
        from lanemark.observe.mds import open_mds

        return open_mds(directory)
    return open_shards(directory)


def parquet_reader() -> Any:
    """`pyarrow.parquet`. Raises GateRefused `parquet-missing`."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise GateRefused(
            "parquet-missing", "Parquet files need pyarrow, which this interpreter does not have",
            "pip install 'lanemark[parquet]'",
        ) from error  # fmt: skip


def _open_packed(directory: Path, names: list[str]) -> PackedSet:
    held = is_held_out(names)
    seen = {name: _footer(directory / name) for name in names}
    columns = {column for column, _, _ in seen.values()}
    lengths = {length for _, length, rows in seen.values() if rows}
    if len(columns) > 1 or len(lengths) > 1:
        odd = f"columns {sorted(columns)}" if len(columns) > 1 else f"rows of {sorted(lengths)[:4]} tokens"
        raise _mislabelled(directory, f"has packed rows that differ: {odd}")
    if not lengths:
        raise DataError("data-empty", f"the data directory {safe_text(str(directory))} has no packed row",
                        "name a directory of token files")  # fmt: skip
    length = lengths.pop()
    shards = {
        name: Shard(safe_text(name), directory / name, os.path.getsize(directory / name), seen[name][2] * length)
        for name in names
    }
    return PackedSet(
        directory,
        tuple(shard for name, shard in shards.items() if not held[name]),
        tuple(shard for name, shard in shards.items() if held[name]),
        manifest=None,
        column=columns.pop(),
        row_tokens=length,
    )


def _footer(path: Path) -> tuple[str, int, int]:
    """One file's column of ids, tokens a row, and rows. Raises DataError `shard-mislabelled`."""
    reader = parquet_reader()
    try:
        with reader.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            column = next((name for name in COLUMNS if name in file.schema_arrow.names), None)
            if column is None:
                raise _mislabelled(path, f"has no column {' or '.join(COLUMNS)}")
            kind = file.schema_arrow.field(column).type
            if not str(kind).startswith(("list<", "large_list<", "fixed_size_list<")):
                raise _mislabelled(path, f"has a column {column} of {kind}, not of lists of token ids")
            if str(kind.value_type) not in ID_TYPES:
                raise _mislabelled(path, f"has token ids of type {kind.value_type}, none of {', '.join(ID_TYPES)}")
            first = next(iter(file.iter_batches(batch_size=1, columns=[column])), None) if rows else None
            return column, len(first.column(0)[0]) if first is not None else 0, rows
    except (OSError, ValueError, TypeError) as error:  # pyarrow's own errors are these
        raise _mislabelled(path, f"cannot be read as Parquet ({type(error).__name__})") from error


def _mislabelled(path: Path, what: str) -> DataError:
    return DataError(
        "shard-mislabelled", f"{safe_text(str(path))} {what}", "pack rows of equal length, or name another directory"
    )
