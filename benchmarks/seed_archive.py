"""Capturing a compile cache and seeding another from it, beside `tar | zstd -T0` there and back, in turns.

The cache is made up, of the shape and size that a large model leaves on a GPU: 5,000 files and 200 MB, with text from
Python sources and machine code from a shared library, since both compress as the real ones do. The peer packs and
unpacks; ours also hashes every file on its way in and out, checks each path, and ends in a cache that a gate accepts.
Both work in memory where there is a tmpfs, so that the disk's journal is not what is compared. The ratio is of
processor time, peer over ours, each the best of its rounds; wall time stands beside it, which on a busy machine says
more about how many threads each side has running than about the work.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lanemark.observe.compile_cache import listing
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import observed
from lanemark.stage.capture import capture_cache
from lanemark.stage.coverage import check_coverage, write_coverage
from lanemark.stage.seed_source import parse_source
from lanemark.stage.seeding import seed_cache

FILES = 5_000
TOTAL_BYTES = 200_000_000
ROUNDS = 5
CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="fsdp2", compile="regional", dtype="fp32", steps=10, warmup=2,
    sequence=64, micro_batch=2, data=DataAsked("synthetic"),
)  # fmt: skip
FINGERPRINT = {"torch": observed("a benchmark", "made up").to_json()}


def material() -> tuple[bytes, bytes]:
    """Source text, and machine code, of this installation."""
    spec = find_spec("torch")
    torch = Path(spec.origin).parent if spec is not None and spec.origin else None
    where = Path(sysconfig.get_path("stdlib")) if torch is None else torch / "_inductor"
    text = b"".join(path.read_bytes() for path in sorted(where.rglob("*.py"))[:400])
    program = Path(sys.executable).resolve() if torch is None else torch / "lib" / "libtorch_cpu.so"
    with open(program, "rb") as file:
        file.seek(min(40 << 20, program.stat().st_size // 4))
        return text, file.read(64 << 20)


def fill(base: Path) -> None:
    """The made-up cache, the same on every machine with the same material."""
    text, code = material()
    chance = random.Random(7)
    written = count = 0
    while count < FILES:
        name = hashlib.sha256(str(count).encode()).hexdigest()
        share = (TOTAL_BYTES - written) / (FILES - count) / 40_000
        kind = chance.random()
        if kind < 0.5:
            path, source, size = f"triton/{name[:52].upper()}/kernel.{'ttir' if kind < 0.35 else 'cubin'}", text, 30_000
            source = code if path.endswith("cubin") else text
        elif kind < 0.8:
            path, source, size = f"inductor/{name[1:3]}/c{name[:51]}.py", text, 25_000
        elif kind < 0.93:
            path, source, size = f"inductor/fxgraph/{name[1:3]}/f{name[:51]}/{name[5:40]}", text, 90_000
        else:
            path, source, size = f"inductor/{name[1:3]}/c{name[:51]}.so", code, 120_000
        length = max(200, min(len(source) - 1, int(size * share * chance.uniform(0.3, 1.7))))
        start = chance.randrange(len(source) - length)
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(source[start : start + length])
        written += length
        count += 1


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds of one piece of work, its child processes included."""

    def cpu() -> float:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    began_s, began_cpu_s = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began_s, cpu() - began_cpu_s


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    for program in ("tar", "zstd"):
        if shutil.which(program) is None:
            raise RuntimeError(f"the peer needs {program} (Debian: apt-get install {program})")
    memory = Path("/dev/shm")
    place = str(memory) if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 8 * TOTAL_BYTES else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        base = Path(folder)
        cache, kept, archive, tarball, out = (
            base / name for name in ("cache", "kept", "a.tar.zst", "p.tar.zst", "out")
        )
        fill(cache)
        files = listing(cache).value
        assert files is not None
        used = {
            "fx": sorted({file.path.split("/")[3] for file in files if file.kind == "fx"}),
            "aot": [],
            "binaries": [file.path for file in files if file.path.endswith(".so")],
        }
        report = observed(used, "made up").to_json()
        told: dict[str, Any] = {"case": CASE, "layout": "shared", "fingerprint": FINGERPRINT}
        written = write_coverage(cache, CASE, "shared", [report, report], "bench", fingerprint=FINGERPRINT)
        assert isinstance(written, Path), written

        def ours() -> None:
            done = capture_cache(cache, archive, **told)
            assert done.captured, done
            os.rename(cache, kept)
            (layer,) = seed_cache([parse_source(str(archive))], cache, **told)
            assert layer.outcome == "used", layer

        def theirs() -> None:
            there = f"tar -C {cache} -cf - . | zstd -q -T0 -f -o {tarball}"
            back = f"mkdir {out} && zstd -q -dc {tarball} | tar -C {out} -xf -"
            subprocess.run(["bash", "-o", "pipefail", "-c", f"{there} && {back}"], check=True)

        rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for _ in range(ROUNDS):
            peer = timed(theirs)
            shutil.rmtree(out)
            mine = timed(ours)
            assert check_coverage(cache, CASE, "shared", fingerprint=FINGERPRINT).covered
            shutil.rmtree(cache)
            os.rename(kept, cache)
            rounds.append((peer, mine))
        sizes = f"{archive.stat().st_size / 1e6:.0f} MB and {tarball.stat().st_size / 1e6:.0f} MB"
        count, total = len(files), sum(file.bytes for file in files)
    best_peer, best_ours = min(peer[0] for peer, _ in rounds), min(mine[0] for _, mine in rounds)
    cpu_peer, cpu_ours = min(peer[1] for peer, _ in rounds), min(mine[1] for _, mine in rounds)
    where = "a tmpfs" if place else "the temporary directory"
    method = (
        f"{count} files, {total / 1e6:.0f} MB: capture and seed {cpu_ours:.2f} s of processor ({best_ours:.2f} s of "
        "wall time), "
        f"tar | zstd -T0 and back {cpu_peer:.2f} s ({best_peer:.2f} s); archives of {sizes}; best of {ROUNDS} rounds "
        f"in turns in {where}; ours also hashes every file twice and ends in a cache that its gate accepts"
    )
    return [{"name": "startup.seed_vs_tar_zstd", "value": cpu_peer / cpu_ours, "unit": "ratio", "method": method}]
