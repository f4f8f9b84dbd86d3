"""What the right answer is, how far the plain dense path is from it, and what planted faults would give.

Computations over the same rounded inputs:

* `exact` in float64, one head at a time, forward, log-sum-exp and gradients written out. It is the reference.
* `dense` in the tested type, every operation rounded to it: what torch without any fused kernel gives. Its distance
  from the reference is the yardstick: a kernel may be about as wrong as that and no more. For gradients there are two
  plain ways that differ in their roundings, `recomputed` being the other, and the worse of them counts.
* `mutants`: the exact answers to slightly wrong questions, rounded once. A fault costs a real kernel at least as much,
  so a rule that lets one of them pass could not have told a broken kernel from a right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lanemark.stack.promotion.inputs import Inputs


@dataclass(frozen=True)
class Answer:
    """What attention gives. `lse_BHQ` is None where it is not returned, gradients where they were not asked for."""

    out_BHQV: Tensor
    lse_BHQ: Tensor | None = None
    dq_BHQD: Tensor | None = None
    dk_BGKD: Tensor | None = None
    dv_BGKV: Tensor | None = None

    def gradients(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        named = {"dq": self.dq_BHQD, "dk": self.dk_BGKD, "dv": self.dv_BGKV}
        return {name: grad for name, grad in named.items() if grad is not None}


def exact(inputs: Inputs, *, backward: bool, visible_BQK: Tensor | None = None, scale: float | None = None) -> Answer:
    """Attention in float64. A query without a key gives 0 and a log-sum-exp of plus infinity.

    Args:
        inputs: the case.
        backward: whether gradients are wanted.
        visible_BQK: another mask than the case's, for a planted fault.
        scale: another scale than the case's, likewise.
    """
    visible = inputs.visible_BQK if visible_BQK is None else visible_BQK
    by = inputs.scale if scale is None else scale
    q, k, v, grad = (x.detach().double() for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, inputs.grad_BHQV))
    group = q.shape[1] // k.shape[1]
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:3], float("inf"), dtype=torch.float64, device=q.device)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for b in range(q.shape[0]):
        empty_Q1 = ~visible[b].any(-1, keepdim=True)
        for h in range(q.shape[1]):
            g = h // group
            scores_QK = (q[b, h] @ k[b, g].T).mul_(by).masked_fill_(~visible[b], float("-inf"))
            scores_QK.masked_fill_(empty_Q1, 0.0)
            sum_Q1 = torch.logsumexp(scores_QK, -1, keepdim=True)
            p_QK = scores_QK.sub_(sum_Q1).exp_().masked_fill_(empty_Q1, 0.0)
            out[b, h] = p_QK @ v[b, g]
            lse[b, h] = sum_Q1.masked_fill(empty_Q1, float("inf"))[:, 0]
            if backward:
                dp_QK = grad[b, h] @ v[b, g].T
                ds_QK = dp_QK.sub_((grad[b, h] * out[b, h]).sum(-1, keepdim=True)).mul_(p_QK)
                dq[b, h] = (ds_QK @ k[b, g]).mul_(by)
                dk[b, g] += (ds_QK.T @ q[b, h]).mul_(by)
                dv[b, g] += p_QK.T @ grad[b, h]
    return Answer(out, lse, dq, dk, dv) if backward else Answer(out, lse)


def dense(inputs: Inputs, *, backward: bool) -> Answer:
    """Attention with every operation in the tested type, and gradients by autograd through exactly that."""
    leaves = inputs.with_leaves() if backward else inputs
    group = leaves.q_BHQD.shape[1] // leaves.k_BGKD.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (leaves.k_BGKD, leaves.v_BGKV))
    hidden = ~leaves.visible_BQK[:, None]
    empty = hidden.all(-1, keepdim=True)
    with torch.set_grad_enabled(backward):
        scores = (leaves.q_BHQD @ (k * leaves.scale).transpose(-1, -2)).masked_fill(hidden & ~empty, float("-inf"))
        out = torch.softmax(scores, -1).masked_fill(empty, 0.0) @ v
        if not backward:
            return Answer(out)
        dq, dk, dv = torch.autograd.grad(out, (leaves.q_BHQD, leaves.k_BGKD, leaves.v_BGKV), leaves.grad_BHQV)
    return Answer(out.detach(), None, dq, dk, dv)


def recomputed(inputs: Inputs) -> Answer:
    """Gradients as flash-attention's backward forms them, plainly: weights again from the scores, and what is taken off
    their gradient from the *rounded* output. That is most of the error of an early query of a causal case, whose
    output is large and whose gradient is small; autograd through the dense path does not have it.
    """
    q, k, v, grad = (x.detach() for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, inputs.grad_BHQV))
    group, dtype = q.shape[1] // k.shape[1], q.dtype
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=dtype, device=q.device)
    dq, dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=q.device) for x in (q, k, v))
    for b in range(q.shape[0]):
        hidden = ~inputs.visible_BQK[b]
        empty = hidden.all(-1, keepdim=True)
        for h in range(q.shape[1]):
            q_, k_, v_, grad_ = (x.float() for x in (q[b, h], k[b, h // group], v[b, h // group], grad[b, h]))
            scores = (q_ @ k_.T * inputs.scale).masked_fill(hidden & ~empty, float("-inf"))
            p = torch.softmax(scores, -1).masked_fill(empty, 0.0)
            out[b, h] = (p.to(dtype).float() @ v_).to(dtype)
            taken = (grad_ * out[b, h].float()).sum(-1, keepdim=True)
            ds = (p * (grad_ @ v_.T - taken)).to(dtype).float()
            dq[b, h] = ds @ k_ * inputs.scale
            dk[b, h // group] += ds.T @ q_ * inputs.scale
            dv[b, h // group] += p.to(dtype).float().T @ grad_
    return Answer(out, None, dq.to(dtype), dk.to(dtype), dv.to(dtype))


def rounded(answer: Answer, dtype: torch.dtype) -> Answer:
    """The answer rounded once to the tested type: the best that any kernel could give."""
    parts = (answer.out_BHQV, *(answer.gradients().values()))
    out, *grads = (part.to(dtype) for part in parts)
    return Answer(out, answer.lse_BHQ, *grads)


def without_last(visible_BQK: Tensor) -> Tensor:
    """Each query loses the last key that it sees, if it sees two or more."""
    place = torch.arange(visible_BQK.shape[-1], device=visible_BQK.device)
    last = torch.where(visible_BQK, place, -1).amax(-1, keepdim=True)
    several = visible_BQK.sum(-1, keepdim=True) > 1
    return visible_BQK & ~((place == last) & several)


def everything(inputs: Inputs) -> Tensor:
    """What dense attention of the same shape attends: the past where there are index rows, all keys otherwise.

    Rows beyond a sequence's length and empty rows stay empty: a kernel that reroutes still knows its shapes.
    """
    visible = inputs.visible_BQK
    some = visible.any(-1, keepdim=True)
    if inputs.problem.masking == "sparse":
        return torch.ones_like(visible).tril() & some
    if inputs.lengths_k_B is None:
        return torch.ones_like(visible) & some
    place = torch.arange(visible.shape[-1], device=visible.device)
    return (place < inputs.lengths_k_B[:, None, None]).expand_as(visible) & some


def mutants(inputs: Inputs, *, backward: bool) -> Iterator[tuple[str, Answer]]:
    """The planted faults that a case has to notice, rounded to the tested type (`lanemark.lanes.readiness.MUTANTS`).

    Full attention attends everything already, so that it has no rerouted mutant.
    """
    dtype = inputs.q_BHQD.dtype
    yield "scale_1_01", rounded(exact(inputs, backward=backward, scale=inputs.scale * 1.01), dtype)
    fewer = without_last(inputs.visible_BQK)
    yield "drop_one_token", rounded(exact(inputs, backward=backward, visible_BQK=fewer), dtype)
    if inputs.problem.masking != "full":
        yield "reroute_to_full", rounded(exact(inputs, backward=backward, visible_BQK=everything(inputs)), dtype)
