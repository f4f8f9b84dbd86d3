"""What a rank says of its compile cache: machine code from its own maps, and no word where it cannot look."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from lanemark.measure import cache_use as module
from lanemark.measure.cache_use import cache_use, lookups, mapped_below

MAPS = """\
7f0000000000-7f0000001000 r--p 00000000 08:01 11   /cache/inductor/ab/cabc.main.so
7f0000001000-7f0000002000 r-xp 00001000 08:01 11   /cache/inductor/ab/cabc.main.so
7f0000002000-7f0000003000 r-xp 00000000 08:01 12   /cache/a b/c.so (deleted)
7f0000003000-7f0000004000 rw-p 00000000 00:01 13   /cache/tmp/ffi1x2 (deleted)
7f0000004000-7f0000005000 r-xp 00000000 08:01 14   /cache-of-others/x.so
7f0000005000-7f0000006000 r-xp 00000000 08:01 15   /usr/lib/libc.so.6
7f0000006000-7f0000007000 rw-p 00000000 00:00 0    [heap]
7f0000007000-7f0000008000 rw-p 00000000 00:00 0
"""


def test_mapped_machine_code_below_the_root_is_named_once_and_relative_to_it() -> None:
    assert mapped_below(MAPS, "/cache") == ["a b/c.so", "inductor/ab/cabc.main.so"]
    assert mapped_below(MAPS, "/cache/") == mapped_below(MAPS, "/cache")
    assert mapped_below("", "/cache") == []


def test_a_library_that_is_loaded_is_seen(tmp_path: Path) -> None:
    system = next(
        line.split(None, 5)[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libz.so" in line or "/libm.so" in line
    )
    root = tmp_path / "cache"
    (root / "inductor").mkdir(parents=True)
    library = shutil.copy(system, root / "inductor" / "kernel.so")
    link = tmp_path / "link"
    link.symlink_to(root)
    ctypes.CDLL(library)
    environ = {"LANEMARK_CACHE_DIR": str(link), "TORCHINDUCTOR_CACHE_DIR": str(link / "inductor")}
    seen = cache_use(environ, compiled=True)
    assert seen["status"] == "observed", seen
    assert seen["value"]["binaries"] == ["inductor/kernel.so"]
    assert seen["value"]["fx"] == seen["value"]["aot"] == []


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "no variable says"),
        ({"LANEMARK_CACHE_DIR": "/cache", "TORCHINDUCTOR_CACHE_DIR": "/elsewhere"}, "leads away"),
    ],
)
def test_could_not_look_is_said_with_its_reason(environ: dict[str, str], reason: str) -> None:
    seen = cache_use(environ, compiled=True)
    assert seen["status"] == "unavailable"
    assert reason in seen["reason"]


def test_a_torch_that_changed_is_a_reason_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed() -> None:
        raise AttributeError("no such counter")

    monkeypatch.setattr(module, "lookups", changed)
    seen = cache_use({"LANEMARK_CACHE_DIR": "/cache"}, compiled=True)
    assert (seen["status"], seen["reason"]) == ("unavailable", "AttributeError: no such counter")


def test_nothing_compiled_is_absent_and_not_empty() -> None:
    assert cache_use({}, compiled=False)["status"] == "absent"


def test_lookups_are_counted_by_kind() -> None:
    counts = lookups()
    assert set(counts) == {"hits", "misses", "bypasses"}
    assert all(set(kinds) == {"fx", "aot"} and min(kinds.values()) >= 0 for kinds in counts.values())
