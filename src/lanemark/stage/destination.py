"""`Destination`: one writer, a work directory beside it, and one rename at the end.

A directory of data is there whole or not at all. Objects arrive in a hidden work directory beside the destination,
where an interrupted staging leaves them for the next one; then everything is synced once, and the finished directory
takes the destination's name. Data that lay there before stays in place and whole until that moment.

**One writer.** Two launches, or eight ranks, that ask for the same destination take turns, and whoever comes second
finds the work done. The turn is a lock on a file of this host's own temporary directory, because volumes may know
no locks, and a second one on the work directory itself, which other containers of the host see as well. Where the file
system has no locks, the first one alone has to do.

**Durability.** No file is synced by itself: 100,000 small ones would take minutes. One `syncfs` covers all of them, and
only then does the directory get its name. A power cut before that leaves a journal whose pieces are verified again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lanemark.measure.durable import sync_directory
from lanemark.records.encoding import safe_text
from lanemark.records.errors import StageError
from lanemark.stage.names import STAGED_NAME
from lanemark.stage.transfer import unwritable

#: Left free beyond the data: journals, directory entries, and room for others.
RESERVE_BYTES: Final = 64 * 1024 * 1024
_POLL_S: Final = 0.1
_AT_FDCWD: Final = -100
#: renameat2(2).
_RENAME_EXCHANGE: Final = 2
_NO_LOCKS: Final = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL})


class Destination:
    """A directory to be, and the work directory beside it.

    Attributes:
        path: absolute, links in its parents resolved, so that two spellings are one destination.
        work: the hidden work directory.
        tree: where objects arrive.
        journal: the journal's path.
    """

    def __init__(self, path: Path | str) -> None:
        given = Path(os.path.abspath(path))
        self.path = given.parent.resolve() / given.name
        key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        self.work = self.path.parent / f".lanemark-stage-{key}"
        self.tree = self.work / "tree"
        self.journal = self.work / "journal"
        self._key = key

    @property
    def shown(self) -> str:
        return safe_text(str(self.path))

    @contextlib.contextmanager
    def turn(self, wait_s: float, stopped: threading.Event) -> Iterator[None]:
        """Be the only writer. Raises StageError `stage-busy` after `wait_s`, or `stage-destination`."""
        ends = time.monotonic() + wait_s
        with contextlib.ExitStack() as held:
            try:
                local = _lock_directory() / f"{self._key}.lock"
                held.enter_context(self._locked(local, ends, stopped))
                os.makedirs(self.tree, mode=0o755, exist_ok=True)
                with contextlib.suppress(_NoLocksError):
                    held.enter_context(self._locked(self.work / "lock", ends, stopped))
            except OSError as error:
                raise unwritable(self.shown, error) from error
            old = self.work / "old"
            if old.exists() and not os.path.lexists(self.path):  # stopped between the two renames of `publish`
                os.rename(old, self.path)
            yield

    @contextlib.contextmanager
    def _locked(self, path: Path, ends: float, stopped: threading.Event) -> Iterator[None]:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends or stopped.wait(_POLL_S):
                        raise StageError(
                            "stage-busy",
                            f"another process is staging to {self.shown}",
                            "wait for it to end, or name another destination",
                        ) from None
                except OSError as error:
                    if error.errno in _NO_LOCKS:
                        raise _NoLocksError from None
                    raise
            yield
        finally:
            os.close(fd)

    def check(self) -> None:
        """Refuse to replace what staging did not make. Raises StageError `stage-destination`."""
        try:
            info = os.lstat(self.path)
            names = os.listdir(self.path) if stat.S_ISDIR(info.st_mode) else None
        except FileNotFoundError:
            return
        except OSError as error:
            raise unwritable(self.shown, error) from error
        if names is None or (names and STAGED_NAME not in names):
            what = "is no directory" if names is None else "holds files that were not staged"
            raise StageError(
                "stage-destination",
                f"the destination {self.shown} {what}",
                "name a directory that does not exist yet, or remove what is there yourself",
            )

    def check_room(self, needed_bytes: int) -> None:
        """Refuse when the disk has no room for what is still to come. Raises StageError `stage-space-short`."""
        free = free_bytes(self.path)
        if free is not None and free < needed_bytes + RESERVE_BYTES:
            raise StageError(
                "stage-space-short",
                f"{needed_bytes} bytes are to be staged and {free} are free at {self.shown}",
                "free some space or name a destination on a larger disk",
            )

    def publish(self) -> None:
        """Give the finished tree the destination's name, durably. Raises StageError."""
        try:
            sync_file_system(self.tree)
            if not os.path.lexists(self.path) or not os.listdir(self.path):
                os.rename(self.tree, self.path)
            elif not exchange(self.tree, self.path):
                # Some file systems (FUSE) cannot exchange: aside first, so that at no time a mixture has the name.
                os.rename(self.path, self.work / "old")
                os.rename(self.tree, self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise unwritable(self.shown, error) from error
        self.clear()

    def clear(self) -> None:
        """Remove the work directory. What is mapped by a running rank stays readable to it."""
        shutil.rmtree(self.work, ignore_errors=True)


class _NoLocksError(Exception):
    """The file system has no locks."""


def _lock_directory() -> Path:
    """A directory of this user's own on this host. Raises OSError where somebody else's has its name."""
    path = Path(tempfile.gettempdir()) / f"lanemark-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{path} is not a directory of this user's own")
    return path


def free_bytes(path: Path) -> int | None:
    """Bytes free where `path` is to lie, or None where the file system does not tell."""
    for place in (path, *path.parents):
        try:
            figures = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return figures.f_bavail * figures.f_frsize
    return None


def sync_file_system(directory: Path) -> None:
    """syncfs(2) on the file system of `directory`: everything written there before is durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the kernel or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done != 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return bool(done == 0)
