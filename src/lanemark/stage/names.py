"""Object names are somebody else's words: which of them may become files here. Pure.

A bucket can hold keys that are no file names at all (`../../etc/cron.d/x`, `/home/x/.ssh/…`, a NUL, 2,000 characters).
One such name refuses the whole source, rather than being skipped: a source that holds it is not what it was taken for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from lanemark.records.encoding import safe_text
from lanemark.records.errors import StageError

#: What staging itself writes beside the objects. Theirs of that name are left at the source.
STAGED_NAME: Final = "staged.json"
#: NAME_MAX and, generously, PATH_MAX of Linux file systems.
_MAX_SEGMENT_BYTES: Final = 255
_MAX_NAME_BYTES: Final = 1024


def fault_of(name: str) -> str | None:
    """What makes a name unfit to become a file below a directory, or None. A name may have `/` between its parts."""
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not text"
    if not name or length > _MAX_NAME_BYTES:
        return f"is empty or longer than {_MAX_NAME_BYTES} bytes"
    if any(not character.isprintable() for character in name):
        return "has a character that cannot be printed"
    if "\\" in name:
        return "has a backslash, which other systems read as a separator"
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            return "leads out of its directory"
        if len(segment.encode("utf-8")) > _MAX_SEGMENT_BYTES:
            return f"has a part longer than {_MAX_SEGMENT_BYTES} bytes"
    return None


def hostile(name: str, source: str, why: str) -> StageError:
    """The `stage-name-hostile` error."""
    shown = json.dumps(safe_text(name)[:120])
    return StageError(
        "stage-name-hostile",
        f"the object {shown} of {source} {why}",
        "remove it from the source, or name a prefix that does not hold it; nothing of it was written",
    )


def check_names(names: Iterable[str], source: str) -> None:
    """Refuse a set of names that cannot all become files of one directory. Raises StageError `stage-name-hostile`."""
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        why = fault_of(name)
        if why is not None:
            raise hostile(name, source, why)
        if name in files:
            raise hostile(name, source, "is there twice")
        files.add(name)
        while (cut := name.rfind("/")) > 0:
            name = name[:cut]  # noqa: PLW2901 - walking up its own folders
            folders.add(name)
    for name in files & folders:
        raise hostile(name, source, "is a file and a folder at once")
