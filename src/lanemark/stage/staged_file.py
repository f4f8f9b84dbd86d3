"""`staged.json`: what was staged, from where, and against what its bytes were held. It is written last of all.

It lies beside the objects, in the directory that gets its name only when everything is in it. The next staging reads it
to find what need not be fetched again, and a run to tell in its record where its tokens came from. It is never proof of
the bytes beside it: whoever relies on them hashes them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from lanemark.stage.names import STAGED_NAME, fault_of
from lanemark.stage.objects import StagedObject, Verification, num_pieces

_VERSION: Final = 1
#: Some 200 bytes an object and 70 a piece.
_MAX_BYTES: Final = 1 << 30
_STRENGTHS: Final[tuple[Verification, ...]] = ("unverified", "provider", "manifest")


@dataclass(frozen=True)
class StagedFile:
    """What `staged.json` says.

    Attributes:
        source: the source's name, without credentials.
        staged_at: UTC, as text.
        seconds: how long the staging took that wrote it.
        bytes_fetched: what it carried from the source.
        objects: by name.
    """

    source: str
    staged_at: str
    seconds: float
    bytes_fetched: int
    objects: dict[str, StagedObject]

    @property
    def verification(self) -> Verification:
        """The weakest of its objects'."""
        return weakest(one.verified for one in self.objects.values())


def weakest(found: Any) -> Verification:
    """The weakest of some verifications; of none at all, `unverified`."""
    return min(found, key=_STRENGTHS.index, default="unverified")


def write_staged(directory: Path, staged: StagedFile) -> None:
    """Write it into a directory that nobody reads yet. Raises OSError."""
    doc = {
        "staged_version": _VERSION,
        "source": staged.source,
        "staged_at": staged.staged_at,
        "seconds": round(staged.seconds, 3),
        "bytes_fetched": staged.bytes_fetched,
        "verification": staged.verification,
        "objects": [one.to_json() for _, one in sorted(staged.objects.items())],
    }
    with open(directory / STAGED_NAME, "w", encoding="utf-8") as file:
        json.dump(doc, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


def read_staged(directory: Path) -> StagedFile | None:
    """What `staged.json` says, or None where there is none that can be understood. Never raises for its content."""
    try:
        fd = os.open(directory / STAGED_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            doc = json.loads(file.read(_MAX_BYTES))
        if doc["staged_version"] != _VERSION:
            return None
        objects = [_object(row) for row in doc["objects"]]
        return StagedFile(
            _text(doc["source"]), _text(doc["staged_at"]), float(doc["seconds"]), _count(doc["bytes_fetched"]),
            {one.name: one for one in objects},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _object(row: dict[str, Any]) -> StagedObject:
    name, size = _text(row["name"]), _count(row["bytes"])
    pieces = tuple(_text(one) for one in row["pieces"])
    if fault_of(name) is not None or len(pieces) != num_pieces(size) or row["verified"] not in _STRENGTHS:
        raise ValueError("is no object that staging would write down")
    tags = {key: _text(row[key]) if key in row else None for key in ("sha256", "etag", "version")}
    tokens = _count(row["tokens"]) if "tokens" in row else None
    verified = cast("Verification", row["verified"])
    return StagedObject(name, size, tags["sha256"], pieces, tags["etag"], tags["version"], tokens, verified)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("is no count")
    return value
