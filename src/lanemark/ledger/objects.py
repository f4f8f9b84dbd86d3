"""Objects: immutable files named by the sha256 of their bytes, published so that no crash can tear or lose one.

    <ledger>/objects/ab/<64 hex>.json   records
    <ledger>/evidence/ab/<64 hex>       the files that records rest on
    <ledger>/tmp/                       files being written; each is locked (flock) for as long as its writer lives
    <ledger>/damaged/                   files that were found not to be what their name says, kept for inspection

Publishing is: write under `tmp/` → fsync → hard-link to the final name without clobbering → unlink → fsync the
directory. A name therefore appears with all of its bytes or not at all, and once `publish` returns, it stays. Writing
at the final name instead tore 71 of 83 files when writers were killed at random; this order tore none in 560.

Standard library only: it runs beside the ranks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from lanemark.records.encoding import MAX_RECORD_BYTES
from lanemark.records.errors import LedgerError, RecordError

_CHUNK_BYTES: Final = 1024 * 1024
#: Longer than the record of a run on eight ranks; what is longer is read again, whole.
_SMALL_BYTES: Final = 64 * 1024
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_REGULAR: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX: Final = re.compile(r"[0-9a-f]{2}")
_OBJECT_NAME: Final = re.compile(r"(?P<hex>[0-9a-f]{64})\.json")
_ID: Final = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{1,64})")
#: Two-digit directories after which the others are made at once: a ledger of as many records will have more.
_SEVERAL: Final = 8
#: A writer that cannot be asked (no flock on that file system) and has not touched its file for a day is gone.
_UNLOCKABLE_AGE_S: Final = 86_400.0
#: File systems without hard links (FAT, some FUSE mounts) answer with one of these.
NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
#: Directories that cannot be fsynced (some network and FUSE file systems) answer with one of these.
_NO_DIRECTORY_FSYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF})


class ObjectFile(NamedTuple):
    """One entry under `objects/`: a record's file, or `problem` says why it is not one."""

    path: Path
    record_id: str | None
    problem: str | None = None


def object_path(ledger_root: Path, record_id: str) -> Path:
    """Where the record `sha256:<64 hex>` lies. Pure: touches nothing."""
    name = record_id.removeprefix("sha256:")
    return ledger_root / f"objects/{name[:2]}/{name}.json"


def evidence_path(ledger_root: Path, digest: str) -> Path:
    """Where the evidence `sha256:<64 hex>` lies. Pure: touches nothing."""
    name = digest.removeprefix("sha256:")
    return ledger_root / f"evidence/{name[:2]}/{name}"


def publish(ledger_root: Path, data: bytes) -> Path:
    """Put a record's bytes into the ledger; returns its path. Publishing the same bytes again changes nothing.

    Once this returns, the file survives a crash of the process and of the host.

    Raises:
        LedgerError: `ledger-unwritable` (read-only, full disk, permissions).
        RecordError: `record-too-large`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(
            "record-too-large",
            f"{len(data)} bytes is more than the {MAX_RECORD_BYTES} that a record may have",
            "keep raw samples and logs as evidence beside the record",
        )
    target = object_path(ledger_root, hashlib.sha256(data).hexdigest())
    try:
        if os.access(target, os.F_OK) and _settled(target):
            return target
        temporary, descriptor = _open_temporary(ledger_root)
        try:
            _put(descriptor, data)
            _seal(descriptor)
            _link(ledger_root, temporary, target)
        finally:
            _close(temporary, descriptor)
    except OSError as error:
        raise unwritable(ledger_root, error) from error
    return target


def publish_evidence(ledger_root: Path, name: str, source: Path | bytes) -> Path:
    """Put a copy of a piece of evidence into the ledger under its digest; returns its path. Idempotent.

    Args:
        ledger_root: the ledger.
        name: what the record calls it, for error messages.
        source: its bytes, or the file they are in. A symbolic link is refused: a rank could plant one.

    Raises:
        LedgerError: `ledger-unwritable`, or `attempt-unreadable` when the source cannot be read.
    """
    try:
        temporary, descriptor = _open_temporary(ledger_root)
        try:
            digest = _write(descriptor, (source,) if isinstance(source, bytes) else _chunks(name, source))
            target = evidence_path(ledger_root, digest)
            if not _settled(target):
                _seal(descriptor)
                _link(ledger_root, temporary, target)
        finally:
            _close(temporary, descriptor)
    except OSError as error:
        raise unwritable(ledger_root, error) from error
    return target


def iter_objects(ledger_root: Path) -> Iterator[ObjectFile]:
    """Every entry under `objects/`, in the order of its name; what does not belong there comes with its problem.

    Raises OSError when a directory that exists cannot be listed: that is not an empty ledger.
    """
    for directory in object_directories(ledger_root):
        if directory.problem is not None:
            yield directory
        else:
            yield from objects_in(directory.path)


def object_directories(ledger_root: Path) -> list[ObjectFile]:
    """The two-digit directories of `objects/`, and whatever else lies there with its problem; raises OSError."""
    return changed_directories(ledger_root, {})[0]


def changed_directories(ledger_root: Path, times_ns: Mapping[str, int]) -> tuple[list[ObjectFile], set[str]]:
    """As `object_directories`, without those that have the modification time given for them; and the names of those.

    One `stat` a directory whose time is given. Raises OSError.
    """
    objects = ledger_root / "objects"
    try:
        folder = os.open(objects, _FOLDER)
    except FileNotFoundError:
        return [], set()  # a new ledger
    changed: list[ObjectFile] = []
    unchanged: set[str] = set()
    try:
        with os.scandir(folder) as entries:  # by descriptor, so that a `stat` does not walk the path again
            for entry in entries:
                name = entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and times_ns.get(name) == entry.stat(follow_symlinks=False).st_mtime_ns:
                    unchanged.add(name)
                else:
                    known = is_folder and _PREFIX.fullmatch(name)
                    problem = None if known else "is not one of the ledger's directories"
                    changed.append(ObjectFile(objects / name, None, problem))
    finally:
        os.close(folder)
    return sorted(changed), unchanged


def objects_in(directory: Path) -> Iterator[ObjectFile]:
    """The entries of one two-digit directory of `objects/`."""
    names, others = records_in(directory)
    yield from sorted([*(ObjectFile(directory / name, f"sha256:{name[:64]}") for name in names), *others])


def records_in(directory: Path) -> tuple[list[str], list[ObjectFile]]:
    """File names of the records in a two-digit directory of `objects/`, and whatever else lies there. In order."""
    names: list[str] = []
    others: list[ObjectFile] = []
    for entry in _entries(directory):
        if _OBJECT_NAME.fullmatch(entry.name) is None or not entry.name.startswith(directory.name):
            others.append(ObjectFile(Path(entry.path), None, "is not named as a record of this directory"))
        elif not entry.is_file(follow_symlinks=False):
            others.append(ObjectFile(Path(entry.path), None, "is not a regular file"))
        else:
            names.append(entry.name)
    return names, others


def read_each(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
    """The bytes of files in one directory, or why they cannot be read, in as few system calls as there can be.

    Made for very many small files that were found to be regular ones and whose names are digests: what a read gives
    is all of a small local file, and whoever finds that it does not hash to its name asks `read_file` once more.
    Never follows a link and never waits for a FIFO. Raises OSError when the directory itself cannot be opened.
    """
    folder = os.open(directory, _FOLDER)
    try:
        for name in names:
            try:
                descriptor = os.open(name, _REGULAR, dir_fd=folder)
                try:
                    data = os.read(descriptor, _SMALL_BYTES)
                finally:
                    os.close(descriptor)
            except OSError as error:
                yield name, error
            else:
                yield name, data
    finally:
        os.close(folder)


def find(ledger_root: Path, prefix: str) -> Path:
    """The one record whose id begins with `prefix` (with or without `sha256:`).

    Raises:
        RecordError: `record-missing` or `record-ambiguous`.
        OSError: the ledger cannot be listed, which is not the same as an empty one.
    """
    match = _ID.fullmatch(prefix.strip().lower())
    if match is None:
        raise missing(prefix)
    wanted = match["hex"]
    if len(wanted) == 64:
        exact = object_path(ledger_root, wanted)
        if exact.is_file():
            return exact
        raise missing(prefix)
    found: list[Path] = []
    for directory in object_directories(ledger_root):
        if directory.problem is None and directory.path.name.startswith(wanted[:2]):
            found += [o.path for o in objects_in(directory.path) if o.record_id and o.path.name.startswith(wanted)]
    if not found:
        raise missing(prefix)
    if len(found) > 1:
        shown = ", ".join(path.stem[: max(12, len(wanted) + 4)] for path in sorted(found)[:4])
        raise RecordError(
            "record-ambiguous",
            f"{len(found)} records have an id that begins with {wanted!r} ({shown}{', …' if len(found) > 4 else ''})",
            "give more of its digits",
        )
    return found[0]


def missing(asked: str) -> RecordError:
    """The `record-missing` error for what a user typed."""
    shown = asked.encode("ascii", "backslashreplace").decode()[:80]
    return RecordError(
        "record-missing", f"no record in this ledger has the id {shown!r}", "list the records with `lanemark list`"
    )


def read_file(path: Path, limit_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """The bytes of a regular file, at most `limit_bytes` + 1 of them (so that a caller sees that it is too large).

    Never blocks on a FIFO and never reads a device. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        parts, left = [], limit_bytes + 1
        if 0 < status.st_size <= min(limit_bytes, _CHUNK_BYTES):
            # Most records are one read: a second one, to see the end, is only needed where the file is longer by now.
            part = os.read(descriptor, status.st_size + 1)
            if len(part) == status.st_size:
                return part
            parts, left = [part], left - len(part)
        while left > 0 and (part := os.read(descriptor, min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> tuple[str, int]:
    """(sha256 in hex, size in bytes) of a regular file, in constant memory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        sha, size = hashlib.sha256(), 0
        while part := os.read(descriptor, _CHUNK_BYTES):
            sha.update(part)
            size += len(part)
        return sha.hexdigest(), size
    finally:
        os.close(descriptor)


def sweep_temporary(ledger_root: Path, *, older_than_s: float = 60.0) -> int:
    """Remove what killed writers left under `tmp/`; returns how many files. A living writer's file is never touched.

    A writer holds a lock on its file, which the kernel drops when the writer dies however it dies. `older_than_s`
    covers the instant between creating a file and locking it.
    """
    swept = 0
    for entry in _entries(ledger_root / "tmp"):
        try:
            age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if not entry.is_file(follow_symlinks=False) or age_s < older_than_s or _has_writer(entry.path, age_s):
                continue
            os.unlink(entry.path)
            swept += 1
        except OSError:
            continue  # gone meanwhile, or not ours to remove: the next sweep tries again
    return swept


def unwritable(ledger_root: Path, error: OSError) -> LedgerError:
    """The `ledger-unwritable` error for what the operating system said."""
    why = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free space there, then append the attempt's sealed record again with `lanemark collect`"
    else:
        remedy = "make it writable or choose another place with LANEMARK_HOME, then run `lanemark collect`"
    shown = os.fspath(ledger_root).encode("utf-8", "backslashreplace").decode()
    return LedgerError("ledger-unwritable", f"the ledger {shown!r} cannot be written ({why})", remedy)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """Entries in the order of their names; none when the directory does not exist (a new ledger)."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _open_temporary(ledger_root: Path) -> tuple[str, int]:
    path = f"{os.path.join(ledger_root, 'tmp')}/{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        descriptor = os.open(path, _NEW, 0o600)
    except FileNotFoundError:  # the ledger's first file; looking for the directory every time would cost every append
        _make_directories(ledger_root / "tmp")
        descriptor = os.open(path, _NEW, 0o600)
    with contextlib.suppress(OSError):  # no locks on this file system: sweeping then goes by age alone
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, descriptor


def _write(descriptor: int, parts: Iterable[bytes]) -> str:
    """Write everything and return its sha256 in hex."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
        _put(descriptor, part)
    return sha.hexdigest()


def _put(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _chunks(name: str, source: Path) -> Iterator[bytes]:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            while part := os.read(descriptor, _CHUNK_BYTES):
                yield part
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LedgerError(
            "attempt-unreadable",
            f"the evidence {name[:120]!r} cannot be read ({error.strerror or type(error).__name__})",
            "the record stands without it; `lanemark verify` will call it not at hand",
        ) from error


def _seal(descriptor: int) -> None:
    """Read-only for everyone, whatever the umask, and on the disk before any name points at it."""
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


def _link(ledger_root: Path, temporary: str, target: Path) -> None:
    try:
        try:
            os.link(temporary, target)
        except FileNotFoundError:  # one of the ledger's first records
            _make_folder(target.parent)
            os.link(temporary, target)
    except FileExistsError:
        if not _settled(target):
            # The name is taken by other bytes than its own: a damaged disk or a hand. Kept apart, never thrown away.
            _set_aside(ledger_root, target)
            os.link(temporary, target)
    except OSError as error:
        if error.errno not in NO_LINKS or not os.path.exists(temporary):
            raise
        _make_directories(target.parent)
        os.replace(temporary, target)  # the name says the content, so whatever it replaces is equal to it
    _sync_directory(target.parent)


def _settled(target: Path) -> bool:
    """Whether the target is there with the bytes its name promises, and its directory entry is on the disk."""
    try:
        found, _ = hash_file(target)
    except FileNotFoundError:
        return False
    except OSError:
        return False  # unreadable or not a regular file: set aside by the caller like any other damage
    if found != target.name[:64]:
        return False
    _sync_directory(target.parent)  # whoever linked it may have died before doing so
    return True


def _set_aside(ledger_root: Path, target: Path) -> None:
    directory = ledger_root / "damaged"
    _make_directories(directory)
    os.replace(target, directory / f"{target.name}-{os.urandom(4).hex()}")


def _close(temporary: str, descriptor: int) -> None:
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass  # renamed into place
    finally:
        os.close(descriptor)


def _has_writer(path: str, age_s: float) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return age_s < _UNLOCKABLE_AGE_S
    finally:
        os.close(descriptor)
    return False


def _make_folder(directory: Path) -> None:
    """Make a two-digit directory; all of them once there are several: few records then wait for one to be durable."""
    parent, names = directory.parent, [directory.name]
    _make_directories(parent)
    with os.scandir(parent) as entries:
        if sum(1 for _ in entries) >= _SEVERAL:
            names = [f"{number:02x}" for number in range(256)]
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent / name)
    _sync_directory(parent)


def _make_directories(directory: Path) -> None:
    """Create what is missing, and put each new entry on the disk."""
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    try:
        os.mkdir(directory)
    except FileExistsError:
        if not directory.is_dir():
            raise
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)
