"""One seeding of a cache directory at a time on this machine, however many ranks and launches start together.

The lock is flock(2) on a file in a local directory of this user, never on the cache's own file system: a rented volume
or a network mount may take the call and lock nothing. The kernel lets go when the holder dies, so a killed seeding
leaves no lock behind, and what it left half done is told from work in progress by holding the lock.

Two machines that share a cache directory do not see each other's lock. They do no harm to one another, because a seed
goes in by renames of whole, verified files; they only do the work twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

#: Longer than unpacking any seed takes; whoever waits this long is told, and starts without one.
WAIT_S: Final = 900.0
_POLL_S: Final = (0.02, 0.5)


class SeedLock:
    """`with SeedLock(cache_dir):` waits for its turn.

    Raises:
        TimeoutError: somebody else held it for `wait_s`.
        OSError: the lock's directory cannot be made, or belongs to somebody else.
    """

    def __init__(self, cache_dir: Path, *, wait_s: float = WAIT_S, directory: Path | None = None) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(cache_dir))).hexdigest()[:32]
        self._directory = lock_directory() if directory is None else directory
        self._path = self._directory / f"seed-{name}.lock"
        self._wait_s = wait_s
        self._fd: int | None = None

    def __enter__(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{str(self._directory)!r} is not a directory of this user")
        ends = time.monotonic() + self._wait_s
        while self._fd is None:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._acquire(fd, ends)
            except BaseException:
                os.close(fd)
                raise
            # The last holder removed the file that we waited for: what is locked must be what others will open.
            if self._is_current(fd):
                self._fd = fd
            else:
                os.close(fd)

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _acquire(self, fd: int, ends: float) -> None:
        pause_s, longest_s = _POLL_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise TimeoutError(f"another process has been seeding it for {self._wait_s:g} s") from None
            time.sleep(pause_s)
            pause_s = min(longest_s, pause_s * 1.5)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            with suppress(FileNotFoundError):  # somebody cleaned the directory
                os.unlink(self._path)
            os.close(self._fd)
            self._fd = None


def lock_directory() -> Path:
    """A directory that all processes of this user on this machine agree on, whatever their TMPDIR."""
    return Path("/tmp") / f"lanemark-locks-{os.getuid()}"  # noqa: S108 - its owner is checked before it is used
