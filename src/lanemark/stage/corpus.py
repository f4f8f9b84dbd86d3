"""`build_corpus`: a directory of source code becomes token shards, a tokenizer and a manifest.

1. List the files (`lanemark.stage.sources`). If the corpus that is there was built by this recipe from these files, and
   its bytes still are the ones its manifest names, it is used as it is.
2. Train a byte-level BPE on a sample of the text. Byte-level: any file can be encoded, nothing is out of vocabulary.
3. Encode every file, one document after another, each begun by `<|endoftext|>`, into uint16 shards of the llm.c layout.
   About 2 % of the files are held out, whole, into a validation shard.
4. Write the manifest, and put the finished directory in place by renaming it.

The same files, recipe and `tokenizers` version give the same bytes. Builders of one destination take turns (a lock file
beside it), so that two runs at once build it once. A build that was killed leaves a hidden directory beside the
destination, removed by the next build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lanemark.observe.shards import (
    MANIFEST_VERSION,
    dataset_digest,
    open_shards,
    verify_digests,
)
from lanemark.records.encoding import digest, encode, safe_text
from lanemark.records.errors import DataError, LedgerError, UsageError
from lanemark.records.shards import MANIFEST_NAME, TOKEN_BYTES, ShardEntry, header
from lanemark.stage.sources import (
    SUFFIXES,
    SourceFile,
    choose,
    fingerprint,
    held_out,
    list_sources,
    torch_headers,
)

TOKENIZER_NAME: Final = "tokenizer.json"
#: What the corpus was built from, as times and sizes: decides whether it is up to date, and is part of no digest.
INPUTS_NAME: Final = "inputs.json"
#: Begins each document; the first id of the vocabulary. The name is GPT-2's.
END_OF_TEXT: Final = "<|endoftext|>"
#: 256 bytes and the document mark: with fewer, some byte has no token.
MIN_VOCAB: Final = 257
#: uint16 ids.
MAX_VOCAB: Final = 65_536
#: The nano presets' vocabulary.
DEFAULT_VOCAB: Final = 4096
#: All of torch's headers are about 39 MB of text, encoded in about 10 s on 2 cores.
DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024
#: Text that the merges are learned from. 8 MiB take about 2 s; more moves the compression ratio by less than 1 %.
SAMPLE_BYTES: Final = 8 * 1024 * 1024
#: Share of the files that are held out.
HELD_OUT_SHARE: Final = 0.02
#: With fewer files than this nothing is held out: 2 % of them would be one file or none, by chance.
MIN_FILES_TO_HOLD_OUT: Final = 100
#: Tokens in one shard: 8 MiB files, so that even a small corpus has several and none is slow to copy.
SHARD_TOKENS: Final = 4 * 1024 * 1024
#: Text encoded at once: enough to keep all cores busy, little enough to report progress.
_BATCH_BYTES: Final = 2 * 1024 * 1024

#: Called with the stage's name, how much is done and how much there is, in bytes of source text.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """All that the bytes depend on beside the files. Stored in the manifest under `build`."""

    vocab: int
    suffixes: tuple[str, ...]
    max_bytes: int
    seed: int
    tokenizers_version: str

    def to_json(self) -> dict[str, Any]:
        return {
            "vocab": self.vocab,
            "suffixes": list(self.suffixes),
            "max_bytes": self.max_bytes,
            "seed": self.seed,
            "sample_bytes": SAMPLE_BYTES,
            "held_out_share": HELD_OUT_SHARE,
            "shard_tokens": SHARD_TOKENS,
            "tokenizers_version": self.tokenizers_version,
        }


def build_corpus(
    source_dirs: Sequence[Path | str] | None,
    destination: Path | str,
    *,
    vocab: int = DEFAULT_VOCAB,
    suffixes: Sequence[str] = SUFFIXES,
    max_bytes: int = DEFAULT_MAX_BYTES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build a corpus, or find that it is there already. Returns its manifest.

    Args:
        source_dirs: directories of source code; None for torch's own C++ headers.
        destination: directory to make; its parent is made too. An existing one must be a corpus.
        vocab: ids wanted, `MIN_VOCAB` to `MAX_VOCAB`; a small corpus may not have that many to learn.
        suffixes: endings of the names of files to take.
        max_bytes: of source text; more than that and a seeded choice of whole files is taken.
        seed: of that choice, of the tokenizer's sample and of what is held out.
        progress: told how far the build is.

    Raises:
        DataError: `corpus-empty` when there is no text to take.
        UsageError: `value-invalid` for a vocabulary or a size that cannot be; or a destination that is something else.
        LedgerError: `output-unwritable` when the destination cannot be written.
    """
    if not MIN_VOCAB <= vocab <= MAX_VOCAB:
        raise UsageError(
            "value-invalid", f"a vocabulary of {vocab} ids cannot be", f"choose {MIN_VOCAB} to {MAX_VOCAB}"
        )
    if max_bytes < 1:
        raise UsageError("value-invalid", f"a corpus of {max_bytes} bytes cannot be", "choose a positive size")
    destination = Path(destination)
    default = source_dirs is None
    roots = [torch_headers()] if source_dirs is None else [Path(root) for root in source_dirs]
    files = choose(list_sources(roots, suffixes), max_bytes, seed=seed, purpose="corpus")
    if not sum(file.bytes for file in files):
        shown = ", ".join(safe_text(str(root)) for root in roots)
        raise DataError("corpus-empty", f"no source text was found in {shown}", "name a directory of source code")
    recipe = Recipe(vocab, tuple(suffixes), max_bytes, seed, _tokenizers_version())
    described = "C++ headers of the installed torch wheel" if default else safe_text(", ".join(r.name for r in roots))
    try:
        with _turn(destination):
            there = _up_to_date(destination, recipe, files)
            if there is not None:
                return there
            _refuse_foreign(destination)
            return _build(files, destination, recipe, described, progress or (lambda *_: None))
    except OSError as error:
        raise LedgerError(
            "output-unwritable",
            f"the corpus {safe_text(str(destination))} cannot be written ({error.strerror or error})",
            "free some disk space or name another directory",
        ) from error


def _tokenizers_version() -> str:
    import tokenizers

    return str(tokenizers.__version__)


@contextlib.contextmanager
def _turn(destination: Path) -> Iterator[None]:
    """Hold the lock of this destination, and sweep up what a killed build left behind."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(_sibling(destination, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for name in os.listdir(destination.parent):
            if name.startswith(_sibling(destination, "building-").name):
                shutil.rmtree(destination.parent / name, ignore_errors=True)
        yield
    finally:
        os.close(fd)


def _sibling(destination: Path, role: str) -> Path:
    """A hidden name beside the destination. Hashed, because a 200-character name has no room for a suffix."""
    return destination.with_name(f".corpus-{hashlib.sha256(os.fsencode(destination.name)).hexdigest()[:16]}-{role}")


def _up_to_date(destination: Path, recipe: Recipe, files: Sequence[SourceFile]) -> dict[str, Any] | None:
    """The manifest of the corpus that is there, if it is this recipe's, from these files, and undamaged."""
    try:
        inputs = json.loads((destination / INPUTS_NAME).read_bytes())
        manifest: dict[str, Any] = json.loads((destination / MANIFEST_NAME).read_bytes())
        if inputs["fingerprint"] != fingerprint(files) or manifest["build"] != recipe.to_json():
            return None
        if manifest["tokenizer_digest"] != digest((destination / TOKENIZER_NAME).read_bytes()):
            return None
        verify_digests(open_shards(destination))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None  # nothing there, or not fit for use: it will be built
    return manifest


def _refuse_foreign(destination: Path) -> None:
    """Replace nothing but a corpus: somebody's directory of files is not ours to remove."""
    if not destination.exists() or (destination.is_dir() and not os.listdir(destination)):
        return
    if not (destination / INPUTS_NAME).is_file():
        raise UsageError(
            "value-invalid",
            f"{safe_text(str(destination))} exists and was not made by the corpus builder",
            "name a directory that does not exist yet",
        )


def _build(
    files: Sequence[SourceFile], destination: Path, recipe: Recipe, described: str, progress: Progress
) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix=_sibling(destination, "building-").name, dir=destination.parent))
    try:
        os.chmod(work, 0o755)  # noqa: S103 - mkdtemp makes it private; a corpus is as readable as any directory
        manifest = _fill(work, files, recipe, described, progress)
        (work / INPUTS_NAME).write_bytes(encode({"fingerprint": fingerprint(files)}))
        old = _sibling(destination, "building-old")
        if destination.exists():
            os.rename(destination, old)
        os.rename(work, destination)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _fill(
    work: Path, files: Sequence[SourceFile], recipe: Recipe, described: str, progress: Progress
) -> dict[str, Any]:
    skipped = {"unreadable": 0, "binary": 0, "empty": 0}
    tokenizer = _train(choose(files, SAMPLE_BYTES, seed=recipe.seed, purpose="sample"), recipe.vocab, progress)
    data = (tokenizer.to_str() + "\n").encode()
    (work / TOKENIZER_NAME).write_bytes(data)

    contents: list[list[str]] = []
    source_bytes = 0
    writers = {False: ShardWriter(work, "corpus_train"), True: ShardWriter(work, "corpus_val")}
    mark = tokenizer.token_to_id(END_OF_TEXT)
    share = HELD_OUT_SHARE if len(files) >= MIN_FILES_TO_HOLD_OUT else 0.0
    total, done = sum(file.bytes for file in files), 0
    for batch in _batches(files):
        texts = [(file, _text_of(file, skipped)) for file in batch]
        kept = [(file, *text) for file, text in texts if text is not None]
        encodings = tokenizer.encode_batch_fast([text for _, text, _ in kept])
        for (file, _, sha256), encoding in zip(kept, encodings, strict=True):
            writers[held_out(file.name, share, seed=recipe.seed)].add([mark, *encoding.ids])
            contents.append([file.name, sha256])
            source_bytes += file.bytes
        done += sum(file.bytes for file in batch)
        progress("encode", done, total)
    entries = [entry for writer in writers.values() for entry in writer.close()]
    if not any(entry.tokens for entry in entries if "train" in entry.name):
        raise DataError("corpus-empty", "no source file could be read as text", "name a directory of source code")
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "layout": "llm.c uint16",
        "vocab": tokenizer.get_vocab_size(),
        "tokens": sum(entry.tokens for entry in entries),
        "dataset_digest": dataset_digest(entries),
        "tokenizer_digest": digest(data),
        "shards": [entry.to_json() for entry in entries],
        "source": {
            "description": described,
            "files": len(contents),
            "bytes": source_bytes,
            "digest": digest(encode(contents)),
            "skipped": skipped,
        },
        "build": recipe.to_json(),
    }
    (work / MANIFEST_NAME).write_bytes(encode(manifest))
    return manifest


def _text_of(file: SourceFile, skipped: dict[str, int]) -> tuple[str, str] | None:
    """A file's text and the sha256 of its bytes; None, and counted, when there is no text to take.

    Bytes that are not UTF-8 become U+FFFD: source files in older encodings are worth their ASCII.
    """
    try:
        data = file.path.read_bytes()
    except OSError:
        skipped["unreadable"] += 1
        return None
    if not data or b"\0" in data:
        skipped["binary" if data else "empty"] += 1
        return None
    return data.decode("utf-8", "replace"), hashlib.sha256(data).hexdigest()


def _batches(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _train(sample: Sequence[SourceFile], vocab: int, progress: Progress) -> Any:
    """Learn a byte-level BPE. The result depends on the text and the vocabulary, not on threads or on the order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    total, done = sum(file.bytes for file in sample), 0

    def texts() -> Iterator[str]:
        nonlocal done
        for file in sample:
            text = _text_of(file, {"unreadable": 0, "binary": 0, "empty": 0})
            if text is not None:
                yield text[0]
            done += file.bytes
            progress("learn", done, total)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


class ShardWriter:
    """Collects tokens into `<stem>_<number>.bin` files of at most `SHARD_TOKENS` tokens."""

    def __init__(self, directory: Path, stem: str) -> None:
        self._directory, self._stem = directory, stem
        self._tokens = array("H")
        self._entries: list[ShardEntry] = []
        assert self._tokens.itemsize == TOKEN_BYTES, "this platform's unsigned short is no uint16"

    def add(self, ids: Sequence[int]) -> None:
        """Append one document's tokens; a document may end in the next shard."""
        self._tokens.extend(ids)
        while len(self._tokens) >= SHARD_TOKENS:
            self._write(self._tokens[:SHARD_TOKENS])
            self._tokens = self._tokens[SHARD_TOKENS:]

    def close(self) -> list[ShardEntry]:
        """Write what is left and return the entries of all files written."""
        if self._tokens:
            self._write(self._tokens)
            self._tokens = array("H")
        return self._entries

    def _write(self, tokens: array[int]) -> None:
        if sys.byteorder == "big":
            tokens.byteswap()
        data = header(len(tokens)) + tokens.tobytes()
        name = f"{self._stem}_{len(self._entries):06d}.bin"
        with open(self._directory / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(ShardEntry(name, len(data), hashlib.sha256(data).hexdigest(), len(tokens)))
