"""The real pynvml against a small NVML library compiled here: names, units and calls are pynvml's own, not a mock's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lanemark.observe.devices import device_facts

SOURCE = r"""
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; if (HANG) sleep(60); return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { (void)code; return "made-up library"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { strncpy(out, "570.86.15", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12080; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { *out = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *out, unsigned size) { (void)device; strncpy(out, "NVIDIA H100 80GB HBM3", size); return 0; }
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) { strncpy(out, device == (void *)1 ? "GPU-aaaa" : "GPU-bbbb", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) { (void)device; out->total = 85520809984ULL; return 0; }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *next) { (void)device; *now = *next = 0; return 0; }
int nvmlDeviceGetEccMode(void *device, int *now, int *next) { (void)device; *now = *next = 1; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *out) { (void)device; *out = 700000; return 0; }
int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *out) { (void)device; *out = kind == 1 ? 1980 : 1; return 0; }
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    found = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if found is None:
        pytest.skip("needs a C compiler")
    return found


def library(compiler: str, where: Path, *, init: int = 0, hang: bool = False) -> dict[str, str]:
    (where / "nvml.c").write_text(SOURCE)
    target = where / "libnvidia-ml.so.1"
    defines = [f"-DINIT={init}", f"-DHANG={int(hang)}"]
    subprocess.run(
        [compiler, "-shared", "-fPIC", *defines, "-o", str(target), str(where / "nvml.c")], check=True, timeout=60
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_")}
    return {**kept, "LD_LIBRARY_PATH": str(where)}


def test_through_the_real_binding(compiler: str, tmp_path: Path) -> None:
    environ = library(compiler, tmp_path)
    facts = device_facts(environ)
    assert {name: seen.value for name, seen in facts.items()} == {
        "device_class": "H100", "device_count": 2, "device_names": ["NVIDIA H100 80GB HBM3"] * 2,
        "device_uuids": ["GPU-aaaa", "GPU-bbbb"], "memory_bytes": 85520809984, "driver": "570.86.15", "cuda": "12.8",
        "mig": False, "ecc": True, "power_limit_w": 700.0, "sm_clock_max_mhz": 1980,
    }  # fmt: skip
    assert device_facts({**environ, "CUDA_VISIBLE_DEVICES": "1"})["device_uuids"].value == ["GPU-bbbb"]
    assert device_facts({**environ, "CUDA_VISIBLE_DEVICES": ""})["device_count"].status == "absent"


def test_a_driver_that_refuses(compiler: str, tmp_path: Path) -> None:
    mismatch = device_facts(library(compiler, tmp_path, init=18), root=tmp_path)
    assert {seen.status for seen in mismatch.values()} == {"unavailable"}
    assert "LibRmVersionMismatch" in (mismatch["driver"].reason or "")


def test_a_driver_that_is_not_loaded(compiler: str, tmp_path: Path) -> None:
    absent = device_facts(library(compiler, tmp_path, init=9), root=tmp_path)
    assert {seen.status for seen in absent.values()} == {"absent"}
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    seen = device_facts(library(compiler, tmp_path, init=9), root=tmp_path)
    assert {fact.status for fact in seen.values()} == {"unavailable"}


def test_a_driver_that_hangs(compiler: str, tmp_path: Path) -> None:
    hung = device_facts(library(compiler, tmp_path, hang=True), root=tmp_path, timeout_s=1.0)
    assert {seen.status for seen in hung.values()} == {"unavailable"}
    assert "did not answer" in (hung["device_class"].reason or "")
