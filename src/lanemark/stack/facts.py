"""What a rank saw of itself, as observations: its device, its torch, its process group, the model it really built.

Nothing here copies the case. A field that could not be looked at says so; a field that does not exist on this device is
absent. The result is `observed.json`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lanemark.measure.torch_facts import device_facts, guarded, torch_facts
from lanemark.records.observation import observed
from lanemark.stack.parallel import observe_mode, observe_posture


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
