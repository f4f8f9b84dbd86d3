"""The directory that a command of one's own is typed in, as one archive: packed here, unpacked in the container.

A command names its script and its files relative to where it is typed, so that directory goes along. It goes as one
tar archive on the data Volume, named by the digest of its exact bytes, and is unpacked only when it has them: what runs
is what was planned, whoever else writes to the Volume. The same files give the same archive: names are sorted, and
times and owners are left out. Handing the directory to the service's own upload was rejected: it is read file by file
after the plan was made, and nothing would say whether what arrived is what was planned.

What is hidden (`.git`, `.env`, `.venv`) stays here, as does what tools leave; symbolic links are not followed.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.launch.modal_results import plain
from lanemark.records.errors import UsageError

#: A training script with its modules is far below; a directory above holds data or weights, which go by other ways.
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 4000
_LEFT_DIRECTORIES: Final = frozenset({"__pycache__", "node_modules", "venv"})
_LEFT_ENDINGS: Final = (".pyc", "~", ".swp", ".orig")


@dataclass(frozen=True)
class Code:
    """What is said of an archive in a request.

    Attributes:
        digest: `sha256:…` of its bytes.
        num_files, num_bytes: what is in it.
    """

    digest: str
    num_files: int
    num_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "files": self.num_files, "bytes": self.num_bytes}


def volume_path(digest: str) -> str:
    """Where an archive lies on the data Volume. Pure."""
    return f"code/{digest.removeprefix('sha256:')}.tar"


def pack(directory: Path, *, max_bytes: int = MAX_BYTES) -> tuple[Code, bytes]:
    """The archive of a directory, in memory, and what is said of it.

    Raises:
        UsageError: `modal-code-unfit`: it is too large, or a file cannot be read.
    """
    files: list[tuple[str, Path, int]] = []
    total = 0
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not _left(name) and name not in _LEFT_DIRECTORIES)
        for name in sorted(names):
            path = Path(place, name)
            if _left(name) or name.endswith(_LEFT_ENDINGS) or path.is_symlink() or not path.is_file():
                continue
            inside = path.relative_to(directory).as_posix()
            size = path.stat().st_size
            total += size
            if total > max_bytes or len(files) >= MAX_FILES:
                raise _unfit(directory, f"holds more than {MAX_FILES} files or {max_bytes // 2**20} MiB, at {inside!r}")
            files.append((inside, path, size))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for inside, path, size in sorted(files):
            entry = tarfile.TarInfo(inside)
            try:
                data = path.read_bytes()
                entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            except OSError as error:
                raise _unfit(directory, f"has a file {inside!r} that cannot be read ({error.strerror})") from None
            if len(data) != size:
                raise _unfit(directory, f"has a file {inside!r} that changed while it was read")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = packed.getvalue()
    return Code(f"sha256:{hashlib.sha256(data).hexdigest()}", len(files), total), data


def unpack(data: bytes, digest: str, into: Path) -> None:
    """Lay an archive's files below `into`, which is made. Nothing but regular files with plain names is taken.

    Raises:
        ValueError: it has other bytes than `digest` says, or is no archive of ours.
    """
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ValueError("its bytes are not those that were planned")
    into.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                if not entry.isreg() or not plain(entry.name):
                    raise ValueError(f"it has an entry {entry.name[:100]!r} that is no plain file")
                target = into / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                file = archive.extractfile(entry)
                assert file is not None
                target.write_bytes(file.read())
                target.chmod(entry.mode & 0o755)
    except tarfile.TarError as error:
        raise ValueError(f"it is no archive ({error})") from None


def _left(name: str) -> bool:
    return name.startswith(".")


def _unfit(directory: Path, why: str) -> UsageError:
    return UsageError(
        "modal-code-unfit",
        f"the directory {str(directory)!r}, which a command of your own takes along, {why}",
        "type the command in a directory that holds the code alone; data goes by --bucket or in the image",
    )
