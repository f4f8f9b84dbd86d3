"""Package facts from metadata that lies, is damaged or is missing, and import outcomes of every kind."""

from __future__ import annotations

import hashlib
import importlib
import json
import stat
from pathlib import Path

import pytest

from lanemark.observe.child import ChildResult
from lanemark.observe.import_probe import MARK
from lanemark.observe.packages import cxx_facts, installed, package_facts, parse_import


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def distribution(
    site: Path, name: str, *, version: str = "1.2.3", record: str | None = "a.py,sha256=x,1\n", body: str = ""
) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if record is not None:
        (info / "RECORD").write_text(record)
    (site / f"{name}.py").write_text(body)


def test_version_digest_and_import(site: Path) -> None:
    distribution(site, "obs_good", body="print('noise on stdout')\n")
    distribution(site, "obs_broken", body="raise ImportError('libcuda.so.1: cannot open\\nsecond line')\n")
    distribution(site, "obs_exits", body="import sys; sys.exit('bye')\n", record=None)
    distribution(site, "obs_crashes", body="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    good, broken, exits, crashes, none = package_facts(
        ["obs_good", "obs_broken", "obs_exits", "obs_crashes", "obs-none"]
    )
    assert good.version.value == "1.2.3"
    assert good.record_digest.value == "sha256:" + hashlib.sha256(b"a.py,sha256=x,1\n").hexdigest()
    assert good.imported.value is True
    assert broken.imported.value is False
    assert broken.imported.source.endswith("ImportError: libcuda.so.1: cannot open")
    assert (exits.imported.value, exits.record_digest.status) == (False, "absent")
    assert crashes.imported.value is False
    assert "SIGSEGV" in crashes.imported.source
    assert {none.version.status, none.record_digest.status, none.imported.status} == {"absent"}
    assert set(good.to_json()) == {"name", "version", "record_digest", "imported"}


def test_slow_import_is_unavailable(site: Path) -> None:
    distribution(site, "obs_slow", body="import time; time.sleep(60)\n")
    (slow,) = package_facts(["obs_slow"], timeout_s=1.5)
    assert slow.imported.status == "unavailable"
    assert "1.5 s" in (slow.imported.reason or "")


def test_libraries_without_a_module_and_torch_are_not_tried(site: Path) -> None:
    distribution(site, "obs_lib", body="raise SystemExit\n")
    (lib,) = package_facts({"obs_lib": None})
    assert lib.version.status == "observed"
    assert lib.imported.status == "absent"


def test_damaged_metadata(site: Path) -> None:
    info = site / "obs_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(b"")
    version, record = installed("obs_odd")
    assert version.status in ("unavailable", "absent")
    assert record.status == "absent"


def test_probe_answers() -> None:
    def outcome(doc: dict[str, object]) -> ChildResult:
        return ChildResult(0, f"noise\n{MARK}{json.dumps(doc)}\n", "")

    assert parse_import("m", outcome({"imported": True}), 1).value is True
    assert parse_import("m", outcome({"imported": False, "error": "E: x"}), 1).value is False
    assert parse_import("m", ChildResult(None, "", ""), 9).status == "unavailable"
    silent = parse_import("m", ChildResult(1, "", "python: No module named lanemark\n"), 9)
    assert silent.status == "unavailable"
    assert "No module named lanemark" in (silent.reason or "")


def compiler(path: Path, body: str) -> None:
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_compiler_is_the_one_inductor_would_call(tmp_path: Path) -> None:
    compiler(tmp_path / "g++", "echo 'g++ (Test) 99.1'; echo more\n")
    compiler(tmp_path / "mycxx", "echo 'my 1.0'\n")
    assert cxx_facts({"PATH": str(tmp_path)}).value == "g++ (Test) 99.1"
    assert cxx_facts({"PATH": str(tmp_path), "CXX": "mycxx"}).value == "my 1.0"


def test_compiler_missing_or_broken(tmp_path: Path) -> None:
    assert cxx_facts({"PATH": str(tmp_path)}).status == "absent"
    compiler(tmp_path / "c++", "echo 'other 1.0'\n")
    seen = cxx_facts({"PATH": str(tmp_path)})
    assert seen.status == "absent"
    assert "c++ is there" in (seen.reason or "")
    compiler(tmp_path / "g++", "exit 3\n")
    assert cxx_facts({"PATH": str(tmp_path)}).status == "unavailable"
    compiler(tmp_path / "hangs", "exec sleep 60\n")
    assert cxx_facts({"PATH": f"{tmp_path}:/bin:/usr/bin", "CXX": "hangs"}, timeout_s=0.5).status == "unavailable"
