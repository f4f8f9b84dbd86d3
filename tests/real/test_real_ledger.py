"""The ledger against what really happens: writers killed at random, full and read-only disks, a host's leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanemark.ledger.ledger import Ledger
from lanemark.ledger.objects import iter_objects, publish, publish_evidence, sweep_temporary
from lanemark.records.encoding import digest
from lanemark.records.errors import LedgerError

GOOD = Path(__file__).parents[1] / "assets" / "records" / "good" / "eager_ddp_cpu.json"
WRITERS = 4
KILLS = 60
SECONDS = 25.0

#: Appends distinct records for ever, and acknowledges each on its own line once `append` has returned.
WRITER = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.encoding import digest, encode

    root, acknowledgements, template = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_bytes())
    ledger = Ledger(root, {})
    done = os.open(acknowledgements, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        number += 1
        template["predicate"]["surface"]["hostname"]["value"] = f"{os.getpid()}-{number}"
        data = encode(template)
        appended = ledger.append(data, [("ranks/0/samples.bin", data[:5000])])
        os.write(done, appended.id.encode() + b"\\n")
    """
)


def start(root: Path, where: Path, serial: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, str(root), str(where / f"acknowledged-{serial}"), str(GOOD)]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(writer: subprocess.Popen[bytes]) -> None:
    """Kill one writer of ours, which must have been alive: a writer that ends by itself is a failure."""
    assert writer.poll() is None, writer.stderr.read().decode() if writer.stderr else ""
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=20)
    if writer.stderr:
        writer.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_writers_killed_at_random_tear_nothing_and_lose_nothing(tmp_path):
    root, rng = tmp_path / "ledger", random.Random(20261122)
    writers = [start(root, tmp_path, serial) for serial in range(WRITERS)]
    kills, serial, began = 0, WRITERS, time.monotonic()
    try:
        time.sleep(0.6)
        while kills < KILLS and time.monotonic() - began < SECONDS:
            time.sleep(rng.uniform(0.05, 0.45))
            place = rng.randrange(WRITERS)
            end(writers[place])
            kills += 1
            writers[place] = start(root, tmp_path, serial)
            serial += 1
    finally:
        for writer in writers:
            if writer.poll() is None:
                end(writer)
    assert kills >= KILLS // 2

    acknowledged: set[str] = set()
    for path in tmp_path.glob("acknowledged-*"):
        # A line cut short by the kill was not acknowledged yet.
        acknowledged |= {line for line in path.read_text().splitlines() if len(line) == len("sha256:") + 64}
    found = list(iter_objects(root))
    assert [item for item in found if item.problem] == []
    assert [item.path for item in found if digest(item.path.read_bytes()) != item.record_id] == []
    present = {item.record_id for item in found}
    assert len(acknowledged) > WRITERS
    assert acknowledged <= present
    evidence = list((root / "evidence").glob("*/*"))
    assert [path for path in evidence if digest(path.read_bytes()) != f"sha256:{path.name}"] == []

    ledger = Ledger(root, {})
    assert {row.id for row in ledger.list().rows} == present  # before any sync: listing misses nothing
    half_written = list((root / "tmp").iterdir())
    for path in half_written:
        os.utime(path, (1, 1))
    report = ledger.sync()
    assert report.bad == ()
    assert report.swept == len(half_written)
    assert list((root / "tmp").iterdir()) == []
    assert {row.id for row in ledger.list().rows} == present
    assert ledger.sync().healed == 0


def test_sync_heals_an_index_that_is_deleted_damaged_or_newer(tmp_path):
    ledger = Ledger(tmp_path, {})
    template = json.loads(GOOD.read_bytes())
    for number in range(30):
        template["predicate"]["surface"]["hostname"]["value"] = str(number)
        ledger.append(json.dumps(template).encode())
    before = ledger.list().rows
    index = ledger.index_file
    index.unlink()
    assert ledger.sync().added == 30
    with index.open("r+b") as file:  # the header says a schema that is not ours yet
        file.seek(60)
        file.write((99).to_bytes(4, "big"))
    assert "version 99" in (ledger.sync().set_aside or "")
    with index.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(20_000))
    report = ledger.sync()
    assert (report.added, report.set_aside is None) == (30, False)
    assert ledger.list().rows == before


@contextlib.contextmanager
def small_disk(where: Path, *, size: str = "256k") -> Iterator[Path]:
    """A tmpfs of `size` at `where`, mounted for the length of a test; skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lanemark-test", str(where)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()[:120]}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], capture_output=True, check=True)


def remount_read_only(where: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(where)], capture_output=True, check=True)


def test_a_full_disk_is_one_clear_error_and_tears_nothing(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        kept = publish(disk / "ledger", GOOD.read_bytes())
        with pytest.raises(LedgerError, match=r"No space left.*free space") as caught:
            publish_evidence(disk / "ledger", "ranks/0/stdout.log", b"x" * 500_000)
        assert caught.value.slug == "ledger-unwritable"
        (disk / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(LedgerError, match="No space left") as caught:
            Ledger(disk / "ledger", {}).append(GOOD.read_bytes().replace(b"bench-01", b"bench-02"))
        assert caught.value.slug == "ledger-unwritable"
        assert [item.path for item in iter_objects(disk / "ledger")] == [kept]
        assert list((disk / "ledger" / "tmp").iterdir()) == []
        assert kept.read_bytes() == GOOD.read_bytes()
        listing = Ledger(disk / "ledger", {}).list()  # no room for an index: the files are read instead
        assert [row.id for row in listing.rows] == [digest(GOOD.read_bytes())]
        (disk / "filler").unlink()
        assert Ledger(disk / "ledger", {}).append(GOOD.read_bytes()).notices == ()


def test_a_record_is_kept_where_only_the_index_has_no_room(tmp_path):
    with small_disk(tmp_path / "disk", size="64k") as disk:
        (disk / "filler").write_bytes(b"x" * 60_000)
        ledger = Ledger(tmp_path / "ledger", {"LANEMARK_INDEX": str(disk / "index")})
        appended = ledger.append(GOOD.read_bytes())
        assert appended.path.read_bytes() == GOOD.read_bytes()
        assert any("not indexed" in notice for notice in appended.notices)
        listing = ledger.list()
        assert [row.id for row in listing.rows] == [appended.id]
        assert any("every record was read" in notice for notice in listing.notices)


def test_a_read_only_ledger_can_be_listed_read_and_verified_but_not_written(tmp_path):
    with small_disk(tmp_path / "disk", size="2m") as disk:
        record_id = Ledger(disk / "ledger", {}).append(GOOD.read_bytes()).id
        remount_read_only(disk)
        ledger = Ledger(disk / "ledger", {})
        with pytest.raises(LedgerError, match="Read-only file system") as caught:
            ledger.append(GOOD.read_bytes().replace(b"bench-01", b"bench-02"))
        assert caught.value.slug == "ledger-unwritable"
        assert ledger.append(GOOD.read_bytes()).path.exists()  # already there, and there is nothing to write
        assert [row.id for row in ledger.list().rows] == [record_id]
        assert ledger.get(record_id).data == GOOD.read_bytes()
        assert ledger.verify(record_id).ok
        elsewhere = Ledger(disk / "ledger", {"LANEMARK_INDEX": str(tmp_path / "index")})
        assert elsewhere.list().notices == ()
        assert elsewhere.sync().bad == ()


def test_a_directory_without_permission_is_one_clear_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root is not held back by permissions; the read-only file system covers it")
    (tmp_path / "ledger").mkdir(mode=0o500)
    with pytest.raises(LedgerError, match="Permission denied"):
        Ledger(tmp_path / "ledger", {}).append(GOOD.read_bytes())


def test_a_writer_that_lives_keeps_its_file_through_a_sweep(tmp_path):
    """The lock, not the age, tells a slow writer from a dead one."""
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from lanemark.ledger.objects import _open_temporary
        path, descriptor = _open_temporary(Path(sys.argv[1]))
        print(path, flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        path = Path(writer.stdout.readline().strip())
        os.utime(path, (1, 1))
        assert sweep_temporary(tmp_path) == 0
        assert path.exists()
        writer.kill()
        writer.wait(timeout=20)
        assert sweep_temporary(tmp_path) == 1
    assert not path.exists()
