"""`polls.jsonl`: what collectors saw of a detached run, one look a line.

Looks are appended and never replaced, because several collectors may look at once and none of them holds the lock of a
run that is still supervised. A line is written with one call, so lines do not mix; one that a crash cut short is no
line. Nothing is concluded from this file: it says who looked when, and `lanemark runs` shows the last one.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from lanemark.collect.gathering import read_bytes
from lanemark.observe.clock import stamp
from lanemark.records.attempt import AttemptPaths
from lanemark.records.encoding import encode, safe_text

#: A look is about 100 bytes, and a collector that waits looks every half minute in the end: this is months of looks.
_MAX_BYTES: Final = 32 * 1024 * 1024
_TAIL_BYTES: Final = 2048
_NOTE_CHARS: Final = 300
#: As `lanemark.observe.clock` writes times, and as a record takes them.
STAMP: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True)
class Poll:
    """One look of a collector.

    Attributes:
        at: RFC 3339, the clock of the collector's host.
        seen: the word of the surface (`lanemark.launch.detached.Word`).
        note: an error it met, or None.
    """

    at: str
    seen: str
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {"at": self.at, "seen": self.seen}
        return doc if self.note is None else {**doc, "note": self.note}


def append_poll(paths: AttemptPaths, seen: str, note: str | None = None) -> Poll:
    """Write down a look taken now. A disk that will not take it costs the line and nothing else."""
    poll = Poll(stamp(), seen, None if note is None else safe_text(note[:_NOTE_CHARS]))
    try:
        fd = os.open(paths.polls, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError:
        return poll
    try:
        # The newline comes first: a line that an earlier crash cut short then ends here and takes no other with it.
        os.write(fd, b"\n" + encode(poll.to_json()).strip() + b"\n")
    except OSError:
        return poll
    finally:
        os.close(fd)
    return poll


def read_polls(paths: AttemptPaths) -> tuple[Poll, ...]:
    """Every look, oldest first. Lines that are none are left out."""
    data = read_bytes(paths.polls, _MAX_BYTES)
    return () if data is None else tuple(poll for line in data.split(b"\n") if (poll := _parse(line)) is not None)


def last_poll(paths: AttemptPaths) -> Poll | None:
    """The last look, read from the end of the file; None when nobody looked."""
    try:
        fd = os.open(paths.polls, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        lines = os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).split(b"\n")
    except OSError:
        return None
    finally:
        os.close(fd)
    return next((poll for line in reversed(lines) if (poll := _parse(line)) is not None), None)


def _parse(line: bytes) -> Poll | None:
    try:
        doc = json.loads(line)
        poll = Poll(doc["at"], doc["seen"], doc.get("note"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    whole = isinstance(poll.at, str) and STAMP.fullmatch(poll.at) and isinstance(poll.seen, str) and poll.seen
    return poll if whole and (poll.note is None or (isinstance(poll.note, str) and poll.note)) else None
