"""Device facts from recorded probe answers: no driver, no access, hidden, sliced, unlike and healthy devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.child import ChildResult
from lanemark.observe.devices import (
    FIELDS,
    cpu_device_facts,
    driver_traces,
    facts_from_probe,
    parse_probe,
    select_devices,
)
from lanemark.observe.nvml_probe import MARK, gather
from lanemark.records.observation import observed, unavailable

GIB = 1024**3


def device(index: int = 0, name: str = "NVIDIA H100 80GB HBM3", **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name, "uuid": f"GPU-0000000{index}-aaaa", "memory_bytes": 80 * GIB, "mig": False, "ecc": True,
        "power_limit_w": 700.0, "sm_clock_max_mhz": 1980, **changes,
    }  # fmt: skip
    return {key: value if isinstance(value, dict) else {"value": value} for key, value in facts.items()}


def answer(*devices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "driver": {"value": "570.86.15"},
        "cuda": {"value": 12080},
        "count": {"value": len(devices)},
        "devices": list(devices),
        "mig_devices": {},
        **changes,
    }


def test_healthy_host() -> None:
    facts = facts_from_probe(answer(device(0), device(1)), {}, ["/dev/nvidia0"])
    assert set(facts) == set(FIELDS)
    assert {name: seen.value for name, seen in facts.items()} == {
        "device_class": "H100", "device_count": 2, "device_names": ["NVIDIA H100 80GB HBM3"] * 2,
        "device_uuids": ["GPU-00000000-aaaa", "GPU-00000001-aaaa"], "memory_bytes": 80 * GIB, "driver": "570.86.15",
        "cuda": "12.8", "mig": False, "ecc": True, "power_limit_w": 700.0, "sm_clock_max_mhz": 1980,
    }  # fmt: skip
    assert all("requested" not in seen.source for seen in facts.values())


@pytest.mark.parametrize("failed", ["NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded", "pynvml_missing"])
def test_no_driver_anywhere_is_absent_and_a_trace_makes_it_unavailable(failed: str) -> None:
    doc = {"failed": failed, "text": "said so"}
    assert {seen.status for seen in facts_from_probe(doc, {}, []).values()} == {"absent"}
    facts = facts_from_probe(doc, {}, ["/dev/nvidia0"])
    assert {seen.status for seen in facts.values()} == {"unavailable"}
    assert "/dev/nvidia0" in (facts["device_class"].reason or "")


@pytest.mark.parametrize(
    "failed", ["timeout", "probe_died", "NVMLError_LibRmVersionMismatch", "NVMLError_NoPermission"]
)
def test_a_driver_that_does_not_answer_is_never_absence(failed: str) -> None:
    assert {seen.status for seen in facts_from_probe({"failed": failed}, {}, []).values()} == {"unavailable"}


def test_visible_devices_restrict_what_is_counted() -> None:
    doc = answer(device(0), device(1), device(2), device(3))
    assert facts_from_probe(doc, {"CUDA_VISIBLE_DEVICES": "2,0"}, [])["device_uuids"].value == [
        "GPU-00000002-aaaa",
        "GPU-00000000-aaaa",
    ]
    hidden = facts_from_probe(doc, {"CUDA_VISIBLE_DEVICES": ""}, [])
    assert hidden["device_count"].status == "absent"
    assert "CUDA_VISIBLE_DEVICES" in hidden["device_count"].source
    assert hidden["driver"].value == "570.86.15"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1, 2]), ("0,2", [0, 2]), ("2, 1", [2, 1]), ("", []), ("-1", []), ("0,9,1", [0]), ("0,0", [0]),
     ("GPU-00000001", [1]), ("GPU-0000000", []), ("GPU-zzz,0", []), ("all", []), ("1,x,2", [1])],
)  # fmt: skip
def test_cuda_rules_for_the_list(visible: str | None, expected: list[int]) -> None:
    assert select_devices(visible, [device(0), device(1), device(2)])[0] == expected


def test_unlike_devices_by_index_need_a_stated_order() -> None:
    doc = answer(device(0, "Tesla T4", memory_bytes=16 * GIB), device(1))
    assert facts_from_probe(doc, {"CUDA_VISIBLE_DEVICES": "0"}, [])["device_class"].status == "unavailable"
    ordered = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert facts_from_probe(doc, ordered, [])["device_class"].value == "T4"
    assert facts_from_probe(doc, {"CUDA_VISIBLE_DEVICES": "GPU-00000001"}, [])["device_class"].value == "H100"
    both = facts_from_probe(doc, {}, [])
    assert both["device_class"].value == "H100+T4"
    assert both["memory_bytes"].value == 16 * GIB
    assert "lowest" in both["memory_bytes"].source


def test_mig_mode_and_mig_instances() -> None:
    on = facts_from_probe(answer(device(0, mig=True)), {}, [])
    assert on["mig"].value is True
    assert {on[name].status for name in ("device_class", "device_count", "memory_bytes")} == {"unavailable"}
    piece = device(0, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", uuid="MIG-1", memory_bytes=20 * GIB)
    doc = answer(device(0, mig=True), mig_devices={"MIG-1": piece})
    facts = facts_from_probe(doc, {"CUDA_VISIBLE_DEVICES": "MIG-1"}, [])
    assert (facts["device_class"].value, facts["device_count"].value, facts["mig"].value) == (
        "A100-40GB-MIG-3g.20gb",
        1,
        True,
    )


def test_refused_questions_keep_their_own_status() -> None:
    unsupported = {"error": "NVMLError_NotSupported", "text": "Not Supported"}
    lost = {"error": "NVMLError_GpuIsLost", "text": "GPU is lost"}
    facts = facts_from_probe(answer(device(0, ecc=unsupported, power_limit_w=lost)), {}, [])
    assert facts["ecc"].status == "absent"
    assert (facts["power_limit_w"].status, facts["power_limit_w"].reason) == (
        "unavailable",
        "NVMLError_GpuIsLost: GPU is lost",
    )
    assert facts["device_class"].value == "H100"
    differing = facts_from_probe(answer(device(0, ecc=True), device(1, ecc=False)), {}, [])
    assert differing["ecc"].status == "unavailable"
    gone = facts_from_probe(answer(device(0), lost), {}, [])
    assert gone["device_names"].status == gone["device_class"].status == "unavailable"
    uncounted = facts_from_probe(answer(count=lost), {}, [])
    assert uncounted["device_count"].status == "unavailable"
    assert uncounted["driver"].status == "observed"


def test_probe_output_is_found_among_noise() -> None:
    doc = answer(device(0))
    assert parse_probe(ChildResult(0, f"driver says hello\n{MARK}{json.dumps(doc)}\nbye\n", "")) == doc
    assert parse_probe(ChildResult(None, "", ""))["failed"] == "timeout"
    died = parse_probe(ChildResult(-11, "", "Segmentation fault\n"))
    assert died["failed"] == "probe_died"
    assert "-11" in died["text"]


def test_gather_asks_every_question_and_survives_each_refusal() -> None:
    class Refuses:
        NVML_CLOCK_SM = 1

        def nvmlDeviceGetCount(self) -> int:
            return 1

        def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
            return f"handle {index}"

        def nvmlDeviceGetName(self, handle: str) -> str:
            return handle

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    doc = gather(Refuses(), ("MIG-7",))
    assert doc["devices"][0]["name"] == {"value": "handle 0"}
    assert doc["devices"][0]["ecc"]["error"] == "RuntimeError"
    assert doc["driver"]["error"] == "RuntimeError"
    assert doc["mig_devices"]["MIG-7"]["error"] == "RuntimeError"


def test_driver_traces(tmp_path: Path) -> None:
    assert driver_traces(tmp_path) == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia-uvm").touch()
    assert driver_traces(tmp_path) == []
    (tmp_path / "dev/nvidia0").touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert len(driver_traces(tmp_path)) == 2


def test_cpu_facts_name_the_processor_and_nothing_a_gpu_has() -> None:
    facts = cpu_device_facts(
        {"cpu_model": observed("AMD EPYC", "/proc/cpuinfo"), "host_memory_bytes": observed(7, "/proc/meminfo")}
    )
    assert set(facts) == set(FIELDS)
    assert (facts["device_class"].value, facts["device_count"].value) == ("cpu", 1)
    assert facts["device_names"].value == ["AMD EPYC"]
    assert facts["memory_bytes"].value == 7
    assert {facts[name].status for name in ("driver", "cuda", "mig", "ecc", "device_uuids", "power_limit_w")} == {
        "absent"
    }
    blind = cpu_device_facts({"cpu_model": unavailable("/proc/cpuinfo", "no")})
    assert blind["device_names"].status == blind["memory_bytes"].status == "unavailable"
