"""The inventory of a cache that inductor really made: keys and binaries are where we look, and a full reuse changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lanemark.observe.compile_cache import inventory
from lanemark.observe.packages import cxx_facts
from lanemark.observe.startup import startup_state
from lanemark.records.observation import observed

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(300)]

PROGRAM = """
import torch
torch.set_num_threads(1)
torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.randn(64))
"""


def compile_once(cache: Path, temporary: Path) -> None:
    environ = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # spares five trial compilations
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=environ, check=True, timeout=240, capture_output=True)


def test_cold_warm_and_stripped(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    if cxx_facts().status != "observed":
        pytest.skip("needs the C++ compiler that inductor calls")
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    before = inventory(cache)
    compile_once(cache, temporary)
    filled = inventory(cache)
    assert filled.value is not None
    assert filled.value["keys"] >= 2, "one aotautograd and one fxgraph entry"
    assert filled.value["binaries"] >= 1
    assert startup_state(before, filled, compiled=True).value == "cold"

    compile_once(cache, temporary)
    again = inventory(cache)
    assert again.value == filled.value
    assert startup_state(filled, again, compiled=True, compilations=observed(1, "beacon")).value == "warm"

    for library in cache.rglob("*.so"):
        library.unlink()
    stripped = inventory(cache)
    assert (stripped.value or {})["binaries"] == 0
    compile_once(cache, temporary)
    assert startup_state(stripped, inventory(cache), compiled=True).value == "partly_warm"
