"""Rank logs that cannot fill the disk: the beginning and the end are kept, and one line says what was between them.

The beginning says how the rank was set up, the end how it died; the middle of 200 MB of output is neither. While a
rank runs, blocks in the middle of its log are given back to the file system (a hole; the file's length and the rank's
own position stay as they are). When it has ended the log is replaced by its two ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.measure.durable import replace_file

HEAD_BYTES: Final = 64 * 1024
TAIL_BYTES: Final = 192 * 1024
#: A running log may hold this much on disk before its middle is given back: far more than a healthy rank prints.
RUNNING_BYTES: Final = 32 * 1024 * 1024
_BLOCK: Final = 4096
# fallocate(2) modes (source: linux/falloc.h).
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2


@dataclass(frozen=True)
class LogCut:
    """A log that is not whole: `left_out_bytes` of `printed_bytes` are not kept."""

    rank: int
    stream: str
    printed_bytes: int
    left_out_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "stream": self.stream,
            "printed_bytes": self.printed_bytes,
            "left_out_bytes": self.left_out_bytes,
        }


def hole(size_bytes: int) -> tuple[int, int]:
    """Offset and length of what a log of this size may give back, in whole blocks. Length 0: nothing."""
    begin = HEAD_BYTES
    end = (size_bytes - TAIL_BYTES) // _BLOCK * _BLOCK
    return begin, max(0, end - begin)


def relieve(path: Path) -> bool:
    """Give back the middle of a running log when it has grown large. True when that was done.

    File systems without holes (EOPNOTSUPP) and full or missing ones are let be: the run's own limits then end it.
    """
    try:
        status = os.stat(path)
    except OSError:
        return False
    if status.st_blocks * 512 <= RUNNING_BYTES:
        return False
    offset, length = hole(status.st_size)
    return length > 0 and _punch(path, offset, length)


def compact(path: Path) -> tuple[int, int] | None:
    """Replace an ended rank's log by its two ends. None when it is short enough to be kept whole.

    Returns:
        Bytes printed and bytes left out. Where the shorter file cannot be written, the log stays as it is, with its
        middle given back where that works.
    """
    try:
        size_bytes = os.stat(path).st_size
        if size_bytes <= HEAD_BYTES + TAIL_BYTES + _BLOCK:
            return None
        left_out = size_bytes - HEAD_BYTES - TAIL_BYTES
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(size_bytes - TAIL_BYTES)
            tail = file.read(TAIL_BYTES)
        _punch(path, *hole(size_bytes))
        note = f"\n[lanemark: {left_out} bytes of {size_bytes} are left out here]\n".encode()
        with contextlib.suppress(OSError):
            replace_file(path, head + note + tail)
        return size_bytes, left_out
    except OSError:
        return None


def _punch(path: Path, offset: int, length: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if fallocate is None:
        return False
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return int(fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length)) == 0
    finally:
        os.close(fd)
