"""`artifacts.json`: what a run's image was built from, pinned by digest: kernel wheels and whatever else it rests on.

    {"artifacts_version": 1, "image": "sha256:…", "artifacts": [{"name": …, "bytes": …, "sha256": …}, …]}

`image` is optional: the digest of the image that these were installed into. Staging holds the bytes to their digests; a
run then looks whether what is installed is what these wheels hold, and says in its record what it found. What is inside
a wheel is read from the wheel itself, whose bytes were verified, and stands nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.stage.names import fault_of
from lanemark.stage.objects import StagedObject

#: The file's name, at a source and beside what was staged.
ARTIFACTS_NAME: Final = "artifacts.json"
_VERSION: Final = 1
MAX_ARTIFACTS_BYTES: Final = 64 * 1024 * 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """One pinned object."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pins:
    """What `artifacts.json` says; `image` is None where it ties its objects to none."""

    image: str | None
    pins: tuple[Pin, ...]


def is_image_digest(text: str) -> bool:
    """Whether a text is the digest of an image."""
    return _DIGEST.fullmatch(text) is not None


def read_pins(text: bytes, where: str) -> Pins:
    """The file's bytes → what it pins. Pure.

    Raises:
        DataError: `artifacts-invalid`.
    """
    try:
        return _parsed(text)
    except _UnusableError as error:
        why = str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        why = "does not parse"
    raise DataError(
        "artifacts-invalid", f"{where} {why}", "make it again with `lanemark stage SOURCE DEST --artifacts`"
    )


class _UnusableError(Exception):
    """What is wrong with it, in words that may be shown."""


def _parsed(text: bytes) -> Pins:
    if len(text) > MAX_ARTIFACTS_BYTES:
        raise _UnusableError(f"is larger than {MAX_ARTIFACTS_BYTES} bytes")
    doc = json.loads(text)
    if doc["artifacts_version"] != _VERSION:
        raise _UnusableError(f"is of version {safe_text(str(doc['artifacts_version']))[:20]}, and {_VERSION} is read")
    image = doc.get("image")
    if image is not None and not (isinstance(image, str) and is_image_digest(image)):
        raise _UnusableError("names an image by something else than its digest")
    pins = tuple(_pin(row) for row in doc["artifacts"])
    if not pins or len({pin.name for pin in pins}) != len(pins):
        raise _UnusableError("pins nothing, or one name twice")
    return Pins(image, pins)


def _pin(row: dict[str, Any]) -> Pin:
    name, size, sha256 = row["name"], row["bytes"], row["sha256"]
    why = fault_of(name) if isinstance(name, str) else "is no text"
    if why is not None:
        raise _UnusableError(f"pins an object whose name {why}")
    shown = safe_text(name)[:100]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _UnusableError(f"pins {shown} without its size")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _UnusableError(f"pins {shown} without its sha256")
    return Pin(name, size, sha256)


def made_pins(objects: Sequence[StagedObject], image: str | None) -> bytes:
    """`artifacts.json` of what was staged, each object hashed as it arrived."""
    doc: dict[str, Any] = {
        "artifacts_version": _VERSION,
        "artifacts": [
            {"name": one.name, "bytes": one.bytes, "sha256": one.sha256}
            for one in sorted(objects, key=lambda one: one.name)
        ],
    }
    if image is not None:
        doc["image"] = image
    return (json.dumps(doc, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
