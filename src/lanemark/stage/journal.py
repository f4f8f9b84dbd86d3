"""The journal of one staging: which pieces lie verified in the work directory, so that another try fetches the rest.

Append-only text, one line a fact. A line may be torn by a crash, and data that it speaks of may never have reached the
disk: so a journal is never believed. Every piece that it names is read again and held to the digest in its line before
it counts; that costs 0.25 s a GiB and needs no sync while data arrives.

    L1                                          the format
    o NAME-AS-JSON SIZE TAG                     an object, as the source called it; begins at number 0
    p NUMBER PIECE DIGEST                       a verified piece of the object of that number
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lanemark.stage.objects import Wanted, num_pieces

_FIRST: Final = "L1"
_PIECE: Final = re.compile(r"p ([0-9]{1,12}) ([0-9]{1,9}) ([0-9a-f]{64})")
_OBJECT: Final = re.compile(r'o (".*") ([0-9]{1,19}) (".*"|null)')
#: About 100 bytes a piece: far above what a data set of petabytes needs.
_MAX_BYTES: Final = 1 << 31


def tag_of(wanted: Wanted) -> str | None:
    """What ties a piece in the journal to these bytes at the source: a digest of them, else the provider's tags."""
    if wanted.sha256 is not None:
        return f"sha256:{wanted.sha256}"
    if wanted.etag is None and wanted.version is None:
        return None
    return f"{wanted.version or ''} {wanted.etag or ''}"


class Journal:
    """The journal being written. Lines of several threads never mix: each is one appending write."""

    def __init__(self, path: Path, wanted: Iterable[Wanted]) -> None:
        """Begin anew, replacing a journal that was read before. Raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        lines = [_FIRST]
        lines += [f"o {json.dumps(one.name)} {one.bytes} {json.dumps(tag_of(one))}" for one in wanted]
        data = memoryview(("\n".join(lines) + "\n").encode())
        while data:
            data = data[os.write(self._fd, data) :]

    def piece(self, number: int, piece: int, digest: str) -> None:
        """A piece is in place and verified. Raises OSError."""
        os.write(self._fd, f"p {number} {piece} {digest}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def read_journal(path: Path, wanted: Iterable[Wanted]) -> dict[str, dict[int, str]]:
    """What an earlier try left: object name → piece → digest, only of objects that still are what they were.

    Objects without any tag are not taken up: nothing would tell that their source changed meanwhile. A journal of
    another format, or none, leaves nothing.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_BYTES).decode("utf-8", "replace").split("\n")
    except OSError:
        return {}
    if lines[0] != _FIRST:
        return {}
    now = {one.name: one for one in wanted}
    names: list[str | None] = []
    left: dict[str, dict[int, str]] = {}
    for line in lines[1:-1]:  # what follows the last line's end was torn
        if match := _PIECE.fullmatch(line):
            number, piece = int(match[1]), int(match[2])
            name = names[number] if number < len(names) else None
            if name is not None and piece < num_pieces(now[name].bytes):
                left.setdefault(name, {})[piece] = match[3]
        elif match := _OBJECT.fullmatch(line):
            names.append(_same(match, now))
    return left


def _same(match: re.Match[str], now: dict[str, Wanted]) -> str | None:
    """The name on an object's line, if it is wanted and has the size and the tag that it had then."""
    try:
        name, size, tag = json.loads(match[1]), int(match[2]), json.loads(match[3])
    except ValueError:
        return None
    one = now.get(name)
    return name if one is not None and tag is not None and (size, tag) == (one.bytes, tag_of(one)) else None
