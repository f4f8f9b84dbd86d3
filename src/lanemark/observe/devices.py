"""The GPUs that ranks can use: what NVML says, restricted by `CUDA_VISIBLE_DEVICES`. A pure reading of one answer.

Three ways to have no GPU facts, never confused:

* no driver anywhere (no library, no `/dev/nvidia*`, no `/proc/driver/nvidia`): the host has none, `absent`;
* a device node but no library, no pynvml, or a driver that does not answer: we could not look, `unavailable`;
* devices there, but hidden by `CUDA_VISIBLE_DEVICES`: `absent` for the ranks, and the reason says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.observe.child import ChildResult, importable, run_child
from lanemark.observe.gpu_names import classify_device
from lanemark.observe.nvml_probe import MARK
from lanemark.observe.reading import guarded, reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

FIELDS: Final = (
    "device_class", "device_count", "device_names", "device_uuids", "memory_bytes", "driver", "cuda", "mig", "ecc",
    "power_limit_w", "sm_clock_max_mhz",
)  # fmt: skip
SOURCE: Final = "nvml"
#: A healthy NVML answers within a second; a driver that is still initialising eight GPUs was seen to take ten.
PROBE_TIMEOUT_S: Final = 30.0
_NOT_THERE: Final = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")


def driver_traces(root: Path = Path("/")) -> list[str]:
    """Paths that only an NVIDIA driver (or a container runtime on its behalf) makes."""
    found = [str(path) for path in sorted((root / "dev").glob("nvidia[0-9]*"))[:1]]
    found += [str(root / name) for name in ("dev/nvidiactl", "proc/driver/nvidia") if (root / name).exists()]
    if (root / "dev/dxg").exists():  # WSL: the GPU arrives through this node and there is no /dev/nvidia*
        found.append(str(root / "dev/dxg"))
    return found


def select_devices(visible: str | None, devices: list[dict[str, Any]]) -> tuple[list[int], str]:
    """Indices of the devices CUDA would show for `CUDA_VISIBLE_DEVICES`, and the phrase that says how.

    CUDA's rules (CUDA C++ Programming Guide, "CUDA Environment Variables"): a list of indices or UUID prefixes, cut
    at the first entry that names no device; an empty list shows none.
    """
    if visible is None:
        return list(range(len(devices))), "all devices: CUDA_VISIBLE_DEVICES is not set"
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        index = _find(entry, devices)
        if index is None or index in chosen:
            break
        chosen.append(index)
    return chosen, f"CUDA_VISIBLE_DEVICES={safe_text(visible)[:100]}"


def _find(entry: str, devices: list[dict[str, Any]]) -> int | None:
    if entry.isdigit():
        return int(entry) if int(entry) < len(devices) else None
    if not entry.startswith("GPU-"):
        return None
    hits = [i for i, device in enumerate(devices) if str(device.get("uuid", {}).get("value", "")).startswith(entry)]
    return hits[0] if len(hits) == 1 else None


def _all(make: Callable[[str], Observation[Any]]) -> dict[str, Observation[Any]]:
    return {name: make(name) for name in FIELDS}


def _answer(answer: dict[str, Any], what: str) -> Observation[Any]:
    """One NVML answer. `NotSupported` means that the device has no such thing: looked, and absent."""
    if answer.get("value") is not None:
        return observed(answer["value"], SOURCE)
    error = str(answer.get("error", "no answer"))
    if error == "NVMLError_NotSupported":
        return absent(SOURCE, f"the device does not support {what}")
    return unavailable(SOURCE, f"{error}: {answer.get('text') or 'no detail'}"[:300])


def _agreed(devices: list[dict[str, Any]], name: str, what: str, *, lowest: bool = False) -> Observation[Any]:
    """One fact over all chosen devices: the same everywhere, or the lowest, or why neither can be said."""
    answers = [_answer(device.get(name, device), what) for device in devices]
    bad = next((answer for answer in answers if answer.status == "unavailable"), None)
    if bad is not None:
        return bad
    values: list[Any] = [answer.value for answer in answers if answer.status == "observed"]
    if not values:
        return answers[0]
    if len(values) == len(answers) and (lowest or len(set(values)) == 1):
        return observed(min(values), SOURCE if len(set(values)) == 1 else f"{SOURCE} (the lowest of {sorted(values)})")
    return unavailable(SOURCE, f"the devices differ in {what}")


def facts_from_probe(
    doc: Mapping[str, Any], environ: Mapping[str, str], traces: list[str]
) -> dict[str, Observation[Any]]:
    """Read a probe's answer. Pure.

    Args:
        doc: what `nvml_probe` printed.
        environ: the ranks' environment: `CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`.
        traces: what `driver_traces` found.
    """
    if "failed" in doc:
        failed, text = str(doc["failed"]), str(doc.get("text", ""))
        if failed in _NOT_THERE and not traces:
            why = "no NVIDIA driver: no library, no /dev/nvidia*, no /proc/driver/nvidia"
            return _all(lambda _: absent(SOURCE, why))
        if failed == "pynvml_missing" and not traces:
            why = "no NVIDIA driver: no /dev/nvidia*, no /proc/driver/nvidia (pynvml is not installed either)"
            return _all(lambda _: absent("/dev, /proc/driver", why))
        seen = f"; {', '.join(traces)} exists" if traces else ""
        return _all(lambda _: unavailable(SOURCE, f"{failed}: {text or 'no detail'}{seen}"))
    out = {"driver": _answer(doc["driver"], "a driver version"), "cuda": _cuda_version(doc["cuda"])}
    if "value" not in doc["count"]:
        uncounted = _answer(doc["count"], "counting devices")
        return {**_all(lambda _: uncounted), **out}
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip().startswith("MIG-"):
        named = doc.get("mig_devices", {})
        entries = [entry.strip() for entry in visible.split(",")]
        return {
            **out,
            **_chosen_facts([named[e] for e in entries if e in named], "CUDA_VISIBLE_DEVICES (MIG)", mig=True),
        }
    indices, how = select_devices(visible, doc["devices"])
    chosen = [doc["devices"][index] for index in indices]
    unsure = _order_doubt(chosen, doc["devices"], visible, environ)
    facts = _chosen_facts(chosen, how, mig=False) if unsure is None else _all(lambda _: unavailable(SOURCE, unsure))
    return {**facts, **out}


def _order_doubt(
    chosen: list[dict[str, Any]], everything: list[dict[str, Any]], visible: str | None, environ: Mapping[str, str]
) -> str | None:
    """NVML numbers devices by bus, CUDA by default fastest first: among unlike devices an index names no device."""
    names = {json.dumps(device.get("name"), sort_keys=True) for device in everything}
    by_index = visible is not None and any(part.strip().isdigit() for part in visible.split(","))
    if len(names) > 1 and by_index and chosen and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return (
            "the devices are of unlike kinds and CUDA numbers them fastest first, NVML by bus: "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID for the indices to name devices"
        )
    return None


def _chosen_facts(chosen: list[dict[str, Any]], how: str, *, mig: bool) -> dict[str, Observation[Any]]:
    """Facts of the devices the ranks can use."""
    source = f"{SOURCE} ({how})"
    if not chosen:
        return _all(lambda _: absent(source, "no device is visible to the ranks"))
    facts: dict[str, Observation[Any]] = {
        "device_names": _list_of(chosen, "name", source),
        "device_uuids": _list_of(chosen, "uuid", source),
        "mig": observed(value=True, source=source) if mig else _agreed(chosen, "mig", "MIG"),
        "ecc": _agreed(chosen, "ecc", "ECC"),
        "power_limit_w": _agreed(chosen, "power_limit_w", "a power limit", lowest=True),
        "sm_clock_max_mhz": _agreed(chosen, "sm_clock_max_mhz", "a maximum SM clock", lowest=True),
    }
    if not mig and facts["mig"].value is True:
        why = "MIG is on: which instances the ranks get is not in NVML's list of devices, only the ranks can say"
        facts |= {name: unavailable(source, why) for name in ("device_class", "device_count", "memory_bytes")}
        return facts
    facts["device_count"] = observed(len(chosen), source)
    facts["memory_bytes"] = _agreed(chosen, "memory_bytes", "memory", lowest=True)
    names = facts["device_names"]
    if names.value is None:
        facts["device_class"] = names
    else:
        memories = [device.get("memory_bytes", {}).get("value") for device in chosen]
        kinds = sorted({classify_device(name, size) for name, size in zip(names.value, memories, strict=True)})
        facts["device_class"] = observed("+".join(kinds), source)
    return facts


def _list_of(chosen: list[dict[str, Any]], name: str, source: str) -> Observation[list[str]]:
    answers = [_answer(device.get(name, device), f"a {name}") for device in chosen]
    bad = next((answer for answer in answers if answer.status != "observed"), None)
    return bad if bad is not None else observed([safe_text(str(answer.value)) for answer in answers], source)


def _cuda_version(answer: dict[str, Any]) -> Observation[str]:
    """NVML gives 12040 for 12.4. It is the newest CUDA the driver supports, not the one torch was built with."""
    seen = _answer(answer, "a CUDA version")
    if seen.value is None:
        return seen
    return observed(
        f"{int(seen.value) // 1000}.{int(seen.value) % 1000 // 10}", f"{SOURCE} (newest the driver supports)"
    )


def parse_probe(result: ChildResult) -> dict[str, Any]:
    """The probe's JSON out of its output; `{"failed": …}` when it died or ran out of time."""
    for line in reversed(result.stdout.splitlines()):
        if line.startswith(MARK):
            doc = json.loads(line[len(MARK) :])
            if isinstance(doc, dict):
                return doc
    if result.timed_out:
        return {"failed": "timeout", "text": f"NVML did not answer within {PROBE_TIMEOUT_S:.0f} s"}
    last = result.stderr.strip().splitlines()[-1:] or ["no output"]
    return {"failed": "probe_died", "text": f"the probe ended with status {result.returncode}: {last[0]}"[:300]}


def device_facts(
    environ: Mapping[str, str] | None = None, *, root: Path = Path("/"), timeout_s: float = PROBE_TIMEOUT_S
) -> dict[str, Observation[Any]]:
    """Every device field of `hardware.observed`, for the GPUs that ranks with `environ` can use. Never raises."""
    env = dict(os.environ if environ is None else environ)
    uuids = [part.strip() for part in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip().startswith("MIG-")]
    try:
        result = run_child(
            [sys.executable, "-m", "lanemark.observe.nvml_probe", *uuids], timeout_s=timeout_s, env=importable(env)
        )
        return facts_from_probe(parse_probe(result), env, driver_traces(root))
    except Exception as error:  # a probe never ends a run; whatever broke is the reason
        why = reason_of(error)
        return _all(lambda _: unavailable(SOURCE, why))


def cpu_device_facts(host: Mapping[str, Observation[Any]]) -> dict[str, Observation[Any]]:
    """The device fields for ranks that compute on the processor. Only the caller knows that they do.

    Args:
        host: what `host_facts` returned.
    """
    source = "the host's processor, on which the ranks compute"
    facts = _all(lambda name: absent(source, f"a processor has no {name} of its own"))
    model = host.get("cpu_model", unavailable("/proc/cpuinfo", "it was not looked at"))
    facts["device_class"] = observed("cpu", source)
    facts["device_count"] = observed(1, source)
    facts["device_names"] = guarded(source, lambda: observed([model.value], model.source) if model.value else model)
    facts["memory_bytes"] = host.get("host_memory_bytes", unavailable("/proc/meminfo", "it was not looked at"))
    return facts
