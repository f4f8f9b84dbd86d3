"""Packed rows of MosaicML's MDS: an index and the heads of its shards, held to each other before a row is read.

A directory of MDS has an `index.json` and the shards that it names. The format carries whatever its writer liked,
pickled objects among it, and its library decodes what the index tells it to. So nothing is decoded here, and nothing
goes to the library but one column of token ids: `tokens` or `input_ids`, as `ndarray:` of a fixed type, or as `bytes`,
which are 64-bit ids (so LLM Foundry writes and reads them). Rows are decoded in `lanemark.stack.mds`.

An index is no part of what the shards' digests name. Therefore what it says of columns and rows has to be what each
shard's own head says, and rows are numbered in the order of the shards' names, whatever order it lists them in: the
digests of the shards name the tokens.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import sys
from array import array
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

from lanemark.observe.packed import COLUMNS, ID_TYPES, PackedSet
from lanemark.observe.shards import MAX_MANIFEST_BYTES, Shard, is_held_out
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError, GateRefused

INDEX_NAME: Final = "index.json"
SUFFIX: Final = ".mds"
#: The layout's own number, in the index and in each shard.
VERSION: Final = 2
#: Bytes of an id.
WIDTHS: Final = {"uint16": 2, "int32": 4, "uint32": 4, "int64": 8}
_ENCODING: Final = re.compile(rf"ndarray:({'|'.join(ID_TYPES)})(?::([1-9][0-9]{{0,8}}))?", re.ASCII)
_MAX_CONFIG_BYTES: Final = 64 * 1024
_COLUMN_KEYS: Final = ("column_names", "column_encodings", "column_sizes")
_REMEDY: Final = "write the rows again, or name another directory"
_INSTALL: Final = "pip install mosaicml-streaming, or write the rows as Parquet or llm.c shards"


class MdsError(ValueError):
    """What is wrong with an index or a shard's head; `slug` is which kind of wrong."""

    def __init__(self, slug: str, words: str) -> None:
        super().__init__(words)
        self.slug = slug


@dataclass(frozen=True)
class Entry:
    """One shard as the index has it, checked.

    Attributes:
        name: a plain file name that ends in `.mds`.
        bytes: how long the file is.
        rows: how many rows it holds.
        column: `tokens` or `input_ids`.
        encoding: as the layout spells it.
        size: encoded bytes of a row, where the encoding fixes them.
    """

    name: str
    bytes: int
    rows: int
    column: str
    encoding: str
    size: int | None

    @property
    def dtype(self) -> str:
        """The type of an id."""
        return "int64" if self.encoding == "bytes" else self.encoding.split(":")[1]


@dataclass(frozen=True)
class MdsSet(PackedSet):
    """Rows of MDS, checked as far as the index and the heads of its shards tell.

    Attributes:
        entries: what the index says of `shards`, in their order.
    """

    entries: tuple[Entry, ...]


def open_mds(directory: Path) -> MdsSet:
    """What `read_mds` found, where the library that decodes it is there. Raises GateRefused `mds-missing` as well."""
    found = read_mds(directory)
    check_library()
    return found


def check_library() -> None:
    """Refuse where mosaicml-streaming is not there. It is not imported: it brings torch. Raises `mds-missing`."""
    spec = find_spec("streaming")
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    if not any(os.path.exists(os.path.join(place, "base", "format", "mds", "reader.py")) for place in places):
        raise library_missing("which this interpreter does not have")


def library_missing(why: str) -> GateRefused:
    """The refusal of rows that nothing here can decode."""
    return GateRefused("mds-missing", f"MDS files need mosaicml-streaming, {why}", _INSTALL)


def parse_index(text: bytes) -> tuple[Entry, ...]:
    """The shards of an index, in name order. Pure. Raises MdsError."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise MdsError("manifest-invalid", f"is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        doc: Any = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MdsError("manifest-invalid", f"is not JSON ({type(error).__name__})") from None
    rows = doc.get("shards") if isinstance(doc, dict) and _is_version(doc) else None
    if not isinstance(rows, list):
        raise MdsError("manifest-invalid", f"is not an index of MDS of version {VERSION}")
    entries = sorted((_entry(row) for row in rows), key=lambda entry: entry.name)
    if len({entry.name for entry in entries}) != len(entries):
        raise MdsError("manifest-invalid", "names a shard twice")
    differ = sorted({f"{entry.column} as {entry.encoding}" for entry in entries})
    if len(differ) > 1:
        raise MdsError("shard-mislabelled", f"has shards that differ: {', '.join(differ[:4])}")
    return tuple(entries)


def _is_version(doc: dict[str, Any]) -> bool:
    return type(doc.get("version")) is int and doc["version"] == VERSION


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 32  # the layout's own width


def _entry(row: Any) -> Entry:
    """One shard of an index. Raises MdsError."""
    raw = row.get("raw_data") if isinstance(row, dict) else None
    name = raw.get("basename") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(name, str):
        raise MdsError("manifest-invalid", "has a shard without a file")
    shown = safe_text(repr(name[:60]))
    if "/" in name or "\\" in name or "\0" in name or not name.endswith(SUFFIX) or name.startswith("."):
        raise MdsError("manifest-invalid", f"names a shard {shown}, which is no plain file name with {SUFFIX}")
    if row.get("format") != "mds" or not _is_version(row):
        raise MdsError("manifest-invalid", f"has a shard {shown} that is not MDS of version {VERSION}")
    if row.get("compression") is not None or row.get("zip_data") is not None:
        raise MdsError("shard-mislabelled", f"has a shard {shown} that is compressed")
    if not (_is_count(raw.get("bytes")) and _is_count(row.get("samples"))):
        raise MdsError("manifest-invalid", f"gives no size or row count for {shown}")
    return Entry(name, raw["bytes"], row["samples"], *_column(row))


def _column(doc: dict[str, Any]) -> tuple[str, str, int | None]:
    """Name, encoding and fixed size of the only column. Raises MdsError, for whatever is not ids and ids alone."""
    listed = [doc.get(key) for key in _COLUMN_KEYS]
    if not all(isinstance(one, list) and len(one) == len(listed[0] or ()) for one in listed):
        raise MdsError("manifest-invalid", "does not say which columns there are")
    if listed[0] not in [[name] for name in COLUMNS]:
        raise MdsError("shard-mislabelled", f"has not one column {' or '.join(COLUMNS)} and no other")
    (name,), (encoding,), (size,) = listed  # type: ignore[misc]
    found = _ENCODING.fullmatch(encoding) if isinstance(encoding, str) else None
    if found is None and encoding != "bytes":
        raise MdsError(
            "shard-mislabelled",
            f"has a column {name} of {safe_text(repr(encoding)[:60])}, none of bytes, ndarray:TYPE and"
            f" ndarray:TYPE:LENGTH with {', '.join(ID_TYPES)}",
        )
    fixed = int(found[2]) * WIDTHS[found[1]] if found is not None and found[2] else None
    if size != fixed or isinstance(size, bool):
        raise MdsError("manifest-invalid", f"gives a size for {encoding} that is not its size")
    return name, encoding, fixed


def read_mds(directory: Path) -> MdsSet:
    """The rows of a directory of MDS, by its index and the heads of its shards; no row is decoded.

    Raises:
        DataError: `data-missing`, `data-empty`, `shard-truncated`, `shard-mislabelled`, `manifest-invalid` or
            `manifest-mismatch`, naming the file.
    """
    with _opened(directory, INDEX_NAME) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    try:
        entries = parse_index(text)
    except MdsError as error:
        raise _refusal(directory, INDEX_NAME, error) from error
    named = {entry.name for entry in entries}
    for name in sorted(os.listdir(directory)):
        if name.endswith(SUFFIX) and name not in named:
            raise DataError(
                "manifest-mismatch", f"{safe_text(str(directory / name))} is a shard that the index does not name",
                "remove it, or write an index of all the shards there",
            )  # fmt: skip
    lengths = {entry.name: _row_tokens(directory, entry) for entry in entries}
    differ = {lengths[entry.name] for entry in entries if entry.rows}
    if len(differ) > 1:
        odd = MdsError("shard-mislabelled", f"has packed rows that differ: rows of {sorted(differ)[:4]} tokens")
        raise _refusal(directory, INDEX_NAME, odd)
    held = is_held_out(named)
    trained = tuple(entry for entry in entries if not held[entry.name])
    if not any(entry.rows for entry in trained):
        raise DataError("data-empty", f"the data directory {safe_text(str(directory))} has no packed row",
                        "name a directory of token files")  # fmt: skip
    length = differ.pop()

    def shard(entry: Entry) -> Shard:
        return Shard(safe_text(entry.name), directory / entry.name, entry.bytes, entry.rows * length)

    return MdsSet(
        directory,
        tuple(map(shard, trained)),
        tuple(shard(entry) for entry in entries if held[entry.name]),
        manifest=None,
        column=trained[0].column,
        row_tokens=length,
        entries=trained,
    )


def _refusal(directory: Path, name: str, error: MdsError) -> DataError:
    return DataError(error.slug, f"{safe_text(str(directory / name))} {error}", _REMEDY)


def _opened(directory: Path, name: str) -> BinaryIO:
    """A regular file that lies below the directory. Raises DataError `data-missing` or `manifest-invalid`."""
    path = directory / name
    shown = safe_text(str(path))
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)):
            raise DataError("manifest-invalid", f"{shown} is a link that leads out of its directory", _REMEDY)
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError("manifest-invalid", f"{shown} is not a regular file", _REMEDY)
        return open(path, "rb")
    except FileNotFoundError as error:
        raise DataError("data-missing", f"{shown} does not exist, but the index names it", _REMEDY) from error
    except OSError as error:
        raise DataError("data-missing", f"{shown} cannot be read ({error.strerror})", "make it readable") from error


def _row_tokens(directory: Path, entry: Entry) -> int:
    """Tokens of every row of a shard, 0 where it has none. Raises DataError."""
    with _opened(directory, entry.name) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return _read_head(file, size, entry)
        except MdsError as error:
            raise _refusal(directory, entry.name, error) from error


def _read_head(file: BinaryIO, size: int, entry: Entry) -> int:
    """Hold a shard to the index: size, rows and columns, and rows of one length that fill it. Raises MdsError."""
    if size != entry.bytes:
        slug = "shard-truncated" if size < entry.bytes else "manifest-mismatch"
        raise MdsError(slug, f"is {size} bytes, and the index says {entry.bytes}")
    table = 4 * (entry.rows + 2)  # how many rows there are, where each begins, and where the last ends
    if table > entry.bytes:
        raise MdsError("manifest-mismatch", f"is too short for the {entry.rows} rows that the index says")
    numbers = array("I")
    numbers.frombytes(file.read(table))
    if sys.byteorder == "big":
        numbers.byteswap()
    if len(numbers) != entry.rows + 2 or numbers[0] != entry.rows:
        raise MdsError("manifest-mismatch", f"has not the {entry.rows} rows that the index says")
    first, end = numbers[1], numbers[-1]
    if end != entry.bytes or not table <= first <= min(end, table + _MAX_CONFIG_BYTES):
        raise MdsError("shard-mislabelled", "has a table of rows that does not fit the file")
    try:
        said: Any = json.loads(file.read(first - table))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("compression") is not None:
        raise MdsError("shard-mislabelled", "does not say which columns it has, or is compressed")
    if _column(said) != (entry.column, entry.encoding, entry.size):
        raise MdsError("manifest-mismatch", "has another column than the index says")
    if not entry.rows:
        return 0
    length = numbers[2] - first
    if any(numbers[row + 1] - numbers[row] != length for row in range(1, entry.rows + 1)):
        raise MdsError("shard-mislabelled", "has packed rows that are not all of one length")
    tokens = _tokens_of(entry, length, file.read(min(length, 4 + 9)))
    if not tokens:
        raise MdsError("shard-mislabelled", f"has rows of {length} bytes, which are no {entry.encoding} of ids")
    return tokens


def _tokens_of(entry: Entry, length: int, head: bytes) -> int:
    """Tokens of a row that is `length` bytes long and begins with `head`; 0 where the two disagree. Pure."""
    width = WIDTHS[entry.dtype]
    if entry.size is not None:
        return entry.size // width if entry.size == length else 0
    if len(head) < 6 or struct.unpack_from("<I", head)[0] != length - 4:
        return 0
    if entry.encoding == "bytes":
        tokens, rest = divmod(length - 4, width)
        return 0 if rest else tokens
    # A byte: how many dimensions there are, and the width of each; here one. Then the one, then the ids.
    dimensions, shape = head[4] >> 2, 1 << (head[4] & 3)
    tokens = int.from_bytes(head[5 : 5 + shape], "little")
    return tokens if dimensions == 1 and length == 5 + shape + tokens * width else 0
