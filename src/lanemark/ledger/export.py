"""Writing out what a ledger has, a few records at a time: whole records as JSON lines, index columns as CSV or Parquet.

A line of JSONL is `{"id": …, "predicate": …}` with the record's predicate complete. It is encoded as records are
(`lanemark.records.encoding.encode`), so for a record that our own writer left the predicate is there byte for byte.
CSV and Parquet have the columns of the index and nothing else: a convenience for tables, and never evidence.

Nothing is left out in silence: a record that cannot be read is named with its slug, and the caller says so.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any, Final

from lanemark.ledger.objects import read_file
from lanemark.ledger.rows import IndexRow
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import GateRefused, LanemarkError

if TYPE_CHECKING:
    from lanemark.ledger.ledger import Ledger

COLUMNS: Final = IndexRow._fields
#: Rows to a Parquet row group: enough for its compression to work on, a few megabytes of memory.
_GROUP_ROWS: Final = 20_000
_values: Final = attrgetter(*COLUMNS)


def write_csv(rows: Iterable[IndexRow], file: IO[str]) -> int:
    """Rows as CSV with a heading; what a record does not have is an empty cell. Returns how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        writer.writerow(_values(row))
        count += 1
    return count


def write_jsonl(ledger: Ledger, rows: Iterable[IndexRow], file: IO[bytes], refused: Callable[[str, str], None]) -> int:
    """Whole records, one a line; returns how many were written.

    Args:
        ledger: where the rows are from.
        rows: which records, in which order.
        file: takes the lines.
        refused: told the id and the reason of each record that could not be read.
    """
    count = 0
    for row in rows:
        try:
            data = read_file(ledger.find(row.id))
            line = encode({"id": row.id, "predicate": _predicate(row.id, data)})
        except LanemarkError as error:
            refused(row.id, f"{error.what} [{error.slug}]")
        except OSError as error:
            refused(row.id, f"its file cannot be read ({error.strerror or type(error).__name__})")
        except (ValueError, LookupError, TypeError) as error:
            refused(row.id, str(error)[:200])
        else:
            file.write(line)
            count += 1
    return count


def _predicate(record_id: str, data: bytes) -> Any:
    """A record's predicate as plain JSON. Raises ValueError or LookupError for bytes that are no record."""
    if digest(data) != record_id:
        raise ValueError("its bytes are not the ones it is named by [record-corrupt]")
    return decode(data)["predicate"]


def write_parquet(rows: Iterable[IndexRow], file: IO[bytes]) -> int:
    """Rows as one Parquet file, a row group at a time; returns how many rows.

    Raises:
        GateRefused: `parquet-missing`: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    kinds = {"receipt": arrow.bool_(), "world_size": arrow.int64(), "tokens_per_s": arrow.float64()}
    kinds["step_p50_s"] = arrow.float64()
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _in_groups(rows):
            columns = [
                arrow.array(column, type=kind)
                for column, kind in zip(zip(*group, strict=True), schema.types, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            count += len(group)
    return count


def check_parquet() -> None:
    """Raise GateRefused `parquet-missing` unless Parquet can be written here."""
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise GateRefused(
            "parquet-missing",
            "Parquet files need pyarrow, which this interpreter does not have",
            "run `pip install 'lanemark[parquet]'`, or take --format csv",
        ) from None


def _in_groups(rows: Iterable[IndexRow]) -> Iterator[list[tuple[Any, ...]]]:
    left = iter(rows)
    while group := [_values(row) for row in islice(left, _GROUP_ROWS)]:
        yield group


def text_over(file: IO[bytes]) -> io.TextIOWrapper:
    """A binary file as text in UTF-8 with line ends as they are given. Detach it when done, so that `file` stays."""
    return io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
