"""The attempt's lock: held by the supervising process for as long as it lives, released by the kernel when it dies.

flock(2) belongs to the open file and not to a process: it needs no pid that may be recycled and no heartbeat that may
be late, a killed supervisor lets go of it at once, and a child that inherits the descriptor holds it too. That is how a
launcher hands an attempt over: from before the manifest is written until the supervisor has sealed, the lock is never
free for a moment, whoever is killed when. Whoever finds it free knows that nobody is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType


class AttemptLock:
    """`with AttemptLock(path) as held:` never waits; `held` says whether the lock was free.

    The descriptor is not inherited unless it is handed over by number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @classmethod
    def inherited(cls, path: Path, fd: int) -> AttemptLock | None:
        """The lock that a launcher handed over as descriptor `fd`, or None where that is not the lock of `path`."""
        try:
            os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
            here, there = os.fstat(fd), os.stat(path)
        except OSError:
            return None
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            return None
        lock = cls(path)
        lock._fd = fd
        return lock

    def take(self) -> bool:
        """Take the lock if it is free; False when somebody else holds it. Held already: True.

        Raises:
            OSError: the directory is missing or not writable.
        """
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def fileno(self) -> int:
        """The descriptor that holds the lock. Whoever has a copy of it holds it too."""
        assert self._fd is not None, "the lock is not held"
        return self._fd

    def release(self) -> None:
        """Let go of it. A child that inherited the descriptor holds it on."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> bool:
        return self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
