"""The data path of living processes: descriptors, mappings, links from disk into memory, and what cannot be looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanemark.observe.data_path import classify_file, classify_open_files, classify_self, io_counters

SHM = Path("/dev/shm")  # the kernel's own tmpfs


def on_tmpfs() -> bool:
    return SHM.is_dir() and os.access(SHM, os.W_OK) and classify_file(SHM).filesystem == "tmpfs"


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    if not on_tmpfs():
        pytest.skip("needs a writable tmpfs on /dev/shm")
    place = SHM / f"lanemark-observe-{os.getpid()}"
    place.mkdir()
    yield place
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def test_own_files_on_disk_and_in_memory(tmp_path: Path, memory_dir: Path) -> None:
    disk, memory = tmp_path / "a.bin", memory_dir / "b.bin"
    disk.write_bytes(b"x" * 8192)
    memory.write_bytes(b"x" * 8192)
    with disk.open("rb"), memory.open("rb"):
        seen = {row["name"]: row for row in classify_self([disk, memory])}
    assert seen["b.bin"]["path_class"] == "ram"
    assert seen["b.bin"]["filesystem"] == "tmpfs"
    assert seen["a.bin"]["path_class"] == classify_file(tmp_path).path_class
    assert set(seen["a.bin"]) == {
        "name", "path_class", "filesystem", "mount_point", "mount_source", "reason", "device",
    }  # fmt: skip
    assert classify_self([disk, memory]) == [], "closed files are not in the list"


def test_links_do_not_fool_it(tmp_path: Path, memory_dir: Path) -> None:
    (memory_dir / "c.bin").write_bytes(b"x" * 4096)
    (tmp_path / "local-disk").symlink_to(memory_dir)
    linked = tmp_path / "local-disk" / "c.bin"
    with linked.open("rb"):
        (row,) = classify_self([linked])
        (by_directory,) = classify_self([tmp_path / "local-disk"])
    assert row == by_directory
    assert row["path_class"] == "ram"
    assert classify_file(linked).path_class == "ram"


HOLD = """
import mmap, sys
path, how = sys.argv[1:]
file = open(path, "rb")
if how == "mapped":
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    file.close()
    view[0]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["open", "mapped"])
@pytest.mark.parametrize("name", ["d.bin", "a name with\nnewline ä.bin"])
def test_a_childs_open_and_mapped_file(memory_dir: Path, how: str, name: str) -> None:
    path = memory_dir / name
    path.write_bytes(b"x" * 65536)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        rows = classify_open_files(child.pid, under=[memory_dir])
        assert [(row.name, row.path_class) for row in rows] == [(name, "ram")]
        assert (io_counters(child.pid).value or {}).get("rchar", 0) > 0
    finally:
        child.communicate(b"", timeout=30)


def test_a_mapping_of_this_process_is_found(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "e.bin"
    path.write_bytes(b"x" * 65536)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert [row["name"] for row in classify_self([path])] == ["e.bin"]
    view.close()
    assert classify_self([path]) == []


def test_same_name_elsewhere_is_not_mistaken(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "f.bin").write_bytes(place.encode())
    with (tmp_path / "two" / "f.bin").open("rb"):
        assert classify_self([tmp_path / "one"]) == []
        assert len(classify_self([tmp_path / "two"])) == 1


def test_a_process_that_is_gone_is_not_one_without_files(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(timeout=30)
    with pytest.raises(OSError):  # noqa: PT011 - which of the files fails first is the kernel's business
        classify_open_files(child.pid, under=[tmp_path])
    assert io_counters(child.pid).status == "unavailable"


def test_missing_paths_and_odd_files(tmp_path: Path) -> None:
    assert classify_self([tmp_path / "none"]) == []
    row = classify_file(tmp_path / "none")
    assert (row.path_class, row.reason) == ("unknown", "FileNotFoundError: No such file or directory")
    assert classify_file("/proc/self/status").path_class == "unknown"


def test_looking_is_cheap(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.bin" for i in range(64)]
    for file in files:
        file.write_bytes(b"x")
    handles = [file.open("rb") for file in files]
    try:
        classify_self(files)
        began = time.monotonic()
        assert len(classify_self(files)) == 64
        assert time.monotonic() - began < 2, "a generous bound: it takes milliseconds"
    finally:
        for handle in handles:
            handle.close()


def test_bind_mounts_and_overlays_are_followed(tmp_path: Path) -> None:
    """A tmpfs, a bind mount of it and an overlay over it, in a mount namespace of their own."""
    script = """
set -e
mount -t tmpfs none "$1/mem"; echo x > "$1/mem/low.bin"
mount --bind "$1/mem" "$1/bound"
mkdir "$1/mem/upper" "$1/mem/work" "$1/mem/lower"; echo x > "$1/mem/lower/only-low.bin"
mount -t overlay overlay -o "lowerdir=$1/mem/lower,upperdir=$1/mem/upper,workdir=$1/mem/work" "$1/over"
echo x > "$1/over/new.bin"
exec "$2" -c '
import sys
from lanemark.observe.data_path import classify_self
base = sys.argv[1]
names = [base + "/bound/low.bin", base + "/over/new.bin", base + "/over/only-low.bin"]
held = [open(name) for name in names]
for row in classify_self(names): print(row["name"], row["path_class"], row["filesystem"])
' "$1"
"""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    for name in ("mem", "bound", "over"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0 and ("not permitted" in done.stderr or "denied" in done.stderr or "unshare" in done.stderr):
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["low.bin ram tmpfs", "new.bin ram overlay", "only-low.bin ram overlay"]
