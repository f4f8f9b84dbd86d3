"""One rank watches its own data path: when its files are open, when the window opens, and when it is closed.

Three short looks, none of them inside the measured window, and none that reads a byte of the data:

* `opened`: which mounts the files are open through (`lanemark.observe.data_path`), and how much of them the page cache
  held before this rank read a token;
* `window_opens`: the process's I/O counters;
* `window_closed`: the counters again, and the page cache.

What follows from them, disk or page cache, is `lanemark.observe.path_class`, and decided when the record is sealed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

from lanemark.observe.data_path import classify_self, io_counters
from lanemark.observe.reading import guarded
from lanemark.observe.residency import residency
from lanemark.records.observation import Observation, observed, unavailable

#: The counters that are kept, and the names they have in `/proc/PID/io` (proc(5)).
COUNTERS: Final = ("read_bytes", "rchar")
_IO: Final = "/proc/self/io, end minus beginning of the window"


class HotPath:
    """The looks of one rank at the data files it reads. Made before it reads any of them: that is the first look.

    Args:
        paths: the files.
        scratch: a directory of this rank's own, for a control file where one is needed.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, scratch: str | os.PathLike[str]) -> None:
        began = time.monotonic()
        self._paths, self._scratch = list(paths), scratch
        self._before = self._resident()
        self._io: Observation[dict[str, int]] = unavailable(_IO, "the window was never opened")
        self._seconds = time.monotonic() - began

    def _resident(self) -> Observation[dict[str, Any]]:
        return guarded("page cache", lambda: residency(self._paths, scratch=self._scratch))

    def opened(self) -> dict[str, Any]:
        """What `observed.json` has: `data_files`, and in `data_path` what the page cache held. Call it once."""
        if not self._paths:
            return {"data_files": []}
        began = time.monotonic()
        files = classify_self(self._paths)
        self._seconds += time.monotonic() - began
        return {"data_files": files, "data_path": {"resident_before": self._before.to_json()}}

    def window_opens(self) -> None:
        """Remember the I/O counters. Takes some 30 µs."""
        began = time.monotonic()
        self._io = io_counters()
        self._seconds += time.monotonic() - began

    def window_closed(self) -> dict[str, Any]:
        """What `end.json` has in `data_path`: the counters over the window, the page cache after it, and the cost."""
        began = time.monotonic()
        io = _difference(self._io, io_counters())
        out: dict[str, Any] = {"io": io.to_json()}
        if self._paths:
            out["resident_after"] = self._resident().to_json()
        self._seconds += time.monotonic() - began
        return {**out, "look_s": self._seconds}


def _difference(first: Observation[dict[str, int]], last: Observation[dict[str, int]]) -> Observation[dict[str, int]]:
    """The counters over the window, or why there are none."""
    for one in (first, last):
        if one.value is None:
            return unavailable(_IO, one.reason or "they could not be read")
    assert first.value is not None
    assert last.value is not None
    if not all(name in counters for counters in (first.value, last.value) for name in COUNTERS):
        return unavailable(_IO, "the kernel does not count what is read from storage")
    return observed({name: last.value[name] - first.value[name] for name in COUNTERS}, _IO)
