"""The tar header of one file of a seed archive: the only one that is right, and what a wrong one is called. Pure.

A seed archive has one legal form (`lanemark.stage.seed_archive`), so a header is compared and not interpreted. Only
when it differs is it looked at, to tell a symbolic link from a flipped bit in the message; either way it is refused.
"""

from __future__ import annotations

import struct
import tarfile
from typing import Final, Literal

from lanemark.lanes.cache_manifest import checked_path
from lanemark.observe.compile_cache import ListedFile

BLOCK: Final = 512
#: POSIX.1-1988 "ustar": name, mode, uid, gid, size, mtime, checksum, type, link, magic, version, and the prefix.
_USTAR: Final = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_USTAR_MAX_SIZE: Final = 8**11 - 1

Outcome = Literal["damaged", "refused", "empty", "incompatible"]


class Unusable(Exception):  # noqa: N818 - a verdict on a seed, which its caller records; nothing broke
    """A seed that is not to be used: `damaged` (not what it was), `refused` (not what it may be), `empty`, or
    `incompatible` (for something else).
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def header(path: str, size: int) -> bytes:
    """The header of one regular file: a ustar block, with a pax block before it where the path or the size asks for it.

    Everything else in it is constant: mode 0644, no owner, no time.
    """
    raw = path.encode("utf-8")
    name, prefix = raw, b""
    if len(raw) > 100:
        cut = raw.rfind(b"/", 0, 156)
        name, prefix = raw[cut + 1 :], raw[: max(cut, 0)]
    if not path.isascii() or len(name) > 100 or not name or size > _USTAR_MAX_SIZE:
        member = tarfile.TarInfo(path)
        member.size = size
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    fields = [
        name, b"0000644", b"0000000", b"0000000", b"%011o" % size, b"00000000000", b" " * 8, b"0", b"", b"ustar", b"00",
        b"", b"", b"0000000", b"0000000", prefix,
    ]  # fmt: skip
    fields[6] = b"%06o\0 " % sum(_USTAR.pack(*fields))
    return _USTAR.pack(*fields)


def padding(size: int) -> int:
    """Bytes after so many that fill up the last block."""
    return -size % BLOCK


def not_expected(found: bytes, file: ListedFile) -> Unusable:
    """What stands where the header of `file` should: told apart for the message only, since all of it is refused."""
    try:
        member = tarfile.TarInfo.frombuf(found[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        if not found[:BLOCK].strip(b"\0"):
            return Unusable("damaged", f"it ends before {file.path!r}: its manifest names more than it holds")
        return Unusable("damaged", f"the header before {file.path!r} is damaged ({error})")
    if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        return Unusable("refused", f"an extended header stands where {file.path!r} should")
    if not member.isreg():
        return Unusable("refused", f"{described(member)} stands where {file.path!r} should")
    try:
        checked_path(member.name)
    except ValueError as error:
        return Unusable("refused", f"a member climbs out of the archive: {error}")
    if member.name != file.path:
        return Unusable("refused", f"{described(member)} stands where {file.path!r} should")
    if member.size != file.bytes:
        return Unusable("refused", f"{file.path!r} is {member.size} bytes and its manifest says {file.bytes}")
    return Unusable("refused", f"the header of {file.path!r} is not one that we write")


def described(member: tarfile.TarInfo) -> str:
    """A tar member in words."""
    kinds = (
        (member.issym(), "a symbolic link"),
        (member.islnk(), "a hard link"),
        (member.isdir(), "a directory"),
        (member.isdev(), "a device or a pipe"),
        (member.isreg(), "a file"),
    )
    kind = next((word for holds, word in kinds if holds), "a member of unknown type")
    return f"{kind} {member.name[:120]!r}"
