"""Made-up compile caches, of the layout that torch leaves, for the tests of seeding: small, and the same every time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lanemark.lanes.cache_manifest import Layout, Manifest
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import observed
from lanemark.stage.capture import CaptureOutcome, capture_cache
from lanemark.stage.coverage import build_manifest, check_coverage, rank_uses, write_coverage

FINGERPRINT: dict[str, Any] = {
    name: observed(value, "a test").to_json()
    for name, value in (
        ("compiler", "g++ 12"),
        ("cpu", "a processor"),
        ("env.OMP_NUM_THREADS", "1"),
        ("torch", "2.13.0"),
    )
}
#: Keys as torch writes them, and the files behind them.
FX = ("fgraphone234567", "fgraphtwo234567")
AOT = ("ajointone234567",)
BINARIES = ("inductor/aa/caaone.so", "inductor/bb/cbbtwo.main.so")
OTHERS = ("inductor/aa/caaone.cpp", "inductor/bb/cbbtwo.py")


def case(**more: Any) -> Case:
    """The question of the tests: two ranks, compiled blocks."""
    asked: dict[str, Any] = {
        "lane": "training", "preset": "dense-nano", "nproc": 2, "mode": "fsdp2", "compile": "regional", "dtype": "fp32",
        "steps": 6, "warmup": 2, "sequence": 64, "micro_batch": 2, "data": DataAsked("synthetic"),
    }  # fmt: skip
    return Case(**{**asked, **more})


def changed_fingerprint(**more: str) -> dict[str, Any]:
    """The fingerprint with components replaced, `env_X` for a variable."""
    return FINGERPRINT | {
        name.replace("env_", "env."): observed(value, "a test").to_json() for name, value in more.items()
    }


def files(salt: str = "") -> dict[str, bytes]:
    """Path → bytes of one rank's cache root."""
    paths = [f"inductor/fxgraph/{key[1:3]}/{key}/content{key}" for key in FX]
    paths += [f"inductor/aotautograd/{key}/content{key}" for key in AOT]
    return {
        path: hashlib.sha256((salt + path).encode()).digest() * (100 + 7 * number)
        for number, path in enumerate([*paths, *BINARIES, *OTHERS])
    }


def fill(cache_dir: Path, *, layout: Layout = "shared", ranks: int = 2, salt: str = "") -> Path:
    """A cache after a good run, with what must never be carried along beside it."""
    roots = [cache_dir / f"rank-{rank}" for rank in range(ranks)] if layout == "per_rank" else [cache_dir]
    for root in roots:
        for path, data in files(salt).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        for path in ("inductor/locks/caaone.lock", "inductor/aa/.12.34.tmp", "triton/tmp.pid_9_x/k.cubin", "tmp/a.gch"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"not to be carried")
    return cache_dir


def report(**more: Any) -> dict[str, Any]:
    """What one rank says of its use of the cache."""
    value = {"fx": list(FX), "aot": list(AOT), "binaries": list(BINARIES), "hits": {}, "misses": {}, "bypasses": {}}
    return observed({**value, **more}, "a rank").to_json()


def filled(cache_dir: Path, *, asked: Case | None = None, layout: Layout = "shared", salt: str = "") -> Path:
    """A cache with its coverage manifest, as a good run leaves it."""
    asked = asked or case()
    fill(cache_dir, layout=layout, ranks=asked.nproc, salt=salt)
    written = write_coverage(
        cache_dir, asked, layout, [report()] * asked.nproc, "training-run-1", fingerprint=FINGERPRINT
    )
    assert isinstance(written, Path), written
    return cache_dir


def manifest(cache_dir: Path, *, asked: Case | None = None, layout: Layout = "shared") -> Manifest:
    """The manifest of a filled cache, not written."""
    asked = asked or case()
    uses = rank_uses([report()] * asked.nproc)
    built = build_manifest(cache_dir, asked, layout, uses, "training-run-1", fingerprint=FINGERPRINT)
    assert isinstance(built, Manifest), built
    return built


def archived(base: Path, *, asked: Case | None = None, layout: Layout = "shared", salt: str = "") -> Path:
    """An archive of a filled cache."""
    cache = filled(base / f"captured-{salt}", asked=asked, layout=layout, salt=salt)
    return captured(cache, base / f"seed{salt}.tar.zst", asked=asked, layout=layout)


def captured(cache: Path, path: Path, *, asked: Case | None = None, layout: Layout = "shared") -> Path:
    done: CaptureOutcome = capture_cache(cache, path, case=asked or case(), layout=layout, fingerprint=FINGERPRINT)
    assert done.captured, done
    return path


def covered(cache_dir: Path, *, asked: Case | None = None, layout: Layout = "shared") -> bool:
    return check_coverage(cache_dir, asked or case(), layout, fingerprint=FINGERPRINT).covered
