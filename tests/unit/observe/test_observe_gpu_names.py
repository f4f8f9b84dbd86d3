"""Device classes, substitution and peaks: what is accepted and what is refused."""

from __future__ import annotations

import pytest

from lanemark.observe.gpu_names import PEAK_FLOPS, classify_device, gpu_matches, peak_flops
from lanemark.records.case import GPU_NAMES, parse_gpu

GIB = 1024**3


@pytest.mark.parametrize(
    ("name", "memory_bytes", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 80 * GIB, "H100"),
        ("NVIDIA H100 PCIe", 80 * GIB, "H100-PCIe"),
        ("NVIDIA H100 NVL", 94 * GIB, "H100-NVL"),
        ("NVIDIA H200", 141 * GIB, "H200"),
        ("NVIDIA H200 NVL", None, "H200-NVL"),
        ("NVIDIA GH200 480GB", None, "GH200"),
        ("NVIDIA A100-SXM4-80GB", 80 * GIB, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", None, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", None, "A100-40GB"),
        ("A100", 40 * GIB, "A100-40GB"),
        ("A100", 80 * GIB, "A100-80GB"),
        ("A100", None, "A100"),
        ("NVIDIA B200", None, "B200"),
        ("NVIDIA B300 SXM6 AC", None, "B300"),
        ("NVIDIA GB200", None, "GB200"),
        ("NVIDIA L4", None, "L4"),
        ("NVIDIA L40S", None, "L40S"),
        ("Tesla T4", None, "T4"),
        ("NVIDIA A10", None, "A10"),
        ("NVIDIA A10G", None, "A10G"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None, "RTX-PRO-6000"),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20 * GIB, "A100-40GB-MIG-3g.20gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB, "H100-MIG-1g.10gb"),
    ],
)
def test_known_names(name: str, memory_bytes: int | None, expected: str) -> None:
    assert classify_device(name, memory_bytes) == expected


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40",
        "NVIDIA H800",
        "NVIDIA H20",
        "NVIDIA A1000",
        "AMD Instinct MI300X",
        "NVIDIA T400",
        "Quadro RTX 6000",
        "",
    ],
)
def test_unknown_names_stay_verbatim(name: str) -> None:
    assert classify_device(name) == name


@pytest.mark.parametrize(
    ("requested", "seen", "count", "expected"),
    [
        ("any", None, None, True),
        ("H100:8", "H100", 8, True),
        ("H100", "H100", None, True),
        ("H100", "H200", 8, False),
        ("H100!", "H200", 8, False),
        ("H100+", "H200", 8, True),
        ("B200+", "B300", 1, True),
        ("H200+", "H100", 1, False),
        ("L4+", "H100", 1, False),
        ("H100", "H100-PCIe", 1, True),
        ("H100!", "H100-PCIe", 1, False),
        ("H100!", "H100-MIG-1g.10gb", 1, False),
        ("A100", "A100-80GB", 1, True),
        ("A100!", "A100-40GB", 1, True),
        ("A100-40GB", "A100-80GB", 1, False),
        ("A100-80GB", "A100", 1, False),
        ("A100+", "H100", 1, True),
        ("H100:8", "H100", 4, False),
        ("H100:2", "H100", 8, True),
        ("H100:8", "H100", None, None),
        ("H100", None, None, None),
        ("H100", "cpu", 1, False),
        ("H100", "H100+H200", 2, False),
        ("cpu", "cpu", 1, True),
        ("cpu:2", "cpu", 1, True),
        ("cpu", "H100", 1, False),
    ],
)
def test_matching(requested: str, seen: str | None, count: int | None, expected: bool | None) -> None:
    matched, why = gpu_matches(parse_gpu(requested), seen, count)
    assert matched is expected
    assert why


def test_peaks_are_cited_and_never_invented() -> None:
    seen = peak_flops("H100", "bf16")
    assert seen.value == 989.5e12
    assert "datasheet" in seen.source
    for (kind, dtype), (value, cited) in PEAK_FLOPS.items():
        assert 1e12 < value < 1e16
        assert dtype in ("fp32", "bf16")
        assert cited.startswith("NVIDIA")
        assert kind.split("-PCIe")[0].split("-NVL")[0] in GPU_NAMES
    assert peak_flops("cpu", "fp32").status == "unavailable"
    assert peak_flops("NVIDIA H800", "bf16").status == "unavailable"
    assert peak_flops("H100", "fp8").status == "unavailable"
    assert peak_flops("B200", "fp32").status == "unavailable"
    assert peak_flops("T4", "bf16").status == "absent"
