"""What must hold however many records there are: answers by look-ups instead of walks, flat memory, one open index."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lanemark.ledger.index import Index
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.rows import Filters, IndexRow
from lanemark.ledger.tables import insert

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good" / "eager_ddp_cpu.json"
COUNT = 30_000


def rows(count: int) -> itertools.chain:
    rng = random.Random(3)
    return (
        IndexRow(
            "sha256:" + rng.randbytes(32).hex(), f"training-20260101T000000Z-{number:08d}", "training", f"p{number % 7}",
            f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z", "ok", True, "H100", 8,
            "fsdp2", "model" if number else "eager", "bf16", "local", "warm", "ram", 1.0, 1.0, None, None,
        )
        for number in range(count)
    )  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("scale")
    made = Index(root / "index.sqlite", root)

    def fill(db):
        with db:
            db.execute("BEGIN")
            insert(db, rows(COUNT))

    made._use(fill)
    return made


def steps(index: Index, ask) -> int:
    """How many thousand instructions of SQLite's machine a question takes: a measure of work that no clock disturbs."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with index.kept_open():
        index.query(Filters(limit=1))
        db = index._kept[0]
        db.set_progress_handler(tick, 1000)
        ask()
        db.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize(
    "wanted",
    [
        Filters(limit=50), Filters(preset="p3", limit=50), Filters(gpu="cpu", limit=50), Filters(since="2026-01-01T08:19", limit=50),
        Filters(preset="p0", until="2026-01-01T02", limit=50), Filters(run_id="training-20260101T000000Z-00000005"),
        Filters(commit="abcd", limit=50), Filters(lane="training", preset="p0", gpu="H100", outcome="ok", limit=50),
    ],
)  # fmt: skip
def test_a_narrow_question_does_not_walk_the_records(index, wanted):
    assert steps(index, lambda: index.query(wanted)) <= 15


def test_the_latest_of_each_series_does_not_walk_the_records(index):
    found = []
    assert steps(index, lambda: found.extend(index.query(Filters(), latest=True))) <= 15
    assert len(found) == 8


def test_the_measure_of_work_notices_a_walk(index):
    assert steps(index, lambda: index.query(Filters())) > 100


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from lanemark.ledger.index import Index
    from lanemark.ledger.rows import Filters
    index = Index(Path(sys.argv[1]), Path(sys.argv[2]))
    for row in index.stream(Filters(limit=10)):
        pass
    def peak_kb():
        (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
        return int(line.split()[1])
    before = peak_kb()
    rows = index.stream(Filters()) if sys.argv[3] == "stream" else index.query(Filters())
    count = sum(1 for row in rows)
    print(count, peak_kb() - before)
    """
)


@pytest.mark.parametrize(("way", "flat"), [("stream", True), ("query", False)])
def test_streaming_takes_no_memory_for_rows(index, way, flat):
    arguments = [sys.executable, "-c", PROGRAM, str(index.path), str(index.ledger_root), way]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    count, grown_kb = map(int, done.stdout.split())
    assert count == COUNT
    assert (grown_kb < 6_000) is flat


def documents(count: int) -> list[bytes]:
    data = GOOD.read_bytes()
    assert b'"bench-01"' in data
    return [data.replace(b'"bench-01"', b'"bench-%d"' % number) for number in range(count)]


def test_many_appends_share_one_open_index(tmp_path, monkeypatch):
    ledger, opened = Ledger(tmp_path, {}), []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(a) or connect(*a, **k))
    with ledger.many():
        for data in documents(10):
            assert ledger.append(data).notices == ()
    assert len(opened) <= 2  # one that makes the file, one that is kept
    assert len(ledger.list().rows) == 10


def test_an_index_replaced_under_many_appends_is_noticed(tmp_path):
    ledger = Ledger(tmp_path, {})
    with ledger.many():
        for number, data in enumerate(documents(9)):
            assert ledger.append(data).notices == ()
            if number == 2:
                ledger.index_file.unlink()
            if number == 5:
                draft = tmp_path / "draft"
                draft.write_bytes(b"garbage" * 1000)
                os.replace(draft, ledger.index_file)
    assert len(ledger.list().rows) == 9
    with contextlib.closing(sqlite3.connect(ledger.index_file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_does_not_use_its_parents_connection(tmp_path):
    ledger, data = Ledger(tmp_path, {}), documents(4)
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from lanemark.ledger.ledger import Ledger
        ledger, data = Ledger(Path(sys.argv[1]), {}), Path(sys.argv[2]).read_bytes()
        with ledger.many():
            ledger.append(data)
            kept = ledger._index._kept[0]
            if os.fork() == 0:
                ledger.append(data.replace(b'"bench-01"', b'"bench-x"'))
                os._exit(0 if ledger._index._kept[0] is not kept else 1)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
            ledger.append(data.replace(b'"bench-01"', b'"bench-y"'))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(GOOD)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(ledger.list().rows) == 3
    assert ledger.append(data[0]).notices == ()


def test_a_write_ahead_log_that_outlived_its_index_is_not_replayed(tmp_path):
    ledger, data = Ledger(tmp_path, {}), documents(3)
    with ledger.many():
        first, second = (ledger.append(one).path for one in data[:2])
        assert Path(f"{ledger.index_file}-wal").exists()
        kept = Path(f"{ledger.index_file}-wal").read_bytes()
    ledger.index_file.unlink()
    Path(f"{ledger.index_file}-wal").write_bytes(kept)
    second.unlink()
    assert [row.id for row in ledger.list().rows] == [f"sha256:{first.stem}"]
    with contextlib.closing(sqlite3.connect(ledger.index_file)) as db:
        assert db.execute("SELECT count(*) FROM groups").fetchone() == (1,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
