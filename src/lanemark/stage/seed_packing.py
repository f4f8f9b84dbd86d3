"""Writing a seed archive: tar under zstd, the manifest first, the same bytes for the same content.

No times, no owners, members in order of path, one compression level, and at least one compression worker: zstd's output
is the same for any number of workers, but for none it differs. Each file is hashed on its way in, so what the manifest
says of it is what the archive holds.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from lanemark.lanes.cache_manifest import Manifest
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile
from lanemark.stage.seed_member import BLOCK, header, padding

#: zstd's own default. Level 19 took 37 times as long for a fifth less (measured on a 153 MB cache).
_LEVEL: Final = 3
#: More workers than this gain nothing on an archive of this size, and each holds some MiB.
_MAX_WORKERS: Final = 4
_BATCH_BYTES: Final = 1 << 20
_BATCHES_AHEAD: Final = 4


class Changed(Exception):  # noqa: N818 - what was found, not what failed
    """Files of the cache are no longer what the manifest says; `paths` names them."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(f"{len(paths)} files have changed")
        self.paths = paths


class Packed(NamedTuple):
    """What was written: digest of the archive (`sha256:…`), its size, and how many files it holds."""

    digest: str
    bytes: int
    files: int


def workers() -> int:
    """Compression workers: the usable cores, and at least one."""
    return max(1, min(_MAX_WORKERS, len(os.sched_getaffinity(0))))


def pack(cache_dir: Path, manifest: Manifest, out: IO[bytes]) -> Packed:
    """Write the archive of a manifest's files. Every byte was hashed on its way and is what the manifest says.

    Raises:
        Changed: a file is gone, is another, or is being written; `out` then holds nothing of use.
        OSError: `out` cannot be written.
        ModuleNotFoundError: `zstandard` is not installed.
    """
    import zstandard

    sink = _Hashing(out)
    listed = manifest.encoded()
    first = f"{COVERAGE_DIRECTORY}/{manifest.name}"
    total = BLOCK * 2
    heads = [header(file.path, file.bytes) for file in manifest.files]
    first_head = header(first, len(listed))
    total += len(first_head) + len(listed) + padding(len(listed))
    total += sum(len(head) + file.bytes + padding(file.bytes) for head, file in zip(heads, manifest.files, strict=True))
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=workers(), write_checksum=True)
    changed: list[str] = []
    with (
        compressor.stream_writer(cast("IO[bytes]", sink), size=total, closefd=False) as stream,
        ThreadPoolExecutor(1, thread_name_prefix="seed-compressor") as pool,
    ):
        batch = _Batch(stream.write, pool)
        batch.add(first_head + listed + b"\0" * padding(len(listed)))
        for head, file in zip(heads, manifest.files, strict=True):
            batch.add(head)
            if not _add_file(f"{cache_dir}/{file.path}", file, batch):
                changed.append(file.path)
                break
            batch.add(b"\0" * padding(file.bytes))
        if changed:
            raise Changed(tuple(changed))
        batch.add(b"\0" * (BLOCK * 2))
        batch.finish()
    return Packed(f"sha256:{sink.hash.hexdigest()}", sink.count, len(manifest.files))


class _Batch:
    """Joins small pieces and hands them on to another thread: one call a megabyte instead of three a file.

    Reading and hashing the next files goes on while the compressor takes the last ones.
    """

    def __init__(self, write: Callable[[bytes], Any], pool: ThreadPoolExecutor) -> None:
        self._write = write
        self._pool = pool
        self._waiting: deque[Future[Any]] = deque()
        self._parts: list[bytes] = []
        self._held = 0

    def add(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._held += len(piece)
        if self._held >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._parts:
            while len(self._waiting) >= _BATCHES_AHEAD:
                self._waiting.popleft().result()
            self._waiting.append(self._pool.submit(self._write, b"".join(self._parts)))
        self._parts.clear()
        self._held = 0

    def finish(self) -> None:
        """Everything was taken. Raises what the compressor or the disk raised."""
        self.flush()
        while self._waiting:
            self._waiting.popleft().result()


def _add_file(path: str, file: ListedFile, batch: _Batch) -> bool:
    """Append one file's bytes; False when it is not, or does not stay, what the manifest says."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        content = hashlib.sha256()
        left = file.bytes
        while piece := os.read(fd, min(left + 1, _BATCH_BYTES)):  # one byte more than is left: it must not be there
            left -= len(piece)
            if left < 0:
                return False
            content.update(piece)
            batch.add(piece)
            if not left and len(piece) < _BATCH_BYTES:
                break
    finally:
        os.close(fd)
    return not left and content.hexdigest() == file.sha256


class _Hashing(io.RawIOBase):
    """Passes bytes on, counts and hashes them."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.hash = hashlib.sha256()
        self.count = 0

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        self.count += len(data)
        self._out.write(data)
        return len(data)
