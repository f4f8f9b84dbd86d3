"""What a rank saw of itself, as observations: its device, its torch, its process group, the model it really built.

Nothing here copies the case. A field that could not be looked at says so; a field that does not exist on this device is
absent. The result is `observed.json`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lanemark.observe.gpu_names import classify_device
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.stack.parallel import observe_mode, observe_posture


def guarded(look: Callable[[], Observation[Any]], source: str) -> dict[str, Any]:
    """One look, as JSON; an exception is the reason why there is nothing to see."""
    try:
        return look().to_json()
    except Exception as error:  # a probe may never cost the run: what failed is the answer
        return unavailable(source, f"{type(error).__name__}: {error}"[:300]).to_json()


def rank_facts(
    device: torch.device, module: nn.Module, parameters: int, *, rank: int, world_size: int
) -> dict[str, Any]:
    """Everything but the hooks and the data files, which the rank program adds.

    Args:
        device: where the module is.
        module: what is trained, as it was wrapped.
        parameters: counted on the whole model before it was sharded.
        rank: as launched; a plain number that says whose report this is.
        world_size: as launched.
    """
    facts: dict[str, Any] = {"rank": rank, "world_size": world_size, "pid": os.getpid()}
    facts.update(device_facts(device))
    facts.update(torch_facts())
    facts["backend"] = guarded(
        lambda: observed(str(dist.get_backend()), "torch.distributed.get_backend"), "torch.distributed"
    )
    facts["world_size_observed"] = guarded(
        lambda: observed(dist.get_world_size(), "torch.distributed.get_world_size"), "torch.distributed"
    )
    facts["mode_observed"] = guarded(lambda: observed(observe_mode(module), "type of the built module"), "built module")
    facts["compile_observed"] = guarded(
        lambda: observed(observe_posture(module), "compiled calls of the built module"), "built module"
    )
    facts["parameters"] = observed(parameters, "sum over the built model's parameters").to_json()
    facts["threads"] = guarded(lambda: observed(torch.get_num_threads(), "torch.get_num_threads"), "torch")
    facts["packages"] = {"torch": observed(value=True, source="imported by this rank").to_json()}
    return facts


def device_facts(device: torch.device) -> dict[str, Any]:
    """Class, name, UUID, memory and compute capability of the device this rank computes on."""
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
    if not dist.is_nccl_available():
        return absent("torch.distributed.is_nccl_available", "a build without NCCL")
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return observed(".".join(str(part) for part in version), "torch.cuda.nccl.version")
