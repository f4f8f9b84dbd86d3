"""Which files a script of the user's own reads its tokens from: what its process has open or mapped, by looking.

Nobody tells us, so it is looked at a few times outside the window, in this process and in the ones below it, where
loaders work. A file is taken for data when it is a regular one of some size that is read and is not part of a program:
no library, no Python source, nothing below the interpreter, the attempt or a compile cache. What was opened, read and
closed between two looks is not seen.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any, Final

from lanemark.observe.data_path import classify_file
from lanemark.records.encoding import safe_text

#: Token files are larger; configurations, vocabularies and logs are smaller.
_LEAST_BYTES: Final = 64 * 1024
_MOST_FILES: Final = 16
_NO_DATA: Final = (".so", ".py", ".pyc", ".pyd", ".log", ".json", ".zip", ".whl", ".cubin", ".sock", ".lock")


class DataSeen:
    """The data files seen so far, the largest first."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        places = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/usr/lib", "/lib")
        named = ("LANEMARK_ATTEMPT_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")
        given = (os.environ.get(name) for name in named)
        # TMPDIR is where compilers leave headers, when it is ours; the system's own may well hold data.
        self._programs = tuple(
            os.path.realpath(place).rstrip("/") + "/"
            for place in (*places, *given)
            if place and place != "/tmp"  # noqa: S108
        )

    def look(self) -> None:
        """Look once. Never raises."""
        for pid in (os.getpid(), *_children(os.getpid())):
            for name in _open_files(pid) | _mapped_files(pid):
                self._take(name)

    def files(self) -> list[dict[str, Any]]:
        """The largest of them as `observed.json` has data files: which mount, which class, and why."""
        largest = sorted(self._found, key=lambda name: (-self._found[name], name))[:_MOST_FILES]
        try:
            rows = [classify_file(name).to_json() for name in largest]
            return [{**row, "name": safe_text(str(row["name"]))} for row in rows]
        except Exception:  # mounts that cannot be read: then nothing is claimed about them
            return []

    def _take(self, name: str) -> None:
        if name in self._found or name.endswith(_NO_DATA) or ".so." in name or name.startswith(self._programs):
            return
        try:
            info = os.stat(name)
        except OSError:
            return
        if stat.S_ISREG(info.st_mode) and info.st_size >= _LEAST_BYTES:
            self._found[name] = info.st_size


def _children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        lists = [Path(f"/proc/{pid}/task/{task}/children").read_text("ascii") for task in tasks]
    except OSError:
        return []
    return [int(word) for text in lists for word in text.split()][:64]


def _open_files(pid: int) -> set[str]:
    """Regular files that are open for reading alone: what is written to is no data."""
    found = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                name = os.readlink(f"/proc/{pid}/fd/{fd}")
                flags = next(
                    line
                    for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text("ascii").splitlines()
                    if line[:6] == "flags:"
                )
            except (OSError, StopIteration):
                continue
            if name.startswith("/") and int(flags.split()[1], 8) & os.O_ACCMODE == os.O_RDONLY:
                found.add(name)
    except OSError:
        return found
    return found


def _mapped_files(pid: int) -> set[str]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return set()
    fields = (line.split(None, 5) for line in lines)
    return {parts[5] for parts in fields if len(parts) == 6 and parts[5].startswith("/") and "x" not in parts[1]}
