"""The nouns of staging: what a source holds, what is wanted of it, what was staged. Frozen views, no I/O.

**Pieces.** A large object is fetched, verified and journalled in pieces of 16 MiB. A manifest may give a digest of each
piece; then a broken byte costs one piece. Where it gives only the object's sha256, a broken byte costs the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

#: Fast enough to amortise a request (facts: ranges of 16 MiB), small enough that a broken one costs little.
PIECE_BYTES: Final = 16 * 1024 * 1024
#: Against what an object's bytes were held: digests of a trusted manifest; the provider's own checksum; nothing.
Verification = Literal["manifest", "provider", "unverified"]


def num_pieces(size_bytes: int) -> int:
    """Pieces of an object; an empty one has one, so that it is made and journalled like any other."""
    return max(1, -(-size_bytes // PIECE_BYTES))


@dataclass(frozen=True, slots=True)
class Found:
    """One object as the source lists it. `etag` and `version` are None where the source gives none."""

    name: str
    bytes: int
    etag: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object to stage.

    Attributes:
        name: its name below the source, checked (`lanemark.stage.names`).
        bytes: its size.
        etag, version: what its source called these bytes when it was listed; every request insists on them.
        sha256: hexadecimal, from a trusted manifest, or None.
        pieces: blake3 of each piece from such a manifest, hexadecimal, or None.
        md5: hexadecimal, where the provider's ETag may be one (an S3 object put in one part), else None.
        tokens: from the manifest, or None.
    """

    name: str
    bytes: int
    etag: str | None = None
    version: str | None = None
    sha256: str | None = None
    pieces: tuple[str, ...] | None = None
    md5: str | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StagedObject:
    """One object that lies in the destination.

    Attributes:
        name, bytes, etag, version, tokens: as `Wanted`.
        sha256: hexadecimal; computed here, or the manifest's where its piece digests were what the bytes were held to;
            None when nobody asked for it.
        pieces: blake3 of each piece, computed as it arrived.
        verified: against what.
    """

    name: str
    bytes: int
    sha256: str | None
    pieces: tuple[str, ...]
    etag: str | None
    version: str | None
    tokens: int | None
    verified: Verification

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "name": self.name, "bytes": self.bytes, "pieces": list(self.pieces), "verified": self.verified,
        }  # fmt: skip
        more = {"sha256": self.sha256, "etag": self.etag, "version": self.version, "tokens": self.tokens}
        return {**doc, **{key: value for key, value in more.items() if value is not None}}


@dataclass(frozen=True)
class Needed:
    """How much of a data set a case consumes: whole sequences, of so many tokens each."""

    sequences: int
    sequence: int


@dataclass(frozen=True)
class Staged:
    """What a staging came to.

    Attributes:
        directory: where the objects lie; in a dry run, where they would.
        objects: all of them, in name order; empty in a dry run.
        bytes_total: their size together.
        bytes_fetched: bytes that were carried from the source, repeats included.
        bytes_reused: bytes that lay here already and were verified again.
        seconds: how long it took.
        verification: `manifest`, `provider` or `unverified`: the weakest among the objects; in a dry run, what the
            source offers.
        source: the source's name, without credentials.
        ignored: objects at the source that were not wanted.
        repeats: pieces fetched again because they failed or were broken.
        dataset_digest: of the shards, where a manifest names them.
    """

    directory: str
    objects: tuple[StagedObject, ...]
    bytes_total: int
    bytes_fetched: int
    bytes_reused: int
    seconds: float
    verification: Verification
    source: str
    ignored: int
    repeats: int
    dataset_digest: str | None

    @property
    def verified(self) -> bool:
        """Whether every byte was held to a digest that did not come from the bytes themselves."""
        return self.verification != "unverified"
