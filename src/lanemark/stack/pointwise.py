"""The two operations whose cost is memory traffic and not arithmetic: RMSNorm and rotary positions.

Under `torch.compile` both are written as plain formulas, which the compiler fuses into its neighbours. Uncompiled, every
formula step is a pass over memory, and autograd adds more of them: there RMSNorm has a backward of its own (or CUDA's
fused kernel), and the rotation is one complex product. The results are the same to rounding, and a test holds them so.

Shape suffixes: B sequences, L tokens, D width, C heads of any kind, P head dimension, R = P / 2 rotary pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanemark.lanes.presets import NORM_EPS, ROPE_BASE


class _RmsNorm(torch.autograd.Function):
    """RMSNorm over the last dimension (Zhang and Sennrich, arXiv:1910.07467) in about half the passes autograd takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        unit, scale, weight = ctx.saved_tensors
        grad_unit = grad * weight
        along = torch.linalg.vecdot(grad_unit, unit).unsqueeze(-1).div_(unit.shape[-1])
        grad_weight = (grad * unit).flatten(0, -2).sum(0)
        return grad_unit.addcmul_(unit, along, value=-1).mul_(scale), grad_weight


class RmsNorm(nn.Module):
    """RMSNorm with a learned weight; shape and type of the input are kept where weight and input agree in type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.is_cuda:
            return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)
        normed: Tensor = _RmsNorm.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return normed


def rotary_table(sequence: int, head_dim: int, device: torch.device | str) -> Tensor:
    """Cosine and sine of every position's angle with every pair, fp32 [L, 1, R, 2] (arXiv:2104.09864, equation 15)."""
    inverse = ROPE_BASE ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle_LR = torch.outer(torch.arange(sequence, device=device, dtype=torch.float32), inverse)
    return torch.stack([angle_LR.cos(), angle_LR.sin()], dim=-1).unsqueeze(1)


def rotate(x_BLCP: Tensor, table_L1R2: Tensor) -> Tensor:
    """Turn neighbouring pairs of a head by their position's angle, in fp32: bf16 has too few digits for late positions."""
    x_BLCR2 = x_BLCP.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        real, imaginary = x_BLCR2.unbind(-1)
        cos, sin = table_L1R2.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(x_BLCR2) * torch.view_as_complex(table_L1R2))
    return turned.flatten(-2).type_as(x_BLCP)
