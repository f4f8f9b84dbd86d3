"""Hash again what already lies on this host, piece by piece: nothing that is found is believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lanemark.stage.objects import PIECE_BYTES, num_pieces
from lanemark.stage.store import extra_missing

_READ_BYTES: Final = 1024 * 1024


def piece_digests(path: Path, size_bytes: int) -> tuple[str, ...] | None:
    """blake3 of each piece of a regular file of this size, or None when it is none or cannot be read."""
    found = _digests(path, size_bytes, range(num_pieces(size_bytes)), links=True)
    return None if found is None else tuple(found[piece] for piece in sorted(found))


def verified_pieces(path: Path, size_bytes: int, expected: Mapping[int, str]) -> dict[int, str]:
    """Those of the expected pieces that really lie in a file. One with a second name is not ours to go on writing."""
    found = _digests(path, size_bytes, sorted(expected), links=False)
    return {} if found is None else {piece: digest for piece, digest in found.items() if expected[piece] == digest}


def _digests(path: Path, size_bytes: int, pieces: list[int] | range, *, links: bool) -> dict[int, str] | None:
    try:
        from blake3 import blake3
    except ImportError:
        raise extra_missing("verifying what is there needs blake3") from None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != size_bytes or (info.st_nlink > 1 and not links):
            return None
        found: dict[int, str] = {}
        for piece in pieces:
            state = blake3()
            at, stop = piece * PIECE_BYTES, min(size_bytes, (piece + 1) * PIECE_BYTES)
            while at < stop:
                part = os.pread(fd, min(_READ_BYTES, stop - at), at)
                if not part:
                    return None
                state.update(part)
                at += len(part)
            found[piece] = state.hexdigest()
        return found
    except OSError:
        return None
    finally:
        os.close(fd)
