"""One optimizer step: forwards and backwards over the accumulated batches, clipping, update. No host sync inside.

The loss stays on the device: converting it would make every step wait for the device, and the measured loop would
measure that wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lanemark.lanes.presets import CLIP_NORM

Batch = tuple[Tensor, Tensor]
TrainStep = Callable[[Sequence[Batch]], Tensor]


def make_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, *, autocast: bool, device: torch.device
) -> TrainStep:
    """The step function of a built module.

    Args:
        module: what `lanemark.stack.parallel.distribute` returned.
        optimizer: over its parameters.
        autocast: run forwards in bf16 autocast (see `lanemark.stack.parallel`).
        device: where the module is.

    Returns:
        A function of the step's batches (one a forward, `grad_accum` of them) that returns the mean cross-entropy, a
        scalar on the device, without gradient.
    """
    parameters = list(module.parameters())

    def forward_backward(batch: Batch, share: float) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
            objective, loss = module(*batch)
        (objective if share == 1.0 else objective * share).backward()
        detached: Tensor = loss
        return detached

    def step(batches: Sequence[Batch]) -> Tensor:
        share = 1.0 / len(batches)
        total: Tensor | None = None
        for batch in batches[:-1]:
            with unsynchronised(module):
                loss = forward_backward(batch, share)
            total = loss if total is None else total + loss
        loss = forward_backward(batches[-1], share)
        clip_gradients(parameters)
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        return loss if total is None else (total + loss) * share

    return step


def clip_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Scale all gradients so that their norm, over the whole model, is at most `CLIP_NORM`.

    On a CPU the norm can be looked at for nothing, and gradients that are small enough are left as they are. On CUDA
    looking would wait for the device, so there they are always multiplied, by a factor that is mostly 1.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()  # sums the shards' squares over the ranks: all of them decide alike
    if norm.is_cuda or not norm.item() <= CLIP_NORM:  # a NaN norm is not small
        torch.nn.utils.clip_grads_with_norm_(parameters, CLIP_NORM, norm)


@contextlib.contextmanager
def unsynchronised(module: nn.Module) -> Iterator[None]:
    """Gradients of the forwards inside stay on their rank: only a step's last forward reduces them."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(requires_gradient_sync=False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(requires_gradient_sync=True)
    else:
        yield
