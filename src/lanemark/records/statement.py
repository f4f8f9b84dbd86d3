"""The sealed envelope: an in-toto Statement v1 around our predicate, written with the standard library.

One file, named by the sha256 of its exact bytes. What each part means and which fields it has is defined once, in
`lanemark.records.schema` (strict, pydantic, where records are kept); one corpus of records holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lanemark.records.encoding import digest, encode

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
#: Our predicate type. A URN in the experimental form (RFC 2141 "x-"): it names, and promises no page behind it.
PREDICATE_TYPE: Final = "urn:x-lanemark:record:v1"
#: major.minor. A reader refuses a newer major and ignores unknown fields of a newer minor.
RECORD_VERSION: Final = "1.1"
RECORD_MEDIA_TYPE: Final = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Evidence:
    """A file the record rests on, by digest.

    Attributes:
        name: path inside the attempt directory, `/`-separated (`ranks/0/samples.bin`).
        digest: `sha256:…` of its bytes.
        bytes: its size.
        media_type: what it is.
    """

    name: str
    digest: str
    bytes: int
    media_type: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "bytes": self.bytes, "media_type": self.media_type}


@dataclass(frozen=True)
class SealedRecord:
    """Exact bytes and the id they are named by. Immutable; `id` is `sha256:…`."""

    id: str
    data: bytes


def seal(predicate: dict[str, Any], subjects: list[dict[str, Any]]) -> SealedRecord:
    """Encode the statement once. Raises ValueError when something in it is not JSON (NaN, infinity, bad text)."""
    data = encode(
        {"_type": STATEMENT_TYPE, "subject": subjects, "predicateType": PREDICATE_TYPE, "predicate": predicate}
    )
    return SealedRecord(digest(data), data)


def subjects(*, plan_digest: str, image_digest: str | None, commit: str | None) -> list[dict[str, Any]]:
    """What the statement is about: the case always; the image and the commit where they were observed."""
    out: list[dict[str, Any]] = [{"name": "case", "digest": {"sha256": plan_digest.removeprefix("sha256:")}}]
    if image_digest is not None:
        out.append({"name": "image", "digest": {"sha256": image_digest.removeprefix("sha256:")}})
    if commit is not None:
        out.append({"name": "source", "digest": {"gitCommit": commit}})
    return out
