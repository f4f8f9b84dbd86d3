"""The index: right, or rebuilt from the files; and its answers are those of reading every file."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import sqlite3
import time
from binascii import crc32
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.ledger import index as index_module
from lanemark.ledger import objects
from lanemark.ledger.index import SCHEMA_VERSION, Index, IndexUnusableError
from lanemark.ledger.objects import iter_objects, publish
from lanemark.ledger.rows import Filters, IndexRow, row_of, select
from lanemark.records.encoding import digest, encode

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good"


def document(serial: int, preset: str = "dense-nano", day: int = 1) -> bytes:
    doc = json.loads((GOOD / "eager_ddp_cpu.json").read_bytes())
    doc["predicate"]["run_id"] = f"training-202601{day:02d}T000000Z-{serial:08d}"
    doc["predicate"]["case"]["preset"] = preset
    doc["predicate"]["times"]["sealed_at"] = f"2026-01-{day:02d}T00:00:{serial % 60:02d}.000Z"
    return encode(doc)


def index_of(root: Path) -> Index:
    return Index(root / "index.sqlite", root)


def filled(root: Path, count: int = 5) -> Index:
    index = index_of(root)
    for serial in range(count):
        data = document(serial)
        publish(root, data)
        index.add(row_of(digest(data), json.loads(data)))
    return index


def rows_by_reading(root: Path) -> list[IndexRow]:
    found = [item for item in iter_objects(root) if item.record_id]
    return [row_of(item.record_id, json.loads(item.path.read_bytes())) for item in found]


def test_a_row_says_what_its_record_says():
    data = (GOOD / "fsdp2_regional_warm.json").read_bytes()
    row = row_of(digest(data), json.loads(data))
    assert row.to_json() == {
        "id": digest(data), "run_id": "training-20261122T152233Z-0000fsdp", "lane": "training", "preset": "dense-nano",
        "created": "2026-11-22T15:22:44.020Z", "outcome": "ok", "receipt": True, "device_class": "cpu", "world_size": 2,
        "mode": "fsdp2", "compile": "regional", "dtype": "bf16", "surface": "local", "startup_state": "warm",
        "path_class": "local_disk", "git_commit": "3f1c0b7a9d2e48c6f5a1b0c9d8e7f6a5b4c3d2e1",
        "tokens_per_s": row.tokens_per_s, "step_p50_s": row.step_p50_s,
        "plan_digest": json.loads(data)["predicate"]["plan_digest"],
    }  # fmt: skip


def test_a_failed_run_has_a_row_without_figures():
    data = (GOOD / "error_rank_killed.json").read_bytes()
    row = row_of(digest(data), json.loads(data))
    assert (row.outcome, row.receipt, row.tokens_per_s, row.step_p50_s) == ("error", False, None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["predicate", "case", "preset", "times", "outcome", "training", "status", "value"]), inner),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_document_makes_a_row_or_a_value_error(doc):
    with contextlib.suppress(ValueError):
        row_of("sha256:x", doc)


def test_queries_answer_as_reading_every_file_does(tmp_path):
    index = index_of(tmp_path)
    for serial in range(12):
        publish(tmp_path, document(serial, preset=f"p{serial % 3}", day=1 + serial % 4))
    for path in GOOD.glob("*.json"):
        publish(tmp_path, path.read_bytes())
    assert index.refresh().added == 12 + len(list(GOOD.glob("*.json")))
    everything = rows_by_reading(tmp_path)
    for wanted in (
        Filters(), Filters(lane="training"), Filters(lane="sparse"), Filters(preset="p1"), Filters(gpu="h100"),
        Filters(gpu="cpu", since="2026-01-03"), Filters(limit=3), Filters(limit=0), Filters(limit=-5),
        Filters(since="2026-01-02T00:00:05"), Filters(run_id="training-20261122T152233Z-0000fsdp"),
        Filters(preset="x' OR 1=1 --"), Filters(gpu="%"),
    ):  # fmt: skip
        assert index.query(wanted) == select(everything, wanted)
    assert {row.device_class for row in index.query(Filters(gpu="h100"))} == {"H100"}
    assert [row.created for row in index.query(Filters())] == sorted((r.created for r in everything), reverse=True)


def test_a_deleted_index_is_rebuilt(tmp_path):
    index = filled(tmp_path)
    before = index.query(Filters())
    index.path.unlink()
    report = index.refresh()
    assert (report.added, report.healed, report.removed) == (5, 0, 0)
    assert index.query(Filters()) == before


def test_rows_that_a_dead_writer_owed_are_healed(tmp_path):
    index = filled(tmp_path)
    index.refresh()
    publish(tmp_path, document(77))
    assert index.refresh().healed == 1
    assert index.refresh().healed == 0
    publish(tmp_path, document(78))
    assert index.sync().healed == 1
    assert len(index.query(Filters())) == 7


def test_rows_without_a_file_are_removed(tmp_path):
    index = filled(tmp_path)
    index.sync()
    first, second, *_ = (item.path for item in iter_objects(tmp_path))
    first.unlink()
    assert index.refresh().removed == 1
    second.unlink()
    with contextlib.suppress(OSError):
        second.parent.rmdir()
    assert index.refresh().removed == 1
    assert len(index.query(Filters())) == 3


def test_values_whose_bytes_in_the_mask_are_equal_are_told_apart(tmp_path):
    """Two presets of one byte: 300 names cannot have 300 different ones."""
    index = index_of(tmp_path)
    byte_of: dict[int, str] = {}
    names = (f"preset-{number}" for number in range(300))
    alike = next(
        (first, name) for name in names if (first := byte_of.setdefault(crc32(name.encode()) & 0xFF, name)) != name
    )
    for serial, name in enumerate(alike):
        index.add(row_of(f"sha256:{serial:064x}", json.loads(document(serial, preset=name))))
    for name in alike:
        assert [row.preset for row in index.query(Filters(preset=name, limit=5))] == [name]
        assert [row.preset for row in index.query(Filters(preset=name), latest=True)] == [name]
    assert index.query(Filters(preset="preset-", limit=5)) == ()


def test_listing_is_refreshing_and_then_asking(tmp_path):
    index = filled(tmp_path)
    index.refresh()
    publish(tmp_path, document(99))
    report, rows = index.listed(Filters())
    assert report.healed == 1
    assert rows == select(rows_by_reading(tmp_path), Filters())
    index.path.write_bytes(b"no index at all" * 100)
    report, rows = index.listed(Filters(limit=2), latest=True)
    assert report.set_aside is not None
    assert report.added == 6
    assert len(rows) == 1


def test_a_record_longer_than_one_read_is_indexed_and_a_link_is_not(tmp_path):
    doc = json.loads(document(1))
    doc["predicate"]["training"]["samples"]["measured"] = [123_456_789] * 20_000
    data = encode(doc)
    path = publish(tmp_path, data)
    assert len(data) > objects._SMALL_BYTES
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(document(2))
    planted = objects.object_path(tmp_path, digest(document(2)))
    planted.parent.mkdir(exist_ok=True)
    planted.symlink_to(elsewhere)
    report = index_of(tmp_path).sync()
    assert (report.added, [file.reason for file in report.bad]) == (1, ["is not a regular file"])
    # Had it become a link after it was looked at, it would not be followed either; nor is a file waited for.
    fifo = planted.parent / "fifo"
    os.mkfifo(fifo)
    found = dict(objects.read_each(planted.parent, [planted.name, "fifo", "gone"]))
    assert isinstance(found[planted.name], OSError)
    assert found["fifo"] == b""
    assert isinstance(found["gone"], FileNotFoundError)
    assert dict(objects.read_each(path.parent, [path.name]))[path.name] == data[: objects._SMALL_BYTES]


def test_an_unchanged_directory_is_not_read_again(tmp_path, monkeypatch):
    index = filled(tmp_path)
    for directory in (tmp_path / "objects").iterdir():
        os.utime(directory, (1, 1))
    index.refresh()

    def never(*_args):
        raise AssertionError("read again")

    monkeypatch.setattr(index_module, "records_in", never)
    assert index.refresh() == index_module.SyncReport()


def test_a_directory_that_may_still_change_within_its_time_stamp_is_looked_at_again(tmp_path):
    index = filled(tmp_path, 1)
    index.refresh()
    (directory,) = (tmp_path / "objects").iterdir()
    before = directory.stat().st_mtime_ns
    next(directory.iterdir()).unlink()
    os.utime(directory, ns=(before, before))
    assert index.refresh().removed == 1


def test_a_row_that_lies_is_put_right_by_sync(tmp_path):
    index = filled(tmp_path)
    index.sync()
    with contextlib.closing(sqlite3.connect(index.path)) as db, db:
        db.execute("UPDATE records SET tokens_per_s = 1e9, receipt = 0")
    assert index.sync().healed == 5
    assert index.query(Filters()) == select(rows_by_reading(tmp_path), Filters())


def test_files_that_are_not_what_their_name_says_are_listed_and_not_indexed(tmp_path):
    index = filled(tmp_path)
    (torn, *_) = (item.path for item in iter_objects(tmp_path))
    torn.chmod(0o644)
    torn.write_bytes(torn.read_bytes()[:-10])
    publish(tmp_path, b"not JSON at all")
    publish(tmp_path, b'{"predicate":{}}')
    publish(tmp_path, b'{"predicate":"\\ud800"}')
    (tmp_path / "objects" / "junk\n").write_bytes(b"")
    report = index.sync()
    reasons = {bad.name: bad.reason for bad in report.bad}
    assert len(reasons) == 5
    assert reasons[str(torn.relative_to(tmp_path))] == "its bytes are not the ones it is named by"
    assert report.removed == 1
    assert len(index.query(Filters())) == 4
    assert torn.exists()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(7).randbytes(9000))


def torn_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE recipes (cake TEXT)")


def without_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE records")


def of_another_ledger(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE ledger SET root = '/elsewhere'")


def torn_pages(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(3).randbytes(len(data) - 4096)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [garbage, torn_header, empty, newer, foreign, without_tables, of_another_ledger, torn_pages]
)
@pytest.mark.parametrize("way", ["list", "sync", "add"])
def test_an_index_that_cannot_be_used_is_set_aside_and_rebuilt(tmp_path, damage, way):
    index = filled(tmp_path)
    before = index.query(Filters())
    for suffix in ("-wal", "-shm"):
        Path(f"{index.path}{suffix}").unlink(missing_ok=True)
    damage(index.path)
    if way == "sync":
        report = index.sync()
        assert (report.added, report.set_aside is not None) == (5, True)
    elif way == "add":
        index.add(before[0])
    reports = [index.refresh()]
    with contextlib.suppress(sqlite3.Error):
        assert index.query(Filters()) == before
    reports.append(index.refresh())
    assert index.query(Filters()) == before
    assert len(list(tmp_path.glob("index.sqlite.set-aside-*"))) >= 1
    if way == "list":
        assert any(report.set_aside for report in reports)


def test_where_sqlite_cannot_work_says_so(tmp_path):
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(IndexUnusableError, match="unable to open"):
        index_of(tmp_path).query(Filters())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IndexUnusableError, match=r"File exists|Not a directory"):
        Index(tmp_path / "file" / "index.sqlite", tmp_path).add(rows_of_one())


def rows_of_one() -> IndexRow:
    data = document(1)
    return row_of(digest(data), json.loads(data))


def test_a_busy_index_is_unusable_and_not_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "_BUSY_S", 0.05)
    index = filled(tmp_path)
    with contextlib.closing(sqlite3.connect(index.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnusableError, match="locked"):
            index.add(rows_of_one())
        db.execute("ROLLBACK")
    assert not list(tmp_path.glob("*.set-aside-*"))
    assert len(index.query(Filters())) == 5


def _add_many(root: str, first: int, count: int) -> None:
    for serial in range(first, first + count):
        data = document(serial)
        publish(Path(root), data)
        index_of(Path(root)).add(row_of(digest(data), json.loads(data)))


def test_writers_started_at_once_on_no_index_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_many, args=(str(tmp_path), n * 100, 12)) for n in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        index_of(tmp_path).refresh()
        time.sleep(0.02)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(index_of(tmp_path).query(Filters())) == 48
    assert not list(tmp_path.glob("*.set-aside-*"))


def test_hostile_directory_names_are_only_names(tmp_path):
    root = tmp_path / ('it\'s "a"?mode=memory&x=\n' + "é" * 60)
    assert len(filled(root, 2).query(Filters())) == 2
    assert (root / "index.sqlite").is_file()
