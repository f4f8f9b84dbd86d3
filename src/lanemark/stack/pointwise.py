"""The operations whose cost is memory traffic and not arithmetic: RMSNorm, rotary positions, the loss.

Under `torch.compile` they are plain formulas, which the compiler fuses into their neighbours. Uncompiled, every step of
a formula is a pass over memory and autograd adds passes of its own: there RMSNorm and the cross-entropy have a written
backward, and the rotation is one complex product. Results agree to rounding, and tests hold them to it.

Shape suffixes: N tokens, V ids, B sequences, L tokens of one, C heads of any kind, P head dimension, R = P / 2 pairs.
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
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        normed: Tensor = (x * scale).mul_(weight)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, weight = ctx.saved_tensors
        # Both what the weight gets and what is taken away along x are weighted sums of this product.
        product = grad * x
        along = (product @ weight).unsqueeze(-1).mul_(scale.pow(3)).div_(-x.shape[-1])
        grad_weight = product.flatten(0, -2).t() @ scale.flatten()
        return (grad * weight).mul_(scale).addcmul_(x, along), grad_weight


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


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient is made inside the log-probabilities: one logits-sized buffer instead of three.

    The composed form keeps the log-probabilities, fills a second buffer with the sparse gradient of the choice and a
    third with the result. With 4,096 tokens and 50,304 ids each of them takes 0.8 GB in fp32.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor) -> Tensor:
        log_probability_NV = logits_NV.log_softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(log_probability_NV, target_N)
        ctx.dtype = logits_NV.dtype
        return log_probability_NV.gather(1, target_N.unsqueeze(1)).mean().neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        log_probability_NV, target_N = ctx.saved_tensors
        # In place: nobody else has the log-probabilities, and autograd frees them after this.
        gradient_NV = log_probability_NV.exp_()
        gradient_NV.scatter_add_(1, target_N.unsqueeze(1), gradient_NV.new_full((len(target_N), 1), -1.0))
        return gradient_NV.mul_(grad / len(target_N)).to(ctx.dtype), None


def cross_entropy(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Mean cross-entropy in fp32 of logits in any type; a scalar. Its backward may run once."""
    if torch.compiler.is_compiling():
        return F.cross_entropy(logits_NV.float(), target_N)
    loss: Tensor = _CrossEntropy.apply(logits_NV, target_N)  # type: ignore[no-untyped-call]
    return loss


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
