"""What a compile cache directory holds: keys and binaries counted apart, and a digest of the content.

Keys alone prove nothing. With every compiled library deleted, torch's counters still report hits while the compiler
rebuilds everything; so an inventory counts the entries that are looked up (`fxgraph/`, `aotautograd/`) and the
machine code that is loaded (`.so`, `.cubin`, …) separately, and the digest covers every byte of both.

Layout seen with torch 2.13 (inductor, processor): `fxgraph/<2>/<key>/<hash>`, `aotautograd/<key>/<hash>`,
`<2>/<hash>.{cpp,py,so}`, `locks/*.lock`. Two runs that reuse a cache fully leave it identical byte for byte.

A `listing` is the same walk with a row a file, for whoever must say *which* entry is missing. It leaves out
`coverage/`, which is our own bookkeeping and in no inventory either, and `tmp/`, the ranks' TMPDIR, but for the
precompiled header there. On a CPU torch makes the header it would compile with *before* it looks whether there is
anything to compile: with none, a start whose every lookup hits still costs a rank 7 s of the compiler. It is 150 MB,
and 20 MB in an archive.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

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
#: Where coverage manifests and the note of the last seed lie: written by us about the cache, and no part of it.
COVERAGE_DIRECTORY: Final = "coverage"
#: The ranks' TMPDIR in a cache directory (`launch/environment.py`), at its top or below one rank's directory.
TEMPORARY_DIRECTORY: Final = "tmp"
#: Precompiled headers below it, named by what they are made from (torch/_inductor/codecache.py, `_HEADER_DIR`).
HEADER_DIRECTORY: Final = "precompiled_headers"
_CHUNK_BYTES: Final = 1 << 20

Kind = Literal["fx", "aot", "binary", "other"]
KINDS: Final = ("fx", "aot", "binary", "other")


class ListedFile(NamedTuple):
    """One file of a cache: `/`-separated path below the cache directory, size, sha256 in hexadecimal, and kind."""

    path: str
    bytes: int
    sha256: str
    kind: Kind


@dataclass
class _Tally:
    """What the walk has seen so far."""

    rows: list[ListedFile] = field(default_factory=list)
    bytes: int = 0


class _TooLargeError(Exception):
    pass


def left_out(relative: Path) -> bool:
    """Files that are no content: locks, and the temporaries of a writer that is at work or died."""
    return _temporary(relative.parts)


def _temporary(parts: Sequence[str]) -> bool:
    name = parts[-1]
    return name.endswith((".lock", ".tmp")) or any(part == "locks" or part.startswith("tmp.") for part in parts)


def is_key(relative: Path) -> bool:
    """Whether a file is an entry that is looked up by key."""
    return any(part in KEY_DIRECTORIES for part in relative.parts[:-1])


def is_binary(relative: Path) -> bool:
    """Whether a file is machine code, by its name."""
    return relative.suffix in BINARY_SUFFIXES


def kind_of(path: str) -> Kind:
    """What a file of a cache is, by where it lies and what it is called; `/`-separated path below the cache."""
    directories = path.split("/")[:-1]
    if "fxgraph" in directories:
        return "fx"
    if "aotautograd" in directories:
        return "aot"
    return "binary" if path.endswith(BINARY_SUFFIXES) else "other"


def bookkeeping(relative: Path) -> bool:
    """Whether a path below a cache directory is ours and not the compiler's."""
    return relative.parts[0] == COVERAGE_DIRECTORY


def seedable(relative: Path) -> bool:
    """Whether a file is worth carrying to another cache: content, and not below a TMPDIR or our own bookkeeping."""
    return seedable_parts(relative.parts)


def seedable_parts(parts: Sequence[str]) -> bool:
    """As `seedable`, for a path that was taken apart already."""
    if parts[0] == COVERAGE_DIRECTORY or _temporary(parts):
        return False
    below = parts[1:] if parts[0].startswith("rank-") and len(parts) > 1 else parts
    return below[0] != TEMPORARY_DIRECTORY or is_header(parts)


def is_header(parts: Sequence[str]) -> bool:
    """Whether a path is a precompiled header or its source. Two of one name serve alike, whatever their bytes."""
    return HEADER_DIRECTORY in parts[:-1] and parts[-1].endswith((".h", ".gch"))


def inventory(directory: str | os.PathLike[str]) -> Observation[dict[str, Any]]:
    """`{"files", "bytes", "keys", "binaries", "digest"}` of a cache directory. Never raises.

    Absent when the directory does not exist; unavailable when any part of it cannot be read, since an inventory with
    holes would compare as a smaller cache. Symbolic links are not followed. The digest is over the sorted lines
    `relative path, size, sha256 of the content` of what a listing has: other temporaries make no other cache.
    """
    seen = _listed(Path(directory), lambda relative: not bookkeeping(relative))
    if isinstance(seen, Observation):
        return seen
    rows, source = seen
    lines = sorted(f"{row.path}\0{row.bytes}\0{row.sha256}\n" for row in rows if seedable(Path(row.path)))
    total = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return observed(
        {
            "files": len(rows),
            "bytes": sum(row.bytes for row in rows),
            "keys": sum(is_key(Path(row.path)) for row in rows),
            "binaries": sum(is_binary(Path(row.path)) for row in rows),
            "digest": f"sha256:{total}",
        },
        source,
    )


def listing(directory: str | os.PathLike[str]) -> Observation[tuple[ListedFile, ...]]:
    """Every seedable file of a cache directory, sorted by path, with the hash of its content. Never raises.

    Absent and unavailable as `inventory`: a listing with holes would read as missing entries.
    """
    seen = _listed(Path(directory), seedable)
    if isinstance(seen, Observation):
        return seen
    rows, source = seen
    return observed(tuple(sorted(rows)), source)


def _listed(base: Path, wanted: Callable[[Path], bool]) -> tuple[list[ListedFile], str] | Observation[Any]:
    """The rows of all wanted files and the walk's name, or why there are none."""
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
        _walk(base, tally, wanted)
    except (OSError, _TooLargeError) as error:
        return unavailable(source, reason_of(error))
    return tally.rows, source


def _walk(base: Path, tally: _Tally, wanted: Callable[[Path], bool]) -> None:
    """Depth first; a cache nests a handful of levels, and `MAX_FILES` bounds the rest."""
    pending = [Path()]
    while pending:
        here = pending.pop()
        try:
            entries = list(os.scandir(base / here))
        except FileNotFoundError:
            continue  # a temporary directory that its writer has just renamed or removed
        for entry in entries:
            path = here / entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "locks" and not entry.name.startswith("tmp.") and not bookkeeping(path):
                    pending.append(path)
            elif entry.is_file(follow_symlinks=False) and not left_out(path) and wanted(path):
                _count(base, path, tally)


def _count(base: Path, relative: Path, tally: _Tally) -> None:
    try:
        size, digest = hash_file(base / relative)
    except FileNotFoundError:
        return
    tally.rows.append(ListedFile(relative.as_posix(), size, digest, kind_of(relative.as_posix())))
    tally.bytes += size
    if len(tally.rows) > MAX_FILES or tally.bytes > MAX_BYTES:
        raise _TooLargeError(f"it holds more than {MAX_FILES} files or {MAX_BYTES} bytes and is no compile cache")


def hash_file(path: Path) -> tuple[int, str]:
    """Size and sha256 of one regular file, never through a link and never blocking on a pipe. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        content = hashlib.sha256()
        size = 0
        while chunk := file.read(_CHUNK_BYTES):
            content.update(chunk)
            size += len(chunk)
    return size, content.hexdigest()
