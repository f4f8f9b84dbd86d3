"""The ledger at scale: appending beside MLflow, listing a million records, verifying one, rebuilding the index.

MLflow is given the same content in the way that is cheapest for it: a client that stays open on its SQLite store, and
every leaf of the record in as few batches as its limits allow (each leaf a parameter, each raw step time a metric with
its step). Ours is `Ledger.append` with its fsyncs, one record after the other with the index kept open. Both write to
the same disk, in turns.

A million records are rows put straight into the index: what is measured is `Ledger.list` with a filter, bringing the
index up to date included. The rows are of 400 series whose sizes differ as 1, 1/2, 1/3, …, each with several outcomes,
start-up states, surfaces and data paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MILLION = 1_000_000
#: Batches of verifications; the quietest one counts.
BATCHES = 12
REBUILT = 20_000
APPENDS = 60
MLFLOW_RUNS = 6
#: What MLflow takes in one batch (mlflow.utils.validation: MAX_PARAMS_TAGS_PER_BATCH, MAX_METRICS_PER_BATCH).
BATCH_PARAMS, BATCH_METRICS = 100, 1000
ROOT = Path(__file__).resolve().parents[1]
_PRESETS = ("dense-nano", "moe-nano", "dense-1b", "dense-52", "moe-52", "diagnostic")


def template(steps: int = 200) -> dict[str, Any]:
    """A record of the corpus with as many measured steps as a real run has."""
    from lanemark.lanes.figures import step_time, tokens_per_s
    from lanemark.records.case import Case

    doc: dict[str, Any] = json.loads((ROOT / "tests/assets/records/good/fsdp2_regional_warm.json").read_bytes())
    predicate, training = doc["predicate"], doc["predicate"]["training"]
    measured = [124_000_000 + 350_000 * (step * 7 % 11) for step in range(steps)]
    predicate["case"] |= {"steps": steps + 2}
    predicate["plan_digest"] = Case.from_json(predicate["case"]).digest
    doc["subject"][0]["digest"] = {"sha256": predicate["plan_digest"].removeprefix("sha256:")}
    training["window"] = {"steps": steps + 2, "warmup": 2, "measured": steps}
    training["samples"]["measured"] = measured
    training["step_time"]["value"] = step_time(measured)
    training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], measured)
    for rank in training["ranks"]:
        rank["tokens"]["value"] = training["tokens_per_step"] * steps // len(training["ranks"])
    predicate["data"]["tokens_consumed"]["value"] = training["tokens_per_step"] * steps
    return doc


def numbered(doc: dict[str, Any], number: int) -> bytes:
    from lanemark.records.encoding import encode

    doc["predicate"]["run_id"] = f"training-20260101T000000Z-{number:08d}"
    return encode(doc)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar below `node` with its path."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield path, node
    else:
        for key, child in children:
            yield from leaves(child, f"{path}/{key}" if path else str(key))


def mlflow_writer(directory: str, doc: dict[str, Any]) -> tuple[Callable[[], None], str]:
    """What logs one run of the same content into MLflow's SQLite store, and a description of it. Raises ImportError."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    samples = doc["predicate"]["training"]["samples"]["measured"]
    found = [(path, value) for path, value in leaves(doc) if "/samples/measured/" not in path]
    params = [Param(f"f{number}/{path}"[:250], str(value)[:6000]) for number, (path, value) in enumerate(found)]
    with contextlib.redirect_stderr(io.StringIO()):
        client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
        experiment = client.create_experiment("peer", artifact_location=f"{directory}/artifacts")

    def write() -> None:
        run_id = client.create_run(experiment).info.run_id
        now_ms = int(time.time() * 1000)
        metrics = [Metric("step_ns", float(value), now_ms, step) for step, value in enumerate(samples)]
        client.log_batch(run_id, metrics=metrics[:BATCH_METRICS], params=params[:BATCH_PARAMS])
        for begin in range(BATCH_PARAMS, len(params), BATCH_PARAMS):
            client.log_batch(run_id, params=params[begin : begin + BATCH_PARAMS])
        client.set_terminated(run_id)

    return write, f"MLflow {mlflow.__version__}, {len(params)} parameters and {len(samples)} metric values a run"


def ingest() -> dict[str, Any]:
    """How many times MLflow's runs a second our appends reach."""
    from lanemark.ledger.ledger import Ledger

    name, doc = "ledger.ingest_vs_mlflow", template()
    with tempfile.TemporaryDirectory() as directory:
        try:
            peer, about = mlflow_writer(directory, doc)
        except ImportError as error:
            return {"name": name, "value": None, "unit": "ratio", "error": f"MLflow is not installed ({error})"}
        ledger, number = Ledger(Path(directory) / "ledger", {}), 0
        ledger.append(numbered(doc, number))
        peer()
        ours_s: list[float] = []
        peer_s: list[float] = []
        with ledger.many():
            for _ in range(MLFLOW_RUNS):
                for _ in range(APPENDS // MLFLOW_RUNS):
                    number += 1
                    data = numbered(doc, number)
                    begin = time.perf_counter()
                    ledger.append(data)
                    ours_s.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                peer()
                peer_s.append(time.perf_counter() - begin)
        ours, theirs = statistics.median(ours_s), statistics.median(peer_s)
    return {
        "name": name,
        "value": round(theirs / ours, 1),
        "unit": "ratio",
        "method": (
            f"median of {len(ours_s)} appends of a {len(data)}-byte record, fsyncs included ({ours * 1e3:.2f} ms), to "
            f"median of {len(peer_s)} runs of the same content in the largest batches it takes "
            f"({theirs * 1e3:.0f} ms; {about}), in turns on one disk"
        ),
    }


def synthetic(count: int) -> Iterator[Any]:
    """Rows of 400 series over a year."""
    from lanemark.ledger.rows import IndexRow

    rng = random.Random(20261122)
    series = [
        (
            rng.choice(("training", "training", "training", "sparse", "promotion")), rng.choice(_PRESETS),
            rng.choice(("H100", "H200", "B200", "cpu")), rng.choice((1, 2, 4, 8)),
            rng.choice(("single", "ddp", "fsdp2")), rng.choice(("eager", "regional", "model")),
        )
        for _ in range(400)
    ]  # fmt: skip
    picked = rng.choices(series, [1 / (place + 1) for place in range(len(series))], k=count)
    uniform = rng.random
    for number, (lane, preset, device, world, mode, posture) in enumerate(picked):
        at = number * 365 * 86_400 // count
        day, second = divmod(at, 86_400)
        created = (
            f"2026-{day // 31 + 1:02d}-{day % 31 + 1:02d}T{second // 3600:02d}:{second // 60 % 60:02d}"
            f":{second % 60:02d}.{int(uniform() * 1000):03d}Z"
        )
        outcome = "ok" if uniform() < 0.8 else rng.choice(("error", "cancelled", "lost"))
        yield IndexRow(
            "sha256:" + rng.randbytes(32).hex(), f"{lane}-20260101T000000Z-{number:08d}", lane, preset, created,
            outcome, outcome == "ok", device, world, mode, posture, "bf16", "local" if uniform() < 0.5 else "modal",
            rng.choice(("cold", "warm", "seeded")), "local_disk" if uniform() < 0.7 else "network_volume",
            1e5 * uniform(), 0.1, f"{rng.getrandbits(160):040x}", "sha256:" + "0" * 64,
        )  # fmt: skip


def fill(root: Path, count: int) -> None:
    """An index of `count` rows over a ledger whose directories are there and known to be unchanged."""
    import sqlite3

    from lanemark.ledger import tables
    from lanemark.ledger.ledger import Ledger

    names = [f"{number:02x}" for number in range(256)]
    for name in names:
        (root / "objects" / name).mkdir(parents=True)
        os.utime(root / "objects" / name, (1, 1))
    ledger = Ledger(root, {})
    ledger.sync()
    with contextlib.closing(sqlite3.connect(ledger.index_file)) as db, db:
        db.execute("PRAGMA cache_size=-400000")
        rows = synthetic(count)
        while batch := list(itertools.islice(rows, 50_000)):
            tables.insert(db, batch)
        assert db.execute("SELECT count(*) FROM directories WHERE mtime_ns > 0").fetchone() == (256,)


#: Questions of all kinds: common and rare combinations, one that nothing answers, ranges of time, a commit.
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"lane": "training"},
    {"preset": "moe-52", "gpu": "h100"},
    {"lane": "training", "outcome": "lost", "startup": "cold", "surface": "modal", "mode": "ddp"},
    {"lane": "sparse", "gpu": "A100"},
    {"gpu": "B200", "since": "2026-06", "outcome": "ok"},
    {"lane": "training", "gpu": "H200", "until": "2026-03"},
    {"lane": "sparse", "mode": "ddp", "outcome": "lost", "until": "2026-02"},
    {"commit": "abc12"},
)


#: Lists everything, in a process of its own, and says how many rows there were and by how much its memory grew.
STREAMED = """
import sys
from pathlib import Path
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.rows import Filters
def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
ledger = Ledger(Path(sys.argv[1]), {})
list(ledger.stream(Filters(limit=1000)).rows)
before = peak_kb()
print(sum(1 for row in ledger.stream(Filters()).rows), peak_kb() - before)
"""


def streamed(root: Path) -> dict[str, Any]:
    """Memory that listing every one of a million records takes."""
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, str(root)], capture_output=True, text=True, check=True, timeout=300
    )
    count, grown_kb = map(int, done.stdout.split())
    assert count == MILLION, done.stdout
    return {
        "name": "ledger.stream_1m_mb",
        "value": round(grown_kb / 1024, 2),
        "unit": "MB",
        "method": f"growth of a process's peak memory while it reads all {count:,} rows, after it has read 1,000",
    }


def million() -> list[dict[str, Any]]:
    """The slowest kind of filtered list, the newest of each series, and a list of everything: a million records."""
    from lanemark.ledger.ledger import Ledger

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "ledger"
        fill(root, MILLION)
        ledger = Ledger(root, {})
        medians = []
        for asked in QUESTIONS:
            times, found = [], 0
            for _ in range(11):
                begin = time.perf_counter()
                found = len(ledger.list(**asked, limit=50).rows)
                times.append(time.perf_counter() - begin)
            medians.append((statistics.median(times) * 1e3, found, " ".join(f"{k}={v}" for k, v in asked.items())))
        slowest = max(medians)
        latest_s, series = [], 0
        for _ in range(5):
            begin = time.perf_counter()
            series = len(ledger.list(latest=True).rows)
            latest_s.append(time.perf_counter() - begin)
        size_mb = ledger.index_file.stat().st_size / 1e6
        everything = streamed(root)
    shown = "; ".join(f"{text}: {ms:.1f} ms, {found} rows" for ms, found, text in medians)
    return [
        {
            "name": "ledger.filter_1m_ms",
            "value": round(slowest[0], 2),
            "unit": "ms",
            "method": (
                f"the slowest of {len(QUESTIONS)} questions by its median of 11, each for the newest 50 of {MILLION:,} "
                f"records ({size_mb:.0f} MB index), opening the index and comparing 256 directories included ({shown})"
            ),
        },
        {
            "name": "ledger.latest_1m_s",
            "value": round(statistics.median(latest_s), 4),
            "unit": "s",
            "method": f"median of 5: the newest record of each of {series} series among {MILLION:,} records",
        },
        everything,
    ]


def verifying() -> dict[str, Any]:
    """CPU time of every verification step of one record, evidence included."""
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.encoding import encode

    doc = template()
    evidence = (ROOT / "tests/assets/records/evidence/ranks/0/samples.bin").read_bytes()
    named = {"name": "ranks/0/samples.bin", "digest": f"sha256:{hashlib.sha256(evidence).hexdigest()}"}
    doc["predicate"]["evidence"] = [named | {"bytes": len(evidence), "media_type": "application/octet-stream"}]
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger", {})
        data = encode(doc)
        record_id = ledger.append(data, [("ranks/0/samples.bin", evidence)]).id
        report = ledger.verify(record_id)
        assert report.ok, report.failure
        medians = []
        for _ in range(BATCHES):
            times = []
            for _ in range(60):
                begin = time.process_time()
                ledger.verify(record_id)
                times.append(time.process_time() - begin)
            medians.append(statistics.median(times))
            time.sleep(0.2)
    value = min(medians) * 1e3
    done = sum(step.status == "ok" for step in report.steps)
    return {
        "name": "ledger.verify_cpu_ms",
        "value": round(value, 3),
        "unit": "ms",
        "method": (
            f"median CPU time of {len(times)} verifications of a {len(data)}-byte record with its evidence "
            f"({len(evidence)} bytes), {done} steps passed, in a process that has verified one before; the best of "
            f"{BATCHES} such medians, the worst being {max(medians) * 1e3:.2f} ms: a shared processor is slow for "
            "whole seconds at a time"
        ),
    }


def rebuild() -> dict[str, Any]:
    """Time to make the index of a ledger of real files, a record."""
    from lanemark.ledger.ledger import Ledger
    from lanemark.ledger.objects import object_path
    from lanemark.records.encoding import digest

    with tempfile.TemporaryDirectory() as directory:
        root, doc, size = Path(directory) / "ledger", template(), 0
        for number in range(REBUILT):
            data = numbered(doc, number)
            path = object_path(root, digest(data))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            size = len(data)
        ledger = Ledger(root, {})
        walls, cpus = [], []
        for _ in range(5):
            ledger.index_file.unlink(missing_ok=True)
            wall, cpu = time.perf_counter(), time.process_time()
            report = ledger.sync()
            walls.append((time.perf_counter() - wall) / REBUILT * 1e6)
            cpus.append((time.process_time() - cpu) / REBUILT * 1e6)
            assert (report.added, report.bad) == (REBUILT, ())
    return {
        "name": "ledger.rebuild_us",
        "value": round(min(cpus), 1),
        "unit": "us",
        "method": (
            f"CPU time a record of `index sync` without an index over {REBUILT:,} files of {size} bytes in the page "
            f"cache, each read, hashed and indexed; the best of {len(cpus)}, whose wall time was {min(walls):.1f} us"
        ),
    }


def results() -> list[dict[str, Any]]:
    """The figures, as the benchmark runner collects them."""
    return [ingest(), *million(), verifying(), rebuild()]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
