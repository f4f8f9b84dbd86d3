"""The page cache, asked for real: what was dropped is out of it, and a kernel that flatters is not believed."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from lanemark.observe import residency as module
from lanemark.observe.residency import audit, cachestat, mincore, residency

PAGES = 256
SIZE = PAGES * mmap.PAGESIZE


def drop(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def missing(_fd: int, _size: int) -> int:
    raise OSError(errno.ENOSYS, "Function not implemented")


def flattering(_fd: int, size: int) -> int:
    """What mincore says to whoever may not write to the file, and a sandboxed kernel to everybody."""
    return size


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A file on a file system whose cache can be dropped, told from one where it cannot by trying it."""
    path = tmp_path / "shard.bin"
    path.write_bytes(b"\1" * SIZE)
    drop(path)
    if audit(mincore, tmp_path) is not None:
        pytest.skip("the page cache of this directory cannot be dropped (a file system in memory, a sandbox)")
    return path


def needs_cachestat(path: Path) -> None:
    try:
        with path.open("rb") as file:
            cachestat(file.fileno(), SIZE)
    except OSError as error:
        pytest.skip(f"this kernel has no cachestat for us ({error.strerror})")


def test_dropped_and_read(shard: Path, tmp_path: Path) -> None:
    needs_cachestat(shard)
    for ways in ((("cachestat", cachestat), ("mincore", mincore)), (("cachestat", missing), ("mincore", mincore))):
        drop(shard)
        seen = residency([shard], scratch=tmp_path, ways=ways)
        assert seen.value == {"bytes": SIZE, "resident_bytes": 0, "files": 1, "files_open": 1}, seen
        shard.read_bytes()
        seen = residency([shard], scratch=tmp_path, ways=ways)
        assert seen.value is not None
        assert seen.value["resident_bytes"] == SIZE
    assert "confirmed by a control file" in seen.source
    assert [path.name for path in tmp_path.iterdir()] == ["shard.bin"], "the control file is gone"


def test_a_flattering_kernel_is_not_believed(shard: Path, tmp_path: Path) -> None:
    seen = residency([shard], scratch=tmp_path, ways=(("cachestat", missing), ("mincore", flattering)))
    assert seen.status == "unavailable"
    assert "a control file dropped from the cache was called 100 % resident" in (seen.reason or "")


def test_nor_is_one_that_says_nothing_is_ever_there(shard: Path, tmp_path: Path) -> None:
    seen = residency([shard], scratch=tmp_path, ways=(("cachestat", missing), ("mincore", lambda _fd, _size: 0)))
    assert "just read was called not resident" in (seen.reason or "")


def test_a_file_that_is_not_ours_is_not_asked_for(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mincore says "resident" of it whatever the truth is, and says so only for it: the control file passes."""
    monkeypatch.setattr(module, "_may_write", lambda _fd, _path: False)
    seen = residency([shard], scratch=tmp_path, ways=(("cachestat", missing), ("mincore", mincore)))
    assert seen.status == "unavailable"
    assert "may not write" in (seen.reason or "")


def test_no_room_for_a_control_file_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    seen = residency([tmp_path / "x"], scratch=tmp_path / "none", ways=(("cachestat", missing), ("mincore", mincore)))
    assert "no control file could be made" in (seen.reason or "")
    assert residency([tmp_path / "gone"], scratch=tmp_path).status == "unavailable"


def test_many_files_are_sampled_and_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(20)]
    for path in paths:
        path.write_bytes(b"1")
    order = module._spread(paths)
    assert sorted(order) == sorted(paths)
    assert {int(Path(path).name) for path in order[:3]} == {0, 8, 16}
    seen = residency(paths, scratch=tmp_path, budget_s=0.0, ways=(("cachestat", lambda _fd, size: size), ("", missing)))
    assert seen.value == {"bytes": 1, "resident_bytes": 1, "files": 1, "files_open": 20}
    assert residency([], scratch=tmp_path).value == {"bytes": 0, "resident_bytes": 0, "files": 0, "files_open": 0}
