"""Read back what was seen of the ranks while they ran, and what was named then.

Damaged lines are counted and not believed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from lanemark.records.attempt import AttemptPaths
from lanemark.records.encoding import safe_text
from lanemark.records.look import Look, look_of

T = TypeVar("T")

#: The supervisor keeps 4 MiB of looks; of a longer file only the end is read, which is where a hang shows.
_MAX_BYTES: Final = 8 * 1024 * 1024


def read_looks(paths: AttemptPaths) -> tuple[tuple[Look, ...], str | None]:
    """The attempt's looks, oldest first, and what was wrong with the file (None: nothing, or there is none)."""
    return _lines(paths.looks, look_of)


def read_named(paths: AttemptPaths) -> tuple[tuple[str, ...], str | None]:
    """What was named while the ranks ran, one sentence each, and what was wrong with the file."""
    return _lines(paths.named, _summary)


def _summary(line: bytes) -> str:
    doc = json.loads(line)
    try:
        return safe_text(str(doc.get("finding", doc)["summary"])[:500])
    except (AttributeError, KeyError, TypeError):
        raise ValueError("not a naming") from None


def _lines(path: Path, read: Callable[[bytes], T]) -> tuple[tuple[T, ...], str | None]:
    try:
        data = _tail(path)
    except FileNotFoundError:
        return (), None
    except OSError as error:
        return (), f"{path.name}: {error.strerror or error}"
    good: list[T] = []
    bad = 0
    for line in data.splitlines():
        try:
            good.append(read(line))
        except (ValueError, RecursionError):
            bad += 1
    # The last line of a run that is still going, or was cut short, may be half written.
    whole = bad == 0 or (bad == 1 and not data.endswith(b"\n"))
    return tuple(good), None if whole else f"{path.name}: {bad} lines are damaged"


def _tail(path: Path) -> bytes:
    """The end of a regular file. Raises OSError for anything else: a link or a pipe is no file of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"{path.name} is not a regular file")
        if info.st_size <= _MAX_BYTES:
            return file.read(_MAX_BYTES)
        file.seek(info.st_size - _MAX_BYTES)
        return file.read(_MAX_BYTES).split(b"\n", 1)[-1]
