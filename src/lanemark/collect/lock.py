"""The attempt's lock: held by the supervising process for as long as it lives, released by the kernel when it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class AttemptLock:
    """`with AttemptLock(path) as held:` never waits; `held` says whether the lock was free.

    flock(2) belongs to the open file, so it needs no pid that may be recycled and no heartbeat that may be late, and a
    killed supervisor lets go of it at once. The descriptor is not inherited by the ranks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> bool:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
