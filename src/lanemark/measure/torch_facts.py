"""What a rank can say of its device and of its torch, as observations. Imports torch when it is called.

Nothing here copies the case. A field that could not be looked at says so; a field that does not exist on this device is
absent. The reference stack and commands of the user's own report the same fields from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lanemark.observe.gpu_names import classify_device
from lanemark.records.observation import Observation, absent, observed, unavailable


def guarded(look: Callable[[], Observation[Any]], source: str) -> dict[str, Any]:
    """One look, as JSON; an exception is the reason why there is nothing to see."""
    try:
        return look().to_json()
    except Exception as error:  # a probe may never cost the run: what failed is the answer
        return unavailable(source, f"{type(error).__name__}: {error}"[:300]).to_json()


def device_facts(device: Any) -> dict[str, Any]:
    """Class, name, UUID, memory and compute capability of the torch.device this rank computes on."""
    if device.type != "cuda":
        why = "the rank computes on the host's CPU"
        source = "torch.device of the built model"
        none = absent(source, why).to_json()
        return {
            "device_class": observed("cpu", source).to_json(),
            # The CPU's model name is the host's to tell (records: hardware.observed.cpu_model).
            "device_name": none,
            "device_uuid": none,
            "device_memory_bytes": none,
            "compute_capability": none,
        }
    source = "torch.cuda.get_device_properties"
    import torch

    def look(read: Callable[[Any], Any]) -> dict[str, Any]:
        return guarded(lambda: observed(read(torch.cuda.get_device_properties(device)), source), source)

    return {
        "device_class": look(lambda p: classify_device(p.name, p.total_memory)),
        "device_name": look(lambda p: p.name),
        "device_uuid": look(lambda p: f"GPU-{p.uuid}"),
        "device_memory_bytes": look(lambda p: int(p.total_memory)),
        "compute_capability": look(lambda p: f"{p.major}.{p.minor}"),
    }


def torch_facts() -> dict[str, Any]:
    """Version and build of torch, and of the CUDA and NCCL it was built with."""
    import torch

    cuda, git = torch.version.cuda, torch.version.git_version
    build = f"{torch.__version__} git {git or 'unknown'} cuda {cuda or 'none'}"
    return {
        "torch_version": observed(str(torch.__version__), "torch.__version__").to_json(),
        "torch_build": observed(build, "torch.version").to_json(),
        "cuda": (
            observed(str(cuda), "torch.version.cuda") if cuda else absent("torch.version.cuda", "a build without CUDA")
        ).to_json(),
        "nccl": guarded(_nccl, "torch.cuda.nccl.version"),
    }


def _nccl() -> Observation[str]:
    import torch
    import torch.distributed as dist

    if not dist.is_nccl_available():
        return absent("torch.distributed.is_nccl_available", "a build without NCCL")
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return observed(".".join(str(part) for part in version), "torch.cuda.nccl.version")
