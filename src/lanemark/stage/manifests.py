"""Manifests that staging reads and makes: `manifest.json` of `lanemark.observe.shards`, with two things more per shard.

    "pieces": {"bytes": 16777216, "blake3": ["…", …]}    a digest of each piece, so that a broken byte costs one piece
    "etag", "version"                                    what the source called these bytes when the manifest was made

Both are optional, and readers that do not know them ignore them; the shard's sha256 is what names the data. A manifest
is trusted for what it says, never for where it points: names in it are checked like any other.

A source with a manifest is staged as the manifest says: what it does not name stays where it is. Of a data set that is
only partly needed, the manifest that lies beside the staged shards names only them, and its `dataset_digest` follows:
a subset is another data set, and its records say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from lanemark.observe.shards import (
    MANIFEST_VERSION,
    MAX_MANIFEST_BYTES,
    Manifest,
    dataset_digest,
    is_held_out,
    parse_manifest,
)
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError
from lanemark.records.shards import HEADER_BYTES, TOKEN_BYTES, ShardEntry, ShardError, token_count
from lanemark.stage.names import fault_of
from lanemark.stage.objects import PIECE_BYTES, Needed, StagedObject, num_pieces

_HEX: Final = frozenset("0123456789abcdef")


def read_manifest(text: bytes, where: str) -> tuple[Manifest, dict[str, tuple[str, ...]]]:
    """A manifest's bytes → the manifest, and the piece digests of the shards that have some. Pure.

    Raises:
        DataError: `manifest-invalid`.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise _invalid(where, f"is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = parse_manifest(text)
    except ValueError as error:
        raise _invalid(where, str(error)) from error
    rows = {row["name"]: row for row in json.loads(text)["shards"]}
    pieces: dict[str, tuple[str, ...]] = {}
    for entry in manifest.entries:
        why = fault_of(entry.name)
        if why is not None:
            raise _invalid(where, f"names a shard that {why}")
        found = _pieces(rows[entry.name].get("pieces"), entry, where)
        if found is not None:
            pieces[entry.name] = found
    return manifest, pieces


def _pieces(row: Any, entry: ShardEntry, where: str) -> tuple[str, ...] | None:
    """The piece digests of one shard; None where it has none, or has them of another size of piece."""
    if row is None:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("blake3"), list):
        raise _invalid(where, f"gives pieces of {entry.name} that are none")
    if row.get("bytes") != PIECE_BYTES:
        return None
    digests = row["blake3"]
    whole = all(isinstance(one, str) and len(one) == 64 and set(one) <= _HEX for one in digests)
    if not whole or len(digests) != num_pieces(entry.bytes):
        raise _invalid(where, f"gives pieces of {entry.name} that do not fit its size")
    return tuple(digests)


def _invalid(where: str, why: str) -> DataError:
    return DataError("manifest-invalid", f"{where} {why}", "make it again with `lanemark stage --manifest`")


def enough(entries: Sequence[ShardEntry], needed: Needed) -> tuple[ShardEntry, ...]:
    """The first training shards, in name order, that hold the sequences needed; all of them when they do not. Pure.

    Counted as the loader does: a sequence lies in one shard and takes one token more than it is long.
    """
    held = is_held_out(entry.name for entry in entries)
    chosen: list[ShardEntry] = []
    have = 0
    for entry in sorted(entries, key=lambda entry: entry.name):
        if held[entry.name]:
            continue
        if have >= needed.sequences:
            break
        chosen.append(entry)
        have += max(0, entry.tokens - 1) // needed.sequence
    return tuple(chosen)


def guess_tokens(size_bytes: int) -> int:
    """Tokens that a shard of this size has, if it is one: for choosing before a byte of it was read."""
    return max(0, size_bytes - HEADER_BYTES) // TOKEN_BYTES


def narrowed(text: bytes, chosen: Iterable[ShardEntry]) -> bytes:
    """The manifest of some of the shards of a manifest: all else that it says is kept."""
    doc = json.loads(text)
    names = {entry.name: entry for entry in chosen}
    doc["subset_of"] = doc["dataset_digest"]
    doc["shards"] = [row for row in doc["shards"] if row["name"] in names]
    doc["dataset_digest"] = dataset_digest(names.values())
    return _written(doc)


def made(objects: Sequence[StagedObject], directory: Path, source: str) -> bytes:
    """A manifest of the shards that were staged from a source that has none.

    Raises:
        DataError: `shard-truncated` or `shard-mislabelled`, naming the shard; `data-empty` when there is none.
    """
    rows: list[dict[str, Any]] = []
    entries: list[ShardEntry] = []
    for one in objects:
        if not one.name.endswith(".bin") or "/" in one.name:
            continue
        assert one.sha256 is not None, "a manifest is made of what was hashed"
        with open(directory / one.name, "rb") as file:
            try:
                tokens = token_count(file.read(HEADER_BYTES), one.bytes)
            except ShardError as error:
                what = f"{safe_text(one.name)} of {source} {error}"
                raise DataError(error.slug, what, "leave it out of the source, or stage without --manifest") from error
        entry = ShardEntry(one.name, one.bytes, one.sha256, tokens)
        entries.append(entry)
        tags = {key: value for key, value in (("etag", one.etag), ("version", one.version)) if value is not None}
        rows.append({**entry.to_json(), "pieces": {"bytes": PIECE_BYTES, "blake3": list(one.pieces)}, **tags})
    if not entries:
        raise DataError("data-empty", f"{source} holds no .bin shard to make a manifest of", "stage without --manifest")
    return _written(
        {
            "manifest_version": MANIFEST_VERSION,
            "dataset_digest": dataset_digest(entries),
            "shards": rows,
            "made_from": source,
        }
    )


def _written(doc: dict[str, Any]) -> bytes:
    return (json.dumps(doc, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
