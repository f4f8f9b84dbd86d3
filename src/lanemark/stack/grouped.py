"""The grouped product that routed experts need: rows lie in consecutive groups, each multiplied by its own matrix.

torch has `F.grouped_mm` (2.10 and later). On CUDA in bf16 it is one kernel, and the compiler knows it: there it is
used. Elsewhere its shape rule accepts bf16 only, so that an fp32 block runs but cannot be compiled (seen on a CPU with
torch 2.13). For those cases there is an operator of our own: opaque to the compiler, with a declared result shape, so
that `fullgraph=True` holds, and one product a group inside. It reads the group ends on the host; on a CPU that is free,
and on CUDA in fp32 it waits for the device, which is why fp32 on CUDA is for checking numbers and not for speed.

Shape suffixes: R rows, E groups, D columns in, F columns out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("lanemark::grouped_mm", mutates_args=())
def _grouped_mm(x_RD: Tensor, weight_EDF: Tensor, end_E: Tensor) -> Tensor:
    out_RF = x_RD.new_empty(x_RD.shape[0], weight_EDF.shape[2])
    begin = 0
    for group, end in enumerate(end_E.tolist()):
        torch.mm(x_RD[begin:end], weight_EDF[group], out=out_RF[begin:end])
        begin = end
    return out_RF


@_grouped_mm.register_fake
def _(x_RD: Tensor, weight_EDF: Tensor, end_E: Tensor) -> Tensor:  # noqa: ARG001 - the operator's signature
    return x_RD.new_empty(x_RD.shape[0], weight_EDF.shape[2])


@torch.library.custom_op("lanemark::grouped_outer", mutates_args=())
def _grouped_outer(x_RD: Tensor, grad_RF: Tensor, end_E: Tensor) -> Tensor:
    """Gradient of the weights: each group's rows against its own gradients, [E, D, F]."""
    out_EDF = x_RD.new_empty(end_E.shape[0], x_RD.shape[1], grad_RF.shape[1])
    begin = 0
    for group, end in enumerate(end_E.tolist()):
        torch.mm(x_RD[begin:end].t(), grad_RF[begin:end], out=out_EDF[group])
        begin = end
    return out_EDF


@_grouped_outer.register_fake
def _(x_RD: Tensor, grad_RF: Tensor, end_E: Tensor) -> Tensor:
    return x_RD.new_empty(end_E.shape[0], x_RD.shape[1], grad_RF.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 - torch's signature
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad_RF: Tensor) -> tuple[Tensor, Tensor, None]:
    x_RD, weight_EDF, end_E = ctx.saved_tensors
    grad_x: Tensor = _grouped_mm(grad_RF, weight_EDF.transpose(1, 2), end_E)
    grad_weight: Tensor = _grouped_outer(x_RD, grad_RF, end_E)
    return grad_x, grad_weight, None


_grouped_mm.register_autograd(_gradients, setup_context=_keep)


def grouped_mm(x_RD: Tensor, weight_EDF: Tensor, end_E: Tensor) -> Tensor:
    """Multiply each group of rows with its own matrix.

    Args:
        x_RD: all rows, groups in order.
        weight_EDF: one matrix a group, of the same type.
        end_E: int32, ascending, where each group ends; the last is R, so that every row belongs to a group.

    Returns:
        [R, F], of the same type.
    """
    if x_RD.is_cuda and x_RD.dtype == torch.bfloat16:
        return F.grouped_mm(x_RD, weight_EDF, offs=end_E)
    out_RF: Tensor = _grouped_mm(x_RD, weight_EDF, end_E)
    return out_RF
