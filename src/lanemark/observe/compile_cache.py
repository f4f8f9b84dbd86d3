"""What a compile cache directory holds: keys and binaries counted apart, and a digest of the content.

Keys alone prove nothing. With every compiled library deleted, torch's counters still report hits while the compiler
rebuilds everything; so an inventory counts the entries that are looked up (`fxgraph/`, `aotautograd/`) and the
machine code that is loaded (`.so`, `.cubin`, …) separately, and the digest covers every byte of both.

Layout seen with torch 2.13 (inductor, processor): `fxgraph/<2>/<key>/<hash>`, `aotautograd/<key>/<hash>`,
`<2>/<hash>.{cpp,py,so}`, `locks/*.lock`. Two runs that reuse a cache fully leave it identical byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lanemark.observe.reading import reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: Directories whose files are cache entries, looked up by key.
KEY_DIRECTORIES: Final = ("fxgraph", "aotautograd")
#: Machine code: host libraries, CUDA and ROCm binaries, and the objects some back ends keep.
BINARY_SUFFIXES: Final = (".so", ".cubin", ".hsaco", ".fatbin", ".o")
#: A cache larger than this is somebody's home directory given by mistake.
MAX_FILES: Final = 200_000
MAX_BYTES: Final = 64 * 1024**3
_CHUNK_BYTES: Final = 1 << 20


@dataclass
class _Tally:
    """What the walk has seen so far."""

    rows: list[str] = field(default_factory=list)
    bytes: int = 0
    keys: int = 0
    binaries: int = 0


class _TooLargeError(Exception):
    pass


def left_out(relative: Path) -> bool:
    """Files that are no content: locks, and the temporaries of a writer that is at work or died."""
    parts = relative.parts
    name = parts[-1]
    return name.endswith((".lock", ".tmp")) or any(part == "locks" or part.startswith("tmp.") for part in parts)


def is_key(relative: Path) -> bool:
    """Whether a file is an entry that is looked up by key."""
    return any(part in KEY_DIRECTORIES for part in relative.parts[:-1])


def is_binary(relative: Path) -> bool:
    """Whether a file is machine code, by its name."""
    return relative.suffix in BINARY_SUFFIXES


def inventory(directory: str | os.PathLike[str]) -> Observation[dict[str, Any]]:
    """`{"files", "bytes", "keys", "binaries", "digest"}` of a cache directory. Never raises.

    Absent when the directory does not exist; unavailable when any part of it cannot be read, since an inventory with
    holes would compare as a smaller cache. Symbolic links are not followed. The digest is over the sorted lines
    `relative path, size, sha256 of the content`.
    """
    base = Path(directory)
    source = f"walk of {safe_text(str(base))}"
    try:
        if not stat.S_ISDIR(os.stat(base).st_mode):
            return unavailable(source, "it is not a directory")
    except FileNotFoundError:
        return absent(source, "the directory does not exist")
    except OSError as error:
        return unavailable(source, reason_of(error))
    tally = _Tally()
    try:
        _walk(base, Path(), tally)
    except (OSError, _TooLargeError) as error:
        return unavailable(source, reason_of(error))
    total = hashlib.sha256("".join(sorted(tally.rows)).encode("utf-8", "surrogateescape")).hexdigest()
    return observed(
        {
            "files": len(tally.rows),
            "bytes": tally.bytes,
            "keys": tally.keys,
            "binaries": tally.binaries,
            "digest": f"sha256:{total}",
        },
        source,
    )


def _walk(base: Path, relative: Path, tally: _Tally) -> None:
    """Depth first; a cache nests a handful of levels, and `MAX_FILES` bounds the rest."""
    pending = [relative]
    while pending:
        here = pending.pop()
        try:
            entries = list(os.scandir(base / here))
        except FileNotFoundError:
            continue  # a temporary directory that its writer has just renamed or removed
        for entry in entries:
            path = here / entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "locks" and not entry.name.startswith("tmp."):
                    pending.append(path)
            elif entry.is_file(follow_symlinks=False) and not left_out(path):
                _count(base, path, tally)


def _count(base: Path, relative: Path, tally: _Tally) -> None:
    try:
        size, digest = _hash(base / relative)
    except FileNotFoundError:
        return
    tally.rows.append(f"{relative.as_posix()}\0{size}\0{digest}\n")
    tally.bytes += size
    tally.keys += is_key(relative)
    tally.binaries += is_binary(relative)
    if len(tally.rows) > MAX_FILES or tally.bytes > MAX_BYTES:
        raise _TooLargeError(f"it holds more than {MAX_FILES} files or {MAX_BYTES} bytes and is no compile cache")


def _hash(path: Path) -> tuple[int, str]:
    """Size and sha256 of one regular file, never through a link and never blocking on a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        content = hashlib.sha256()
        size = 0
        while chunk := file.read(_CHUNK_BYTES):
            content.update(chunk)
            size += len(chunk)
    return size, content.hexdigest()
