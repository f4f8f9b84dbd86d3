"""Finding shards: what is taken, and every way in which a directory is refused by the name of the file."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.shards import (
    dataset_digest,
    digest_shards,
    is_held_out,
    open_shards,
    parse_manifest,
    verify_digests,
)
from lanemark.records.errors import DataError
from lanemark.records.shards import ShardEntry, header


def put(directory: Path, name: str, tokens: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(header(tokens) + bytes(range(256))[: 2 * tokens % 256] + bytes(2 * tokens - 2 * tokens % 256))
    return path


def manifest_of(directory: Path, **changes: Any) -> dict[str, Any]:
    entries = [
        ShardEntry(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), tokens)
        for path in sorted(directory.glob("*.bin"))
        for tokens in [(path.stat().st_size - 1024) // 2]
    ]
    doc = {
        "manifest_version": 1,
        "vocab": 4096,
        "dataset_digest": dataset_digest(entries),
        "tokenizer_digest": "sha256:" + "a" * 64,
        "shards": [entry.to_json() for entry in entries],
        **changes,
    }
    (directory / "manifest.json").write_text(json.dumps(doc))
    return doc


def refused(directory: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        open_shards(directory)
    return caught.value


def test_shards_are_taken_in_name_order_and_counted(tmp_path: Path):
    put(tmp_path, "b.bin", 100)
    put(tmp_path, "a.bin", 50)
    (tmp_path / "README").write_text("no shard")
    found = open_shards(tmp_path)
    assert [(shard.name, shard.tokens) for shard in found.shards] == [("a.bin", 50), ("b.bin", 100)]
    assert found.tokens == 150
    assert found.num_sequences(16) == 3 + 6
    assert found.num_sequences(60) == 1  # the shorter shard has no whole sequence
    assert found.manifest is None


def test_a_sequence_needs_a_token_more_than_it_is_long(tmp_path: Path):
    put(tmp_path, "a.bin", 64)
    assert open_shards(tmp_path).num_sequences(64) == 0
    put(tmp_path, "a.bin", 65)
    assert open_shards(tmp_path).num_sequences(64) == 1


def test_validation_shards_are_never_trained_on(tmp_path: Path):
    put(tmp_path, "fineweb_train_000001.bin", 10)
    put(tmp_path, "fineweb_val_000000.bin", 10)
    found = open_shards(tmp_path)
    assert [shard.name for shard in found.shards] == ["fineweb_train_000001.bin"]
    assert [shard.name for shard in found.held_out] == ["fineweb_val_000000.bin"]


@pytest.mark.parametrize(
    ("names", "held"),
    [
        (["a.bin", "b.bin"], []),
        (["a.bin", "a_val.bin"], ["a_val.bin"]),
        (["x_TRAIN_1.bin", "x_VAL_1.bin", "other.bin"], ["x_VAL_1.bin", "other.bin"]),
        (["train_retrieval.bin"], []),
    ],
)
def test_which_names_are_held_out(names: list[str], held: list[str]):
    assert [name for name, out in is_held_out(names).items() if out] == held


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path):
    error = refused(tmp_path / "nowhere")
    assert error.slug == "data-missing"
    assert "nowhere" in str(error)
    assert error.exit_code == 2


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path):
    assert refused(put(tmp_path, "a.bin", 5)).slug == "data-missing"


@pytest.mark.parametrize("names", [[], ["empty.bin"], ["only_val.bin"]])
def test_a_directory_without_training_tokens_is_refused(tmp_path: Path, names: list[str]):
    for name in names:
        put(tmp_path, name, 0 if name == "empty.bin" else 9)
    assert refused(tmp_path).slug == "data-empty"


@pytest.mark.parametrize(
    ("damage", "slug"),
    [
        (lambda data: data[:-1], "shard-truncated"),
        (lambda data: data[:500], "shard-truncated"),
        (lambda data: b"", "shard-truncated"),
        (lambda data: data + b"\0\0", "shard-mislabelled"),
        (lambda data: b"PK\3\4" + data[4:], "shard-mislabelled"),
        (lambda data: data[:4] + struct.pack("<i", 7) + data[8:], "shard-mislabelled"),
        (lambda data: data[:8] + struct.pack("<i", -5) + data[12:], "shard-mislabelled"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes], slug: str):
    put(tmp_path, "good.bin", 20)
    bad = put(tmp_path, "bad shard.bin", 20)
    bad.write_bytes(damage(bad.read_bytes()))
    error = refused(tmp_path)
    assert error.slug == slug
    assert "bad shard.bin" in str(error)


def test_a_dangling_link_is_a_missing_shard(tmp_path: Path):
    put(tmp_path, "a.bin", 5)
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nowhere")
    error = refused(tmp_path)
    assert error.slug == "data-missing"
    assert "gone.bin" in str(error)


def test_a_directory_named_like_a_shard_is_refused(tmp_path: Path):
    put(tmp_path, "a.bin", 5)
    (tmp_path / "b.bin").mkdir()
    assert refused(tmp_path).slug == "data-missing"


def test_names_that_are_not_text_are_shown_in_letters(tmp_path: Path):
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff 'q\n.bin"))
    bad.write_bytes(header(3))
    error = refused(tmp_path)
    assert error.slug == "shard-truncated"
    str(error).encode("utf-8")


def test_a_manifest_that_agrees_is_kept(tmp_path: Path):
    put(tmp_path, "a_train.bin", 40)
    put(tmp_path, "a_val.bin", 10)
    doc = manifest_of(tmp_path)
    manifest = open_shards(tmp_path).manifest
    assert manifest is not None
    assert manifest.vocab == 4096
    assert manifest.dataset_digest == doc["dataset_digest"]
    assert manifest.tokenizer_digest == "sha256:" + "a" * 64


def test_a_shard_of_another_size_than_its_manifest_says_is_refused(tmp_path: Path):
    put(tmp_path, "a.bin", 40)
    manifest_of(tmp_path)
    put(tmp_path, "a.bin", 41)
    error = refused(tmp_path)
    assert error.slug == "manifest-mismatch"
    assert "a.bin" in str(error)


def test_a_shard_that_the_manifest_names_must_be_there(tmp_path: Path):
    put(tmp_path, "a.bin", 40)
    put(tmp_path, "b.bin", 40)
    manifest_of(tmp_path)
    (tmp_path / "b.bin").unlink()
    error = refused(tmp_path)
    assert error.slug == "data-missing"
    assert "b.bin" in str(error)


def test_a_shard_that_the_manifest_does_not_name_is_refused(tmp_path: Path):
    put(tmp_path, "a.bin", 40)
    manifest_of(tmp_path)
    put(tmp_path, "stray.bin", 40)
    error = refused(tmp_path)
    assert error.slug == "manifest-mismatch"
    assert "stray.bin" in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest_version": 2},
        {"manifest_version": "1"},
        {"shards": {}},
        {"shards": [{"name": "a.bin"}]},
        {"shards": [{"name": "../a.bin", "sha256": "0" * 64, "bytes": 1, "tokens": 1}]},
        {"shards": [{"name": "a.bin", "sha256": "0" * 64, "bytes": -1, "tokens": 1}]},
        {"shards": [{"name": "a.bin", "sha256": "0" * 64, "bytes": True, "tokens": 1}]},
        {"shards": [{"name": "a.bin", "sha256": "G" * 64, "bytes": 1, "tokens": 1}]},
        {"shards": [{"name": "a.bin", "sha256": "0" * 64, "bytes": 1, "tokens": 1}] * 2},
        {"vocab": 0},
        {"vocab": 4096.0},
        {"tokenizer_digest": "sha256:short"},
        {"dataset_digest": "sha256:" + "0" * 64},
    ],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path: Path, changes: dict[str, Any]):
    put(tmp_path, "a.bin", 40)
    manifest_of(tmp_path, **changes)
    assert refused(tmp_path).slug == "manifest-invalid"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_refused(text: bytes):
    with pytest.raises(ValueError, match=r"is not|has no"):
        parse_manifest(text)


def test_every_byte_is_held_to_the_manifest_on_request(tmp_path: Path):
    path = put(tmp_path, "a.bin", 40)
    manifest_of(tmp_path)
    seen: list[tuple[str, int]] = []
    entries = verify_digests(open_shards(tmp_path), lambda name, count: seen.append((name, count)))
    assert entries[0].tokens == 40
    assert sum(count for _, count in seen) == path.stat().st_size

    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = open_shards(tmp_path)  # sizes and counts still agree
    with pytest.raises(DataError, match=r"a\.bin") as caught:
        verify_digests(found)
    assert caught.value.slug == "manifest-mismatch"


def test_shards_without_a_manifest_still_have_digests(tmp_path: Path):
    path = put(tmp_path, "a.bin", 40)
    assert digest_shards(open_shards(tmp_path))[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_data_set_digest_names_content_and_split_but_not_the_order_of_listing():
    one = ShardEntry("a_train.bin", 1, "1" * 64, 1)
    two = ShardEntry("b_train.bin", 1, "2" * 64, 1)
    val = ShardEntry("b_val.bin", 1, "2" * 64, 1)
    assert dataset_digest([one, two]) == dataset_digest([two, one])
    assert dataset_digest([one, two]) != dataset_digest([one, val])
    assert dataset_digest([one, two]) != dataset_digest([one])


def test_too_little_data_for_one_step_is_refused(tmp_path: Path):
    put(tmp_path, "a.bin", 65)
    found = open_shards(tmp_path)
    found.check_enough(16, 4)
    with pytest.raises(DataError, match="4 sequences of 16 tokens, and one step takes 5") as caught:
        found.check_enough(16, 5)
    assert caught.value.slug == "data-empty"


def test_a_vocabulary_that_is_too_large_is_refused(tmp_path: Path):
    put(tmp_path, "a.bin", 65)
    open_shards(tmp_path).check_vocab(1)  # nothing is known without a manifest
    manifest_of(tmp_path)
    open_shards(tmp_path).check_vocab(4096)
    with pytest.raises(DataError, match="4096") as caught:
        open_shards(tmp_path).check_vocab(4095)
    assert caught.value.slug == "vocab-mismatch"
