"""Reading a seed archive: tar under zstd, its first member the manifest, every other one what the manifest says next.

An archive is read by trusting nothing in it but what was checked. The manifest is checked first (`read_manifest`: paths
that stay inside, bounded sizes, no path twice). From then on there is exactly one right sequence of bytes: the header
that we write for the next path and size, that many bytes with that hash, zeros up to the next block, and two empty
blocks at the end. So links, devices, directories, duplicates, extra members and names that climb need no rule of their
own to be refused: their headers are not the expected one. And since the decompressor is never asked for more than the
manifest allows, an archive that would unpack to more than it says is refused at the first byte too many.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

from lanemark.lanes.cache_manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile
from lanemark.stage.seed_member import BLOCK, Unusable, described, header, not_expected, padding

if TYPE_CHECKING:
    import zstandard

#: What the zstd command accepts unasked (`--memory`, zstd(1)); a larger window is memory that a stranger asks us for.
_MAX_WINDOW_BYTES: Final = 1 << 27
_CHUNK_BYTES: Final = 1 << 20
#: Pieces of that size that may be waiting, decompressed.
_PIECES_AHEAD: Final = 8
_MANIFEST_NAME: Final = re.compile(rf"{COVERAGE_DIRECTORY}/[0-9a-f]{{16}}\.json")
_DIRTY: Final = Unusable("refused", "its padding holds something")


class Readable(Protocol):
    """Where an archive's bytes come from: a file, or a download while it arrives."""

    def read(self, size: int, /) -> bytes: ...


class Archive:
    """An archive opened as far as its manifest. Use `reading`."""

    def __init__(self, stream: zstandard.ZstdDecompressionReader, source: _Counting) -> None:
        self._stream = stream
        self._source = source
        self.manifest = self._manifest()

    def extract(self, into: Path) -> str:
        """Write every file below `into`, a fresh directory of ours, and check each. Returns the archive's digest.

        Nothing below `into` is to be used when this raises.

        Raises:
            Unusable: the archive is not, byte for byte, what its manifest describes.
            OSError: `into` cannot be written.
        """
        files = self.manifest.files
        heads = [header(file.path, file.bytes) for file in files]
        sizes = (len(head) + file.bytes + padding(file.bytes) for head, file in zip(heads, files, strict=True))
        make_directories(into, files)
        with _Ahead(self._stream, sum(sizes) + 2 * BLOCK) as tar:
            for head, file in zip(heads, files, strict=True):
                found = tar.take(len(head), "before", file)
                if found != head:
                    raise not_expected(found, file)
                _write_file(tar, f"{into}/{file.path}", file)
            tar.finish()
        return f"sha256:{self._source.hash.hexdigest()}"

    def _manifest(self) -> Manifest:
        block = self._exactly(BLOCK)
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise Unusable("damaged", f"it does not begin with a tar header ({error})") from None
        if not member.isreg() or not _MANIFEST_NAME.fullmatch(member.name):
            raise Unusable("refused", f"its first member is {described(member)} and no manifest")
        if not 0 < member.size <= MAX_MANIFEST_BYTES or block != header(member.name, member.size):
            raise Unusable("refused", "the header of its manifest is not one that we write")
        data = self._exactly(member.size)
        if self._exactly(padding(member.size)).strip(b"\0"):
            raise _DIRTY
        try:
            manifest = read_manifest(data)
        except ValueError as error:
            raise Unusable("refused", f"its manifest cannot be used: {error}") from None
        if member.name != f"{COVERAGE_DIRECTORY}/{manifest.name}":
            raise Unusable("refused", "its manifest is not named after its question")
        return manifest

    def _exactly(self, size: int) -> bytes:
        """That many bytes of the tar, asked for piece by piece: a claimed size is not memory yet."""
        pieces: list[bytes] = []
        while size:
            try:
                piece = self._stream.read(min(size, _CHUNK_BYTES))
            except Exception as error:
                if not _zstd_error(error):
                    raise
                raise Unusable("damaged", f"it does not decompress ({str(error)[:120]})") from None
            if not piece:
                raise Unusable("damaged", "it ends in the manifest: truncated")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


class _Ahead:
    """The rest of the tar, decompressed in a thread a few pieces ahead of whoever takes it.

    Two threads that hand over single files spend their time on handing over; pieces of a megabyte are few. The thread
    is given the size that the manifest implies, and asks for one byte more, which must not be there.
    """

    def __init__(self, stream: zstandard.ZstdDecompressionReader, size: int) -> None:
        self._stream = stream
        self._size = size
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES_AHEAD)
        self._stopped = threading.Event()
        self._piece = b""
        self._at = 0
        self._thread = threading.Thread(target=self._run, name="seed-decompressor", daemon=True)

    def __enter__(self) -> _Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._pieces.get(timeout=0.02)
        self._thread.join()

    def _run(self) -> None:
        try:
            left = self._size
            while left and not self._stopped.is_set():
                piece = self._stream.read(min(left, _CHUNK_BYTES))
                self._pieces.put(piece)
                if not piece:
                    return
                left -= len(piece)
            if not self._stopped.is_set():
                self._pieces.put(self._stream.read(1))
        except BaseException as error:  # it is raised where the next piece is taken
            self._pieces.put(error)

    def _next(self, where: str) -> bytes:
        piece = self._pieces.get()
        if isinstance(piece, BaseException):
            if isinstance(piece, Exception) and _zstd_error(piece):
                raise Unusable("damaged", f"it does not decompress {where} ({str(piece)[:120]})") from None
            raise piece
        return piece

    def some(self, limit: int, where: str, file: ListedFile) -> bytes:
        """Between one byte and `limit`, whatever is at hand."""
        if self._at == len(self._piece):
            self._piece, self._at = self._next(f"{where} {file.path!r}"), 0
            if not self._piece:
                raise Unusable("damaged", f"it ends {where} {file.path!r}: truncated")
        begin = self._at
        self._at = min(len(self._piece), begin + limit)
        return self._piece[begin : self._at]

    def take(self, size: int, where: str, file: ListedFile) -> bytes:
        """Exactly that many bytes. Raises Unusable `damaged` when the tar ends before."""
        data = self.some(size, where, file) if size else b""
        if len(data) == size:
            return data
        pieces = [data]
        left = size - len(data)
        while left:
            pieces.append(self.some(left, where, file))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def finish(self) -> None:
        """Two empty blocks, and then nothing, in the tar and after the compressed frame."""
        end = ListedFile("its end", 0, "", "other")
        if self.take(BLOCK * 2, "before", end).strip(b"\0"):
            raise Unusable("refused", "it holds a member more than its manifest names")
        if self._next("after its end"):
            raise Unusable("refused", "something follows the archive's end")


def _write_file(tar: _Ahead, path: str, file: ListedFile) -> None:
    """The next file's bytes and padding, hashed before the file is called sound."""
    if file.bytes <= _CHUNK_BYTES:
        data = tar.take(file.bytes, "in", file)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise other_content(file)
        with create(path) as fd:
            write_all(fd, data)
    else:
        content = hashlib.sha256()
        left = file.bytes
        with create(path) as fd:
            while left:
                piece = tar.some(left, "in", file)
                content.update(piece)
                write_all(fd, piece)
                left -= len(piece)
        if content.hexdigest() != file.sha256:
            raise other_content(file)
    if tar.take(padding(file.bytes), "in", file).strip(b"\0"):
        raise _DIRTY


@contextmanager
def reading(source: Readable) -> Iterator[Archive]:
    """Open an archive for reading, from wherever its bytes come.

    Raises:
        Unusable: it has no manifest that can be used.
        ModuleNotFoundError: `zstandard` is not installed.
    """
    import zstandard

    counted = _Counting(source)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    with decompressor.stream_reader(
        cast("IO[bytes]", counted), read_size=1 << 18, read_across_frames=True, closefd=False
    ) as stream:
        yield Archive(stream, counted)


def create(path: str) -> _Created:
    """A new regular file, never through a link and never over anything. Raises OSError."""
    return _Created(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))


class _Created:
    """A descriptor as a context: `contextmanager` costs more than the write of a small file."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte: a nearly full disk takes only some of them at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_directories(into: Path, files: Sequence[ListedFile]) -> None:
    """Every directory that the files need below `into`, which is fresh."""
    needed: set[str] = set()
    parents = {file.path.rpartition("/")[0] for file in files}
    while parents := parents - needed - {""}:
        needed |= parents
        parents = {parent.rpartition("/")[0] for parent in parents}
    for directory in sorted(needed):
        os.mkdir(f"{into}/{directory}", 0o755)


def other_content(file: ListedFile) -> Unusable:
    """The verdict on a file whose bytes are not the ones its manifest hashes."""
    return Unusable("damaged", f"{file.path!r} has another content than its manifest says")


class _Counting:
    """A source whose bytes are hashed as they are taken."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data


def _zstd_error(error: Exception) -> bool:
    import zstandard

    return isinstance(error, zstandard.ZstdError)
