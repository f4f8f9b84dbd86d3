"""`Landing`: one object on its way into a file: pieces in any order, digests that need order, and the last word.

Pieces arrive from several threads and are written where they belong. Digests over the whole object (a manifest's
sha256, a provider's MD5) need its bytes in order: whoever brings the piece that was waited for reads on from the file,
whose pages are still in memory. Nobody waits for anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from lanemark.stage.objects import PIECE_BYTES, StagedObject, Verification, Wanted, num_pieces

_READ_BYTES: Final = 1024 * 1024


class BrokenError(Exception):
    """The whole object's bytes are not the ones its digest names, though every piece seemed right."""


class Landing:
    """See the module.

    Args:
        number: the object's number in the journal.
        wanted: what it shall be.
        path: its file in the work directory; made, and given its blocks, when the first piece comes.
        sha256: whether to compute the sha256 even where nothing asks for it (a manifest is being made).
    """

    __slots__ = (
        "_before", "_fd", "_hashing", "_lock", "_md5", "_next", "_sha256", "digests", "num_pieces", "number", "path",
        "wanted",
    )  # fmt: skip

    def __init__(self, number: int, wanted: Wanted, path: Path, *, sha256: bool) -> None:
        self.number, self.wanted, self.path = number, wanted, path
        self.num_pieces = num_pieces(wanted.bytes)
        self.digests: dict[int, str] = {}
        self._lock = threading.Lock()
        self._fd: int | None = None
        held_by_pieces = wanted.pieces is not None
        self._sha256 = hashlib.sha256() if sha256 or (wanted.sha256 and not held_by_pieces) else None
        self._md5 = hashlib.md5(usedforsecurity=False) if wanted.md5 and not wanted.sha256 else None
        self._before: dict[int, str] | None = None
        self._next = 0
        self._hashing = False

    def span(self, piece: int) -> tuple[int, int]:
        """First byte of a piece and the one after its last."""
        return piece * PIECE_BYTES, min(self.wanted.bytes, (piece + 1) * PIECE_BYTES)

    def file(self) -> int:
        """The descriptor to write to. Blocks are claimed at once, so that a full disk is known before the transfer."""
        with self._lock:
            if self._fd is None:
                fd = self._made()
                try:
                    if self.num_pieces > 1:
                        os.posix_fallocate(fd, 0, self.wanted.bytes)
                except BaseException:
                    os.close(fd)
                    raise
                self._fd = fd
            return self._fd

    def _made(self) -> int:
        """Its file, opened: the one whose pieces were recovered, else a new one."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        if self.digests:
            return os.open(self.path, flags)
        flags |= os.O_CREAT | os.O_EXCL
        try:
            return os.open(self.path, flags, 0o644)
        except FileExistsError:
            # What lies there may be a second name of a published file, and must not be written to.
            os.unlink(self.path)
            return os.open(self.path, flags, 0o644)

    def landed(self, piece: int, digest: str) -> bool:
        """A piece is written and its own digest was right. True when it was the last, and the object is whole.

        Raises:
            BrokenError: the whole object's digest is not the wanted one.
        """
        with self._lock:
            self.digests[piece] = digest
        if self._sha256 is None and self._md5 is None:
            with self._lock:
                return len(self.digests) == self.num_pieces and self._claim_end()
        return self._read_on()

    def _claim_end(self) -> bool:
        """True for exactly one caller. The lock is held."""
        ended, self._next = self._next < self.num_pieces, self.num_pieces
        return ended

    def _read_on(self) -> bool:
        """Advance the ordered digests as far as pieces lie without a gap."""
        while True:
            with self._lock:
                if self._hashing or self._next not in self.digests:
                    return False
                self._hashing = True
                piece = self._next
            start, stop = self.span(piece)
            self._digest(start, stop)
            with self._lock:
                self._hashing = False
                self._next += 1
                whole = self._next == self.num_pieces
            if whole:
                self._check()
                return True

    def _digest(self, start: int, stop: int) -> None:
        fd = self.file()
        while start < stop:
            part = os.pread(fd, min(_READ_BYTES, stop - start), start)
            if not part:
                raise BrokenError("its file was cut short by somebody else")
            start += len(part)
            for state in (self._sha256, self._md5):
                if state is not None:
                    state.update(part)

    def _check(self) -> None:
        wanted = self.wanted
        if self._sha256 is not None and wanted.sha256 is not None and self._sha256.hexdigest() != wanted.sha256:
            raise BrokenError("its sha256 is not the manifest's")
        if self._md5 is not None and self._md5.hexdigest() != wanted.md5 and self._before != self.digests:
            # Either a byte is wrong, or the ETag is no MD5 (objects encrypted with a key of KMS have such). Bytes that
            # come twice the same are what the store holds, and are staged as unverified.
            self._before = dict(self.digests)
            raise BrokenError("its MD5 is not its ETag")

    def reset(self) -> None:
        """Forget every piece: the object has to come again from its first byte."""
        with self._lock:
            self.digests.clear()
            self._next = 0
            self._sha256 = hashlib.sha256() if self._sha256 is not None else None
            self._md5 = hashlib.md5(usedforsecurity=False) if self._md5 is not None else None

    def staged(self) -> StagedObject:
        """What was staged, once the object is whole."""
        wanted = self.wanted
        verified: Verification = "unverified"
        if wanted.sha256 is not None:
            verified = "manifest"
        elif self._md5 is not None and self._md5.hexdigest() == wanted.md5:
            verified = "provider"
        return StagedObject(
            name=wanted.name,
            bytes=wanted.bytes,
            sha256=self._sha256.hexdigest() if self._sha256 is not None else wanted.sha256,
            pieces=tuple(self.digests[piece] for piece in range(self.num_pieces)),
            etag=wanted.etag,
            version=wanted.version,
            tokens=wanted.tokens,
            verified=verified,
        )

    def close(self) -> None:
        """Give the descriptor back. Only when no thread can write any more."""
        with self._lock:
            if self._fd is not None:
                with contextlib.suppress(OSError):
                    os.close(self._fd)
                self._fd = None
