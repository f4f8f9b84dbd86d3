"""Which source files a corpus is made of, chosen the same way on every machine. No file is opened here but to be read.

Directories are walked in byte order of their names and links are not followed, so that nothing is taken twice or from
outside. When there is more than may be used, files are kept in the order of a seeded hash of their names: the choice is
spread over the whole tree and does not change when an unrelated file is added.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lanemark.records.encoding import digest, encode, safe_text
from lanemark.records.errors import DataError

#: What a compiler or an interpreter would be given. Matched against the end of a lower-cased name.
SUFFIXES: Final = (".h", ".hpp", ".hh", ".cuh", ".inl", ".c", ".cc", ".cpp", ".cu", ".py", ".rs", ".go", ".java", ".js")


@dataclass(frozen=True)
class SourceFile:
    """One file: where it is, and the name that it goes by in digests (`/`-separated, below its source directory)."""

    path: Path
    name: str
    bytes: int
    mtime_ns: int


def torch_headers() -> Path:
    """The C++ headers inside torch's own wheel, found without importing torch.

    Raises:
        DataError: `corpus-empty` when torch is not installed here, or without its headers.
    """
    spec = importlib.util.find_spec("torch")
    found = Path(spec.origin).parent / "include" if spec is not None and spec.origin else None
    if found is None or not found.is_dir():
        raise DataError(
            "corpus-empty",
            "the default corpus is made of torch's C++ headers, and this interpreter has no torch with headers",
            "install torch, or name a directory of source code",
        )
    return found


def list_sources(directories: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> list[SourceFile]:
    """Every regular file with one of the suffixes, in byte order of (directory as given, name). Links are left out."""
    found: list[SourceFile] = []
    for number, root in enumerate(directories):
        prefix = f"{number}/" if len(directories) > 1 else ""
        for path, seen in _walk(root):
            if stat.S_ISREG(seen.st_mode) and path.name.lower().endswith(tuple(suffixes)):
                name = prefix + safe_text(str(path.relative_to(root)))
                found.append(SourceFile(path, name, seen.st_size, seen.st_mtime_ns))
    return sorted(found, key=lambda file: (file.name, os.fsencode(file.path)))


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Files below `root`. A directory that cannot be listed gives nothing; `root` itself must be there."""
    if not root.is_dir():
        raise DataError("corpus-empty", f"{safe_text(str(root))} is no directory", "name a directory of source code")
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                yield path, path.lstat()
            except OSError:
                continue  # gone since it was listed: the fingerprint will differ when it comes back


def _rank(seed: int, purpose: str, name: str) -> int:
    """A number in [0, 2^64) that depends on the seed and the name only."""
    state = hashlib.blake2s(f"{seed}:{purpose}:{name}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(state.digest(), "big")


def choose(files: Sequence[SourceFile], max_bytes: int, *, seed: int, purpose: str) -> list[SourceFile]:
    """As many files as fit into `max_bytes`, in their given order. All of them when they fit."""
    if sum(file.bytes for file in files) <= max_bytes:
        return list(files)
    kept: set[Path] = set()
    total = 0
    for file in sorted(files, key=lambda file: _rank(seed, purpose, file.name)):
        if total + file.bytes <= max_bytes:
            kept.add(file.path)
            total += file.bytes
    return [file for file in files if file.path in kept]


def held_out(name: str, share: float, *, seed: int) -> bool:
    """Whether a file belongs to validation: about `share` of all files, whole files and never parts of one."""
    return _rank(seed, "held out", name) < share * 2**64


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Changes when any file's name, size or modification time does. Cheap: nothing is read. Not portable: times."""
    return digest(encode([[file.name, file.bytes, str(file.mtime_ns)] for file in files]))
