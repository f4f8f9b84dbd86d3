"""How many files a rank's compilers have left in its cache since the launch: the mark of a rank that builds.

A rank that finds its graphs traces for seconds and leaves nothing; one that does not writes a source, then a library.
Locks are left out, because a warm rank takes them too, and so are unfinished and empty files.

A file that is new moves the time of its directory, so directories whose time has not moved are not listed again: a walk
of a cache in which nothing happens costs one `stat` a directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

#: Walking a cache may take a thousandth of a core: what one walk costs decides when the next may come.
_COST_SPACING: Final = 1000
#: A cache of more directories than this is not walked again and again.
_MAX_DIRECTORIES: Final = 10_000
#: Directory times move in ticks of the kernel's clock (10 ms at most); two changes in one tick look like one.
_TICK_NS: Final = 50_000_000
_LOCKS: Final = "locks"
_UNFINISHED: Final = (".lock", ".tmp")


class _Listed(NamedTuple):
    """A directory as it was last listed."""

    mtime_ns: int
    below: tuple[str, ...]
    new_files: int


class CacheGrowth:
    """Counts the files below some directories that are newer than the launch.

    Args:
        directories: of one rank, or of all ranks where they share them.
        launched_wall_ns: when the ranks were started, on the wall clock, which is that of file times.
    """

    def __init__(self, directories: Sequence[Path], launched_wall_ns: int) -> None:
        self._directories = tuple(str(directory) for directory in directories)
        self._launched_wall_ns = launched_wall_ns
        self._listed: dict[str, _Listed] = {}
        self._next_s = 0.0
        #: As of the last walk; None where there was nothing to count.
        self.count: int | None = 0
        self._why = ""

    def look(self) -> str:
        """Walk the directories, unless a costly walk was a moment ago.

        Returns:
            Why there is nothing to count; empty when there is.
        """
        if time.monotonic() < self._next_s:
            return self._why
        began_s = time.thread_time()
        try:
            self.count, self._why = self._walk(), ""
        except OSError as error:
            self.count, self._why = None, f"the cache directory: {error.strerror or error}"
        if self.count is None and not self._why:
            self._why = f"the cache has more than {_MAX_DIRECTORIES} directories"
        self._next_s = time.monotonic() + (time.thread_time() - began_s) * _COST_SPACING
        return self._why

    def _walk(self) -> int | None:
        found = 0
        left = list(self._directories)
        met = 0
        while left:
            directory = left.pop()
            met += 1
            if met > _MAX_DIRECTORIES:
                return None
            try:
                listed = self._look(directory)
            except FileNotFoundError:
                if directory in self._directories:
                    raise
                continue  # a compiler's own directory, taken away meanwhile
            left += listed.below
            found += listed.new_files
        return found

    def _look(self, directory: str) -> _Listed:
        mtime_ns = os.stat(directory).st_mtime_ns
        known = self._listed.get(directory)
        if known is not None and known.mtime_ns == mtime_ns:
            return known
        below: list[str] = []
        new_files, settled = 0, time.time_ns() - mtime_ns > _TICK_NS
        with os.scandir(directory) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != _LOCKS:
                        below.append(entry.path)
                elif not entry.name.endswith(_UNFINISHED) and (size_bytes := self._size_if_new(entry)) is not None:
                    new_files += size_bytes > 0
                    settled = settled and size_bytes > 0  # it fills without its directory's time moving again
        listed = _Listed(mtime_ns, tuple(below), new_files)
        if settled:
            self._listed[directory] = listed
        return listed

    def _size_if_new(self, entry: os.DirEntry[str]) -> int | None:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # it was moved to its final name meanwhile, where the next walk finds it
            return None
        return status.st_size if status.st_mtime_ns > self._launched_wall_ns else None
