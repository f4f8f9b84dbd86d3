"""The data path of real runs: through a bucket mounted with FUSE, staged, and as a comparison of the two tells them apart."""

from __future__ import annotations

import json
import os
import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="the bucket is filled with obstore")
pytest.importorskip("blake3", reason="staging verifies with blake3")

import obstore
from obstore.store import S3Store

import fuse_mounts
import team_servers
from lanemark.cli.main import main
from lanemark.observe.data_path import classify_self
from lanemark.observe.residency import residency
from lanemark.records.shards import header
from lanemark.stage.staging import stage
from team_servers import BUCKET

#: Ids below the diagnostic preset's vocabulary, enough sequences of 32 for the runs below.
TOKENS, LARGEST = 20_001, 256
RUN = ["--preset", "diagnostic", "--sequence", "32", "--steps", "8", "--warmup", "2", "--gpu", "cpu", "--json"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A bucket with two shards and their manifest below `tokens/`."""
    made = tmp_path_factory.mktemp("made")
    for number in range(2):
        ids = random.Random(number).choices(range(LARGEST), k=TOKENS)
        (made / f"x_train_{number}.bin").write_bytes(header(TOKENS) + array("H", ids).tobytes())
    stage(str(made), made / "staged", make_manifest=True)
    with team_servers.s3_server() as port:
        store = S3Store(
            BUCKET, prefix="tokens", endpoint=f"http://127.0.0.1:{port}", client_options={"allow_http": True},
            access_key_id="tests", secret_access_key="tests", region="us-east-1",
        )  # fmt: skip
        for path in [*made.glob("*.bin"), made / "staged" / "manifest.json"]:
            obstore.put(store, path.name, path.read_bytes(), use_multipart=False)
        yield port


@pytest.fixture(scope="module")
def mount(storage: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with fuse_mounts.mounted(storage, BUCKET, tmp_path_factory.mktemp("fuse") / "bucket") as where:
        yield where / "tokens"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in team_servers.KEYS.items():
        monkeypatch.setenv(name, value)


def value(doc: dict[str, Any]) -> Any:
    assert doc["status"] == "observed", doc
    return doc["value"]


def test_a_link_from_a_disk_into_a_bucket_does_not_fool_it(mount: Path, tmp_path: Path) -> None:
    local = tmp_path / "nvme"
    local.symlink_to(mount)
    shard = local / "x_train_0.bin"
    with shard.open("rb"):
        (row,) = classify_self([shard])
    assert (row["path_class"], row["filesystem"]) == ("object_mount", "fuse.rclone")
    seen = residency([shard], scratch=tmp_path)
    assert seen.status in ("observed", "unavailable")  # which of the two is the kernel's business; it never raises
    (tmp_path / "copy.bin").write_bytes(shard.read_bytes())
    with (tmp_path / "copy.bin").open("rb"):
        (copied,) = classify_self([tmp_path / "copy.bin"])
    assert copied["path_class"] != "object_mount"
    assert ":" in row["device"]
    assert row["device"] != copied["device"]


@pytest.mark.torch
@pytest.mark.slow
def test_a_run_through_the_mount_and_a_staged_one_are_told_apart(
    storage: int, mount: Path, keys: None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("torch", reason="real ranks need torch")
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[str, dict[str, Any]]:
        assert main(["run", "training", *RUN, *words]) == 0
        done = json.loads(capsys.readouterr().out)
        assert main(["verify", done["record_id"]]) == 0
        capsys.readouterr()
        return done["record_id"], json.loads(Path(done["record_path"]).read_bytes())["predicate"]

    local = tmp_path / "local-disk"
    local.symlink_to(mount)
    through, mounted = run("--data", str(local), "--data-class", "local_disk", "--nproc", "2", "--mode", "ddp")
    data = mounted["data"]
    assert value(data["path_class"]) == "object_mount"
    assert [value(row["path_class"]) for row in data["ranks"]] == ["object_mount"] * 2
    assert {entry["filesystem"] for entry in data["paths"]} == {"fuse.rclone"}
    assert data["requested"]["path_class"] == mounted["case"]["data"]["path_class"] == "local_disk"
    kinds = {finding["kind"] for finding in mounted["findings"]}
    assert {"data_path_remote", "data_class_contradicted"} <= kinds

    windows = value(data["windows"])
    assert windows["as_expected"]
    assert windows["read"]["count"] == 6 * 2 * mounted["case"]["micro_batch"]
    assert value(data["token_parity"])
    sums = [value(row["windows"])["sum"] for row in data["ranks"]]
    assert sums[0] != sums[1]

    source = f"s3://{BUCKET}/tokens?endpoint=http://127.0.0.1:{storage}"
    stage(source, tmp_path / "staged")
    copied, staged = run(
        "--data", str(tmp_path / "staged"), "--data-class", "local_disk", "--nproc", "2", "--mode", "ddp"
    )
    assert value(staged["data"]["path_class"]) in ("local_disk", "page_cache", "ram")
    assert value(staged["data"]["dataset_digest"]) == value(data["dataset_digest"])
    assert value(staged["data"]["windows"]) == windows, (
        "the same case reads the same windows, whatever it reads through"
    )
    for row in staged["data"]["ranks"]:
        assert value(row["look_s"]) < 5, "a generous bound: it takes milliseconds"
        if os.uname().sysname == "Linux" and row["io"]["status"] == "observed":
            assert value(row["io"])["rchar"] >= 0

    assert main(["compare", through, copied, "--json"]) == 3
    verdict = json.loads(capsys.readouterr().out)
    refused = {(reason["code"], reason["path"]) for reason in verdict["reasons"] if reason["severity"] == "block"}
    assert ("KEY_MISMATCH", "data.path_class") in refused
    assert main(["compare", through, copied]) == 3
    said = capsys.readouterr()
    assert "data.path_class" in said.out + said.err


@pytest.mark.torch
@pytest.mark.slow
def test_a_run_over_packed_rows_of_parquet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="real ranks need torch")
    pytest.importorskip("pyarrow", reason="packed rows are read with pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    (tmp_path / "rows").mkdir()
    for number in range(2):
        drawn = random.Random(number)
        rows = [drawn.choices(range(LARGEST), k=33) for _ in range(300)]
        table = pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))})
        pq.write_table(table, tmp_path / "rows" / f"part-{number}.parquet", row_group_size=64)
    assert main(["run", "training", *RUN, "--data", str(tmp_path / "rows")]) == 0
    done = json.loads(capsys.readouterr().out)
    assert main(["verify", done["record_id"]]) == 0
    data = json.loads(Path(done["record_path"]).read_bytes())["predicate"]["data"]
    assert [(shard["name"], shard["tokens"]) for shard in data["shards"]] == [
        ("part-0.parquet", 9_900), ("part-1.parquet", 9_900),
    ]  # fmt: skip
    assert value(data["windows"])["sequences"] == 600
    assert value(data["windows"])["as_expected"]
    assert value(data["path_class"]) in ("local_disk", "page_cache", "ram")
    assert {entry["name"] for entry in data["paths"]} == {"part-0.parquet", "part-1.parquet"}
