"""`--data URL`: staged before the run below the home, found again by the next, told in the record."""

from __future__ import annotations

import argparse
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="the source is read with obstore")
pytest.importorskip("blake3", reason="what arrives is verified with blake3")

import obstore
from obstore.store import S3Store

import team_servers
from lanemark.cli.asked import Asked, add_arguments, understand
from lanemark.cli.main import main
from lanemark.cli.parsing import parser
from lanemark.cli.tokens import resolve
from lanemark.records.attempt import Home
from lanemark.records.errors import GateRefused
from lanemark.records.shards import header
from lanemark.stage.staged_file import read_staged
from lanemark.stage.staging import stage
from team_servers import BUCKET, Fault, FaultProxy

TOKENS = 20_001
IMAGE = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in team_servers.KEYS.items():
        monkeypatch.setenv(name, value)


def shard(seed: int) -> bytes:
    """Ids below 4,096, the nano presets' vocabulary."""
    ids = random.Random(seed).choices(range(4096), k=TOKENS)
    return header(TOKENS) + b"".join(one.to_bytes(2, "little") for one in ids)


@pytest.fixture
def url(storage: int, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Four shards and their manifest, read through a proxy."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(4):
        (kept / f"x_train_{number}.bin").write_bytes(shard(number))
    stage(str(kept), tmp_path / "made", make_manifest=True)
    prefix = f"run/{request.node.name.replace('_', '-')}"
    store = S3Store(
        BUCKET, prefix=prefix, endpoint=f"http://127.0.0.1:{storage}", client_options={"allow_http": True},
        access_key_id="tests", secret_access_key="tests", region="us-east-1",
    )  # fmt: skip
    for path in [*kept.iterdir(), tmp_path / "made" / "manifest.json"]:
        obstore.put(store, path.name, path.read_bytes(), use_multipart=False)
    return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{storage}"


def asked(url: str, *more: str) -> Asked:
    verb = parser("run", "")
    add_arguments(verb)
    words: argparse.Namespace = verb.parse_args(
        ["training", "--data", url, "--sequence", "100", "--steps", "10", "--warmup", "2", "--micro-batch", "30", *more]
    )
    return understand(words)


def pinned_wheel(directory: Path) -> Path:
    """A wheel that is installed nowhere, with its `artifacts.json`."""
    built = directory / "built"
    built.mkdir()
    with zipfile.ZipFile(built / "lanemark_fused-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("lanemark_fused/__init__.py", "")
        archive.writestr("lanemark_fused-1.0.dist-info/METADATA", "Name: lanemark_fused\nVersion: 1.0\n")
        archive.writestr("lanemark_fused-1.0.dist-info/RECORD", "lanemark_fused/__init__.py,sha256=47DEQpj8,0\n")
    stage(str(built), directory / "wheels", artifacts=True, image=IMAGE)
    return directory / "wheels"


def value(doc: dict[str, Any], key: str) -> Any:
    assert doc[key]["status"] == "observed", doc[key]
    return doc[key]["value"]


def test_a_run_stages_what_it_needs_once(url: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    planned = resolve(asked(url), home, build=False)
    assert planned.directory is not None
    assert not home.data.exists()
    tokens = resolve(asked(url), home, build=True)
    assert (tokens.directory, tokens.asked) == (planned.directory, planned.asked)
    assert tokens.directory is not None
    assert tokens.directory.parent == home.data
    # 300 sequences of 100 tokens: two shards of 200 each.
    assert [one["name"] for one in tokens.doc["shards"]] == ["x_train_0.bin", "x_train_1.bin"]
    told = value(tokens.doc, "staged")
    assert (told["verification"], told["objects"], told["bytes"]) == ("manifest", 2, 2 * (1024 + 2 * TOKENS))
    assert told["source"] == url.partition("?")[0]
    before = read_staged(tokens.directory)
    again = resolve(asked(url), home, build=True)
    assert again.directory == tokens.directory
    assert read_staged(tokens.directory) == before
    more = resolve(asked(url, "--grad-accum", "2"), home, build=True)
    assert more.directory != tokens.directory
    assert more.asked.dataset_digest != tokens.asked.dataset_digest
    assert len(more.doc["shards"]) == 3


def test_a_directory_that_was_staged_by_hand_is_told_as_well(url: str, tmp_path: Path) -> None:
    stage(url, tmp_path / "data")
    home = Home(tmp_path / "home")
    assert value(resolve(asked(str(tmp_path / "data")), home, build=True).doc, "staged")["objects"] == 4
    doc = resolve(asked(str(tmp_path / "kept")), home, build=True).doc
    assert doc["staged"]["status"] == "absent"
    (tmp_path / "data" / "manifest.json").unlink()
    (tmp_path / "data" / "x_train_3.bin").write_bytes(shard(9))
    doc = resolve(asked(str(tmp_path / "data")), home, build=True).doc
    assert doc["staged"]["status"] == "unavailable"


def test_a_source_that_cannot_be_staged_refuses_the_run(
    storage: int, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    with FaultProxy(storage) as proxy:
        proxy.faults.append(Fault("denied", for_ever=True))
        through = url.rpartition(":")[0] + f":{proxy.port}"
        with pytest.raises(GateRefused) as caught:
            resolve(asked(through), Home(tmp_path / "home"), build=True)
        assert caught.value.slug == "stage-denied"
        assert main(["plan", "training", "--data", through]) == 4
    assert "[stage-denied]" in capsys.readouterr().err


@pytest.mark.torch
def test_the_record_of_a_run_tells_where_its_tokens_came_from(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="real ranks need torch")
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    words = ["--sequence", "32", "--steps", "5", "--warmup", "2", "--gpu", "cpu", "--json"]
    words += ["--artifacts", str(pinned_wheel(tmp_path))]
    assert main(["run", "training", "--data", url, *words]) == 0
    done = json.loads(capsys.readouterr().out)
    assert main(["verify", done["record_id"]]) == 0
    capsys.readouterr()
    data = json.loads(Path(done["record_path"]).read_bytes())["predicate"]["data"]
    told = value(data, "staged")
    assert told["source"] == url.partition("?")[0]
    assert told["verification"] == "manifest"
    predicate = json.loads(Path(done["record_path"]).read_bytes())["predicate"]
    artifacts = value(predicate["toolchain"], "artifacts")
    (wheel,) = [entry["wheel"] for entry in artifacts["entries"]]
    assert (artifacts["verification"], wheel["installed"]["status"]) == ("manifest", "absent")
    assert value(artifacts, "image") == IMAGE
    assert "lanemark-fused" in {package["name"] for package in predicate["toolchain"]["packages"]}
    (drift,) = [found for found in predicate["findings"] if found["kind"] == "artifact_drift"]
    assert "lanemark-fused 1.0 is pinned" in drift["summary"]
    assert value(data, "path_class") in ("local_disk", "ram", "page_cache")
