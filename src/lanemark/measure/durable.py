"""Files that are whole or not there: atomic replacement and allocation before use.

A reader of a file written by `replace_file` sees the old bytes or the new ones, also after a power cut: the new bytes
are synced before the name moves, and the directory is synced after it. Writing to the final name was rejected: a
process killed half-way leaves half a document, and half a document reads like evidence of something else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Make `path` hold exactly `data`, atomically and durably.

    Raises:
        OSError: the directory is missing, unwritable or full; `path` is then what it was before.
    """
    _replace(path, data)
    sync_directory(path.parent)


def replace_files(root: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """`replace_file` for many files below `root`, by `/`-separated names; each directory is synced once, at the end.

    Each file is whole or not there at every moment; all of them are durable when this returns, and not before.

    Returns:
        The names, in the order given.

    Raises:
        OSError: as `replace_file`; files before the one that failed may be in place.
    """
    names, directories = [], {""}
    for name, data in files:
        inside = name.rpartition("/")[0]
        while inside not in directories:
            directories.add(inside)
            (root / inside).mkdir(parents=True, exist_ok=True)
            inside = inside.rpartition("/")[0]
        _replace(root / name, data)
        names.append(name)
    for inside in sorted(directories):
        sync_directory(root / inside)
    return names


def staged_name(path: Path) -> Path:
    """Beside `path`, where its bytes may be written until `place_staged` moves them there."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def place_staged(root: Path, files: Iterable[tuple[str, Path]]) -> list[str]:
    """`replace_files` for bytes that lie on the same disk already: (name below `root`, where they were staged).

    Returns:
        The names, in the order given.

    Raises:
        OSError: as `replace_files`.
    """
    names, directories = [], set()
    for name, staged in files:
        fd = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(staged, root / name)
        names.append(name)
        directories.add(name.rpartition("/")[0])
    for inside in sorted({parent for each in directories for parent in _upwards(each)}):
        sync_directory(root / inside)
    return names


def _upwards(inside: str) -> Iterator[str]:
    """A `/`-separated directory and every one that it lies in, up to the root of them all, which is empty."""
    while inside:
        yield inside
        inside = inside.rpartition("/")[0]
    yield ""


def _replace(path: Path, data: bytes) -> None:
    staged = staged_name(path)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: `os.write` may take only part of them when a disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. File systems that cannot (some network mounts) are let be."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def preallocate(path: Path, size_bytes: int) -> None:
    """Create `path` with `size_bytes` of zeros that really have blocks behind them.

    A sparse file would not do: its promise breaks on the day the disk is full, and for a mapped file it breaks as a
    SIGBUS in the middle of a step.

    Raises:
        OSError: ENOSPC when the space is not there; nothing is left behind.
        FileExistsError: `path` exists already.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def map_new_page_file(path: Path, size_bytes: int) -> tuple[int, Path]:
    """Allocate a file under a staging name, for a writer that fills its header before anyone may see it.

    Returns:
        A read-write descriptor, and the staging path that `os.replace` shall move to `path` when the header is written.

    Raises:
        OSError: as `preallocate`.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    preallocate(staged, size_bytes)
    return os.open(staged, os.O_RDWR | os.O_CLOEXEC), staged
