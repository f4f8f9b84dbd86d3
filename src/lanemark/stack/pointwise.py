"""The operations whose cost is memory traffic and not arithmetic: RMSNorm and rotary positions.

Under `torch.compile` they are plain formulas, which the compiler fuses into their neighbours. Uncompiled, every step of
a formula is a pass over memory and autograd adds passes of its own: there RMSNorm has a written backward (or CUDA's
fused kernel), and the rotation is one complex product. Results agree to rounding, and tests hold them to it.

Shape suffixes: B sequences, L tokens of one, C heads of any kind, P head dimension, R = P / 2 rotary pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lanemark.lanes.presets import NORM_EPS, ROPE_BASE


class _RmsNorm(torch.autograd.Function):
    """RMSNorm over the last dimension (Zhang and Sennrich, arXiv:1910.07467), in half of autograd's passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1.0 / width).add_(NORM_EPS).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        normed: Tensor = (x * scale).mul_(weight)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, weight = ctx.saved_tensors
        # Both what the weight gets and what is taken away along x are weighted sums of this product.
        product = grad * x
        along = (product @ weight).unsqueeze(-1).mul_(scale).mul_(scale).mul_(-1.0 / x.shape[-1])
        grad_weight = product.flatten(0, -2).t() @ scale.flatten()
        return (grad * weight).addcmul_(x, along).mul_(scale), grad_weight


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
    """Turn neighbouring pairs of a head by their position's angle; in fp32, as bf16 has too few digits for it."""
    x_BLCR2 = x_BLCP.float().view(*x_BLCP.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():
        real, imaginary = x_BLCR2.unbind(-1)
        cos, sin = table_L1R2.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(x_BLCR2) * torch.view_as_complex(table_L1R2))
    return turned.flatten(-2).type_as(x_BLCP)
