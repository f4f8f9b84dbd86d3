"""The tree on disk: tiles of 256 hashes, bundles of 256 entries, in the C2SP tlog-tiles layout (c2sp.org/tlog-tiles).

    <log>/tile/0/000 … x001/x234/067     the leaf hashes, 256 a file (8,192 bytes)
    <log>/tile/1/000                     the hashes over whole level-0 tiles, and so on upwards
    <log>/tile/entries/000               the entries themselves, each behind its length in two bytes, big-endian
    <log>/tile/0/000.p/17                the same for a tile that has only 17 yet

Only complete subtrees are stored, so whatever a file at its full width holds is final. How wide the last tile of each
level is follows from the size of the tree; a file that is wider, or a level that ends later, was written by somebody
who died before the new size was committed (see `log`), and is not read.

Every read is held against the width it must have; what the hashes say is for the caller to check against a root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lanemark.ledger.merkle import HASH_BYTES, complete_root, leaf_hash
from lanemark.ledger.objects import read_file

#: Tiles have height 8: 2**8 hashes (c2sp.org/tlog-tiles, "Merkle Tree").
HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
#: An entry is `sha256:` and 64 digits; the layout's own limit is what fits two bytes of length.
MAX_ENTRY_BYTES: Final = 65_535
_BUNDLES: Final = "entries"
#: Tiles held in memory, 20 kB each as Python holds them: a proof needs about ten, an audit goes through all in order.
_MAX_KEPT: Final = 256


class TileError(Exception):
    """A tile that the tree must have is missing, or is not what its place promises. `gone` tells the first."""

    def __init__(self, what: str, *, gone: bool = False) -> None:
        super().__init__(what)
        self.gone = gone


class TileFile(NamedTuple):
    """One file of the layout. `level` is None for a bundle of entries."""

    level: int | None
    number: int
    width: int

    @property
    def name(self) -> str:
        """Its path below the log: `tile/0/x001/x234/067.p/17`."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = _BUNDLES if self.level is None else str(self.level)
        return f"tile/{level}/{path}" + ("" if self.width == WIDTH else f".p/{self.width}")


def right_edge(size: int) -> tuple[TileFile, ...]:
    """The partial files of a tree of `size` entries: of each level its last tile, where that is not full."""
    found = [TileFile(None, size // WIDTH, size % WIDTH)] if size % WIDTH else []
    level, count = 0, size
    while count:
        if count % WIDTH:
            found.append(TileFile(level, count // WIDTH, count % WIDTH))
        level, count = level + 1, count // WIDTH
    return tuple(found)


def file_at(level: int | None, index: int, size: int) -> TileFile:
    """The file that holds tile `index` of a level in a tree of `size` entries. Raises TileError where there is none."""
    count = size >> (HEIGHT * (level or 0))
    width = min(WIDTH, count - index * WIDTH)
    if width <= 0:
        raise TileError(f"a tree of {size} entries has no tile {index} at level {level}")
    return TileFile(level, index, width)


def pack(entries: Iterable[bytes]) -> bytes:
    """Entries as a bundle holds them."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack(data: bytes, count: int, name: str) -> tuple[bytes, ...]:
    """The `count` entries of a bundle. Raises TileError when it does not hold exactly those."""
    entries, place = [], 0
    for _ in range(count):
        length = int.from_bytes(data[place : place + 2], "big")
        entry = data[place + 2 : place + 2 + length]
        if place + 2 > len(data) or len(entry) != length:
            raise TileError(f"{name} is cut off")
        entries.append(entry)
        place += 2 + length
    if place != len(data):
        raise TileError(f"{name} holds more than its {count} entries")
    return tuple(entries)


class Tiles:
    """The files of one tree of a fixed size, read as they are needed. Not for more than one size.

    Args:
        directory: the log.
        size: entries in the tree.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self._kept: dict[tuple[int, int], tuple[bytes, ...]] = {}

    def hashes(self, level: int, index: int) -> tuple[bytes, ...]:
        """The hashes of one tile. Raises TileError, or OSError when the file cannot be looked at."""
        if (level, index) not in self._kept:
            file = file_at(level, index, self.size)
            data = self._read(file, file.width * HASH_BYTES)
            if len(data) != file.width * HASH_BYTES:
                raise TileError(f"{file.name} has {len(data)} bytes and should have {file.width * HASH_BYTES}")
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[level, index] = tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))
        return self._kept[level, index]

    def at(self, height: int, index: int) -> bytes:
        """The hash over entries [index * 2**height, (index + 1) * 2**height): `merkle.HashAt` over the files."""
        level, within = divmod(height, HEIGHT)
        tile, place = divmod(index << within, WIDTH)
        hashes = self.hashes(level, tile)[place : place + (1 << within)]
        if len(hashes) != 1 << within:
            raise TileError(f"a tree of {self.size} entries has no hash {index} of height {height}")
        return complete_root(hashes)

    def bundle(self, index: int) -> tuple[bytes, ...]:
        """The entries of one bundle. Raises TileError or OSError."""
        file = file_at(None, index, self.size)
        return unpack(self._bundle(file), file.width, file.name)

    def entries(self) -> Iterator[tuple[bytes, ...]]:
        """Every bundle in order, one in memory at a time."""
        for index in range(-(-self.size // WIDTH)):
            yield self.bundle(index)

    def find(self, entry: bytes) -> int | None:
        """The number of the first entry that equals `entry`, or None when every bundle was read and none has it.

        Reads all bundles up to it: 0.1 ms a thousand entries. A bundle is taken apart only where the bytes occur.
        """
        for index in range(-(-self.size // WIDTH)):
            file = file_at(None, index, self.size)
            data = self._bundle(file)
            if entry in data:
                entries = unpack(data, file.width, file.name)
                if entry in entries:
                    return index * WIDTH + entries.index(entry)
        return None

    def _bundle(self, file: TileFile) -> bytes:
        return self._read(file, file.width * (2 + MAX_ENTRY_BYTES))

    def _read(self, file: TileFile, limit_bytes: int) -> bytes:
        try:
            return read_file(self.directory / file.name, limit_bytes)
        except FileNotFoundError:
            raise TileError(f"{file.name} is missing", gone=True) from None


def grown(tiles: Tiles, entries: Sequence[bytes]) -> Iterator[tuple[TileFile, bytes]]:
    """The files that change when `entries` follow the tree that is there: (file, its bytes) each, lower levels first.

    Reads only the right edge. Writes nothing: nothing refers to these files until the new size is committed.
    """
    size = tiles.size + len(entries)
    first = tiles.size // WIDTH
    kept = tiles.bundle(first) if tiles.size % WIDTH else ()
    for index, part in _cut(first, (*kept, *entries)):
        yield TileFile(None, index, len(part)), pack(part)
    level, new = 0, [leaf_hash(entry) for entry in entries]
    while new:
        count = tiles.size >> (HEIGHT * level)
        first = count // WIDTH
        standing = tiles.hashes(level, first) if count % WIDTH else ()
        above = []
        for index, part in _cut(first, (*standing, *new)):
            yield TileFile(level, index, len(part)), b"".join(part)
            if len(part) == WIDTH:
                above.append(complete_root(part))
        level, new = level + 1, above
    assert size >> (HEIGHT * level) == tiles.size >> (HEIGHT * level)


def _cut(first: int, items: tuple[bytes, ...]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    for place in range(0, len(items), WIDTH):
        yield first + place // WIDTH, items[place : place + WIDTH]


def stale_partials(directory: Path, file: TileFile, needed: frozenset[TileFile]) -> Iterator[Path]:
    """Files of the same tile at widths that no tree still needs. Empty when the directory cannot be listed."""
    base = directory / TileFile(file.level, file.number, WIDTH).name
    partials = base.with_name(base.name + ".p")
    try:
        names = os.listdir(partials)
    except OSError:
        return
    for name in names:
        if name.isdigit() and TileFile(file.level, file.number, int(name)) not in needed:
            yield partials / name
