"""Staging and the ledger against stores of other makes than moto: Google's, by its emulator, and Ceph's gateway."""

from __future__ import annotations

import asyncio
import http.client
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("obstore", reason="the source is read with obstore")
pytest.importorskip("blake3", reason="what arrives is verified with blake3")

import obstore

import bucket_servers
from bucket_servers import BUCKET
from lanemark.ledger.location import open_ledger
from lanemark.ledger.remote import Bucket
from lanemark.ledger.s3_location import S3Location
from lanemark.observe.shards import open_shards, verify_digests
from lanemark.records.attempt import Home
from lanemark.records.encoding import digest
from lanemark.records.errors import LanemarkError
from lanemark.records.shards import header
from lanemark.stage.objects import PIECE_BYTES
from lanemark.stage.staging import stage
from team_servers import Fault, FaultProxy

#: One piece and a bit.
TOKENS = PIECE_BYTES // 2 + 1000
PATIENCE_S = 12.0
RECORD = (Path(__file__).parents[1] / "assets" / "records" / "good" / "eager_ddp_cpu.json").read_bytes()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket_servers.KEYS["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket_servers.KEYS["secret_access_key"])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture(scope="module")
def google() -> Iterator[int]:
    with bucket_servers.gcs_server() as port:
        yield port


@pytest.fixture(scope="module")
def gateway() -> Iterator[int]:
    with bucket_servers.gateway_server() as port:
        yield port


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two shards and the manifest that staging makes of them, by name."""
    kept, made = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("made") / "data"
    for number in range(2):
        (kept / f"x_train_{number}.bin").write_bytes(header(TOKENS) + random.Random(number).randbytes(2 * TOKENS))
    stage(str(kept), made, make_manifest=True)
    return {name: (made / name).read_bytes() for name in ("x_train_0.bin", "x_train_1.bin", "manifest.json")}


def fill_google(port: int, prefix: str, objects: dict[str, bytes]) -> None:
    """Put objects through the emulator's JSON interface: the client asks for a token before it writes anything."""
    for name, data in objects.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        key = quote(f"{prefix}/{name}", safe="")
        connection.request("POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={key}", body=data)
        assert connection.getresponse().status == 200
        connection.close()


def fill(store: Any, objects: dict[str, bytes]) -> None:
    for name, data in objects.items():
        obstore.put(store, name, data, use_multipart=False)


def whole(directory: Path) -> None:
    found = open_shards(directory)
    assert len(found.shards) == 2
    verify_digests(found)


def slug_of(url: str, destination: Path) -> str:
    with pytest.raises(LanemarkError) as caught:
        stage(url, destination, patience_s=PATIENCE_S)
    assert not destination.exists()
    return caught.value.slug


def test_google_storage_is_a_source_and_its_faults_pass(
    google: int, prefix: str, shards: dict[str, bytes], tmp_path: Path
) -> None:
    fill_google(google, prefix, shards)
    with FaultProxy(google) as proxy:
        url = f"gs://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{proxy.port}"
        proxy.faults += [Fault(kind, "GET", "train") for kind in ("busy", "flip", "reset_body")]  # type: ignore[arg-type]
        done = stage(url, tmp_path / "data", patience_s=PATIENCE_S)
        assert proxy.faults == []
        assert (done.verification, done.source) == ("manifest", f"gs://{BUCKET}/{prefix}")
        whole(tmp_path / "data")
        assert stage(url, tmp_path / "data").bytes_fetched == 0
        proxy.faults.append(Fault("flip", "GET", "train", for_ever=True))
        assert slug_of(url, tmp_path / "other") == "stage-corrupt"


def test_google_storage_without_a_digest_is_unverified_and_an_empty_prefix_is_said(
    google: int, prefix: str, shards: dict[str, bytes], tmp_path: Path
) -> None:
    url = f"gs://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{google}"
    assert slug_of(url, tmp_path / "data") == "stage-empty"
    fill_google(google, prefix, {"a/x_train_0.bin": shards["x_train_0.bin"]})
    done = stage(url, tmp_path / "data")
    assert done.verification == "unverified"
    assert (tmp_path / "data" / "a" / "x_train_0.bin").read_bytes() == shards["x_train_0.bin"]


def test_the_gateway_serves_ranges_and_refuses_replaced_objects(
    gateway: int, prefix: str, shards: dict[str, bytes], tmp_path: Path
) -> None:
    store = bucket_servers.gateway_store(gateway, prefix)
    fill(store, shards)
    with FaultProxy(gateway) as proxy:
        # Signatures are over the host's name, which the proxy passes on with its own port in it.
        url = f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{proxy.port}"
        proxy.faults += [Fault(kind, "GET", "x_train") for kind in ("busy", "flip", "short")]  # type: ignore[arg-type]
        done = stage(url, tmp_path / "data", patience_s=PATIENCE_S)
        assert proxy.faults == []
        assert done.verification == "manifest"
        whole(tmp_path / "data")
        assert stage(url, tmp_path / "data").bytes_fetched == 0
        # The listing is an old one: what it names was replaced before the first byte was asked for.
        listed = next(iter(obstore.list(store)))
        etags = {one["path"]: one["e_tag"] for one in listed}
        fill(store, {"x_train_1.bin": shards["x_train_0.bin"]})
        with pytest.raises(obstore.exceptions.PreconditionError):
            obstore.get(store, "x_train_1.bin", options={"if_match": etags["x_train_1.bin"]})
    assert slug_of(f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{gateway}", tmp_path / "other") == "stage-corrupt"


def test_the_gateway_lists_more_than_a_page_and_checks_keys(
    gateway: int, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket_servers.gateway_store(gateway, prefix)
    data = {f"part-{number % 3}/{number:04}": b"%d" % number for number in range(1005)}

    async def put_all() -> None:
        free = asyncio.Semaphore(16)

        async def put(name: str) -> None:
            async with free:
                await obstore.put_async(store, name, data[name], use_multipart=False)

        await asyncio.gather(*map(put, data))

    asyncio.run(put_all())
    url = f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{gateway}"
    done = stage(url, tmp_path / "data")
    assert (len(done.objects), done.verification) == (1005, "provider")
    assert {name: (tmp_path / "data" / name).read_bytes() for name in data} == data
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    assert slug_of(url, tmp_path / "other") == "stage-denied"


def test_the_gateway_makes_an_object_once(gateway: int, prefix: str) -> None:
    environ = {"AWS_ACCESS_KEY_ID": bucket_servers.KEYS["access_key_id"], "AWS_REGION": "us-east-1"}
    environ["AWS_SECRET_ACCESS_KEY"] = bucket_servers.KEYS["secret_access_key"]
    bucket = Bucket(S3Location(BUCKET, prefix, f"http://127.0.0.1:{gateway}"), environ)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: bucket.create("objects/one", b"%d" % number), range(8)))
    assert won.count(True) == 1
    assert bucket.read("objects/one", 100) == b"%d" % won.index(True)
    assert not bucket.create("objects/one", b"later")
    assert bucket.read("objects/none", 100) is None


def test_the_gateway_keeps_a_ledger(gateway: int, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEMARK_LEDGER", f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{gateway}")
    for host in ("one", "two"):
        assert open_ledger(Home(tmp_path / host)).append(RECORD).notices == ()
    reader = open_ledger(Home(tmp_path / "three"))
    assert [row.id for row in reader.list().rows] == [digest(RECORD)]
    assert reader.get(digest(RECORD)).data == RECORD
