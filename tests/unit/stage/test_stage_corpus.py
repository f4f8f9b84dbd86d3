"""Building a corpus: the same bytes every time, nothing lost in tokens, nothing of anybody's replaced."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers", reason="the corpus builder trains its vocabulary with the tokenizers library")

from lanemark.observe.shards import open_shards, verify_digests
from lanemark.records.encoding import digest
from lanemark.records.errors import DataError, LanemarkError, UsageError
from lanemark.stage import corpus, sources
from lanemark.stage.corpus import build_corpus
from lanemark.stage.sources import choose, held_out, list_sources, torch_headers


def put_sources(root: Path, count: int = 12) -> Path:
    for number in range(count):
        folder = root / f"part{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"int value_{number}_{line} = {line * number}; // größe\n" for line in range(40))
        (folder / f"file{number}.h").write_text(text, encoding="utf-8")
    return root


def build(root: Path, destination: Path, **options: Any) -> dict[str, Any]:
    return build_corpus([root], destination, **{"vocab": 300, **options})


def refused(error: type[LanemarkError], slug: str, *args: Any, **options: Any) -> LanemarkError:
    with pytest.raises(error) as caught:
        build_corpus(*args, **options)
    assert caught.value.slug == slug
    return caught.value


def tokens_of(directory: Path, pattern: str) -> list[int]:
    out = array("H")
    for path in sorted(directory.glob(pattern)):
        out.frombytes(path.read_bytes()[1024:])
    return list(out)


def test_a_corpus_is_shards_with_a_manifest_that_holds(tmp_path: Path):
    root = put_sources(tmp_path / "src")
    manifest = build(root, tmp_path / "corpus")
    found = open_shards(tmp_path / "corpus")
    verify_digests(found)
    assert found.manifest is not None
    assert found.manifest.dataset_digest == manifest["dataset_digest"]
    assert found.manifest.vocab == manifest["vocab"] == 300
    assert manifest["tokens"] == found.tokens
    assert manifest["tokenizer_digest"] == digest((tmp_path / "corpus" / "tokenizer.json").read_bytes())
    assert manifest["source"]["files"] == 12
    assert manifest["source"]["bytes"] == sum(path.stat().st_size for path in root.rglob("*.h"))
    assert str(tmp_path) not in (tmp_path / "corpus" / "manifest.json").read_text()


def test_the_tokens_decode_to_the_files(tmp_path: Path):
    from tokenizers import Tokenizer

    root = put_sources(tmp_path / "src", 3)
    build(root, tmp_path / "corpus")
    tokens = tokens_of(tmp_path / "corpus", "*.bin")
    assert tokens.count(0) == 3
    assert tokens[0] == 0
    decoded = Tokenizer.from_file(str(tmp_path / "corpus" / "tokenizer.json")).decode(tokens)
    assert decoded == "".join(file.path.read_text(encoding="utf-8") for file in list_sources([root]))


def test_the_same_files_give_the_same_bytes(tmp_path: Path):
    one = build(put_sources(tmp_path / "a" / "src"), tmp_path / "one")
    two = build(put_sources(tmp_path / "b" / "src"), tmp_path / "two")
    assert one == two
    for name in ("tokenizer.json", "manifest.json", "corpus_train_000000.bin"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_up_to_date_corpus_is_left_alone(tmp_path: Path):
    root = put_sources(tmp_path / "src")
    first = build(root, tmp_path / "corpus")
    stamp = (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns
    told: list[str] = []
    assert build(root, tmp_path / "corpus", progress=lambda stage, *_: told.append(stage)) == first
    assert (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns == stamp
    assert told == []


@pytest.mark.parametrize("change", ["file", "recipe", "shard", "tokenizer", "manifest"])
def test_a_corpus_that_is_out_of_date_or_damaged_is_built_again(tmp_path: Path, change: str):
    root = put_sources(tmp_path / "src")
    there = tmp_path / "corpus"
    first = build(root, there)
    if change == "file":
        (root / "more.h").write_text("#pragma once\n")
    elif change != "recipe":
        name = {"shard": "corpus_train_000000.bin", "tokenizer": "tokenizer.json", "manifest": "manifest.json"}[change]
        data = bytearray((there / name).read_bytes())
        data[-2] ^= 0xFF
        (there / name).write_bytes(data)
    again = build(root, there, **({"vocab": 290} if change == "recipe" else {}))
    verify_digests(open_shards(there))
    assert (again["dataset_digest"] == first["dataset_digest"]) == (change not in ("file", "recipe"))


def test_progress_ends_at_the_whole(tmp_path: Path):
    told: list[tuple[str, int, int]] = []
    build(put_sources(tmp_path / "src"), tmp_path / "corpus", progress=lambda *row: told.append(row))
    assert {stage for stage, _, _ in told} == {"learn", "encode"}
    assert told[-1][1] == told[-1][2] > 0


def test_about_one_file_in_fifty_is_held_out(tmp_path: Path):
    manifest = build(put_sources(tmp_path / "src", 150), tmp_path / "corpus")
    names = [shard["name"] for shard in manifest["shards"]]
    assert names == ["corpus_train_000000.bin", "corpus_val_000000.bin"]
    assert 0 < tokens_of(tmp_path / "corpus", "*val*").count(0) < 15
    assert 100 < sum(held_out(f"file{number}", 0.02, seed=0) for number in range(10_000)) < 300


def test_long_streams_are_cut_into_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "SHARD_TOKENS", 1000)
    manifest = build(put_sources(tmp_path / "src"), tmp_path / "corpus")
    counts = [shard["tokens"] for shard in manifest["shards"]]
    assert len(counts) > 2
    assert set(counts[:-1]) == {1000}
    whole = tokens_of(tmp_path / "corpus", "*.bin")
    monkeypatch.setattr(corpus, "SHARD_TOKENS", 10**6)
    build(tmp_path / "src", tmp_path / "other")
    assert tokens_of(tmp_path / "other", "*.bin") == whole


def test_what_cannot_be_read_as_text_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = put_sources(tmp_path / "src", 3)
    (root / "binary.h").write_bytes(b"abc\0def")
    (root / "empty.h").write_bytes(b"")
    (root / "latin.h").write_bytes("größe".encode("latin-1"))
    (root / "no.h").write_text("secret")
    real = Path.read_bytes
    monkeypatch.setattr(
        Path,
        "read_bytes",
        lambda self: (_ for _ in ()).throw(PermissionError(13, "no")) if self.name == "no.h" else real(self),
    )
    manifest = build(root, tmp_path / "corpus")
    assert manifest["source"]["skipped"] == {"unreadable": 1, "binary": 1, "empty": 1}
    assert manifest["source"]["files"] == 4


def test_hostile_names_and_things_that_are_no_files(tmp_path: Path):
    root = put_sources(tmp_path / "src", 2)
    bad = os.fsencode(root) + b"/ \xff'\"\n$(touch x);" + b"y" * 200 + b".h"
    with open(bad, "wb") as file:
        file.write(b"int hostile;\n")
    os.mkfifo(root / "pipe.h")
    (root / "link.h").symlink_to(root / "part0" / "file0.h")
    (root / "loop").symlink_to(root)
    (root / "folder.h").mkdir()
    destination = tmp_path / ('it\'s a "home"\n' + "z" * 200)
    manifest = build(root, destination)
    assert manifest["source"]["files"] == 3
    assert build(root, destination) == manifest
    assert open_shards(destination).manifest is not None


def test_only_the_suffixes_asked_for_are_taken(tmp_path: Path):
    root = put_sources(tmp_path / "src", 2)
    (root / "notes.txt").write_text("not code")
    (root / "UPPER.H").write_text("int x;\n")
    assert [file.name for file in list_sources([root], (".h",))] == ["UPPER.H", "part0/file0.h", "part1/file1.h"]
    assert [file.name for file in list_sources([root], (".txt",))] == ["notes.txt"]


def test_several_directories_keep_their_files_apart(tmp_path: Path):
    roots = [put_sources(tmp_path / name, 1) for name in ("a", "b")]
    assert [file.name for file in list_sources(roots)] == ["0/part0/file0.h", "1/part0/file0.h"]


def test_a_limit_takes_a_seeded_choice_of_whole_files(tmp_path: Path):
    files = list_sources([put_sources(tmp_path / "src", 30)])
    limit = sum(file.bytes for file in files) // 2
    chosen = choose(files, limit, seed=0, purpose="corpus")
    assert limit * 0.8 < sum(file.bytes for file in chosen) <= limit
    assert chosen == [file for file in files if file in chosen]
    assert chosen == choose(files, limit, seed=0, purpose="corpus")
    assert chosen != choose(files, limit, seed=1, purpose="corpus")
    assert choose(files, 10**9, seed=0, purpose="corpus") == files


@pytest.mark.parametrize("what", ["nothing", "missing", "all too large", "only binaries", "other suffix"])
def test_a_corpus_of_no_text_is_refused(tmp_path: Path, what: str):
    root = tmp_path / "src"
    if what != "missing":
        root.mkdir()
    if what == "only binaries":
        (root / "a.h").write_bytes(b"\0" * 20)
    if what in ("all too large", "other suffix"):
        (root / ("a.h" if what == "all too large" else "a.txt")).write_text("int a;\n" * 10)
    refused(DataError, "corpus-empty", [root], tmp_path / "corpus", vocab=300, max_bytes=20)
    assert not (tmp_path / "corpus").exists()
    assert [path.name for path in tmp_path.iterdir() if "building" in path.name] == []


@pytest.mark.parametrize("options", [{"vocab": 256}, {"vocab": 65_537}, {"max_bytes": 0}])
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, int]):
    refused(UsageError, "value-invalid", [put_sources(tmp_path / "src", 1)], tmp_path / "corpus", **options)


def test_a_directory_of_something_else_is_not_replaced(tmp_path: Path):
    root = put_sources(tmp_path / "src", 1)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("years of work")
    refused(UsageError, "value-invalid", [root], precious, vocab=300)
    assert (precious / "chapter1.txt").read_text() == "years of work"


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path):
    root = put_sources(tmp_path / "src", 1)
    (tmp_path / "file").write_text("")
    error = refused(LanemarkError, "output-unwritable", [root], tmp_path / "file" / "corpus", vocab=300)  # type: ignore[arg-type]
    assert "corpus" in str(error)


def test_a_build_that_fails_leaves_the_corpus_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = put_sources(tmp_path / "src")
    first = build(root, tmp_path / "corpus")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus.ShardWriter, "_write", full)
    with pytest.raises(LanemarkError, match="No space left"):
        build(root, tmp_path / "corpus", vocab=310)
    monkeypatch.undo()
    assert build(root, tmp_path / "corpus") == first
    assert [path.name for path in tmp_path.iterdir() if "building" in path.name] == []


def test_what_a_killed_build_left_is_swept_up(tmp_path: Path):
    root = put_sources(tmp_path / "src", 2)
    stem = hashlib.sha256(b"corpus").hexdigest()[:16]
    (tmp_path / f".corpus-{stem}-building-abc").mkdir()
    (tmp_path / f".corpus-{stem}-building-abc" / "x.bin").write_text("half")
    (tmp_path / ".corpus-0123456789abcdef-building-other").mkdir()  # somebody else's destination
    build(root, tmp_path / "corpus")
    left = [path.name for path in tmp_path.iterdir() if "building" in path.name]
    assert left == [".corpus-0123456789abcdef-building-other"]


def test_builders_of_one_destination_take_turns(tmp_path: Path):
    root = put_sources(tmp_path / "src", 2)
    stem = hashlib.sha256(b"corpus").hexdigest()[:16]
    done = threading.Event()

    def second() -> None:
        build(root, tmp_path / "corpus")
        done.set()

    with open(tmp_path / f".corpus-{stem}-lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.3)
    thread.join(timeout=60)
    assert done.is_set()


def test_the_default_source_is_the_headers_of_the_installed_torch():
    pytest.importorskip("torch", reason="the default corpus is torch's own headers")
    assert (torch_headers() / "torch").is_dir()


@pytest.mark.parametrize("spec", ["none", "no headers"])
def test_without_torchs_headers_the_default_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str):
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None if spec == "none" else Spec())
    refused(DataError, "corpus-empty", None, tmp_path / "corpus")


def test_finding_the_headers_does_not_import_torch(tmp_path: Path):
    program = (
        "import sys; from lanemark.stage.sources import torch_headers; torch_headers();"
        "print(json.dumps([m for m in ('torch', 'numpy', 'tokenizers') if m in sys.modules]))"
    )
    pytest.importorskip("torch", reason="the default corpus is torch's own headers")
    out = subprocess.run([sys.executable, "-c", "import json;" + program], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []
