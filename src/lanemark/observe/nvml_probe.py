"""`python -m lanemark.observe.nvml_probe`: ask NVML about this host's GPUs and print one JSON line.

In a process of its own, because NVML loads a driver library that can block for minutes on a sick GPU and cannot be
interrupted. It prints raw answers and the name of every refused question; `devices.py` decides what they mean. Where
pynvml is missing it says so: the image under test need not hold it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

#: Marks our line among whatever a driver library prints.
MARK: Final = "lanemark-nvml-probe "


def gather(nvml: Any, uuids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Ask an initialised pynvml. Every answer is `{"value": …}` or `{"error": "NVMLError_…", "text": …}`.

    Args:
        nvml: the pynvml module (or one that behaves like it).
        uuids: MIG instances named by the environment, which no index reaches.
    """

    def ask(question: str, *arguments: Any, read: Callable[[Any], Any] = lambda answer: answer) -> dict[str, Any]:
        try:
            # Looked up by name in here: an older pynvml lacks some questions, which must not hide the others.
            return {"value": read(getattr(nvml, question)(*arguments))}
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)[:200]}

    def device(answer: dict[str, Any]) -> dict[str, Any]:
        if "value" not in answer:
            return answer
        handle = answer["value"]
        return {
            "name": ask("nvmlDeviceGetName", handle),
            "uuid": ask("nvmlDeviceGetUUID", handle),
            "memory_bytes": ask("nvmlDeviceGetMemoryInfo", handle, read=lambda info: int(info.total)),
            "mig": ask("nvmlDeviceGetMigMode", handle, read=lambda modes: bool(modes[0])),
            "ecc": ask("nvmlDeviceGetEccMode", handle, read=lambda modes: bool(modes[0])),
            "power_limit_w": ask("nvmlDeviceGetEnforcedPowerLimit", handle, read=lambda milliwatts: milliwatts / 1000),
            "sm_clock_max_mhz": ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM, read=int),
        }

    count = ask("nvmlDeviceGetCount")
    return {
        "driver": ask("nvmlSystemGetDriverVersion"),
        "cuda": ask("nvmlSystemGetCudaDriverVersion_v2"),
        "count": count,
        "devices": [device(ask("nvmlDeviceGetHandleByIndex", index)) for index in range(count.get("value", 0))],
        "mig_devices": {uuid: device(ask("nvmlDeviceGetHandleByUUID", uuid)) for uuid in uuids},
    }


def probe(uuids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Import, initialise, gather, shut down. `{"failed": kind, "text": …}` when it does not come that far."""
    try:
        import pynvml
    except ImportError as error:
        return {"failed": "pynvml_missing", "text": str(error)[:200]}
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVMLError subclasses are made at import: their names are the stable part
        return {"failed": type(error).__name__, "text": str(error)[:200]}
    try:
        return gather(pynvml, uuids)
    finally:
        pynvml.nvmlShutdown()


def main() -> None:
    """Print the answer; the arguments are MIG instance ids."""
    sys.stdout.write(MARK + json.dumps(probe(tuple(sys.argv[1:])), default=str) + "\n")


if __name__ == "__main__":
    main()
