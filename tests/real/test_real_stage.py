"""Staging from a real server behind what networks and stores do: verified data or one clear error, never a mixture."""

from __future__ import annotations

import fcntl
import functools
import http.client
import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="the source is read with obstore")
pytest.importorskip("blake3", reason="what arrives is verified with blake3")

import obstore

import team_servers
from lanemark.cli.main import main
from lanemark.cli.stage import rate_and_rest, size
from lanemark.observe.shards import open_shards, parse_manifest, verify_digests
from lanemark.records.errors import LanemarkError
from lanemark.records.shards import header
from lanemark.stage import destination, staging, store
from lanemark.stage.objects import PIECE_BYTES, Needed, Staged
from lanemark.stage.staging import Progress, stage
from team_servers import BUCKET, Fault, FaultProxy

#: One piece and a bit.
TOKENS = PIECE_BYTES // 2 + 1000
SIZE = 1024 + 2 * TOKENS
#: Reads that deliver nothing for 0.3 of it are given up: generous, because the server may have to wait for a core.
PATIENCE_S = 12.0


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in team_servers.KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def proxy(storage: int) -> Iterator[FaultProxy]:
    with FaultProxy(storage) as running:
        yield running


class Source:
    """One prefix of the bucket, written to directly and read through the proxy."""

    def __init__(self, storage: int, proxy: FaultProxy, prefix: str) -> None:
        self.store = client(storage, prefix)
        self.url = f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{proxy.port}"
        self.name = f"s3://{BUCKET}/{prefix}"

    def put(self, name: str, data: bytes) -> None:
        obstore.put(self.store, name, data, use_multipart=False)

    def stage(self, destination: Path, **options: Any) -> Staged:
        return stage(self.url, destination, **{"patience_s": PATIENCE_S, **options})


def client(port: int, prefix: str) -> Any:
    from obstore.store import S3Store

    keys = {"access_key_id": "tests", "secret_access_key": "tests", "region": "us-east-1"}
    return S3Store(
        BUCKET, prefix=prefix, endpoint=f"http://127.0.0.1:{port}", client_options={"allow_http": True}, **keys
    )


@pytest.fixture
def source(storage: int, proxy: FaultProxy, request: pytest.FixtureRequest) -> Source:
    return Source(storage, proxy, "stage/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))


@functools.cache
def shard(tokens: int, seed: int) -> bytes:
    return header(tokens) + random.Random(seed).randbytes(2 * tokens)


@functools.cache
def manifest_of(shards: int, tokens: int) -> bytes:
    """The manifest that staging makes of these shards."""
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "kept"
        kept.mkdir()
        for number in range(shards):
            (kept / f"x_train_{number:03}.bin").write_bytes(shard(tokens, number))
        stage(str(kept), Path(name) / "data", make_manifest=True)
        return (Path(name) / "data" / "manifest.json").read_bytes()


def fill(source: Source, *, shards: int = 2, tokens: int = TOKENS) -> None:
    """Put shards and their manifest."""
    for number in range(shards):
        source.put(f"x_train_{number:03}.bin", shard(tokens, number))
    source.put("manifest.json", manifest_of(shards, tokens))


def refused(source: Source, destination: Path, slug: str, **options: Any) -> LanemarkError:
    with pytest.raises(LanemarkError) as caught:
        source.stage(destination, **options)
    assert caught.value.slug == slug
    assert "\n" not in str(caught.value)
    return caught.value


def whole(directory: Path, shards: int = 2) -> None:
    found = open_shards(directory)
    assert found.manifest is not None
    assert len(found.shards) == shards
    verify_digests(found)


def work_directories(parent: Path) -> list[str]:
    return [name for name in os.listdir(parent) if name.startswith(".lanemark-stage-")]


def test_a_data_set_arrives_whole_and_is_found_again(source: Source, tmp_path: Path) -> None:
    fill(source)
    source.put("notes.txt", b"not wanted")
    done = source.stage(tmp_path / "data")
    assert (done.verification, done.verified, done.repeats, done.ignored) == ("manifest", True, 0, 1)
    assert done.bytes_fetched == done.bytes_total == 2 * SIZE
    assert sorted(os.listdir(tmp_path / "data")) == [
        "manifest.json", "staged.json", "x_train_000.bin", "x_train_001.bin",
    ]  # fmt: skip
    whole(tmp_path / "data")
    again = source.stage(tmp_path / "data")
    assert (again.bytes_fetched, again.bytes_reused) == (0, done.bytes_total)
    assert work_directories(tmp_path) == []


def test_without_any_digest_it_is_staged_and_called_unverified(source: Source, tmp_path: Path) -> None:
    obstore.put(source.store, "a/b.bin", random.Random(1).randbytes(6 << 20), use_multipart=True, chunk_size=5 << 20)
    source.put("a/c", b"")
    done = source.stage(tmp_path / "data")
    assert done.verification == "unverified"
    assert {one.name: one.verified for one in done.objects} == {"a/b.bin": "unverified", "a/c": "provider"}
    assert (tmp_path / "data" / "a" / "c").read_bytes() == b""
    assert json.loads((tmp_path / "data" / "staged.json").read_text())["verification"] == "unverified"


def test_an_etag_that_is_an_md5_catches_a_flipped_bit(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    source.put("one.bin", shard(TOKENS, 1))
    proxy.faults.append(Fault("flip", "GET", "one.bin"))
    done = source.stage(tmp_path / "data")
    assert done.verification == "provider"
    assert done.repeats
    assert (tmp_path / "data" / "one.bin").read_bytes() == shard(TOKENS, 1)


PASSING = ["busy", "reset", "reset_body", "short", "cut", "stall", "stall_body", "flip"]


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_costs_only_its_pieces(
    source: Source, proxy: FaultProxy, tmp_path: Path, kind: Any
) -> None:
    fill(source)
    proxy.faults += [Fault(kind, "GET", r"x_train")] * 2
    done = source.stage(tmp_path / "data")
    assert proxy.faults == []
    assert done.bytes_fetched <= done.bytes_total + 2 * PIECE_BYTES
    assert done.repeats <= 2
    whole(tmp_path / "data")


LASTING = {
    "busy": "stage-unreachable",
    "reset": "stage-unreachable",
    "reset_body": "stage-unreachable",
    "stall": "stage-unreachable",
    "stall_body": "stage-unreachable",
    "flip": "stage-corrupt",
    "denied": "stage-denied",
}


@pytest.mark.parametrize("kind", LASTING)
def test_a_lasting_fault_is_one_error_and_a_rerun_resumes(
    source: Source, proxy: FaultProxy, tmp_path: Path, kind: Any
) -> None:
    fill(source)
    # The second shard fails for ever, a moment after the first one began to arrive: as when keys expire on the way.
    proxy.faults.append(Fault(kind, "GET", r"x_train_001", for_ever=True))
    began = time.monotonic()
    error = refused(source, tmp_path / "data", LASTING[kind], patience_s=5.0)
    assert time.monotonic() - began < 20
    assert "x_train_001.bin" in str(error)
    assert not (tmp_path / "data").exists()
    proxy.faults.clear()
    done = source.stage(tmp_path / "data")
    assert done.bytes_fetched + done.bytes_reused == done.bytes_total
    whole(tmp_path / "data")
    assert work_directories(tmp_path) == []


def test_keys_that_expire_on_the_way_are_named_and_new_ones_go_on(
    source: Source, proxy: FaultProxy, tmp_path: Path
) -> None:
    fill(source, shards=5)
    # Eight pieces are on their way at once: when a ninth is asked for, at least one has arrived.
    proxy.faults.append(Fault("expired", "GET", "x_train", for_ever=True, after=staging.WORKERS))
    error = refused(source, tmp_path / "data", "stage-denied", patience_s=60.0)
    assert "ExpiredToken" in str(error)
    assert not (tmp_path / "data").exists()
    proxy.faults.clear()
    done = source.stage(tmp_path / "data")
    assert done.bytes_reused > 0
    whole(tmp_path / "data", 5)


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for_ever"])
def test_a_body_that_trickles_is_given_up(
    source: Source, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_ever: bool
) -> None:
    """It never falls silent, so that no time-out of silence ends it. The rate allowed is raised to keep the test short."""
    monkeypatch.setattr(store, "_SLOWEST_BYTES_PER_S", 8_000_000)
    fill(source)
    proxy.faults.append(Fault("drip", "GET", "x_train_001", for_ever=for_ever))
    began = time.monotonic()
    if for_ever:
        error = refused(source, tmp_path / "data", "stage-unreachable", patience_s=5.0)
        assert "x_train_001.bin" in str(error)
        assert "less than" in str(error)
        assert not (tmp_path / "data").exists()
        proxy.faults.clear()
    done = source.stage(tmp_path / "data")
    assert time.monotonic() - began < 60
    assert for_ever or done.repeats
    whole(tmp_path / "data")


def test_a_slow_source_ends_at_the_deadline(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    fill(source)
    proxy.faults.append(Fault("stall_body", "GET", "x_train", for_ever=True))
    began = time.monotonic()
    error = refused(source, tmp_path / "data", "stage-unreachable", patience_s=60.0, deadline_s=2.0)
    assert "deadline" in str(error)
    assert time.monotonic() - began < 12


def test_a_host_that_nobody_knows_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(LanemarkError) as caught:
        stage("s3://data/x?endpoint=http://no-such-host.invalid", tmp_path / "data", patience_s=1.0)
    assert caught.value.slug == "stage-unreachable"
    assert os.listdir(tmp_path) == []


def test_a_bucket_that_is_not_there_is_not_an_empty_one(proxy: FaultProxy, tmp_path: Path) -> None:
    with pytest.raises(LanemarkError) as caught:
        stage(f"s3://no-such-bucket/x?endpoint=http://127.0.0.1:{proxy.port}", tmp_path / "data", patience_s=1.0)
    assert caught.value.slug == "stage-unreachable"
    assert "NoSuchBucket" in str(caught.value)


def test_an_empty_prefix_is_refused_and_one_object_is_enough(source: Source, tmp_path: Path) -> None:
    refused(source, tmp_path / "data", "stage-empty")
    source.put("one.bin", b"x" * 100)
    done = stage(source.url.replace("?", "/one.bin?"), tmp_path / "data")
    assert [one.name for one in done.objects] == ["one.bin"]


def test_an_object_replaced_on_the_way_is_never_mixed(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    fill(source)
    proxy.faults.append(Fault("stall", "GET", r"x_train_000", for_ever=True))
    replaced = threading.Timer(0.5, lambda: (source.put("x_train_000.bin", shard(TOKENS, 77)), proxy.faults.clear()))
    replaced.start()
    error = refused(source, tmp_path / "data", "stage-changed")
    replaced.join()
    assert "x_train_000.bin" in str(error)
    assert not (tmp_path / "data").exists()
    refused(source, tmp_path / "data", "stage-corrupt")  # the manifest names the old bytes


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (lambda data: data[:-2], "stage-short"),
        (lambda data: data + b"xx", "stage-corrupt"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "stage-corrupt"),
        (lambda data: shard(TOKENS, 0), "stage-corrupt"),  # the other shard, under this one's name
    ],
    ids=["short", "long", "flipped", "swapped"],
)
def test_other_bytes_than_the_manifests_never_arrive(source: Source, tmp_path: Path, change: Any, slug: str) -> None:
    fill(source)
    source.put("x_train_001.bin", change(shard(TOKENS, 1)))
    refused(source, tmp_path / "data", slug)
    assert not (tmp_path / "data").exists()


def test_a_manifest_with_only_a_sha256_catches_a_flipped_bit(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    fill(source)
    doc = json.loads(manifest_of(2, TOKENS))
    for row in doc["shards"]:
        del row["pieces"]
    source.put("manifest.json", json.dumps(doc).encode())
    proxy.faults.append(Fault("flip", "GET", "x_train_001"))
    done = source.stage(tmp_path / "data")
    assert done.repeats
    whole(tmp_path / "data")
    source.put("x_train_001.bin", shard(TOKENS, 5))
    assert "sha256" in str(refused(source, tmp_path / "other", "stage-corrupt"))


def test_a_missing_shard_and_an_extra_one(source: Source, tmp_path: Path) -> None:
    fill(source)
    source.put("x_train_009.bin", shard(50, 9))
    assert source.stage(tmp_path / "data").ignored == 1
    whole(tmp_path / "data")
    obstore.delete(source.store, "x_train_000.bin")
    refused(source, tmp_path / "other", "data-missing")


def test_a_manifest_of_ones_own_is_trusted_instead(source: Source, tmp_path: Path) -> None:
    fill(source)
    mine = tmp_path / "mine.json"
    mine.write_bytes(manifest_of(2, TOKENS))
    source.put("manifest.json", b"{}")
    refused(source, tmp_path / "data", "manifest-invalid")
    assert source.stage(tmp_path / "data", manifest=mine).verification == "manifest"


def test_only_what_a_case_needs_is_staged_and_named_honestly(source: Source, tmp_path: Path) -> None:
    fill(source, shards=4, tokens=1001)
    all_of_it = parse_manifest(manifest_of(4, 1001))
    done = source.stage(tmp_path / "data", needed=Needed(sequences=150, sequence=10))
    assert [one.name for one in done.objects] == ["x_train_000.bin", "x_train_001.bin"]
    whole(tmp_path / "data")
    assert done.dataset_digest not in (None, all_of_it.dataset_digest)
    more = source.stage(tmp_path / "data", needed=Needed(sequences=350, sequence=10))
    assert more.bytes_reused == done.bytes_total
    whole(tmp_path / "data", 4)


def test_hostile_names_refuse_the_source(storage: int, source: Source, tmp_path: Path) -> None:
    source.put("fine.bin", b"x")
    connection = http.client.HTTPConnection("127.0.0.1", storage, timeout=20)
    credential = "Credential=tests/20260101/us-east-1/s3/aws4_request"
    key = source.name.removeprefix("s3:/") + "/%2E%2E/%2E%2E/evil.bin"
    connection.request(
        "PUT",
        key,
        body=b"evil",
        headers={"Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"},
    )
    assert connection.getresponse().status == 200
    connection.close()
    refused(source, tmp_path / "data", "stage-name-hostile")
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_is_fetched_again(source: Source, tmp_path: Path) -> None:
    fill(source)
    source.stage(tmp_path / "data")
    with open(tmp_path / "data" / "x_train_001.bin", "r+b") as file:
        file.seek(PIECE_BYTES)
        file.write(b"damage")
    done = source.stage(tmp_path / "data")
    assert (done.bytes_fetched, done.bytes_reused) == (SIZE, SIZE)
    whole(tmp_path / "data")


def test_files_of_somebody_elses_are_not_replaced(source: Source, tmp_path: Path) -> None:
    source.put("one.bin", b"x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    refused(source, tmp_path / "mine", "stage-destination")
    (tmp_path / "file").write_text("years")
    refused(source, tmp_path / "file", "stage-destination")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    assert work_directories(tmp_path) == []
    (tmp_path / "empty").mkdir()
    source.stage(tmp_path / "empty")


def test_eight_at_once_do_the_work_once(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    fill(source)
    proxy.seen.clear()
    done: list[Staged] = []
    threads = [threading.Thread(target=lambda: done.append(source.stage(tmp_path / "data"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(done) == 8
    assert sum(one.bytes_fetched for one in done) == done[0].bytes_total
    assert len([line for line in proxy.seen if "x_train" in line]) == 4
    whole(tmp_path / "data")


def test_another_writer_is_waited_for_and_then_named(source: Source, tmp_path: Path) -> None:
    source.put("one.bin", b"x")
    place = destination.Destination(tmp_path / "data")
    with place.turn(1.0, threading.Event()):
        refused(source, tmp_path / "data", "stage-busy", deadline_s=0.5)
    source.stage(tmp_path / "data")


def test_a_lock_on_the_work_directory_alone_is_seen_too(source: Source, tmp_path: Path) -> None:
    """As from another container, which shares the disk and not the temporary directory."""
    source.put("one.bin", b"x")
    place = destination.Destination(tmp_path / "data")
    place.tree.mkdir(parents=True)
    with open(place.work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(source, tmp_path / "data", "stage-busy", deadline_s=0.5)


def test_a_killed_staging_is_resumed(source: Source, proxy: FaultProxy, tmp_path: Path) -> None:
    fill(source, shards=3)
    proxy.faults.append(Fault("stall_body", "GET", "x_train_002", for_ever=True))
    command = [sys.executable, "-m", "lanemark", "stage", source.url, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        journal = destination.Destination(tmp_path / "data").journal
        until = time.monotonic() + 60
        while time.monotonic() < until and not (journal.exists() and journal.read_text().count("\np ") >= 4):
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    proxy.faults.clear()
    with open(journal.parent / "tree" / "x_train_000.bin", "r+b") as file:
        file.write(b"what a power cut may leave")
    done = source.stage(tmp_path / "data")
    assert done.bytes_reused == 2 * SIZE - PIECE_BYTES
    whole(tmp_path / "data", 3)


def test_a_full_disk_leaves_the_old_data_and_nothing_else(
    source: Source, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: too small to begin with, which is said before anything is fetched; then the look finds it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        fill(source, shards=1)
        proxy.seen.clear()
        refused(source, disk / "data", "stage-space-short")
        assert not [line for line in proxy.seen if "x_train" in line]
        assert os.listdir(disk) == []
        obstore.delete(source.store, ["x_train_000.bin", "manifest.json"])
        monkeypatch.setattr(destination, "free_bytes", lambda _: 1 << 40)
        source.put("one.bin", shard(1000, 1))
        source.stage(disk / "data")
        fill(source, shards=4)
        refused(source, disk / "data", "stage-space-short")
        assert os.listdir(disk) == ["data"]
        assert (disk / "data" / "one.bin").read_bytes() == shard(1000, 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_directory_that_cannot_be_exchanged_is_replaced_all_the_same(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.put("one.bin", b"x")
    source.stage(tmp_path / "data")
    source.put("two.bin", b"y")
    monkeypatch.setattr(destination, "exchange", lambda *_: False)
    source.stage(tmp_path / "data")
    assert {"one.bin", "two.bin"} <= set(os.listdir(tmp_path / "data"))
    assert work_directories(tmp_path) == []


def test_a_directory_of_this_host_is_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "kept" / "sub").mkdir(parents=True)
    (tmp_path / "kept" / "sub" / "x.bin").write_bytes(b"x" * 5000)
    done = stage(str(tmp_path / "kept"), tmp_path / "data")
    assert [one.name for one in done.objects] == ["sub/x.bin"]
    with pytest.raises(LanemarkError) as caught:
        stage(str(tmp_path / "none"), tmp_path / "other")
    assert caught.value.slug in ("stage-empty", "stage-unreachable")


def test_a_web_server_is_a_source_where_a_manifest_lies(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(2):
        (kept / f"x_train_{number:03}.bin").write_bytes(shard(1001, number))
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/kept"
            with pytest.raises(LanemarkError) as caught:
                stage(url, tmp_path / "data", patience_s=1.0)
            assert caught.value.slug == "stage-empty"
            (kept / "manifest.json").write_bytes(manifest_of(2, 1001))
            done = stage(url, tmp_path / "data")
            assert (done.verification, done.source) == ("manifest", url)
            whole(tmp_path / "data")
            (kept / "x_train_000.bin").write_bytes(shard(1001, 8))
            with pytest.raises(LanemarkError) as caught:
                stage(url, tmp_path / "other")
            assert caught.value.slug == "stage-corrupt"
        finally:
            server.shutdown()
            thread.join(10)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """The standard library's file server, which knows no ranges, without its log."""

    def log_message(self, *_: object) -> None:
        pass


def test_progress_tells_rate_and_time_left() -> None:
    seen = Progress("staging", 3 << 20, 11 << 20, 1, 4)
    assert rate_and_rest(seen, 0.1, 0) == "3.0 MiB of 11.0 MiB, 1 of 4 objects"
    assert rate_and_rest(seen, 2.0, 1 << 20) == "3.0 MiB of 11.0 MiB, 1 of 4 objects, 1.0 MiB/s, 8 s left"
    assert size(999) == "999 B"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(LanemarkError) as caught:
        stage(str(tmp_path), tmp_path / "data")
    assert caught.value.slug == "stage-extra-missing"


def test_the_verb_dry_runs_stages_and_prints_one_document(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(source)
    arguments = ["stage", source.url, str(tmp_path / "data"), "--json"]
    assert main([*arguments, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["dry_run"], plan["verification"], plan["objects"]) == (True, "manifest", [])
    assert not (tmp_path / "data").exists()
    assert work_directories(tmp_path) == []
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["bytes_fetched"] == plan["bytes_total"]
    assert "tests" not in json.dumps({key: done[key] for key in ("source", "verification")})
    assert main(arguments[:-1]) == 0
    assert "every byte held to a manifest" in capsys.readouterr().out
    assert main(["stage", "s3://KEY:SECRETSECRET@bucket/x", str(tmp_path / "y")]) == 2
    assert "SECRETSECRET" not in capsys.readouterr().err


def test_small_objects_arrive_by_the_hundred(source: Source, tmp_path: Path) -> None:
    data = {f"part{n % 7}/o{n:04}": random.Random(n).randbytes(n) for n in range(300)}
    for name, content in data.items():
        source.put(name, content)
    done = source.stage(tmp_path / "data")
    assert len(done.objects) == 300
    assert {name: (tmp_path / "data" / name).read_bytes() for name in data} == data
    assert staging.WORKERS_SMALL > staging.WORKERS
