"""`python -m lanemark.observe.nvml_probe`: ask NVML about this host's GPUs and print one JSON line.

In a process of its own, because NVML loads a driver library that can block for minutes on a sick GPU and cannot be
interrupted. It prints raw answers and the name of every refused question; `devices.py` decides what they mean. Where
pynvml is missing it says so: the image under test need not hold it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

#: Marks our line among whatever a driver library prints.
MARK: Final = "lanemark-nvml-probe "


def gather(nvml: Any, uuids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Ask an initialised pynvml. Every answer is `{"value": …}` or `{"error": "NVMLError_…", "text": …}`.

    Args:
        nvml: the pynvml module (or one that behaves like it).
        uuids: MIG instances named by the environment, which no index reaches.
    """

    def ask(question: Callable[[], Any]) -> dict[str, Any]:
        try:
            return {"value": question()}
        except Exception as error:  # one refused question must not hide the others
            return {"error": type(error).__name__, "text": str(error)[:200]}

    def device(handle: Any) -> dict[str, Any]:
        return {
            "name": ask(lambda: nvml.nvmlDeviceGetName(handle)),
            "uuid": ask(lambda: nvml.nvmlDeviceGetUUID(handle)),
            "memory_bytes": ask(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
            "mig": ask(lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
            "ecc": ask(lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
            "power_limit_w": ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            "sm_clock_max_mhz": ask(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))),
        }

    count = ask(nvml.nvmlDeviceGetCount)
    handles = [ask(partial(nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count.get("value", 0))]
    named = {uuid: ask(partial(nvml.nvmlDeviceGetHandleByUUID, uuid)) for uuid in uuids}
    return {
        "driver": ask(nvml.nvmlSystemGetDriverVersion),
        "cuda": ask(nvml.nvmlSystemGetCudaDriverVersion_v2),
        "count": count,
        "devices": [device(answer["value"]) if "value" in answer else answer for answer in handles],
        "mig_devices": {uuid: device(a["value"]) if "value" in a else a for uuid, a in named.items()},
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
