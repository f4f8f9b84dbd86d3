"""The tokens of a run: find or stage them, build the default corpus where there is none, check every byte of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lanemark.cli.asked import Asked
from lanemark.cli.progress import Bar
from lanemark.cli.stage import Watcher
from lanemark.lanes.presets import Preset
from lanemark.observe.packed import open_tokens
from lanemark.observe.shards import ShardSet, dataset_digest, verify_digests
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import GateRefused, StageError
from lanemark.records.observation import absent, observed, unavailable
from lanemark.records.shards import ShardEntry
from lanemark.stage.names import STAGED_NAME
from lanemark.stage.objects import Needed, Staged
from lanemark.stage.place import is_url, parse_place
from lanemark.stage.staged_file import read_staged, weakest
from lanemark.stage.staging import stage


@dataclass(frozen=True)
class Tokens:
    """Where a run's tokens are and what they are.

    Attributes:
        directory: shards, or None for made-up tokens.
        asked: what the case pins.
        doc: what was seen of them, for the record's `data` part: digests and shards, as observations.
    """

    directory: Path | None
    asked: DataAsked
    doc: dict[str, Any]


def default_corpus(home: Home) -> Path:
    """Where the default corpus lies: named by its source, so that another one never stands in for it."""
    return home.data / "torch-headers"


def _build_default(destination: Path) -> None:
    from importlib.util import find_spec

    from lanemark.stage.corpus import build_corpus

    if find_spec("tokenizers") is None:
        raise GateRefused(
            "torch-missing",
            "building the default corpus needs the `tokenizers` package, which this interpreter does not have",
            "pip install 'lanemark[train]', or name token shards with --data DIR",
        )
    # One small vocabulary serves every preset: ids only have to be below the preset's own.
    with Bar("building the corpus from the C++ headers in torch's wheel") as bar:
        build_corpus(None, destination, progress=lambda what, done, of: bar.line(f"{what}, {done} of {of}"))


def _check(shards: ShardSet, case: Case, recipe: Preset) -> None:
    shards.check_enough(case.sequence, case.nproc * case.micro_batch * case.grad_accum)
    shards.check_vocab(recipe.vocab)


def _needed(case: Case) -> Needed:
    """What the whole run consumes: staging more would cost time and disk, and be another data set than was read."""
    return Needed(case.steps * case.nproc * case.micro_batch * case.grad_accum, case.sequence)


def _stage(url: str, case: Case, home: Home, *, carry: bool) -> Staged:
    """Stage what the case needs below the home, in a directory named by its source and contents.

    Raises:
        GateRefused: staging did not end in verified data; the slug and the sentence are staging's own.
    """
    with Watcher() as watcher:
        try:
            return stage(
                url,
                lambda plan: home.data / f"{parse_place(url).last}-{plan.key}",
                needed=_needed(case),
                progress=watcher.look,
                dry_run=not carry,
            )
        except StageError as error:
            raise GateRefused(error.slug, error.what, error.remedy) from error


def _staging_doc(directory: Path, entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """Where the shards were staged from, as `staged.json` beside them tells, if it tells of these very shards."""
    source = "staged.json beside the shards"
    told = read_staged(directory)
    if told is None:
        return absent(source, "there is none: the shards were not put there by staging").to_json()
    for entry in entries:
        one = told.objects.get(entry.name)
        if one is None or one.bytes != entry.bytes or one.sha256 not in (None, entry.sha256):
            return unavailable(source, f"it does not describe {entry.name} as it is").to_json()
    shards = [told.objects[entry.name] for entry in entries]
    return observed(
        {
            "source": told.source,
            "staged_at": told.staged_at,
            "verification": weakest(one.verified for one in shards),
            "objects": len(told.objects),
            "bytes": sum(one.bytes for one in told.objects.values()),
            "bytes_fetched": told.bytes_fetched,
            "staging_s": told.seconds,
        },
        source,
    ).to_json()


def resolve(asked: Asked, home: Home, *, build: bool) -> Tokens:
    """Find, build or check the tokens. Reads every byte of the shards once, so that the record can name them.

    Args:
        asked: the understood command line.
        home: where the default corpus lies.
        build: whether the default corpus may be built now (`plan` looks, and builds nothing).

    Raises:
        DataError: missing, empty, truncated or mislabelled data, naming the file.
        GateRefused: a source could not be staged.
    """
    case, recipe = asked.case, asked.preset
    if case.script is not None:
        return Tokens(None, DataAsked("own"), {})
    if asked.data == "synthetic":
        return Tokens(None, DataAsked("synthetic"), {})
    if asked.data is not None and is_url(asked.data):
        staged = _stage(asked.data, case, home, carry=build)
        directory = Path(staged.directory)
        if not build and not (directory / STAGED_NAME).exists():
            return Tokens(directory, replace(case.data, dataset_digest=staged.dataset_digest), {})
    else:
        directory = Path(asked.data).absolute() if asked.data is not None else default_corpus(home)
    if asked.data is None and build and not (directory / "manifest.json").exists():
        _build_default(directory)
    if asked.data is None and not build and not directory.exists():
        return Tokens(directory, case.data, {})
    shards = open_tokens(directory)
    assert recipe is not None  # a lane without a model reads no shards
    _check(shards, case, recipe)
    total = sum(shard.bytes for shard in (*shards.shards, *shards.held_out))
    with Bar("reading and hashing the shards", total=total) as bar:
        entries = verify_digests(shards, lambda _, count: bar.advance(count))
    name = dataset_digest(entries)
    source = "sha256 of every shard's bytes"
    no_manifest = absent("data directory", "there is no manifest beside the shards").to_json()
    manifest = shards.manifest
    trained = {shard.name for shard in shards.shards}
    doc = {
        "dataset_digest": observed(name, source).to_json(),
        "tokenizer_digest": observed(manifest.tokenizer_digest, "manifest.json").to_json()
        if manifest is not None and manifest.tokenizer_digest
        else no_manifest,
        "manifest_verified": observed(value=True, source=source).to_json() if manifest is not None else no_manifest,
        "shards": [
            {
                "name": entry.name,
                "bytes": entry.bytes,
                "tokens": entry.tokens,
                "sha256": observed(entry.sha256, "sha256 of its bytes").to_json(),
            }
            for entry in entries
            if entry.name in trained
        ],
        "staged": _staging_doc(directory, entries),
    }
    return Tokens(directory, replace(case.data, dataset_digest=name), doc)
