"""`artifacts.json`: what it may say, and a staging that is held to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="the source is read with obstore")
pytest.importorskip("blake3", reason="what arrives is verified with blake3")

from lanemark.cli.artifacts import planned_artifacts, resolve_artifacts
from lanemark.cli.main import main
from lanemark.records.attempt import Home
from lanemark.records.errors import LanemarkError
from lanemark.stage.artifacts import ARTIFACTS_NAME, read_pins
from lanemark.stage.staging import stage

IMAGE = "sha256:" + "ab" * 32


def document(**changes: Any) -> bytes:
    row = {"name": "a/k.cubin", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    return json.dumps({"artifacts_version": 1, "artifacts": [{**row, **changes.pop("row", {})}], **changes}).encode()


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(LanemarkError) as caught:
        stage(*arguments, **options)
    return caught.value.slug


def test_what_it_pins_is_read() -> None:
    pins = read_pins(document(image=IMAGE), "here")
    assert pins.image == IMAGE
    assert [pin.name for pin in pins.pins] == ["a/k.cubin"]
    assert read_pins(document(), "here").image is None


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b"\xff", document(artifacts_version=2), document(artifacts=[]), document(image="latest"),
        document(row={"name": "../k"}), document(row={"name": "/k"}), document(row={"name": 5}),
        document(row={"bytes": -1}), document(row={"bytes": True}), document(row={"sha256": "AB"}),
        document(artifacts=json.loads(document())["artifacts"] * 2),
    ],
)  # fmt: skip
def test_what_it_may_not_say_is_refused(text: bytes) -> None:
    with pytest.raises(LanemarkError) as caught:
        read_pins(text, "here")
    assert caught.value.slug == "artifacts-invalid"
    assert "\n" not in str(caught.value)


def test_artifacts_are_pinned_once_and_held_to_that_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built, kept = tmp_path / "built", tmp_path / "kept"
    (built / "a").mkdir(parents=True)
    (built / "a" / "k.cubin").write_bytes(b"abc")
    assert main(["stage", str(built), str(kept), "--artifacts", "--image", IMAGE, "--json"]) == 0
    capsys.readouterr()
    assert json.loads((kept / ARTIFACTS_NAME).read_text()) == json.loads(document(image=IMAGE))
    (kept / "staged.json").unlink()
    (kept / "b.txt").write_text("not pinned")
    done = stage(str(kept), tmp_path / "here", artifacts=True)
    assert (done.verification, done.ignored, done.dataset_digest) == ("manifest", 1, None)
    assert (tmp_path / "here" / ARTIFACTS_NAME).read_bytes() == (kept / ARTIFACTS_NAME).read_bytes()
    assert stage(str(kept), tmp_path / "here", artifacts=True).bytes_fetched == 0
    (kept / "a" / "k.cubin").write_bytes(b"abd")
    assert refused(str(kept), tmp_path / "other", artifacts=True) == "stage-corrupt"
    (kept / "a" / "k.cubin").unlink()
    assert refused(str(kept), tmp_path / "other", artifacts=True) == "data-missing"
    assert not (tmp_path / "other").exists()


def test_a_run_takes_only_what_is_pinned(tmp_path: Path) -> None:
    home, kept = Home(tmp_path / "home"), tmp_path / "kept"
    (kept / "a").mkdir(parents=True)
    (kept / "a" / "k.cubin").write_bytes(b"abc")
    assert resolve_artifacts(None, home) == {}
    with pytest.raises(LanemarkError) as caught:
        resolve_artifacts(str(kept), home)
    assert caught.value.slug == "artifacts-unpinned"
    (kept / ARTIFACTS_NAME).write_bytes(document())
    assert planned_artifacts(None, home) == {}
    planned = planned_artifacts(str(kept), home)
    assert (planned["bytes"], home.data.exists()) == (3, False)
    doc = resolve_artifacts(str(kept), home)
    assert Path(planned["directory"]).is_dir()
    assert (doc["verification"], [entry["name"] for entry in doc["entries"]]) == ("manifest", ["a/k.cubin"])
    (kept / "x.whl").write_bytes(b"abc")
    (kept / ARTIFACTS_NAME).write_bytes(document(row={"name": "x.whl"}))
    with pytest.raises(LanemarkError) as caught:
        resolve_artifacts(str(kept), home)
    assert caught.value.slug == "artifacts-invalid"


@pytest.mark.parametrize("words", [["--image", IMAGE], ["--artifacts", "--image", "v1"], ["--artifacts", "--manifest"]])
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage", str(tmp_path), str(tmp_path / "x"), *words]) == 2
    assert "[value-invalid]" in capsys.readouterr().err
