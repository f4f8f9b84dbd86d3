"""Objects and evidence: named by their bytes, published whole, found by prefix, swept only when their writer is gone."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import stat
from pathlib import Path

import pytest

from lanemark.ledger import objects
from lanemark.ledger.objects import find, iter_objects, publish, publish_evidence, read_file, sweep_temporary
from lanemark.records.encoding import MAX_RECORD_BYTES
from lanemark.records.errors import LedgerError, RecordError


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


def test_publishing_names_a_file_by_its_bytes(tmp_path):
    path = publish(tmp_path / "new" / "ledger", b"{}\n")
    assert path == tmp_path / "new" / "ledger" / "objects" / sha(b"{}\n")[:2] / f"{sha(b'{}' + chr(10).encode())}.json"
    assert path.read_bytes() == b"{}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.stat().st_nlink == 1
    assert leftovers(tmp_path / "new" / "ledger") == []


def test_the_mode_does_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        assert stat.S_IMODE(publish(tmp_path, b"{}\n").stat().st_mode) == 0o444
    finally:
        os.umask(before)


def test_publishing_twice_changes_nothing(tmp_path):
    first = publish(tmp_path, b"{}\n")
    inode = first.stat().st_ino
    assert publish(tmp_path, b"{}\n") == first
    assert first.stat().st_ino == inode
    assert leftovers(tmp_path) == []


def test_wrong_bytes_under_the_right_name_are_kept_apart(tmp_path):
    path = publish(tmp_path, b"{}\n")
    path.chmod(0o644)
    path.write_bytes(b"{")
    assert publish(tmp_path, b"{}\n") == path
    assert path.read_bytes() == b"{}\n"
    (kept,) = (tmp_path / "damaged").iterdir()
    assert kept.read_bytes() == b"{"


@pytest.mark.parametrize("number", sorted(objects.NO_LINKS))
def test_a_file_system_without_hard_links_is_renamed_on(tmp_path, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = publish(tmp_path, b"{}\n")
    assert path.read_bytes() == b"{}\n"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "fchmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_whatever_fails_is_one_error_and_leaves_nothing_half_written(tmp_path, monkeypatch, call, number):
    publish(tmp_path, b"[]\n")

    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(LedgerError) as caught:
        publish(tmp_path, b"{}\n")
    monkeypatch.undo()
    assert caught.value.slug == "ledger-unwritable"
    assert os.strerror(number) in str(caught.value)
    assert ("free space" in caught.value.remedy) == (number == errno.ENOSPC)
    assert leftovers(tmp_path) == []
    assert [item.record_id for item in iter_objects(tmp_path)] == [f"sha256:{sha(b'[]' + bytes([10]))}"]


def test_a_short_write_is_finished(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    assert publish(tmp_path, b"x" * 100).read_bytes() == b"x" * 100


def test_a_directory_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    publish(tmp_path, b"{}\n")


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "tmp").write_bytes(b"")
    with pytest.raises(LedgerError, match=r"Not a directory|File exists"):
        publish(tmp_path, b"{}\n")


def test_too_large_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RecordError) as caught:
        publish(tmp_path, b" " * (MAX_RECORD_BYTES + 1))
    assert caught.value.slug == "record-too-large"
    assert list(tmp_path.iterdir()) == []


def test_evidence_is_copied_under_its_digest(tmp_path):
    source = tmp_path / "samples.bin"
    source.write_bytes(b"a" * (objects._CHUNK_BYTES + 5))
    path = publish_evidence(tmp_path / "ledger", "ranks/0/samples.bin", source)
    assert path.name == sha(source.read_bytes())
    assert path.parent.name == path.name[:2]
    assert path.read_bytes() == source.read_bytes()
    assert publish_evidence(tmp_path / "ledger", "other", source.read_bytes()) == path
    assert leftovers(tmp_path / "ledger") == []


def test_evidence_that_cannot_be_read_is_not_a_ledger_that_cannot_be_written(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to("/etc/hostname")
    for source in (tmp_path / "missing", tmp_path, fifo, link):
        with pytest.raises(LedgerError) as caught:
            publish_evidence(tmp_path / "ledger", "x", source)
        assert caught.value.slug == "attempt-unreadable"
    assert leftovers(tmp_path / "ledger") == []


def test_iterating_names_what_does_not_belong(tmp_path):
    assert list(iter_objects(tmp_path)) == []
    kept = publish(tmp_path, b"{}\n")
    (tmp_path / "objects" / "notes.txt").write_bytes(b"")
    (kept.parent / "README").write_bytes(b"")
    (kept.parent / f"{kept.parent.name}{'0' * 62}.json").mkdir()
    (tmp_path / "objects" / "zz").mkdir()
    other = "00" if kept.parent.name != "00" else "01"
    (tmp_path / "objects" / other).mkdir()
    (tmp_path / "objects" / other / kept.name).write_bytes(b"{}\n")
    found = list(iter_objects(tmp_path))
    assert [item.path for item in found if item.problem is None] == [kept]
    assert len([item for item in found if item.problem]) == 5


def test_a_record_is_found_by_any_beginning_of_its_id(tmp_path):
    path = publish(tmp_path, b"{}\n")
    for length in (1, 2, 3, 12, 64):
        assert find(tmp_path, path.stem[:length]) == path
        assert find(tmp_path, f"sha256:{path.stem[:length]}".upper()) == path


@pytest.mark.parametrize("asked", ["", "sha256:", "xyz", "../../etc/passwd", "0" * 65, "f" * 64, "\x1b[0m\n", "é"])
def test_an_id_that_names_nothing_is_missing(tmp_path, asked):
    publish(tmp_path, b"{}\n")
    with pytest.raises(RecordError) as caught:
        find(tmp_path, asked)
    assert caught.value.slug == "record-missing"
    assert str(caught.value).isprintable()


def test_an_ambiguous_prefix_names_candidates(tmp_path):
    digests = sorted(publish(tmp_path, b"%d\n" % number).stem for number in range(17))
    first = next(a[0] for a, b in itertools.pairwise(digests) if a[0] == b[0])
    with pytest.raises(RecordError, match="more of its digits") as caught:
        find(tmp_path, first)
    assert caught.value.slug == "record-ambiguous"


def test_reading_is_bounded_and_never_blocks(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert read_file(tmp_path / "f", 3) == b"1234"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular|directory"):
            read_file(path)


def test_only_what_no_living_writer_holds_is_swept(tmp_path):
    assert sweep_temporary(tmp_path) == 0
    publish(tmp_path, b"{}\n")
    dead, held, young = (tmp_path / "tmp" / f"{name}.tmp" for name in ("dead", "held", "young"))
    for path in (dead, held, young):
        path.write_bytes(b"half")
    for path in (dead, held):
        os.utime(path, (1, 1))
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert sweep_temporary(tmp_path) == 1
        assert sorted(leftovers(tmp_path)) == sorted([held, young])
    assert sweep_temporary(tmp_path, older_than_s=0.0) == 2


def test_after_several_records_none_waits_for_a_directory_of_its_own(tmp_path, monkeypatch):
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(60):
        synced.clear()
        target = publish(tmp_path, b'{"number":%d}' % number)
        # The file before it has its name, the directory with the name in it, and a new directory's own name before.
        assert synced[-1] == target.parent.name
        assert synced.index(synced[-1]) == len(synced) - 1
        assert ("objects" in synced) == (len(synced) == 3) or number == 0
    assert len(synced) == 2
    assert len(list((tmp_path / "objects").iterdir())) == 256
