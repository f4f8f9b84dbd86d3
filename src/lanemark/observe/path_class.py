"""The classes of many files brought to one answer, and whether a disk or the page cache gave it. Pure.

`mounts.py` classifies one file, `data_path.py` finds them, `hot_path.py` looks at counters and page cache.

**Disk or page cache.** A file on a local disk is read from it only once. Two things tell which it was: what the page
cache held of the files, and the process's `read_bytes`, which counts what was fetched from storage and knows nothing of
files. So all files resident before and after says page cache, whatever else the process fetched; nothing fetched in the
window, with the cache seen to hold a part of the files, says the same; and all else is the disk. Through FUSE and over
a network `read_bytes` is 0 whatever happens: for those classes the mount is the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lanemark.records.observation import Observation, observed, unavailable

#: Pages that the kernel may have dropped of files that are called wholly resident: a header's, or the last one.
WHOLLY_RESIDENT: Final = 0.999
#: Classes that differ in who answered and not in where the files lie.
_ON_DISK: Final = frozenset({"local_disk", "page_cache"})


def combine(classes: Sequence[str]) -> Observation[str]:
    """One class for all files of all ranks, or `mixed`. Pure.

    Unavailable when nothing was open, or when any file's class is `unknown`: the unseen one could be any of them.
    """
    source = "open files of the ranks (fdinfo, maps, mountinfo)"
    if not classes:
        return unavailable(source, "no data file was open when the ranks were looked at")
    unknown = sum(name == "unknown" for name in classes)
    if unknown:
        return unavailable(
            source, f"{unknown} of {len(classes)} open files are on storage that cannot be told from here"
        )
    distinct = set(classes)
    if distinct == _ON_DISK:  # of two ranks on one disk the first fetches what the second finds
        return observed("local_disk", source)
    return observed(distinct.pop() if len(distinct) == 1 else "mixed", source)


def resident_share(seen: dict[str, Any] | None) -> float | None:
    """The share of the files that was in the page cache, 0 to 1; None where nobody could tell."""
    value = (seen or {}).get("value")
    if not isinstance(value, dict) or not value.get("bytes"):
        return None
    return float(value["resident_bytes"] / value["bytes"])


def who_answered(
    files: Observation[str], before: dict[str, Any] | None, after: dict[str, Any] | None, io: dict[str, Any] | None
) -> Observation[str]:
    """A rank's class: that of its files, with `local_disk` told apart from `page_cache` where that can be told.

    Args:
        files: the class of the files, by their mounts (`combine`).
        before: observation of the page cache before the rank read anything, in JSON form.
        after: the same after the window.
        io: observation of the process's counters over the window.
    """
    if files.value != "local_disk":
        return files
    first, last = resident_share(before), resident_share(after)
    fetched = ((io or {}).get("value") or {}).get("read_bytes")
    if first is not None and last is not None and min(first, last) >= WHOLLY_RESIDENT:
        return observed("page_cache", f"{files.source}; the page cache held all of the files before and after")
    if fetched == 0 and last:
        return observed("page_cache", f"{files.source}; nothing was fetched from storage in the window (/proc/self/io)")
    if fetched is None:
        return observed("local_disk", f"{files.source}; whether the page cache answered was not seen")
    if fetched == 0:
        return observed("local_disk", f"{files.source}; the page cache was not seen to hold any of them")
    return observed("local_disk", f"{files.source}; {fetched} bytes were fetched from storage in the window")


#: What a class that is asked for is satisfied by, beyond itself: files on a disk stay there when they are cached.
_SATISFIED_BY: Final = {"local_disk": frozenset({"local_disk", "page_cache"})}


def contradicts(asked: str, seen: str | None) -> bool:
    """Whether the class that was seen is not the one that was asked for. What was not seen contradicts nothing."""
    return seen is not None and seen not in _SATISFIED_BY.get(asked, frozenset({asked}))
