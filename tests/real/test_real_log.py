"""The log against writers that are killed: between any two system calls, inside a write, and at random while others write."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanemark.ledger.log import TransparencyLog
from lanemark.ledger.merkle import EMPTY_ROOT
from lanemark.ledger.tiles import Tiles
from lanemark.records.errors import LedgerError

pytestmark = pytest.mark.timeout(150)

#: Forks a writer for each call that it makes to the system, has it killed there, and judges what it left. Forking spares
#: starting an interpreter each time. What a case is: how many entries there are, and how many are appended.
KILL_EVERYWHERE = textwrap.dedent(
    """
    import hashlib, json, os, shutil, signal, sys
    from pathlib import Path
    from lanemark.ledger.log import TransparencyLog
    from lanemark.ledger.tiles import Tiles

    CALLS = ("open", "write", "fsync", "fchmod", "replace", "unlink", "mkdir", "rmdir", "close")

    def ids(count, first=0):
        return ["sha256:" + hashlib.sha256(b"%d" % n).hexdigest() for n in range(first, first + count)]

    def naive(entries):
        if len(entries) == 1:
            return hashlib.sha256(b"\\0" + entries[0]).digest()
        k = 1
        while k * 2 < len(entries):
            k *= 2
        return hashlib.sha256(b"\\1" + naive(entries[:k]) + naive(entries[k:])).digest()

    def die_at(number, torn):
        made = 0
        def wrapped(call, is_write):
            def function(*args, **kwargs):
                nonlocal made
                made += is_write or not torn  # a torn write is one of the writes: only those are counted then
                if made == number and (is_write or not torn):
                    if torn:
                        call(args[0], bytes(args[1])[: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)
            return function
        for name in CALLS:
            setattr(os, name, wrapped(getattr(os, name), name == "write"))

    def whole(root, allowed):
        log = TransparencyLog(root)
        head = log.audit()
        entries = [e for bundle in Tiles(log.directory, head.size).entries() for e in bundle]
        assert [e.decode() for e in entries] in allowed, (head.size, len(entries))
        assert not entries or naive(entries) == head.root
        return [e.decode() for e in entries]

    base, work = Path(sys.argv[1]), Path(sys.argv[2])
    before, more = int(sys.argv[3]), int(sys.argv[4])
    if before >= 0:
        TransparencyLog(base).append(ids(before))
    old, new = ids(max(before, 0)), ids(more, first=100_000)
    kills = committed = 0
    for torn in (False, True):
        number = 0
        while True:
            number += 1
            shutil.rmtree(work, ignore_errors=True)
            if base.exists():
                shutil.copytree(base, work)
            pid = os.fork()
            if pid == 0:
                die_at(number, torn)
                TransparencyLog(work).append(new)
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            if status == 0:
                break
            assert status == signal.SIGKILL, status
            kills += 1
            there = TransparencyLog(work).exists()
            assert there or before < 0
            left = whole(work, (old, old + new)) if there else []
            committed += left == old + new
            assert not there or not TransparencyLog(work).append(old).added
            # Another writer, with other entries: what the dead one left ahead of the head must not show through.
            other = ids(more + 1, first=200_000)
            TransparencyLog(work).append(other)
            whole(work, (left + other,))
            TransparencyLog(work).append(new)
            whole(work, (left + other + (new if left == old else []),))
        assert whole(work, (old + new,))
    print(json.dumps({"kills": kills, "committed": committed}))
    """
)

#: Appends entries of its own for ever, one or a few at a time, and acknowledges each once `append` has returned.
WRITER = textwrap.dedent(
    """
    import hashlib, os, sys
    from pathlib import Path
    from lanemark.ledger.log import TransparencyLog

    log, who = TransparencyLog(Path(sys.argv[1])), sys.argv[3]
    done = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        count = 1 + number % 40
        new = ["sha256:" + hashlib.sha256(f"{who} {n}".encode()).hexdigest() for n in range(number, number + count)]
        number += count
        assert log.append(new).added == tuple(new)
        os.write(done, "".join(f"{entry}\\n" for entry in new).encode())
    """
)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing: a killed process loses nothing that it wrote, on whatever file system."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="lanemark-test-") as directory:
        yield Path(directory)


def naive_root(entries: list[bytes]) -> bytes:
    if len(entries) < 2:
        return hashlib.sha256(b"\0" + entries[0]).digest() if entries else EMPTY_ROOT
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\1" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "more"),
    [(-1, 2), (0, 1), (5, 1), (255, 1), (254, 4), (256, 1)],
    ids=["no-log", "empty", "within-a-tile", "filling-a-tile", "crossing-a-tile", "after-a-full-tile"],
)
def test_a_writer_killed_at_any_call_leaves_the_old_log_or_the_new(in_memory, before, more):
    command = [
        sys.executable,
        "-c",
        KILL_EVERYWHERE,
        str(in_memory / "base"),
        str(in_memory / "work"),
        str(before),
        str(more),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["kills"] > 40
    assert 0 < result["committed"] < result["kills"]


def start(root: Path, where: Path, serial: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, str(root), str(where / f"acknowledged-{serial}"), f"writer {serial}"]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(writer: subprocess.Popen[bytes]) -> None:
    """Kill one writer of ours, which must have been alive: one that ends by itself is a failure."""
    assert writer.poll() is None, writer.stderr.read().decode() if writer.stderr else ""
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=20)
    if writer.stderr:
        writer.stderr.close()


@pytest.mark.slow
def test_many_writers_killed_at_random_keep_one_history(tmp_path):
    root, rng = tmp_path / "ledger", random.Random(6962)
    log = TransparencyLog(root)
    log.append(["sha256:" + "0" * 64])
    writers = [start(root, tmp_path, serial) for serial in range(3)]
    heads, looks, serial, began = [log.head()], 0, len(writers), time.monotonic()
    try:
        while time.monotonic() - began < 10.0:
            time.sleep(rng.uniform(0.02, 0.25))
            heads.append(log.head())
            assert log.prove("sha256:" + "0" * 64).number == 0  # readers take no lock, and are never told of damage
            log.audit()
            looks += 1
            place = rng.randrange(len(writers))
            if rng.random() < 0.5:
                end(writers[place])
                writers[place] = start(root, tmp_path, serial)
                serial += 1
    finally:
        for writer in writers:
            if writer.poll() is None:
                end(writer)
    assert looks > 10
    head = log.audit()
    entries = [entry for bundle in Tiles(log.directory, head.size).entries() for entry in bundle]
    assert len(set(entries)) == len(entries) == head.size > 100
    assert naive_root(entries) == head.root
    acknowledged = {
        line.encode()
        for path in tmp_path.glob("acknowledged-*")
        for line in path.read_text().splitlines()
        if len(line) == 71
    }
    assert acknowledged <= set(entries)
    assert len(acknowledged) > 50
    for old in heads:
        log.consistent_with(old)


def test_two_processes_appending_the_same_records_add_each_once(tmp_path):
    program = textwrap.dedent(
        """
        import hashlib, sys
        from pathlib import Path
        from lanemark.ledger.log import TransparencyLog
        log, total = TransparencyLog(Path(sys.argv[1])), 0
        for n in range(25):
            total += len(log.append(["sha256:" + hashlib.sha256(b"%d" % n).hexdigest()]).added)
        print(total)
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    added = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(added) == 25
    assert TransparencyLog(tmp_path).audit().size == 25


def test_a_read_only_log_can_be_read_and_checked_and_not_appended_to(tmp_path):
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "lanemark-test", str(tmp_path)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()[:120]}")
    log = TransparencyLog(tmp_path / "ledger")
    head = log.append(["sha256:" + "1" * 64]).head
    try:
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], capture_output=True, check=True)
        else:
            for directory in (log.directory, log.directory / "tile"):
                directory.chmod(0o500)
        assert log.audit() == head
        assert log.prove("sha256:" + "1" * 64).number == 0
        with pytest.raises(LedgerError) as caught:
            log.append(["sha256:" + "2" * 64])
        assert caught.value.slug == "ledger-unwritable"
        assert log.audit() == head
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(tmp_path)], capture_output=True, check=True)
        else:
            log.directory.chmod(0o700)
            (log.directory / "tile").chmod(0o700)


def test_a_full_disk_leaves_the_old_log(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "lanemark-test", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()[:120]}")
    try:
        log = TransparencyLog(tmp_path / "ledger")
        log.append([f"sha256:{n:064x}" for n in range(300)])
        with pytest.raises(LedgerError, match="No space left") as caught:
            log.append([f"sha256:{n:064x}" for n in range(5000)])
        assert caught.value.slug == "ledger-unwritable"
        assert log.audit().size == 300
    finally:
        subprocess.run(["umount", str(tmp_path)], capture_output=True, check=True)
