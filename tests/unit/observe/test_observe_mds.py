"""Rows of MDS before anything decodes them: what index and shards have to say of each other, and everything that is refused."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.mds import MdsError, MdsSet, open_mds, parse_index, read_mds
from lanemark.observe.packed import open_tokens
from lanemark.observe.shards import MAX_MANIFEST_BYTES, dataset_digest, digest_shards
from lanemark.records.errors import DataError, GateRefused
from lanemark.records.shards import header

LENGTH = 33


def columns(name: str = "tokens", encoding: str = "ndarray:uint16", size: int | None = None) -> dict[str, Any]:
    return {"column_names": [name], "column_encodings": [encoding], "column_sizes": [size]}


def row(encoding: str, length: int) -> bytes:
    """One row of ids, as the layout encodes it."""
    width = 8 if encoding == "bytes" else int("".join(char for char in encoding.split(":")[1] if char.isdigit())) // 8
    ids = b"".join(number.to_bytes(width, "little") for number in range(length))
    if encoding.count(":") == 2:
        return ids
    if encoding != "bytes":
        ids = (bytes([1 << 2, length]) if length < 256 else bytes([1 << 2 | 1]) + struct.pack("<H", length)) + ids
    return struct.pack("<I", len(ids)) + ids


def shard(rows: list[bytes], said: dict[str, Any]) -> bytes:
    config = json.dumps({"version": 2, "format": "mds", "compression": None, **said}).encode()
    begins = [4 * (len(rows) + 2) + len(config)]
    for one in rows:
        begins.append(begins[-1] + len(one))
    return struct.pack(f"<{len(rows) + 2}I", len(rows), *begins) + config + b"".join(rows)


def entry(name: str, count: int, size: int, said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": 2, "format": "mds", "compression": None, "hashes": [], "samples": count, "size_limit": None, **said,
        "raw_data": {"basename": name, "bytes": size, "hashes": {}}, "zip_data": None, **more,
    }  # fmt: skip


def index(*entries: dict[str, Any], version: Any = 2) -> bytes:
    return json.dumps({"version": version, "shards": list(entries)}).encode()


def write(directory: Path, counts: tuple[int, ...] = (5, 3), length: int = LENGTH, **how: Any) -> list[dict[str, Any]]:
    """A directory of MDS, and what its index says of its shards."""
    said = columns(**how)
    directory.mkdir(exist_ok=True)
    entries = []
    for number, count in enumerate(counts):
        name = f"shard.{number:05}.mds"
        text = shard([row(said["column_encodings"][0], length)] * count, said)
        (directory / name).write_bytes(text)
        entries.append(entry(name, count, len(text), said))
    (directory / "index.json").write_bytes(index(*entries))
    return entries


@pytest.mark.parametrize(
    ("how", "length", "dtype"),
    [
        ({}, 33, "uint16"),
        ({"name": "input_ids", "encoding": "ndarray:int32"}, 300, "int32"),
        ({"encoding": "ndarray:uint32"}, 255, "uint32"),
        ({"encoding": "ndarray:int64:33", "size": 264}, 33, "int64"),
        ({"encoding": "bytes"}, 2049, "int64"),
    ],
)
def test_columns_of_ids_are_understood(tmp_path: Path, how: dict[str, Any], length: int, dtype: str) -> None:
    write(tmp_path, length=length, **how)
    found = read_mds(tmp_path)
    assert (found.column, found.row_tokens, found.tokens) == (how.get("name", "tokens"), length, 8 * length)
    assert [(one.name, one.rows, one.dtype) for one in found.entries] == [
        ("shard.00000.mds", 5, dtype), ("shard.00001.mds", 3, dtype),
    ]  # fmt: skip
    assert found.num_sequences(16) == 8 * ((length - 1) // 16)


def test_the_shards_digests_name_the_tokens_whatever_order_the_index_has(tmp_path: Path) -> None:
    entries = write(tmp_path)
    first = read_mds(tmp_path)
    (tmp_path / "index.json").write_bytes(index(*reversed(entries)))
    second = read_mds(tmp_path)
    assert first == second
    digests = digest_shards(first)
    assert [(one.name, one.tokens) for one in digests] == [("shard.00000.mds", 165), ("shard.00001.mds", 99)]
    write(tmp_path, counts=(5, 4))
    assert dataset_digest(digest_shards(read_mds(tmp_path))) != dataset_digest(digests)


def test_held_out_and_empty_shards(tmp_path: Path) -> None:
    entries = write(tmp_path, counts=(2, 0, 3))
    (tmp_path / "shard.00002.mds").rename(tmp_path / "val.00002.mds")
    entries[2]["raw_data"]["basename"] = "val.00002.mds"
    (tmp_path / "index.json").write_bytes(index(*entries))
    found = read_mds(tmp_path)
    assert [one.name for one in found.held_out] == ["val.00002.mds"]
    assert [one.tokens for one in found.shards] == [66, 0]
    write(tmp_path / "empty", counts=(0,))
    with pytest.raises(DataError, match="has no packed row") as caught:
        read_mds(tmp_path / "empty")
    assert caught.value.slug == "data-empty"


SAID = columns()
NAMES = [
    "../a.mds",
    "/etc/a.mds",
    "..",
    "",
    "a/b.mds",
    "s3://bucket/a.mds",
    "a\\b.mds",
    "a\0.mds",
    ".a.mds",
    "shard.00000.bin",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_of_a_shard_beside_it_is_refused(name: str) -> None:
    assert parse_index(index(entry("a.mds", 1, 100, SAID)))[0].name == "a.mds"
    with pytest.raises(MdsError, match="no plain file name") as caught:
        parse_index(index(entry(name, 1, 100, SAID)))
    assert caught.value.slug == "manifest-invalid"


ENCODINGS = [
    "pkl", "PKL", "json", "str", "int", "uint16", "jpeg", "list[pil]", "ndarray", "ndarray:float32", "ndarray:int8",
    "ndarray:int32:2,2", "ndarray:int32:0", "ndarray:int32:-1", "ndarray:int32 ", "ndarray:int32\n", "pkl:int32", "", None, 7, ["pkl"],
]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_an_encoding_that_is_not_of_plain_ids_is_refused(encoding: Any) -> None:
    with pytest.raises(MdsError, match="none of bytes, ndarray:TYPE") as caught:
        parse_index(index(entry("a.mds", 1, 100, columns(encoding=encoding))))
    assert caught.value.slug == "shard-mislabelled"


TWO = {"column_names": ["tokens", "x"], "column_encodings": ["bytes", "pkl"], "column_sizes": [None, None]}


@pytest.mark.parametrize(
    ("text", "slug", "words"),
    [
        (b"{", "manifest-invalid", "is not JSON"),
        (b"\xff", "manifest-invalid", "is not JSON"),
        (b"[" * 100_000, "manifest-invalid", "is not JSON"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "manifest-invalid", "is larger than"),
        (b"[]", "manifest-invalid", "is not an index of MDS of version 2"),
        (index(version=3), "manifest-invalid", "is not an index of MDS"),
        (index(version=True), "manifest-invalid", "is not an index of MDS"),
        (index([]), "manifest-invalid", "has a shard without a file"),  # type: ignore[arg-type]
        (index({"basename": "a.mds"}), "manifest-invalid", "has a shard without a file"),
        (index(entry("a.mds", 1, 100, SAID, format="json")), "manifest-invalid", "is not MDS of version 2"),
        (index(entry("a.mds", 1, 100, SAID, version=1)), "manifest-invalid", "is not MDS of version 2"),
        (index(entry("a.mds", 1, 100, SAID, compression="zstd:7")), "shard-mislabelled", "is compressed"),
        (index(entry("a.mds", 1, 100, SAID, zip_data={})), "shard-mislabelled", "is compressed"),
        (index(entry("a.mds", -1, 100, SAID)), "manifest-invalid", "no size or row count"),
        (index(entry("a.mds", 1, 1 << 32, SAID)), "manifest-invalid", "no size or row count"),
        (index(entry("a.mds", True, 100, SAID)), "manifest-invalid", "no size or row count"),
        (index(entry("a.mds", 1, 100, SAID), entry("a.mds", 1, 100, SAID)), "manifest-invalid", "names a shard twice"),
        (index(entry("a.mds", 1, 100, SAID), entry("b.mds", 1, 100, columns(encoding="bytes"))), "shard-mislabelled", "that differ"),
        (index(entry("a.mds", 1, 100, TWO)), "shard-mislabelled", "has not one column tokens or input_ids and no other"),
        (index(entry("a.mds", 1, 100, columns("text"))), "shard-mislabelled", "has not one column"),
        (index(entry("a.mds", 1, 100, {**SAID, "column_sizes": []})), "manifest-invalid", "which columns there are"),
        (index(entry("a.mds", 1, 100, {**SAID, "column_names": "tokens"})), "manifest-invalid", "which columns there are"),
        (index(entry("a.mds", 1, 100, columns(size=66))), "manifest-invalid", "gives a size for ndarray:uint16"),
        (index(entry("a.mds", 1, 100, columns(encoding="ndarray:uint16:33", size=67))), "manifest-invalid", "gives a size"),
        (index(entry("a.mds", 1, 100, columns(encoding="ndarray:uint16:33"))), "manifest-invalid", "gives a size"),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_relied_on_is_refused(text: bytes, slug: str, words: str) -> None:
    with pytest.raises(MdsError, match=words) as caught:
        parse_index(text)
    assert caught.value.slug == slug


def spoiled(number: int, value: int) -> Any:
    """The shard's table of rows with one number changed."""
    return lambda text: text[: 4 * number] + struct.pack("<I", value) + text[4 * number + 4 :]


GOOD = shard([row("ndarray:uint16", LENGTH)] * 5, SAID)
FIRST = struct.unpack_from("<I", GOOD, 4)[0]


@pytest.mark.parametrize(
    ("change", "slug", "words"),
    [
        (lambda text: text[:-1], "shard-truncated", "and the index says"),
        (lambda text: text + b"\0", "manifest-mismatch", "and the index says"),
        (spoiled(0, 4), "manifest-mismatch", "has not the 5 rows"),
        (spoiled(1, 0), "shard-mislabelled", "does not fit the file"),
        (spoiled(1, 1 << 31), "shard-mislabelled", "does not fit the file"),
        (spoiled(6, 7), "shard-mislabelled", "does not fit the file"),
        (spoiled(2, FIRST + 71), "shard-mislabelled", "not all of one length"),
        (lambda text: text.replace(b"uint16", b"int32 "), "shard-mislabelled", "none of bytes"),
        (lambda text: text.replace(b"ndarray:uint16", b"bytes\"         "[:14]), "shard-mislabelled", "does not say which"),
        (lambda text: text.replace(b'"tokens"', b'"tokenz"'), "shard-mislabelled", "has not one column"),
        (lambda text: text.replace(b"uint16", b"uint32"), "manifest-mismatch", "has another column than the index says"),
        (lambda text: text.replace(b"null, ", b"7,    ", 1), "shard-mislabelled", "or is compressed"),
        (spoiled(FIRST // 4, 0), "shard-mislabelled", "which are no ndarray:uint16 of ids"),
    ],
)  # fmt: skip
def test_a_shard_that_is_not_what_the_index_says_is_refused(tmp_path: Path, change: Any, slug: str, words: str) -> None:
    write(tmp_path)
    assert read_mds(tmp_path).row_tokens == LENGTH
    path = tmp_path / "shard.00000.mds"
    assert path.read_bytes() == GOOD
    path.write_bytes(change(GOOD))
    with pytest.raises(DataError, match=words) as caught:
        read_mds(tmp_path)
    assert caught.value.slug == slug
    assert "shard.00000.mds" in caught.value.what


@pytest.mark.parametrize("head", [bytes([2 << 2, LENGTH]), bytes([1 << 2, LENGTH - 1]), bytes([1 << 2 | 1, LENGTH])])
def test_rows_of_another_shape_than_one_line_of_ids_are_refused(tmp_path: Path, head: bytes) -> None:
    write(tmp_path)
    begins = GOOD.index(bytes([1 << 2, LENGTH]), FIRST)
    (tmp_path / "shard.00000.mds").write_bytes(GOOD[:begins] + head + GOOD[begins + 2 :])
    with pytest.raises(DataError, match="which are no ndarray:uint16 of ids"):
        read_mds(tmp_path)


def test_shards_of_other_lengths_other_shards_and_missing_ones_are_refused(tmp_path: Path) -> None:
    entries = write(tmp_path)
    other = shard([row("ndarray:uint16", 40)] * 3, SAID)
    (tmp_path / "shard.00001.mds").write_bytes(other)
    entries[1]["raw_data"]["bytes"] = len(other)
    (tmp_path / "index.json").write_bytes(index(*entries))
    with pytest.raises(DataError, match=r"differ: rows of \[33, 40\] tokens"):
        read_mds(tmp_path)
    write(tmp_path)
    (tmp_path / "shard.00002.mds").write_bytes(other)
    with pytest.raises(DataError, match=r"shard\.00002\.mds is a shard that the index does not name") as caught:
        read_mds(tmp_path)
    assert caught.value.slug == "manifest-mismatch"
    (tmp_path / "shard.00002.mds").unlink()
    (tmp_path / "shard.00001.mds").unlink()
    with pytest.raises(DataError, match=r"shard\.00001\.mds does not exist") as caught:
        read_mds(tmp_path)
    assert caught.value.slug == "data-missing"


@pytest.mark.parametrize("name", ["index.json", "shard.00000.mds"])
def test_a_link_out_of_the_directory_and_what_is_no_file_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "rows")
    inside = tmp_path / "rows" / name
    (tmp_path / "rows" / "blob").write_bytes(inside.read_bytes())
    inside.unlink()
    inside.symlink_to("blob")
    assert read_mds(tmp_path / "rows").row_tokens == LENGTH
    (tmp_path / "link").symlink_to("rows")
    assert read_mds(tmp_path / "link").row_tokens == LENGTH, "the directory itself may be a link: the operator named it"
    (tmp_path / "rows" / "blob").rename(tmp_path / "blob")
    inside.unlink()
    inside.symlink_to(tmp_path / "blob")
    with pytest.raises(DataError, match="is a link that leads out of its directory") as caught:
        read_mds(tmp_path / "rows")
    assert caught.value.slug == "manifest-invalid"
    inside.unlink()
    os.mkfifo(inside)
    with pytest.raises(DataError, match="is not a regular file"):
        read_mds(tmp_path / "rows")


def library(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells that the library is there. Nothing imports it."""
    place = where / "streaming" / "base" / "format" / "mds"
    place.mkdir(parents=True)
    (where / "streaming" / "__init__.py").write_text("raise AssertionError('it was imported')")
    (place / "reader.py").touch()
    monkeypatch.syspath_prepend(str(where))


def test_it_is_looked_for_last_and_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "streaming", None)
        with pytest.raises(GateRefused, match=r"MDS files need mosaicml-streaming, which .* pip install") as caught:
            open_tokens(tmp_path / "rows")
        assert caught.value.slug == "mds-missing"
        (tmp_path / "rows" / "index.json").rename(tmp_path / "index.json")
        (tmp_path / "rows" / "index.json").write_bytes(index(entry("../x.mds", 1, 100, SAID)))
        with pytest.raises(DataError, match="no plain file name"):
            open_mds(tmp_path / "rows")
        (tmp_path / "index.json").rename(tmp_path / "rows" / "index.json")
    library(tmp_path / "site", monkeypatch)
    assert isinstance(open_tokens(tmp_path / "rows"), MdsSet)
    (tmp_path / "rows" / "x.bin").write_bytes(header(40) + bytes(80))
    assert not isinstance(open_tokens(tmp_path / "rows"), MdsSet), "shards are read as they were before MDS was"
