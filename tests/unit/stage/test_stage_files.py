"""What staging writes down and believes again: journal, manifest, `staged.json`; and what it refuses to believe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.shards import parse_manifest
from lanemark.records.errors import DataError
from lanemark.records.shards import ShardEntry, header
from lanemark.stage.journal import Journal, read_journal
from lanemark.stage.manifests import enough, guess_tokens, made, narrowed, read_manifest
from lanemark.stage.objects import PIECE_BYTES, Needed, StagedObject, Wanted, num_pieces
from lanemark.stage.staged_file import StagedFile, read_staged, weakest, write_staged

HEX = "ab" * 32
WANTED = [Wanted("a.bin", 3 * PIECE_BYTES, '"e1"'), Wanted("b c", 10, '"e2"'), Wanted("untagged", 10)]


def journalled(path: Path) -> None:
    journal = Journal(path, WANTED)
    for number, piece in ((0, 0), (0, 2), (1, 0), (2, 0)):
        journal.piece(number, piece, HEX)
    journal.close()


def test_a_journal_tells_what_is_there(tmp_path: Path) -> None:
    journalled(tmp_path / "j")
    assert read_journal(tmp_path / "j", WANTED) == {"a.bin": {0: HEX, 2: HEX}, "b c": {0: HEX}}


def test_an_object_that_changed_or_has_no_tag_starts_anew(tmp_path: Path) -> None:
    journalled(tmp_path / "j")
    assert read_journal(tmp_path / "j", [Wanted("a.bin", 3 * PIECE_BYTES, '"e9"'), WANTED[2]]) == {}
    assert read_journal(tmp_path / "j", [Wanted("a.bin", PIECE_BYTES, '"e1"')]) == {}


def test_a_torn_or_foreign_journal_gives_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journalled(path)
    path.write_bytes(path.read_bytes()[:-20] + b"\xff")
    assert read_journal(path, WANTED) == {"a.bin": {0: HEX, 2: HEX}, "b c": {0: HEX}}
    path.write_bytes(path.read_bytes() + f"\np 7 0 {HEX}\np 0 99 {HEX}\nnonsense\n".encode())
    assert read_journal(path, WANTED) == {"a.bin": {0: HEX, 2: HEX}, "b c": {0: HEX}}
    path.write_text("L2\n")
    assert read_journal(path, WANTED) == {}
    assert read_journal(tmp_path / "none", WANTED) == {}


def staged_object(name: str, tokens: int, directory: Path) -> StagedObject:
    data = header(tokens) + bytes(2 * tokens)
    (directory / name).write_bytes(data)
    return StagedObject(name, len(data), hashlib.sha256(data).hexdigest(), (HEX,), '"e"', None, None, "unverified")


def test_a_manifest_that_was_made_is_one_that_is_read(tmp_path: Path) -> None:
    objects = [staged_object(f"x_train_{n}.bin", 50, tmp_path) for n in range(3)]
    text = made([*objects, StagedObject("notes", 1, HEX, (HEX,), None, None, None, "unverified")], tmp_path, "s3://x")
    manifest, pieces = read_manifest(text, "here")
    assert [entry.tokens for entry in manifest.entries] == [50, 50, 50]
    assert pieces == {entry.name: (HEX,) for entry in manifest.entries}
    part = narrowed(text, manifest.entries[:2])
    assert parse_manifest(part).dataset_digest != manifest.dataset_digest
    assert json.loads(part)["subset_of"] == manifest.dataset_digest


def test_no_manifest_is_made_of_what_are_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        made([], tmp_path, "s3://x")
    assert caught.value.slug == "data-empty"
    broken = staged_object("x.bin", 5, tmp_path)
    (tmp_path / "x.bin").write_bytes(b"not a shard" * 200)
    with pytest.raises(DataError) as caught:
        made([broken], tmp_path, "s3://x")
    assert caught.value.slug == "shard-mislabelled"


@pytest.mark.parametrize(
    "pieces",
    [[], {"bytes": PIECE_BYTES}, {"bytes": PIECE_BYTES, "blake3": ["x"]}, {"bytes": PIECE_BYTES, "blake3": [HEX, HEX]}],
)
def test_piece_digests_that_do_not_fit_are_refused(tmp_path: Path, pieces: Any) -> None:
    doc = json.loads(made([staged_object("x.bin", 50, tmp_path)], tmp_path, "s3://x"))
    doc["shards"][0]["pieces"] = pieces
    with pytest.raises(DataError) as caught:
        read_manifest(json.dumps(doc).encode(), "here")
    assert caught.value.slug == "manifest-invalid"


def test_pieces_of_another_size_are_let_be(tmp_path: Path) -> None:
    doc = json.loads(made([staged_object("x.bin", 50, tmp_path)], tmp_path, "s3://x"))
    doc["shards"][0]["pieces"]["bytes"] = 1
    assert read_manifest(json.dumps(doc).encode(), "here")[1] == {}


def test_a_case_wants_the_first_training_shards_that_are_enough() -> None:
    entries = [ShardEntry(f"train_{n}.bin", 0, HEX, 101) for n in (2, 0, 1)] + [ShardEntry("val_0.bin", 0, HEX, 101)]
    names = [entry.name for entry in enough(entries, Needed(sequences=11, sequence=10))]
    assert names == ["train_0.bin", "train_1.bin"]
    assert len(enough(entries, Needed(10**9, 10))) == 3
    assert guess_tokens(1024 + 200) == 100
    assert guess_tokens(3) == 0


def staged_file() -> StagedFile:
    one = StagedObject("a", 3, HEX, (HEX,), '"e"', "v", 7, "manifest")
    two = StagedObject("b", PIECE_BYTES + 1, None, (HEX, HEX), None, None, None, "unverified")
    return StagedFile("s3://x", "2026-01-01T00:00:00Z", 1.5, 3, {"a": one, "b": two})


def test_what_was_staged_is_read_back(tmp_path: Path) -> None:
    write_staged(tmp_path, staged_file())
    assert read_staged(tmp_path) == staged_file()
    assert staged_file().verification == "unverified"
    assert weakest(["manifest", "provider"]) == "provider"
    assert num_pieces(0) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "../a"), ("bytes", -1), ("bytes", True), ("pieces", []), ("verified", "surely"), ("sha256", 3)],
)
def test_a_staged_file_of_another_hand_is_not_believed(tmp_path: Path, key: str, value: Any) -> None:
    write_staged(tmp_path, staged_file())
    path = tmp_path / "staged.json"
    doc = json.loads(path.read_text())
    doc["objects"][0][key] = value
    path.write_text(json.dumps(doc))
    assert read_staged(tmp_path) is None
    path.write_text("[")
    assert read_staged(tmp_path) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert read_staged(tmp_path) is None
