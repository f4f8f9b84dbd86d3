"""Ten things that networks and stores do, each done to a staging, and what came of it.

A staging survives when it ends within its deadline in data whose every byte is right, or in exactly the error that this
fault has a name for, with nothing at the destination; and when the same command without the fault then ends in the same
data, fetching nothing twice that had been verified. The store is moto behind the tests' fault proxy, both on loopback.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.store import S3Store

from lanemark.records.errors import LanemarkError
from lanemark.records.shards import header
from lanemark.stage.objects import PIECE_BYTES
from lanemark.stage.staging import WORKERS, stage

PROGRAMS: Final = Path(__file__).resolve().parent.parent / "tests" / "real" / "programs"
sys.path.insert(0, str(PROGRAMS))
from fault_proxy import Fault, FaultProxy  # noqa: E402 - a program's module, beside which it can be found now

BUCKET: Final = "bench"
TOKENS: Final = PIECE_BYTES // 2 + 1000
SHARDS: Final = 5
DEADLINE_S: Final = 30.0
PATIENCE_S: Final = 6.0


@dataclass(frozen=True)
class Trial:
    """One fault, and the slug that a staging may end in because of it; None: it has to end in data.

    `meanwhile` is done half a second after the staging began, and `afterwards` before it is tried again.
    """

    name: str
    faults: tuple[Fault, ...] = ()
    slug: str | None = None
    host: str = "127.0.0.1"
    deadline_s: float = DEADLINE_S
    meanwhile: Callable[[Any], None] | None = None
    afterwards: Callable[[Any], None] | None = None


@dataclass
class Bench:
    """The store, its proxy, and the data as it has to arrive."""

    store: S3Store
    proxy: FaultProxy
    shards: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, data: bytes) -> None:
        obstore.put(self.store, name, data, use_multipart=False)

    def replace(self) -> None:
        """Another object under the name of one that is on its way."""
        self.put("x_train_000.bin", header(TOKENS) + random.Random(99).randbytes(2 * TOKENS))
        self.proxy.faults.clear()

    def restore(self) -> None:
        self.put("x_train_000.bin", self.shards["x_train_000.bin"])


TRIALS: Final = (
    Trial("503 twice", (Fault("busy", "GET", "x_train"),) * 2),
    Trial("503 for ever", (Fault("busy", "GET", "x_train_001", for_ever=True),), "stage-unreachable"),
    Trial("reset mid-body", (Fault("reset_body", "GET", "x_train"),)),
    Trial("short body", (Fault("short", "GET", "x_train"), Fault("cut", "GET", "x_train"))),
    Trial("one corrupted byte", (Fault("flip", "GET", "x_train"),)),
    Trial("stall", (Fault("stall_body", "GET", "x_train"),)),
    Trial("slow drip", (Fault("drip", "GET", "x_train_001", for_ever=True),), "stage-unreachable", deadline_s=8.0),
    Trial(
        "object replaced mid-download", (Fault("stall", "GET", "x_train_000", for_ever=True),), "stage-changed",
        meanwhile=Bench.replace, afterwards=Bench.restore,
    ),
    Trial("keys expired mid-way", (Fault("expired", "GET", "x_train", for_ever=True, after=WORKERS),), "stage-denied"),
    Trial("DNS failure", (), "stage-unreachable", host="no-such-host.invalid"),
)  # fmt: skip


def survived(trial: Trial, bench: Bench, folder: Path) -> str | None:
    """Why a staging did not survive a fault, or None when it did."""
    destination = folder / trial.name.replace(" ", "-")

    def try_it(host: str) -> tuple[str | None, int]:
        source = f"s3://{BUCKET}?endpoint=http://{host}:{bench.proxy.port}"
        try:
            done = stage(source, destination, patience_s=PATIENCE_S, deadline_s=trial.deadline_s)
        except LanemarkError as error:
            return error.slug, 0
        return None, done.bytes_fetched + done.bytes_reused - done.bytes_total

    bench.proxy.faults[:] = trial.faults
    timer = threading.Timer(0.5, lambda: trial.meanwhile and trial.meanwhile(bench))
    timer.start()
    began_s = time.monotonic()
    slug, _ = try_it(trial.host)
    took_s = time.monotonic() - began_s
    timer.join()
    bench.proxy.faults.clear()
    if took_s > trial.deadline_s + 5:
        return f"it took {took_s:.0f} s"
    if slug != trial.slug:
        return f"it ended in {slug or 'data'}"
    if slug is not None:
        if destination.exists():
            return "an error left something at the destination"
        if trial.afterwards is not None:
            trial.afterwards(bench)
        slug, twice = try_it("127.0.0.1")
        if slug is not None or twice:
            return f"trying again ended in {slug or f'{twice} bytes fetched twice'}"
    wrong = [name for name, data in bench.shards.items() if (destination / name).read_bytes() != data]
    return f"{wrong} have other bytes" if wrong else None


def run_all(folder: Path) -> dict[str, str | None]:
    """Every trial's name, with why it was not survived, or None."""
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
    os.environ.update(keys)
    command = [sys.executable, str(PROGRAMS / "s3_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            _make_bucket(port)
            store = S3Store(
                BUCKET, endpoint=f"http://127.0.0.1:{port}", region="us-east-1", access_key_id="bench",
                secret_access_key="bench", client_options={"allow_http": True},
            )  # fmt: skip
            with FaultProxy(port) as proxy:
                bench = Bench(store, proxy)
                _fill(bench, folder)
                return {trial.name: survived(trial, bench, folder) for trial in TRIALS}
        finally:
            server.kill()


def _fill(bench: Bench, folder: Path) -> None:
    (folder / "kept").mkdir()
    for number in range(SHARDS):
        name, data = f"x_train_{number:03}.bin", header(TOKENS) + random.Random(number).randbytes(2 * TOKENS)
        bench.shards[name] = data
        (folder / "kept" / name).write_bytes(data)
        bench.put(name, data)
    stage(str(folder / "kept"), folder / "made", make_manifest=True)
    bench.put("manifest.json", (folder / "made" / "manifest.json").read_bytes())


def _make_bucket(port: int) -> None:
    scope = "Credential=bench/20260101/us-east-1/s3/aws4_request"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature={hashlib.sha256().hexdigest()}"
    }
    connection.request("PUT", f"/{BUCKET}", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()
