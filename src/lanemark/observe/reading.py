"""Small guarded reads, and how a failed read becomes an honest observation.

The one distinction every probe leans on: a file that *does not exist* was looked for and is absent; a file that exists
and *would not open* was not looked at, and that is `unavailable` with the reason the system gave.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, unavailable

T = TypeVar("T")

#: Nothing under /proc or /sys that we parse comes near this; /proc/cpuinfo of a 384-thread host is about 600 kB.
MAX_TEXT_BYTES: Final = 8 * 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


def read_text(path: str | os.PathLike[str], limit_bytes: int = MAX_TEXT_BYTES) -> str:
    """The first `limit_bytes` of a file as text; undecodable bytes survive as escapes. Raises OSError.

    Read in small pieces: a file under /proc/sys answers ENOMEM to one large read (the kernel allocates the whole
    buffer).
    """
    pieces: list[bytes] = []
    left = limit_bytes
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def reason_of(error: BaseException) -> str:
    """A failure as one short line fit for a record: the kind of error and what the system said, never a traceback."""
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    else:
        lines = str(error).strip().splitlines()
        said = lines[0] if lines else "no further detail"
    return safe_text(f"{type(error).__name__}: {said}"[:300])


def from_error(source: str, error: OSError, *, absent_reason: str | None = None) -> Observation[Any]:
    """A failed read as an observation: no such file is `absent`, anything else is `unavailable`."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return absent(source, absent_reason or "no such file")
    return unavailable(source, reason_of(error))


def guarded(source: str, probe: Callable[[], Observation[T]]) -> Observation[T]:
    """Run one probe; whatever it raises becomes `unavailable`. A probe must never end a run."""
    try:
        return probe()
    except Exception as error:  # deliberate: an unforeseen failure to look is a reason, not a crash
        return unavailable(source, reason_of(error))
