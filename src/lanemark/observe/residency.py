"""How much of the data files lies in the page cache: asked of the kernel, without reading a byte of them.

cachestat(2), since Linux 6.5, counts a file's cached pages. Where it does not exist or does not let us, mincore(2) is
left, and mincore lies: to whoever may not write to the file it calls every page resident, and in a sandboxed kernel it
says so always. So it is believed only about files that we may write to, and only after a *control file* of our own,
written, flushed and dropped from the cache a moment ago, was reported as not resident. Otherwise there is no answer,
with the reason: "all of it was in memory" is what a benchmark would like to hear.

A look is bounded in time. Counting costs 0.2 ms for 512 MiB that are resident; when the files are many or large, every
n-th of them is looked at, and the answer says how many that were.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

from lanemark.observe.reading import reason_of
from lanemark.records.observation import Observation, observed, unavailable

#: The system call's number, the same on every architecture (Linux include/uapi/asm-generic/unistd.h).
_CACHESTAT: Final = 451
#: Of the 50 ms that looking at the data path may cost a rank, what counting pages may take, twice in a run.
BUDGET_S: Final = 0.015
#: Pages of the control file: enough that a few read ahead by the kernel are not all of them.
_CONTROL_PAGES: Final = 64
#: What the control file may show of itself after it was dropped. A kernel that is right shows nothing.
_CONTROL_SHARE: Final = 0.1


class _Range(ctypes.Structure):
    """`struct cachestat_range`: a length of 0 is to the end of the file."""

    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    """`struct cachestat`, in pages."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


#: Gives the resident bytes of an open file. Raises OSError where the kernel does not answer.
Count = Callable[[int, int], int]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def cachestat(fd: int, _size: int) -> int:
    """Bytes of an open file that are in the page cache, in whole pages. Raises OSError."""
    counts, span = _Counts(), _Range(0, 0)
    if _libc().syscall(_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(counts.cached) * mmap.PAGESIZE


def mincore(fd: int, size: int) -> int:
    """The same by the older call, which has to be audited before it is believed. Raises OSError."""
    libc = _libc()
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    start = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    try:
        if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(size))
    return sum(page & 1 for page in bytes(pages)) * mmap.PAGESIZE


def audit(count: Count, scratch: str | os.PathLike[str]) -> str | None:
    """Why a way of counting is not to be believed here, found out with a control file in `scratch`; None when it is.

    The file is dropped from the cache and must be seen to be out of it, then read and be seen to be in it.
    """
    path = os.path.join(scratch, f"residency-control-{os.getpid()}")
    size = _CONTROL_PAGES * mmap.PAGESIZE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return f"no control file could be made ({reason_of(error)})"
    try:
        os.write(fd, b"\1" * size)
        os.fdatasync(fd)  # what is dirty cannot be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        dropped = count(fd, size)
        os.pread(fd, size, 0)
        back = count(fd, size)
    except OSError as error:
        return f"the control file could not be used ({reason_of(error)})"
    finally:
        os.close(fd)
        with suppress(OSError):
            os.unlink(path)
    if dropped > _CONTROL_SHARE * size:
        return f"a control file dropped from the cache was called {100 * dropped / size:.0f} % resident"
    return None if back >= size // 2 else "a control file just read was called not resident"


def _may_write(fd: int, path: str | os.PathLike[str]) -> bool:
    """Whether the kernel tells us the truth about this file: it does to its owner, and to who may write to it."""
    return os.fstat(fd).st_uid == os.geteuid() or os.access(path, os.W_OK)


def _counted(
    paths: Sequence[str | os.PathLike[str]], count: Count, name: str, *, budget_s: float, only_ours: bool
) -> Observation[dict[str, Any]]:
    """The files' resident bytes, every n-th file until the time is up. Raises OSError where counting does not work."""
    ends = time.monotonic() + budget_s
    total = resident = files = 0
    for path in _spread(paths):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if only_ours and not _may_write(fd, path):
                return unavailable(name, "mincore calls every page resident to whoever may not write to the file")
            resident += min(size, count(fd, size)) if size else 0
        finally:
            os.close(fd)
        total, files = total + size, files + 1
        if time.monotonic() > ends:
            break
    return observed({"bytes": total, "resident_bytes": resident, "files": files, "files_open": len(paths)}, name)


def _spread(paths: Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    """The same files, so ordered that any beginning of the list is spread over all of it."""
    order, step = [0] if paths else [], 1
    while step < len(paths):
        step *= 2
    while step > 1:
        step //= 2
        order += range(step, len(paths), 2 * step)
    return [paths[index] for index in order]


def residency(
    paths: Sequence[str | os.PathLike[str]],
    *,
    scratch: str | os.PathLike[str],
    budget_s: float = BUDGET_S,
    ways: Sequence[tuple[str, Count]] = (("cachestat", cachestat), ("mincore", mincore)),
) -> Observation[dict[str, Any]]:
    """How much of the files is in the page cache. Never raises.

    Args:
        paths: the data files.
        scratch: a directory that we may write a control file to.
        budget_s: counting ends after about this long; the control file, where one is needed, comes on top.
        ways: to count, best first: the kernel's own call, and one that has to be audited.

    Returns:
        `bytes` and `resident_bytes` of the `files` that were looked at, of `files_open`; the source is the way.
    """
    (best, ask), (other, doubtful) = ways
    try:
        return _counted(paths, ask, best, budget_s=budget_s, only_ours=False)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
            return unavailable(best, reason_of(error))
        missing = reason_of(error)
    why = audit(doubtful, scratch)
    if why is not None:
        text = f"{best} gives no answer ({missing}), and {other} is not believed: {why}"
        return unavailable(f"{best}, {other}", text)
    try:
        return _counted(paths, doubtful, f"{other}, confirmed by a control file", budget_s=budget_s, only_ours=True)
    except OSError as error:
        return unavailable(other, reason_of(error))
