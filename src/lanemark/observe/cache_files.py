"""Which files of a compile cache are new after a run: one listing before, one after, and their difference.

A digest says that something changed; this says how much, and for which rank where ranks keep caches apart. A file is
known by path and size. Times of change are left alone: whoever takes an entry from a cache may write the same bytes
again, and a network volume has a clock of its own. Other bytes of the same size are the digest's to notice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanemark.observe.compile_cache import MAX_FILES, seedable
from lanemark.observe.reading import reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: Path below the cache's directory → size in bytes.
Listing = Mapping[str, int]


def list_files(directory: str | os.PathLike[str]) -> Observation[dict[str, int]]:
    """Every file of a cache that is content. Absent when there is no directory. Never raises."""
    base = Path(directory)
    source = f"listing of {safe_text(str(base))}"
    found: dict[str, int] = {}
    try:
        pending = [Path()]
        while pending:
            here = pending.pop()
            for entry in _entries(base / here, top=not here.parts):
                path = here / entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False) and seedable(path):
                    found[str(path)] = entry.stat(follow_symlinks=False).st_size
            if len(found) > MAX_FILES:
                return unavailable(source, f"it holds more than {MAX_FILES} files and is no compile cache")
    except FileNotFoundError:
        return absent(source, "the directory does not exist")
    except OSError as error:
        return unavailable(source, reason_of(error))
    return observed(found, source)


def _entries(directory: Path, *, top: bool) -> list[os.DirEntry[str]]:
    """A directory's entries. One below the top may be a temporary that its writer has just removed."""
    try:
        return list(os.scandir(directory))
    except FileNotFoundError:
        if top:
            raise
        return []


def new_files(before: Observation[Any], after: Observation[Any], below: str = "") -> Observation[int]:
    """How many files of `after` are not in `before` as they are. A directory that was not there held nothing.

    Args:
        before: what `list_files` returned before the run.
        after: the same after it.
        below: count only files under this directory of the cache (`rank-3`); all of them by default.
    """
    source = "listings of the compile cache before and after the run"
    for seen, when in ((before, "before"), (after, "after")):
        if seen.status == "unavailable":
            return unavailable(source, f"the cache could not be listed {when} the run: {seen.reason}")
    old: Listing = before.value or {}
    new: Listing = after.value or {}
    within = f"{below}{os.sep}" if below else ""
    return observed(sum(path.startswith(within) and old.get(path) != size for path, size in new.items()), source)
