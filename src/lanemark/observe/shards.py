"""Which token shards a directory holds, checked without torch, so that bad data is refused before a rank is started.

`open_shards` reads one header a shard and the manifest where there is one; it never reads the tokens. What it promises:
every shard's header agrees with its size, and with the manifest's sizes and token counts. That the bytes are the ones
the manifest names is `verify_digests`, which reads everything and belongs before the clock starts.

**Which shards train.** The public llm.c data sets name their files `…_train_000001.bin` and `…_val_000000.bin`. Where
any name says `train`, those are trained on; otherwise every shard is whose name does not say `val`. A shard of the
manifest that is not there, and a `.bin` file that the manifest does not know, are both refused: either would silently
be another data set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.records.encoding import digest, encode, safe_text
from lanemark.records.errors import DataError
from lanemark.records.shards import HEADER_BYTES, MANIFEST_NAME, ShardEntry, ShardError, token_count

#: Version of `manifest.json`, its key `manifest_version`. An unknown one is refused, never guessed at.
MANIFEST_VERSION: Final = 1
#: Far above what 100,000 shards need; keeps a mistaken file from being read whole.
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1 << 20
_REBUILD: Final = "stage the data again, or name another directory"


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says, its shape checked.

    Attributes:
        entries: the shards it names, in its order.
        vocab: ids are below this, or None where it does not say.
        dataset_digest: `sha256:…` over the shards' digests.
        tokenizer_digest: `sha256:…` of the tokenizer file, or None where it does not say.
    """

    entries: tuple[ShardEntry, ...]
    vocab: int | None
    dataset_digest: str
    tokenizer_digest: str | None


@dataclass(frozen=True)
class Shard:
    """One shard whose header was checked. `name` is text fit for a record; `path` may be undecodable."""

    name: str
    path: Path
    bytes: int
    tokens: int


@dataclass(frozen=True)
class ShardSet:
    """The shards of one directory.

    Attributes:
        directory: where they are.
        shards: those that are trained on, in name order.
        held_out: validation shards, in name order; never trained on.
        manifest: the manifest beside them, or None.
    """

    directory: Path
    shards: tuple[Shard, ...]
    held_out: tuple[Shard, ...]
    manifest: Manifest | None

    @property
    def tokens(self) -> int:
        """Tokens in the shards that are trained on."""
        return sum(shard.tokens for shard in self.shards)

    def num_sequences(self, sequence: int) -> int:
        """Whole training sequences: each needs one token more than it is long, for its last target."""
        return sum((shard.tokens - 1) // sequence for shard in self.shards if shard.tokens > sequence)

    def check_enough(self, sequence: int, sequences_per_step: int) -> None:
        """Refuse data that cannot fill one optimizer step with different sequences. Raises DataError `data-empty`."""
        have = self.num_sequences(sequence)
        if have < sequences_per_step:
            raise DataError(
                "data-empty",
                f"the shards in {self.directory} hold {have} sequences of {sequence} tokens, and one step takes"
                f" {sequences_per_step}",
                "use more data, fewer ranks, a smaller micro-batch or shorter sequences",
            )

    def check_vocab(self, vocab: int) -> None:
        """Refuse a data set whose manifest names ids the model has no row for. Raises DataError `vocab-mismatch`."""
        if self.manifest is not None and self.manifest.vocab is not None and self.manifest.vocab > vocab:
            raise DataError(
                "vocab-mismatch",
                f"the tokens in {self.directory} come from a vocabulary of {self.manifest.vocab} ids, and the preset"
                f" has {vocab}",
                "choose a preset with a larger vocabulary, or stage the data with a smaller one",
            )


def is_held_out(names: Iterable[str]) -> dict[str, bool]:
    """For each shard name of one data set, whether it is kept out of training. Pure; the rule is in the docstring."""
    listed = list(names)
    any_train = any("train" in name.lower() for name in listed)
    return {name: ("train" not in name.lower()) if any_train else ("val" in name.lower()) for name in listed}


def dataset_digest(entries: Iterable[ShardEntry]) -> str:
    """The data set's name: `sha256:…` over its shards' digests in name order, training apart from held-out. Pure."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    held = is_held_out(entry.name for entry in ordered)
    return digest(
        encode(
            {
                "train": [entry.sha256 for entry in ordered if not held[entry.name]],
                "held_out": [entry.sha256 for entry in ordered if held[entry.name]],
            }
        )
    )


def _is_hex(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest's bytes. Pure. Raises ValueError saying what is wrong with them."""
    try:
        doc: Any = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({type(error).__name__})") from None
    if not isinstance(doc, dict) or doc.get("manifest_version") != MANIFEST_VERSION:
        raise ValueError(f"is not a manifest of version {MANIFEST_VERSION}")
    rows = doc.get("shards")
    if not isinstance(rows, list):
        raise ValueError("has no list of shards")  # noqa: TRY004 - it is the file's content that is wrong
    entries: list[ShardEntry] = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not _is_hex(row.get("sha256")):
            raise ValueError("names a shard without a name or a sha256")
        name = row["name"]
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"names a shard {name[:60]!r}, which is no plain file name")
        if not (_is_count(row.get("bytes")) and _is_count(row.get("tokens"))):
            raise ValueError(f"gives no size or token count for {name[:60]!r}")
        entries.append(ShardEntry(name, row["bytes"], row["sha256"], row["tokens"]))
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("names a shard twice")
    vocab, tokenizer = doc.get("vocab"), doc.get("tokenizer_digest")
    if vocab is not None and not (_is_count(vocab) and vocab > 0):
        raise ValueError("gives a vocabulary that is no positive count")
    if tokenizer is not None and not (isinstance(tokenizer, str) and _is_hex(tokenizer.removeprefix("sha256:"))):
        raise ValueError("gives a tokenizer digest that is none")
    if doc.get("dataset_digest") != dataset_digest(entries):
        raise ValueError("gives a data-set digest that does not follow from its shards' digests")
    return Manifest(tuple(entries), vocab, doc["dataset_digest"], tokenizer)


def _read_manifest(directory: Path) -> Manifest | None:
    path = directory / MANIFEST_NAME
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError("manifest-invalid", f"{path} cannot be read ({error.strerror})", _REBUILD) from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise DataError("manifest-invalid", f"{path} is larger than {MAX_MANIFEST_BYTES} bytes", _REBUILD)
    try:
        return parse_manifest(text)
    except ValueError as error:
        raise DataError("manifest-invalid", f"{path} {error}", _REBUILD) from error


def read_shard(path: Path) -> Shard:
    """Check one shard's header against its size. Raises DataError naming the file."""
    shown = safe_text(str(path))
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            tokens = token_count(file.read(HEADER_BYTES), size)
    except ShardError as error:
        raise DataError(
            error.slug, f"{shown} {error}", "copy the shard again, or leave it out of the directory"
        ) from error
    except FileNotFoundError as error:
        raise DataError("data-missing", f"{shown} does not exist", _REBUILD) from error
    except OSError as error:
        raise DataError(
            "data-missing", f"{shown} cannot be read ({error.strerror})", "make it a readable file"
        ) from error
    return Shard(safe_text(path.name), path, size, tokens)


def _check_manifest(manifest: Manifest, found: dict[str, Shard], directory: Path) -> None:
    """Hold the shards that are there to the manifest. Raises DataError `data-missing` or `manifest-mismatch`."""
    named = {entry.name: entry for entry in manifest.entries}
    for name, entry in named.items():
        shard = found.get(name)
        if shard is None:
            raise DataError("data-missing", f"{directory / name} does not exist, but the manifest names it", _REBUILD)
        if (shard.bytes, shard.tokens) != (entry.bytes, entry.tokens):
            raise DataError(
                "manifest-mismatch",
                f"{directory / name} has {shard.tokens} tokens in {shard.bytes} bytes, and the manifest says"
                f" {entry.tokens} in {entry.bytes}",
                _REBUILD,
            )
    for name in found:
        if name not in named:
            raise DataError(
                "manifest-mismatch",
                f"{safe_text(str(directory))}/{name} is a shard that the manifest does not name",
                "remove it, or remove the manifest if the data set is meant to be all the shards there",
            )


def open_shards(directory: Path | str) -> ShardSet:
    """Find and check the shards of a directory.

    Raises:
        DataError: `data-missing`, `data-empty`, `shard-truncated`, `shard-mislabelled`, `manifest-invalid` or
            `manifest-mismatch`, naming the file.
    """
    directory = Path(directory)
    shown = safe_text(str(directory))
    try:
        paths = sorted(directory / name for name in os.listdir(directory) if name.endswith(".bin"))
    except FileNotFoundError as error:
        raise DataError("data-missing", f"the data directory {shown} does not exist", "name an existing one") from error
    except OSError as error:
        raise DataError(
            "data-missing", f"the data directory {shown} cannot be read ({error.strerror})", "name a readable directory"
        ) from error
    manifest = _read_manifest(directory)
    found = {shard.name: shard for shard in map(read_shard, paths)}
    if manifest is not None:
        _check_manifest(manifest, found, directory)
    held = is_held_out(found)
    trained = tuple(shard for name, shard in sorted(found.items()) if not held[name])
    if not sum(shard.tokens for shard in trained):
        why = (
            "no .bin shard" if not found else "no training shard" if not trained else "no token in its training shards"
        )
        raise DataError("data-empty", f"the data directory {shown} has {why}", "name a directory of llm.c token shards")
    return ShardSet(directory, trained, tuple(shard for name, shard in sorted(found.items()) if held[name]), manifest)


def digest_shards(shards: ShardSet, progress: Callable[[str, int], None] | None = None) -> tuple[ShardEntry, ...]:
    """Read every shard whole and return its entry, held-out ones included, in name order.

    Args:
        shards: what `open_shards` found.
        progress: called with a shard's name and the bytes just read.
    """
    entries: list[ShardEntry] = []
    for shard in sorted(shards.shards + shards.held_out, key=lambda shard: shard.name):
        state = hashlib.sha256()
        with open(shard.path, "rb") as file:
            while chunk := file.read(_READ_BYTES):
                state.update(chunk)
                if progress is not None:
                    progress(shard.name, len(chunk))
        entries.append(ShardEntry(shard.name, shard.bytes, state.hexdigest(), shard.tokens))
    return tuple(entries)


def verify_digests(shards: ShardSet, progress: Callable[[str, int], None] | None = None) -> tuple[ShardEntry, ...]:
    """Read every shard whole and hold it to the manifest, where there is one; return the entries either way.

    Raises:
        DataError: `manifest-mismatch`, naming the first shard whose bytes are not the manifest's.
    """
    entries = digest_shards(shards, progress)
    if shards.manifest is not None:
        named = {entry.name: entry.sha256 for entry in shards.manifest.entries}
        for entry in entries:
            if named.get(entry.name) != entry.sha256:
                raise DataError(
                    "manifest-mismatch",
                    f"the bytes of {shards.directory / entry.name} are not the ones its manifest names",
                    _REBUILD,
                )
    return entries
