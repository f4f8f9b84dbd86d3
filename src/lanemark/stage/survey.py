"""`survey`: look at a source and decide what of it is wanted, before a byte of it is carried.

1. A manifest that the caller trusts, else `manifest.json` at the source. With one, its shards are wanted, and the
   tokenizer that it names by digest; an object of another size than it says refuses now.
2. Without one, every object is wanted, and nothing but the provider's own checksum can vouch for its bytes.
3. A case that consumes only so many sequences wants only the first training shards that hold them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lanemark.observe.shards import MAX_MANIFEST_BYTES
from lanemark.records.errors import DataError, StageError
from lanemark.records.shards import MANIFEST_NAME, ShardEntry
from lanemark.stage.artifacts import ARTIFACTS_NAME, Pin, read_pins
from lanemark.stage.manifests import enough, guess_tokens, narrowed, read_manifest
from lanemark.stage.names import STAGED_NAME, check_names
from lanemark.stage.objects import Found, Needed, Verification, Wanted
from lanemark.stage.place import Place
from lanemark.stage.store import Store
from lanemark.stage.transfer import corrupt

_TOKENIZER: Final = "tokenizer.json"
#: The ETag of an S3 object put in one part and not encrypted with a key of KMS is its MD5 (S3 API reference, Object).
_MD5_ETAG: Final = re.compile(r'"([0-9a-f]{32})"')


@dataclass(frozen=True)
class Plan:
    """What is to be staged.

    Attributes:
        source: the source's name, without credentials.
        wanted: the objects, in name order.
        manifest: the manifest to lie beside them, or None.
        dataset_digest: of the shards, where a manifest names them.
        ignored: objects at the source that are not wanted.
        beside: what the manifest is called: of data `manifest.json`, of artifacts `artifacts.json`.
    """

    source: str
    wanted: tuple[Wanted, ...]
    manifest: bytes | None
    dataset_digest: str | None
    ignored: int
    beside: str = MANIFEST_NAME

    @property
    def bytes_total(self) -> int:
        return sum(one.bytes for one in self.wanted)

    @property
    def offers(self) -> Verification:
        """What the bytes can be held to, all together."""
        if all(one.sha256 is not None for one in self.wanted):
            return "manifest"
        return "provider" if all(one.sha256 or one.md5 for one in self.wanted) else "unverified"

    @property
    def key(self) -> str:
        """What tells these contents from others, in a directory's name: 12 hexadecimal digits."""
        rows = [[one.name, one.bytes, one.sha256 or one.version or one.etag] for one in self.wanted]
        return hashlib.sha256(json.dumps([self.source, rows]).encode()).hexdigest()[:12]


def survey(
    store: Store, *, manifest: Path | None, needed: Needed | None, artifacts: bool = False
) -> tuple[Store, Plan]:
    """Look and decide. Returns the plan and the store to carry it from (another one where the place is one object).

    With `artifacts`, the manifest is one of `lanemark.stage.artifacts`, and all that it pins is wanted.

    Raises:
        StageError: `stage-unreachable`, `stage-denied`, `stage-empty`, `stage-name-hostile`, `stage-short` or
            `stage-corrupt`.
        DataError: `manifest-invalid` or `artifacts-invalid`, or `data-missing` when the manifest names what the source
            does not hold.
    """
    listed = [] if store.place.kind == "http" else _listed(store)
    beside = ARTIFACTS_NAME if artifacts else MANIFEST_NAME
    text = _manifest_text(store, manifest, listed, beside)
    single = text is None and not listed
    if single:
        store, found = _single(store)
        listed = [found]
    check_names((found.name for found in listed), store.place.name)
    if text is not None and artifacts:
        return store, _by_pins(store, text, listed)
    if text is not None:
        return store, _by_manifest(store, text, listed, needed, str(manifest) if manifest else None)
    wanted = [_unvouched(store, found) for found in listed if found.name not in (STAGED_NAME, beside)]
    if needed is not None:
        shards = [one for one in wanted if one.name.endswith(".bin") and "/" not in one.name]
        rows = [ShardEntry(one.name, one.bytes, "", guess_tokens(one.bytes)) for one in shards]
        names = {row.name for row in enough(rows, needed)}
        wanted = [one for one in shards if one.name in names]
    if not wanted:
        raise _empty(store.place)
    ordered = tuple(sorted(wanted, key=lambda one: one.name))
    return store, Plan(store.place.name, ordered, None, None, len(listed) - len(ordered), beside)


def _listed(store: Store) -> list[Found]:
    """The listing, without the empty objects that some tools keep as marks of folders."""
    if store.place.kind == "local" and not os.path.isdir(store.place.prefix):
        return []
    found = store.listing()
    folders = {one.name[: one.name.rfind("/")] for one in found if "/" in one.name}
    return [one for one in found if one.bytes or one.name not in folders]


def _manifest_text(store: Store, manifest: Path | None, listed: list[Found], name: str) -> bytes | None:
    if manifest is not None:
        try:
            with open(manifest, "rb") as file:
                return file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise DataError(
                "manifest-invalid", f"{manifest} cannot be read ({error.strerror})", "name a manifest that can be"
            ) from error
    if store.place.kind != "http" and not any(found.name == name for found in listed):
        return None
    return store.document(name, MAX_MANIFEST_BYTES)


def _single(store: Store) -> tuple[Store, Found]:
    """A place that is no prefix of anything may be one object."""
    place = store.place
    folder, _, name = place.prefix.rpartition("/")
    if not name or (place.kind == "local" and not os.path.isfile(place.prefix)):
        raise _empty(place)
    above = store.at(replace(place, prefix=folder or ("/" if place.kind == "local" else "")))
    found = above.head(name)
    if found is None:
        raise _empty(place)
    return above, found


def _empty(place: Place) -> StageError:
    more = "; a web server cannot be listed, so a manifest.json must lie there" if place.kind == "http" else ""
    return StageError(
        "stage-empty", f"the source {place.name} holds nothing that could be staged{more}", "check its name"
    )


def _unvouched(store: Store, found: Found) -> Wanted:
    match = _MD5_ETAG.fullmatch(found.etag or "") if store.place.kind == "s3" else None
    return Wanted(found.name, found.bytes, found.etag, found.version, md5=match[1] if match else None)


def _by_manifest(store: Store, text: bytes, listed: list[Found], needed: Needed | None, given: str | None) -> Plan:
    where = given or f"{store.place.name}/{MANIFEST_NAME}"
    manifest, pieces = read_manifest(text, where)
    there = {found.name: found for found in listed}
    entries = manifest.entries if needed is None else enough(manifest.entries, needed)
    wanted = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        found = _matching(store, there, entry, where)
        wanted.append(
            Wanted(
                entry.name,
                entry.bytes,
                found.etag,
                found.version,
                sha256=entry.sha256,
                pieces=pieces.get(entry.name),
                tokens=entry.tokens,
            )
        )
    if not wanted:
        raise _empty(store.place)
    vocabulary = there.get(_TOKENIZER)
    if manifest.tokenizer_digest is not None and vocabulary is not None:
        sha256 = manifest.tokenizer_digest.removeprefix("sha256:")
        wanted.append(Wanted(_TOKENIZER, vocabulary.bytes, vocabulary.etag, vocabulary.version, sha256=sha256))
    part = len(entries) < len(manifest.entries)
    text = narrowed(text, entries) if part else text
    kept, _ = read_manifest(text, where)
    ignored = sum(found.name not in {one.name for one in wanted} | {MANIFEST_NAME} for found in listed)
    return Plan(store.place.name, tuple(wanted), text, kept.dataset_digest, ignored)


def _by_pins(store: Store, text: bytes, listed: list[Found]) -> Plan:
    where = f"{store.place.name}/{ARTIFACTS_NAME}"
    there = {found.name: found for found in listed}
    wanted = []
    for pin in sorted(read_pins(text, where).pins, key=lambda pin: pin.name):
        found = _matching(store, there, pin, where)
        wanted.append(Wanted(pin.name, pin.bytes, found.etag, found.version, sha256=pin.sha256))
    ignored = sum(found.name not in {one.name for one in wanted} | {ARTIFACTS_NAME} for found in listed)
    return Plan(store.place.name, tuple(wanted), text, None, ignored, ARTIFACTS_NAME)


def _matching(store: Store, there: dict[str, Found], entry: ShardEntry | Pin, where: str) -> Found:
    """The object that a manifest's entry is; of a source that cannot be listed, what it has to be."""
    if store.place.kind == "http":
        return Found(entry.name, entry.bytes, None, None)
    found = there.get(entry.name)
    if found is None:
        raise DataError(
            "data-missing",
            f"{where} names {entry.name}, which {store.place.name} does not hold",
            "put it there, or name the prefix that holds it",
        )
    if found.bytes < entry.bytes:
        raise StageError(
            "stage-short",
            f"the object {entry.name} of {store.place.name} has {found.bytes} bytes, and its manifest says"
            f" {entry.bytes}",
            "put the whole object there, or make a new manifest",
        )
    if found.bytes > entry.bytes:
        raise corrupt(entry.name, store.place.name, f"it has {found.bytes} bytes instead of {entry.bytes}")
    return found
