"""Packed rows of Parquet files: the right tokens in the same order as from shards, and refusals that name the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pyarrow", reason="packed rows are read with pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from lanemark.observe.data_path import classify_self
from lanemark.observe.packed import PackedSet, open_tokens
from lanemark.observe.shards import digest_shards
from lanemark.records.errors import DataError, GateRefused
from lanemark.records.shards import header
from lanemark.stack import packed as module
from lanemark.stack.loader import ShardLoader, batch
from lanemark.stack.packed import PackedLoader


def write(path: Path, rows: list[list[int]], kind: Any = None, column: str = "tokens", group: int = 3) -> None:
    table = pa.table({"id": list(range(len(rows))), column: pa.array(rows, kind or pa.list_(pa.uint16()))})
    pq.write_table(table, path, row_group_size=group)


def counting(directory: Path, files: tuple[int, ...], length: int, **how: Any) -> PackedSet:
    """Rows whose tokens count upwards through all files."""
    directory.mkdir(exist_ok=True)
    first = 0
    for number, count in enumerate(files):
        rows = [list(range(first + row * length, first + (row + 1) * length)) for row in range(count)]
        write(directory / f"part-{number}.parquet", rows, **how)
        first += count * length
    made = open_tokens(directory)
    assert isinstance(made, PackedSet)
    return made


KINDS = [
    pa.list_(pa.uint16()), pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.uint32()),
    pa.list_(pa.int32(), 17), pa.list_(pa.uint16(), 17),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("column", ["tokens", "input_ids"])
def test_an_epoch_visits_every_row_once_over_all_ranks(tmp_path: Path, kind: Any, column: str) -> None:
    packed = counting(tmp_path, (7, 1, 4), 17, kind=kind, column=column)
    assert (packed.column, packed.row_tokens, packed.tokens) == (column, 17, 12 * 17)
    loaders = [
        PackedLoader(packed, vocab=300, sequence=16, micro_batch=2, rank=rank, world_size=3, seed=5)
        for rank in range(3)
    ]
    firsts = []
    for forward in range(2):
        for loader in loaders:
            inputs, targets = batch(loader, forward, 2, 16)
            assert torch.equal(targets, inputs + 1)
            firsts += [int(row[0]) // 17 for row in inputs]
            assert [window % 12 for window in loader.windows(forward)] == firsts[-2:]
    assert sorted(firsts) == list(range(12))


def test_longer_rows_hold_several_sequences(tmp_path: Path) -> None:
    packed = counting(tmp_path, (3, 2), 40)
    assert packed.num_sequences(16) == 10
    loader = PackedLoader(packed, vocab=200, sequence=16, micro_batch=10)
    inputs, _ = batch(loader, 0, 10, 16)
    assert sorted(int(row[0]) for row in inputs) == [row * 40 + piece for row in range(5) for piece in (0, 16)]


def test_the_order_is_that_of_shards_with_as_many_sequences(tmp_path: Path) -> None:
    packed = counting(tmp_path / "packed", (9,), 17)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "a.bin").write_bytes(header(9 * 16 + 1) + bytes(2 * (9 * 16 + 1)))
    asked: dict[str, Any] = {"vocab": 300, "sequence": 16, "micro_batch": 3, "seed": 4}
    shards = ShardLoader(open_tokens(tmp_path / "bin"), **asked)
    assert [PackedLoader(packed, **asked).windows(forward) for forward in range(5)] == [
        shards.windows(forward) for forward in range(5)
    ]


def test_decoded_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * 3 * 17 * 2)
    loader = PackedLoader(counting(tmp_path, (30,), 17), vocab=600, sequence=16, micro_batch=30)
    inputs, _ = batch(loader, 0, 30, 16)
    assert sorted(int(row[0]) for row in inputs) == [row * 17 for row in range(30)]
    assert len(loader._kept) == 2


def test_its_files_are_seen_open_and_hashed(tmp_path: Path) -> None:
    packed = counting(tmp_path, (7, 4), 17)
    loader = PackedLoader(packed, vocab=300, sequence=16, micro_batch=2)
    batch(loader, 0, 2, 16)
    rows = classify_self([shard.path for shard in packed.shards])
    assert [row["name"] for row in rows] == ["part-0.parquet", "part-1.parquet"]
    assert [entry.tokens for entry in digest_shards(packed)] == [7 * 17, 4 * 17]


def test_held_out_files_and_shards_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "x_train_0.parquet", [[1] * 17] * 4)
    write(tmp_path / "x_val_0.parquet", [[1] * 17] * 4)
    packed = open_tokens(tmp_path)
    assert [shard.name for shard in packed.shards] == ["x_train_0.parquet"]
    assert [shard.name for shard in packed.held_out] == ["x_val_0.parquet"]
    (tmp_path / "y.bin").write_bytes(header(20) + bytes(40))
    assert not isinstance(open_tokens(tmp_path), PackedSet), "shards are read as they were before Parquet was"


@pytest.mark.parametrize(
    ("rows", "how", "slug", "said"),
    [
        ([[1] * 17], {"column": "text"}, "shard-mislabelled", "has no column tokens or input_ids"),
        ([[1] * 17], {"kind": pa.list_(pa.float32())}, "shard-mislabelled", "token ids of type float"),
        ([], {}, "data-empty", "has no packed row"),
    ],
)
def test_what_has_no_packed_rows_is_refused(
    tmp_path: Path, rows: list[list[int]], how: dict[str, Any], slug: str, said: str
) -> None:
    write(tmp_path / "a.parquet", rows, **how)
    with pytest.raises(DataError, match=said) as caught:
        open_tokens(tmp_path)
    assert caught.value.slug == slug


def test_files_that_are_no_parquet_or_do_not_match_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        open_tokens(tmp_path)
    write(tmp_path / "a.parquet", [[1] * 17])
    write(tmp_path / "b.parquet", [[1] * 18])
    with pytest.raises(DataError, match=r"differ: rows of \[17, 18\] tokens"):
        open_tokens(tmp_path)
    write(tmp_path / "b.parquet", [[1] * 17], column="input_ids")
    with pytest.raises(DataError, match="differ: columns"):
        open_tokens(tmp_path)


@pytest.mark.parametrize("rows", [[[1] * 17, [1] * 16], [[1] * 17, [1] * 18, [1] * 16], [[1] * 17, None]])
def test_rows_that_are_not_equally_long_are_refused_when_they_are_read(tmp_path: Path, rows: Any) -> None:
    write(tmp_path / "a.parquet", rows)
    loader = PackedLoader(open_tokens(tmp_path), vocab=300, sequence=16, micro_batch=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"a\.parquet has packed rows that are not all of 17 tokens"):
        batch(loader, 0, 1, 16)


@pytest.mark.parametrize("bad", [300, -1])
def test_an_id_outside_the_vocabulary_is_refused_in_its_batch(tmp_path: Path, bad: int) -> None:
    write(tmp_path / "a.parquet", [[1] * 16 + [bad]], kind=pa.list_(pa.int32()))
    loader = PackedLoader(open_tokens(tmp_path), vocab=300, sequence=16, micro_batch=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"holds the token id {bad}") as caught:
        batch(loader, 0, 1, 16)
    assert caught.value.slug == "vocab-mismatch"


def test_too_few_rows_and_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = counting(tmp_path, (3,), 17)
    with pytest.raises(DataError) as caught:
        PackedLoader(packed, vocab=300, sequence=16, micro_batch=4)
    assert caught.value.slug == "data-empty"
    with pytest.raises(DataError, match="0 sequences of 32"):
        packed.check_enough(32, 1)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(GateRefused) as refused:
        open_tokens(tmp_path)
    assert refused.value.slug == "parquet-missing"
