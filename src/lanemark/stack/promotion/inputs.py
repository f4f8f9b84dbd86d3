"""What a case of the matrix puts into a kernel: drawn from one seed, rounded to the tested type, alike on all devices.

The seed is fresh for every case and recorded, never fixed: a kernel that is right for one draw has shown little, and
one that was tuned until a fixed draw passed has shown nothing. Drawing is done on the CPU in float64, so that the seed
alone gives the inputs back.

Shape suffixes: B sequences, H query heads, G key and value heads, Q queries, K keys, D query and key head dimension,
V value head dimension, T width of an index row.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from lanemark.lanes.promotion_matrix import Problem

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Inputs:
    """One drawn case.

    Attributes:
        problem: what was asked.
        seed: what it was drawn with.
        q_BHQD, k_BGKD, v_BGKV: the rounded inputs. Rows beyond a sequence's length hold ordinary numbers: a kernel
            that reads them goes wrong quietly, as it would in use.
        grad_BHQV: the gradient that is sent back into the output.
        visible_BQK: which key each query attends, for all heads alike.
        scale: what scores are multiplied with.
        lengths_q_B, lengths_k_B: of the sequences, for `varlen`, else None.
        indices_BQT: index rows, int32, padded with -1, for `sparse`, else None.
    """

    problem: Problem
    seed: int
    q_BHQD: Tensor
    k_BGKD: Tensor
    v_BGKV: Tensor
    grad_BHQV: Tensor
    visible_BQK: Tensor
    scale: float
    lengths_q_B: Tensor | None = None
    lengths_k_B: Tensor | None = None
    indices_BQT: Tensor | None = None

    def with_leaves(self) -> Inputs:
        """The same inputs as leaves that collect gradients."""
        q, k, v = (x.detach().clone().requires_grad_() for x in (self.q_BHQD, self.k_BGKD, self.v_BGKV))
        return replace(self, q_BHQD=q, k_BGKD=k, v_BGKV=v)


def fresh_seed() -> int:
    """A seed that nobody chose: 31 bits from the operating system's generator."""
    return secrets.randbits(31)


def draw(problem: Problem, dtype: str, seed: int, device: torch.device | str = "cpu") -> Inputs:
    """Draw a case. The same seed gives the same bits, wherever they are then moved to."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=random, dtype=torch.float64) * problem.input_scale
        return drawn.to(DTYPES[dtype]).to(device)

    p = problem
    q = normal(p.batch, p.heads, p.queries, p.head_dim)
    k, v = (normal(p.batch, p.kv_heads, p.keys, dim) for dim in (p.head_dim, p.head_dim_v))
    grad = normal(p.batch, p.heads, p.queries, p.head_dim_v)
    lengths = _lengths(p, random) if p.masking == "varlen" else None
    visible = _visible(p, lengths)
    indices = None
    if p.masking == "sparse":
        indices, visible = _indices(p, random)
    return Inputs(
        p, seed, q, k, v, grad, visible.to(device), p.head_dim**-0.5,
        None if lengths is None else lengths[0].to(device),
        None if lengths is None else lengths[1].to(device),
        None if indices is None else indices.to(device),
    )  # fmt: skip


def _lengths(p: Problem, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lengths of queries and keys: one sequence is whole, one has no query and no key, the rest are drawn."""
    kept = torch.rand(p.batch, generator=random)
    kept[0], kept[1] = 1.0, 0.0
    kept = kept[torch.randperm(p.batch, generator=random)]
    both = [torch.ceil(kept * most).to(torch.int32) for most in (p.queries, p.keys)]
    return both[0], both[1]


def _visible(p: Problem, lengths: tuple[Tensor, Tensor] | None) -> Tensor:
    """Which keys each query sees, by position. Causal means aligned to the last query and the last key."""
    at_q, at_k = torch.arange(p.queries)[None, :, None], torch.arange(p.keys)[None, None, :]
    num_q, num_k = torch.tensor([p.queries]), torch.tensor([p.keys])
    if lengths is not None:
        num_q, num_k = lengths
    num_q, num_k = num_q[:, None, None], num_k[:, None, None]
    seen = (at_q < num_q) & (at_k < num_k)
    if p.masking != "full":
        seen = seen & (at_k <= at_q + num_k - num_q)
    if p.window is not None:
        seen = seen & (at_k > at_q + num_k - num_q - p.window)
    return seen.expand(p.batch, p.queries, p.keys)


def _indices(p: Problem, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Index rows and what they make visible: half of the past at most, the row's width at most, some rows empty."""
    assert p.topk is not None
    order = torch.rand(p.batch, p.queries, p.keys, generator=random)
    past = torch.ones(p.queries, p.keys, dtype=torch.bool).tril()
    order = order.masked_fill(~past, 2.0)
    width = min(p.topk, p.keys)
    chosen = order.argsort(dim=-1)[..., :width].to(torch.int32)
    held = torch.clamp((torch.arange(p.queries) + 2) // 2, max=p.topk).expand(p.batch, p.queries).clone()
    for row in range(p.batch):
        held[row, torch.randperm(p.queries, generator=random)[: p.empty_rows]] = 0
    chosen = chosen.masked_fill(torch.arange(width) >= held[..., None], -1)
    indices = torch.full((p.batch, p.queries, p.topk), -1, dtype=torch.int32)
    indices[..., :width] = chosen
    visible = torch.zeros(p.batch, p.queries, p.keys + 1, dtype=torch.bool)
    visible.scatter_(2, torch.where(chosen < 0, p.keys, chosen).long(), value=True)
    return indices, visible[..., : p.keys]
