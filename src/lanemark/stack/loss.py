"""The output head and the cross-entropy in one, with the gradients made on the way forward.

The logits are the largest tensor of a step: 4,096 tokens by 50,304 ids are 0.8 GB in fp32, and the composed form holds
three such buffers (log-probabilities, the sparse gradient of the choice, the gradient of the logits). Here a slice of
tokens at a time becomes logits, probabilities and gradients while it is still in cache; what is kept for the backward
is as large as the head's own inputs. The idea is known from Liger Kernel (Hsu et al., arXiv:2410.10989, section 3.2).

A compiled model takes the composed form, which the compiler fuses by itself.

Shape suffixes: N tokens, D width, V ids.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Tokens whose logits exist at once: 1,024 by 50,304 ids are 0.2 GB in fp32, and products of that height are efficient.
SLICE_TOKENS: Final = 1024
#: Smallest normal fp32. A token's loss ends at 87.3, -ln of this; NaN and infinite logits still give NaN.
_TINY: Final = torch.finfo(torch.float32).tiny


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
        count = len(target_N)
        grad_ND = torch.empty_like(x_ND)
        grad_VD: Tensor | None = None
        total = x_ND.new_zeros((), dtype=torch.float32)
        for begin in range(0, count, SLICE_TOKENS):
            rows = slice(begin, begin + SLICE_TOKENS)
            x, target = x_ND[rows], target_N[rows].unsqueeze(1)
            probability = (x @ weight_VD.t()).softmax(-1, dtype=torch.float32)
            total -= probability.gather(1, target).clamp_min_(_TINY).log_().sum()
            # In place, the probabilities become N times the gradient of the logits. The 1/N goes to the narrow sides
            # of the products below: over the logits or the weights it would be a pass of its own.
            probability.scatter_add_(1, target, probability.new_full(target.shape, -1.0))
            gradient = probability.to(x.dtype)
            grad_ND[rows] = (gradient @ weight_VD).mul_(1.0 / count)
            part = gradient.t() @ (x * (1.0 / count))
            # Several slices are summed in fp32, whatever the products are in.
            grad_VD = part if grad_VD is None else grad_VD.float().add_(part)
        assert grad_VD is not None, "a batch has tokens"
        ctx.save_for_backward(grad_ND, grad_VD.to(weight_VD.dtype))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        # The mean's 1/N is in already. What is left is 1 unless batches are accumulated; looking is free on a CPU only.
        if grad.is_cuda or grad.item() != 1.0:
            grad_ND.mul_(grad)
            grad_VD.mul_(grad)
        return grad_ND, grad_VD, None


def head_loss(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """Mean cross-entropy of `x @ weight.T` against the targets; an fp32 scalar. Its backward may run once."""
    if torch.compiler.is_compiling():
        return F.cross_entropy(F.linear(x_ND, weight_VD).float(), target_N)
    loss: Tensor = _HeadLoss.apply(x_ND, weight_VD, target_N)  # type: ignore[no-untyped-call]
    return loss
