"""Seed archives: what goes in comes out, the same bytes every time, and nothing hostile gets past the manifest."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seed_caches as made
from lanemark.lanes.cache_manifest import Manifest
from lanemark.observe.compile_cache import listing
from lanemark.stage import seed_packing
from lanemark.stage.seed_archive import reading
from lanemark.stage.seed_member import Unusable, header
from lanemark.stage.seed_packing import Changed, pack

zstandard = pytest.importorskip("zstandard")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return made.fill(tmp_path / "cache")


@pytest.fixture
def known(cache: Path) -> Manifest:
    return made.manifest(cache)


@pytest.fixture
def good(cache: Path, known: Manifest) -> bytes:
    """The tar inside a sound archive."""
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed(cache, known))).read()


def packed(cache: Path, known: Manifest) -> bytes:
    out = io.BytesIO()
    pack(cache, known, out)
    return out.getvalue()


def compressed(tar: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(tar)


def unpack(data: bytes, into: Path) -> str:
    into.mkdir()
    with reading(io.BytesIO(data)) as archive:
        return archive.extract(into)


def refused(data: bytes, into: Path) -> Unusable:
    with pytest.raises(Unusable) as caught:
        unpack(data, into)
    return caught.value


def test_what_goes_in_comes_out(tmp_path: Path, cache: Path, known: Manifest) -> None:
    digest = unpack(packed(cache, known), tmp_path / "out")
    assert digest.startswith("sha256:")
    assert listing(tmp_path / "out").value == known.files
    assert not any("lock" in str(path) or "tmp" in path.name for path in (tmp_path / "out").rglob("*"))


def test_the_same_content_is_the_same_bytes(cache: Path, known: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed(cache, known)
    for path in cache.rglob("*.so"):
        os.utime(path, (1, 1))
        path.chmod(0o755)
    assert packed(cache, known) == first
    for workers in (1, 2, 4):
        monkeypatch.setattr(seed_packing, "workers", lambda workers=workers: workers)
        assert packed(cache, known) == first


@pytest.mark.skipif(shutil.which("tar") is None or shutil.which("zstd") is None, reason="needs tar and zstd")
def test_ordinary_tools_read_an_archive(tmp_path: Path, cache: Path, known: Manifest) -> None:
    long = cache / "inductor" / "fxgraph" / ("k" * 90) / ("v" * 200) / "content ä"
    long.parent.mkdir(parents=True)
    long.write_bytes(b"x" * 1000)
    known = made.manifest(cache)
    (tmp_path / "a.tar.zst").write_bytes(packed(cache, known))
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--zstd", "-C", str(out), "-xf", str(tmp_path / "a.tar.zst")], check=True)
    assert listing(out).value == known.files
    assert (out / "coverage" / known.name).read_bytes() == known.encoded()
    unpack((tmp_path / "a.tar.zst").read_bytes(), tmp_path / "ours")
    assert listing(tmp_path / "ours").value == known.files


@pytest.mark.parametrize(
    "path", ["a", "b" * 100, "d" * 60 + "/" + "n" * 90, "d" * 200 + "/" + "n" * 90, "ä/b", "x" * 250]
)
@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11])
def test_headers_are_what_tarfile_reads(path: str, size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(header(path, size)), ignore_zeros=False) as tar:
        member = tar.next()
    assert member is not None
    assert (member.name, member.size, member.isreg(), member.mtime, member.mode) == (path, size, True, 0, 0o644)


def test_a_large_file_is_streamed(tmp_path: Path, cache: Path) -> None:
    (cache / "inductor/big.so").write_bytes(os.urandom(9 << 20))
    known = made.manifest(cache)
    data = packed(cache, known)
    unpack(data, tmp_path / "out")
    assert listing(tmp_path / "out").value == known.files
    tar = bytearray(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())
    tar[tar.index(b"inductor/big.so") + (5 << 20)] ^= 1
    assert refused(compressed(bytes(tar)), tmp_path / "flipped").outcome == "damaged"


# Files that change ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["grown", "rewritten", "gone", "link", "pipe"])
def test_a_file_that_is_not_what_it_was_is_not_packed(cache: Path, known: Manifest, how: str) -> None:
    path = cache / made.BINARIES[0]
    data = path.read_bytes()
    if how == "grown":
        path.write_bytes(data + b"more")
    elif how == "rewritten":
        path.write_bytes(bytes(reversed(data)))
    else:
        path.unlink()
    if how == "link":
        (cache / "elsewhere").write_bytes(data)
        path.symlink_to(cache / "elsewhere")
    elif how == "pipe":
        os.mkfifo(path)
    with pytest.raises(Changed) as caught:
        pack(cache, known, io.BytesIO())
    assert caught.value.paths == (made.BINARIES[0],)


# The hostile zoo --------------------------------------------------------------------------------------------------------


def member(name: str, *, data: bytes = b"", **more: Any) -> bytes:
    """A member as `tarfile` writes it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + b"\0" * (-len(data) % 512)


def insert(extra: bytes) -> Callable[[bytes, Manifest], bytes]:
    """Put something between the manifest and the first file."""

    def change(tar: bytes, known: Manifest) -> bytes:
        at = tar.index(header(known.files[0].path, known.files[0].bytes))
        return tar[:at] + extra + tar[at:]

    return change


def append(extra: bytes) -> Callable[[bytes, Manifest], bytes]:
    return lambda tar, known: tar[:-1024] + extra + tar[-1024:]


def replace_first(extra: bytes) -> Callable[[bytes, Manifest], bytes]:
    """Something in the place of the first file."""

    def change(tar: bytes, known: Manifest) -> bytes:
        first, second = known.files[:2]
        return (
            tar[: tar.index(header(first.path, first.bytes))]
            + extra
            + tar[tar.index(header(second.path, second.bytes)) :]
        )

    return change


def link_chain(tar: bytes, known: Manifest) -> bytes:
    """Links that lead to links, longer than PATH_MAX together: what got past extraction filters elsewhere."""
    step = "d" * 240
    chain = b""
    for letter in "abcdefghijklmnop":
        chain += member(step, type=tarfile.DIRTYPE) + member(letter, type=tarfile.SYMTYPE, linkname=step)
    chain += member("escape", type=tarfile.SYMTYPE, linkname="/".join("abcdefghijklmnop") + "/" + "../" * 16 + "etc")
    return insert(chain)(tar, known)


def duplicate(tar: bytes, known: Manifest) -> bytes:
    first = known.files[0]
    begin = tar.index(header(first.path, first.bytes))
    whole = 512 + first.bytes + -first.bytes % 512
    return tar[:begin] + tar[begin : begin + whole] + tar[begin:]


def flipped(tar: bytes, known: Manifest) -> bytes:
    out = bytearray(tar)
    last = known.files[-1]
    out[tar.index(header(last.path, last.bytes)) + 512 + 3] ^= 4
    return bytes(out)


def dirty_padding(tar: bytes, known: Manifest) -> bytes:
    first = known.files[0]
    at = tar.index(header(first.path, first.bytes)) + 512 + first.bytes
    return tar[:at] + b"x" + tar[at + 1 :]


def fewer(tar: bytes, known: Manifest) -> bytes:
    last = known.files[-1]
    return tar[: tar.index(header(last.path, last.bytes))] + b"\0" * 1024


ZOO: dict[str, tuple[Callable[[bytes, Manifest], bytes], str, str]] = {
    "traversal": (insert(member("../../outside", data=b"x")), "refused", "climbs out"),
    "absolute": (insert(member("/tmp/outside", data=b"x")), "refused", "climbs out"),
    "symbolic link": (insert(member("link", type=tarfile.SYMTYPE, linkname="/etc")), "refused", "a symbolic link 'link'"),
    "hard link": (insert(member("link", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "refused", "a hard link"),
    "character device": (insert(member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "refused", "a device"),
    "pipe": (insert(member("pipe", type=tarfile.FIFOTYPE)), "refused", "a device or a pipe"),
    "directory": (insert(member("dir", type=tarfile.DIRTYPE)), "refused", "a directory"),
    "extended header": (insert(member("x" * 300, data=b"x")), "refused", "an extended header"),
    "duplicate": (duplicate, "refused", "stands where"),
    "extra file": (append(member("extra.so", data=b"x")), "refused", "a member more"),
    "link in place of a file": (
        replace_first(member("inductor/aa/caaone.cpp", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "refused",
        "a symbolic link 'inductor/aa/caaone.cpp'",
    ),
    "oversized": (replace_first(member("inductor/aa/caaone.cpp", data=b"x" * 10**6)), "refused", "1000000 bytes and"),
    "set-uid": (
        replace_first(member("inductor/aa/caaone.cpp", data=b"x" * 4288, mode=0o4755)),
        "refused",
        "not one that we write|bytes and its manifest",
    ),
    "long-link chain": (link_chain, "refused", "an extended header"),
    "flipped bit": (flipped, "damaged", "another content"),
    "flipped bit in a header": (insert(b"\1" * 512), "damaged", "damaged"),
    "dirty padding": (dirty_padding, "refused", "padding"),
    "fewer files than named": (fewer, "damaged", "names more than it holds"),
    "no manifest": (lambda tar, known: member("inductor/a.so", data=b"x") + b"\0" * 1024, "refused", "no manifest"),
    "link as manifest": (
        lambda tar, known: member(f"coverage/{known.name}", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "refused",
        "a symbolic link",
    ),
    "empty tar": (lambda tar, known: b"\0" * 1024, "damaged", "tar header"),
    "manifest under another name": (
        lambda tar, known: header("coverage/0123456789abcdef.json", len(known.encoded())) + tar[512:],
        "refused",
        "not named after",
    ),
    "manifest of gigabytes": (
        lambda tar, known: header(f"coverage/{known.name}", 2**32) + tar[512:],
        "refused",
        "manifest is not one that we write",
    ),
    "no end": (lambda tar, known: tar[:-1024], "damaged", "truncated"),
    "data after the end": (lambda tar, known: tar + b"\0" * 512, "refused", "follows the archive's end"),
}  # fmt: skip


@pytest.mark.parametrize("animal", ZOO)
def test_the_zoo_is_refused_and_nothing_gets_out(tmp_path: Path, known: Manifest, good: bytes, animal: str) -> None:
    change, outcome, words = ZOO[animal]
    cage = tmp_path / "cage"
    cage.mkdir()
    before = sorted(tmp_path.rglob("*"))
    verdict = refused(compressed(change(good, known)), cage / "out")
    assert verdict.outcome == outcome, verdict.reason
    assert re.search(words, verdict.reason), verdict.reason
    assert [
        path for path in sorted(tmp_path.rglob("*")) if path not in before and cage / "out" not in (path, *path.parents)
    ] == []
    assert not [path for path in cage.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]


def test_the_sound_animal_is_let_in(tmp_path: Path, good: bytes) -> None:
    unpack(compressed(good), tmp_path / "out")


def test_manifests_that_lie_are_refused(tmp_path: Path, known: Manifest, good: bytes) -> None:
    listed = known.encoded()
    lies = {
        "a path that climbs": listed.replace(b"inductor/aa/caaone.cpp", b"inductor/aa/../../.cpp"),
        "a hash that is wrong": listed.replace(known.files[0].sha256.encode(), b"0" * 64),
        "no JSON": listed[:-3] + b"   ",
    }
    for number, (lie, data) in enumerate(lies.items()):
        assert len(data) == len(listed)
        assert refused(compressed(good.replace(listed, data)), tmp_path / str(number)).outcome in (
            "refused",
            "damaged",
        ), lie


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_damaged(tmp_path: Path, cache: Path, known: Manifest, share: float) -> None:
    data = packed(cache, known)
    assert refused(data[: int(len(data) * share)], tmp_path / "out").outcome == "damaged"


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path, cache: Path, known: Manifest) -> None:
    """In the compressed form: whatever comes out, it is the manifest's files or a refusal."""
    data = bytearray(packed(cache, known))
    accepted = 0
    for at in range(0, len(data), max(1, len(data) // 150)):
        data[at] ^= 0x10
        out = tmp_path / f"out{at}"
        try:
            unpack(bytes(data), out)
        except Unusable:
            pass
        else:
            accepted += 1
            assert listing(out).value == known.files
        data[at] ^= 0x10
        shutil.rmtree(out)
    assert accepted < 5


def test_something_after_the_frame_is_refused(tmp_path: Path, cache: Path, known: Manifest) -> None:
    data = packed(cache, known)
    assert refused(data + b"garbage", tmp_path / "a").outcome == "damaged"
    assert refused(data + compressed(b"more"), tmp_path / "b").outcome == "refused"


def test_a_bomb_costs_no_more_than_the_manifest_allows(tmp_path: Path, good: bytes) -> None:
    """Sixteen GiB of zeros in a few hundred kilobytes: the reader stops at the first byte too many."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    data = compressor.compress(good[:-1024])
    block = bytes(1 << 24)
    for _ in range(64):
        data += compressor.compress(block)
    data += compressor.flush()
    verdict = refused(data, tmp_path / "out")
    assert verdict.outcome == "refused"
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) < 10**6


def test_a_window_that_asks_for_memory_is_damaged(tmp_path: Path, good: bytes) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(good) + compressor.flush()
    assert "does not decompress" in refused(data, tmp_path / "out").reason
