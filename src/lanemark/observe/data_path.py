"""What the hot files really sit on, seen from the process that has them open.

`/proc/PID/fdinfo/N` names the mount a descriptor was opened through, and the process's *own* mountinfo says what that
mount is; a mapping whose descriptor was closed is found in `/proc/PID/maps` and re-reached through `/proc/PID/root`.
So neither a symbolic link, nor a bind mount, nor another mount namespace fools the answer. Classifying is
`mounts.py`; this file reads.

Files are told apart by inode, not by name. A look costs a few milliseconds (it grows with the number of mappings),
and never reads a byte of the data.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from lanemark.observe.mounts import (
    BlockDevice,
    Mount,
    SeenPath,
    Verdict,
    classify_mount,
    not_seen,
    parse_mountinfo,
    seen_on,
)
from lanemark.observe.reading import from_error, read_text, reason_of
from lanemark.records.observation import Observation, observed, unavailable

_MNT_ID: Final = re.compile(r"^mnt_id:\s*([0-9]+)$", re.MULTILINE)
_MAX_FILES_UNDER: Final = 100_000
#: File descriptors that reach a file without opening it for reading: no permission needed, nothing is triggered.
_O_PATH: Final = getattr(os, "O_PATH", os.O_RDONLY)


def read_mounts(pid: int | str = "self") -> dict[int, Mount]:
    """The mount table as process `pid` sees it. Raises OSError."""
    return parse_mountinfo(read_text(f"/proc/{pid}/mountinfo"))


def find_block(device: str) -> BlockDevice | None:
    """A block device by `major:minor` or by name, from /sys; None where it is not shown."""
    link = f"/sys/dev/block/{device}" if ":" in device else f"/sys/class/block/{device}"
    place = os.path.realpath(link)
    if not os.path.exists(link) or not os.path.isdir(place):
        return None
    if os.path.exists(f"{place}/partition"):
        place = os.path.dirname(place)  # what is asked about stands at the whole disk

    def text(name: str) -> str | None:
        try:
            return read_text(f"{place}/{name}", 4096).rstrip("\n") or None
        except OSError:
            return None

    below: list[str] = []
    with suppress(OSError):
        below = sorted(os.listdir(f"{place}/slaves"))
    model = text("device/model")
    return BlockDevice(
        name=os.path.basename(place),
        model=model.strip() if model else None,
        backing_file=text("loop/backing_file"),
        below=tuple(below),
        over_network=_fabric(place, text),
    )


def _fabric(place: str, text: Any) -> str | None:
    """How a disk is attached, when not directly: an iSCSI session is in its path, an NVMe controller states it."""
    if re.search(r"/session[0-9]+/", place):
        return "iSCSI"
    transport = text("device/transport") or text("device/../transport")
    return f"NVMe over {transport}" if transport and transport.strip() in ("tcp", "rdma", "fc") else None


class Sight:
    """One process's mounts, and the classes already worked out for each of them."""

    def __init__(self, pid: int | str = "self") -> None:
        self.pid = pid
        self.mounts = read_mounts(pid)
        self._known: dict[int, Verdict] = {}
        self._blocks: dict[str, str | None] = {}

    def block_of(self, mount: Mount) -> str | None:
        """The name of the block device that a mount stands on; None where it stands on none that /sys shows."""
        if mount.device not in self._blocks:
            device = find_block(mount.device)
            self._blocks[mount.device] = device.name if device is not None else None
        return self._blocks[mount.device]

    def mount_of_fd(self, fd: int | str) -> Mount | None:
        """The mount a descriptor of the watched process was opened through."""
        return self._mount(read_text(f"/proc/{self.pid}/fdinfo/{fd}", 65536))

    def mount_of_path(self, path: str, inode: int | None = None) -> Mount | None:
        """The mount that `path` is on in the watched process's file tree; None when it, or that inode, is not there."""
        reached = path if self.pid == "self" else f"/proc/{self.pid}/root{path}"
        try:
            fd = os.open(reached, _O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if inode is not None and os.fstat(fd).st_ino != inode:
                return None
            return self._mount(read_text(f"/proc/self/fdinfo/{fd}", 65536))
        except OSError:
            return None
        finally:
            os.close(fd)

    def _mount(self, fdinfo: str) -> Mount | None:
        match = _MNT_ID.search(fdinfo)
        return self.mounts.get(int(match[1])) if match else None

    def verdict(self, mount: Mount, path: str, depth: int = 0) -> Verdict:
        """The class of `path` on `mount`. Mounts other than overlays answer the same for every file on them."""
        overlay = mount.filesystem in ("overlay", "aufs")
        if not overlay and mount.mount_id in self._known:
            return self._known[mount.mount_id]
        inside = mount.mount_point.rstrip("/") + "/"
        relative = path[len(inside) :] if path.startswith(inside) else ""
        out = classify_mount(mount, relative, find_block=find_block, follow=self._follow, depth=depth)
        if not overlay:
            self._known[mount.mount_id] = out
        return out

    def _follow(self, path: str, depth: int) -> Verdict | None:
        mount = self.mount_of_path(path)
        return None if mount is None else self.verdict(mount, os.path.realpath(path), depth)


@dataclass(frozen=True)
class _Wanted:
    """The files that are looked for: by inode, with the name each is reported under."""

    names: dict[tuple[int, int], str]
    inodes: dict[int, str]


def _wanted(under: Iterable[str | os.PathLike[str]]) -> _Wanted:
    """Regular files named by `under`, directories walked, links followed to what they reach."""
    names: dict[tuple[int, int], str] = {}
    for given in under:
        path = os.fspath(given)
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError:
            continue
        files: Iterable[str] = (
            (os.path.join(here, name) for here, _, inside in os.walk(path) for name in inside)
            if is_directory
            else (path,)
        )
        for file in files:
            with suppress(OSError):
                found = os.stat(file)
                if stat.S_ISREG(found.st_mode):
                    names.setdefault((found.st_dev, found.st_ino), os.path.basename(file))
            if len(names) >= _MAX_FILES_UNDER:
                break
    return _Wanted(names, {inode: name for (_, inode), name in names.items()})


def classify_open_files(pid: int | str = "self", *, under: Sequence[str | os.PathLike[str]]) -> list[SeenPath]:
    """Every file among `under` that process `pid` has open or mapped, with the class of what it sits on.

    Args:
        pid: a process we may look at (our own children, or ourselves).
        under: files, or directories walked for files.

    Raises OSError when the process is gone or may not be looked at: that is not "it has nothing open".
    """
    sight = Sight(pid)
    wanted = _wanted(under)
    out: dict[str, SeenPath] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        link = f"/proc/{pid}/fd/{fd}"
        try:
            found = os.stat(link)
            name = wanted.names.get((found.st_dev, found.st_ino))
            if name is None:
                continue
            mount, path = sight.mount_of_fd(fd), os.readlink(link)
        except OSError:
            continue  # closed between the listing and the look
        out[name] = _row(sight, name, mount, path)
    for path, inode in _mappings(pid):
        name = wanted.inodes.get(inode)
        if name is not None and name not in out and _is_wanted(pid, path, wanted):
            out[name] = _row(sight, name, sight.mount_of_path(path, inode), path)
    return [out[name] for name in sorted(out)]


def _is_wanted(pid: int | str, path: str, wanted: _Wanted) -> bool:
    """Whether a mapped path is one of the files: inode numbers repeat across file systems, device and inode do not.

    The device in /proc/PID/maps cannot be used: btrfs and overlays show another one there than stat() does.
    """
    try:
        found = os.stat(path if pid == "self" else f"/proc/{pid}/root{path}")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) in wanted.names


def _mappings(pid: int | str) -> list[tuple[str, int]]:
    """Files mapped by a process: path and inode. A deleted file's path ends in the kernel's ` (deleted)`."""
    out: dict[str, int] = {}
    for line in read_text(f"/proc/{pid}/maps").splitlines():
        parts = line.split(None, 5)
        if len(parts) == 6 and parts[4] != "0" and parts[5].startswith("/"):
            out[parts[5].replace("\\012", "\n")] = int(parts[4])
    return list(out.items())


def _row(sight: Sight, name: str, mount: Mount | None, path: str) -> SeenPath:
    if mount is None:
        return not_seen(name, "the mount it was opened through is not in the process's own mount table")
    return seen_on(name, mount, sight.verdict(mount, path), sight.block_of(mount))


def classify_self(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """What a rank's own open or mapped data files sit on, as JSON for its `observed.json`. Never raises.

    To be called after the loader opened the shards: files that are not open are not in the list. When /proc cannot be
    looked at, each path is there as `unknown`, with why.
    """
    try:
        seen = classify_open_files("self", under=paths)
    except OSError as error:
        seen = [not_seen(os.path.basename(os.fspath(path)), reason_of(error)) for path in paths]
    return [row.to_json() for row in seen]


def classify_file(path: str | os.PathLike[str]) -> SeenPath:
    """What one file or directory sits on, by reaching it now. Never raises."""
    name = os.path.basename(os.fspath(path)) or os.fspath(path)
    try:
        sight = Sight()
        real = os.path.realpath(path)
        os.stat(real)
    except OSError as error:
        return not_seen(name, reason_of(error))
    return _row(sight, name, sight.mount_of_path(real), real)


def parse_io(text: str) -> dict[str, int]:
    """`/proc/PID/io`: counters in bytes and calls. Raises ValueError when it is anything else."""
    rows = [line.partition(":") for line in text.splitlines() if line.strip()]
    return {name.strip(): int(value) for name, _, value in rows}


def io_counters(pid: int | str = "self") -> Observation[dict[str, int]]:
    """Bytes a process read and wrote. `read_bytes` is from storage, `rchar` includes the page cache.

    What these do not say: reads through a mapping are in neither `rchar` nor, through FUSE, `read_bytes`.
    """
    source = f"/proc/{pid}/io"
    try:
        return observed(parse_io(read_text(source, 4096)), source)
    except OSError as error:
        seen = from_error(source, error)
        return unavailable(source, seen.reason or "it cannot be read")
    except ValueError:
        return unavailable(source, "it does not parse")
