"""The assembled document: its keys, strict JSON, no secrets, and a probe that breaks costs only its own facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lanemark.observe import snapshot as module
from lanemark.observe.snapshot import host_snapshot
from lanemark.records.encoding import decode, encode
from lanemark.records.observation import Observation
from lanemark.records.schema_envelope import EnvironmentPart, HardwareObserved, ImagePart, PackagePart
from lanemark.records.schema_parts import Observed
from lanemark.records.schema_startup import CacheInventory

PLANTED = "pl4ntedValue99"


@pytest.fixture(scope="module")
def doc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cwd = tmp_path_factory.mktemp("cwd")
    environ = {
        "PATH": "/usr/bin:/bin",
        "HF_TOKEN": PLANTED,
        "TORCH_TOKEN": PLANTED,
        "NCCL_DEBUG": "INFO",
        "CUDA_NOTE": f"x{PLANTED}",
    }
    return host_snapshot(
        cwd, environ, ["run", "--api-key", PLANTED], cwd, packages={"numpy": None, "no-such-package": "x"}
    )


def observations(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict) and {"status", "source"} <= set(node):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [found for child in children for found in observations(child)]


def test_parts_fit_the_record_schema(doc: dict[str, Any]) -> None:
    assert decode(encode(doc)) == doc
    HardwareObserved.model_validate(doc["hardware"])
    ImagePart.model_validate(doc["image"])
    EnvironmentPart.model_validate({**doc["environment"], "settings": []})
    for entry in doc["toolchain"]["packages"]:
        PackagePart.model_validate(entry)
    Observed[CacheInventory].model_validate(doc["cache_before"])
    for name in ("hostname", "boot_id", "virtualization"):
        Observed[str].model_validate(doc["surface"][name])
    assert [entry["name"] for entry in doc["toolchain"]["packages"]] == ["numpy", "no-such-package"]
    assert set(doc["source"]) == {"commit", "dirty", "repository_root", "lanemark_digest", "argv", "argv_redacted"}
    assert doc["host_uptime_s"]["status"] == "observed"


def test_every_leaf_reads_back_as_an_observation(doc: dict[str, Any]) -> None:
    found = observations(doc)
    assert len(found) > 35
    for entry in found:
        assert Observation.from_json(entry).to_json() == entry


def test_no_secret_and_no_other_variable(doc: dict[str, Any]) -> None:
    assert PLANTED.encode() not in encode(doc)
    assert doc["environment"]["variables"] == {
        "CUDA_NOTE": "[redacted]",
        "NCCL_DEBUG": "INFO",
        "TORCH_TOKEN": "[redacted]",
    }
    assert doc["source"]["argv"] == ["run", "--api-key", "[redacted]"]
    assert doc["source"]["argv_redacted"] is True


def test_every_broken_probe_is_unavailable_and_kills_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the probe broke")

    for name in (
        "host_facts",
        "device_facts",
        "source_facts",
        "lanemark_digest",
        "package_facts",
        "cxx_facts",
        "image_facts",
        "inventory",
        "free_space",
    ):
        monkeypatch.setattr(module, name, broken)
    out = host_snapshot(tmp_path, {}, None, tmp_path)
    found = observations(out)
    assert {entry["status"] for entry in found} == {"unavailable"}
    assert {entry["reason"] for entry in found} == {"RuntimeError: the probe broke"}
    HardwareObserved.model_validate(out["hardware"])
    assert len(out["toolchain"]["packages"]) > 5
    assert out["environment"]["platform"]


def test_without_a_cache_it_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "device_facts", lambda environ: {})
    monkeypatch.setattr(module, "package_facts", lambda names, environ: [])
    out = host_snapshot(tmp_path, {})
    assert out["cache_before"]["status"] == "absent"
    assert "argv" not in out["source"]
    assert out["hardware"]["device_class"] == {
        "status": "unavailable",
        "source": "nvml",
        "reason": "the probe did not report it",
    }
