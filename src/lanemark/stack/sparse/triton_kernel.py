"""`triton`: the exact gather as one kernel. For CUDA; the same code runs in Triton's interpreter, slowly, in fp32.

One program takes one query position and a tile of the query heads that share a key head: it fetches the chosen key and
value rows once and uses them for the whole tile, so that the products are matrix products. Tiles are shaped for Hopper
where there are heads enough: M and N multiples of 64, K the head dimension, a multiple of 16 (source: PTX ISA, shapes
of wgmma.mma_async). Softmax is online, in base 2, so that no row of scores is ever stored.

Importing this module imports triton, which torch's CUDA wheels bring along and its CPU wheel does not.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

#: A tile of fewer heads is padded to what tensor cores take at the least; of more, split (registers hold one tile).
_TILE_HEADS: Final = (16, 64)
#: Slots of the index set that are fetched at once.
_TILE_SLOTS: Final = 64
_LOG2_E: Final = 1.4426950408889634
_LN_2: Final = 0.6931471805599453


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def gather_attention_kernel(  # type: ignore[no-untyped-def] # noqa: PLR0917 - a kernel takes nothing by name
    q_ptr, k_ptr, v_ptr, index_ptr, out_ptr, lse_ptr,
    q_b, q_h, q_s, k_b, k_g, k_t, v_b, v_g, v_t, i_b, i_s, o_b, o_h, o_s, l_b, l_h,
    kv_heads, group, slots, dim, scale,
    TILE_HEADS: tl.constexpr, TILE_SLOTS: tl.constexpr, TILE_DIM: tl.constexpr, LN_2: tl.constexpr,
):  # fmt: skip
    """Grid: (queries, batch · kv_heads, tiles of the group's heads). Strides are in elements, of [B, H, S, D]."""
    query = tl.program_id(0)
    batch = tl.program_id(1) // kv_heads
    kv_head = tl.program_id(1) % kv_heads
    member = tl.program_id(2) * TILE_HEADS + tl.arange(0, TILE_HEADS)
    head = kv_head * group + member
    column = tl.arange(0, TILE_DIM)
    here = (member < group)[:, None] & (column < dim)[None, :]
    q = tl.load(q_ptr + batch * q_b + head[:, None] * q_h + query * q_s + column[None, :], mask=here, other=0.0)
    highest = tl.full([TILE_HEADS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_HEADS], tl.float32)
    result = tl.zeros([TILE_HEADS, TILE_DIM], tl.float32)
    for start in range(0, slots, TILE_SLOTS):
        slot = start + tl.arange(0, TILE_SLOTS)
        index = tl.load(index_ptr + batch * i_b + query * i_s + slot, mask=slot < slots, other=-1)
        held = index >= 0
        row = tl.where(held, index, 0).to(tl.int64)
        there = held[:, None] & (column < dim)[None, :]
        k = tl.load(k_ptr + batch * k_b + kv_head * k_g + row[:, None] * k_t + column[None, :], mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(held[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(highest - safe)
        v = tl.load(v_ptr + batch * v_b + kv_head * v_g + row[:, None] * v_t + column[None, :], mask=there, other=0.0)
        result = result * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weight, 1)
        highest = higher
    some = total > 0.0
    divisor = tl.where(some, total, 1.0)
    result = tl.where(some[:, None], result / divisor[:, None], 0.0)
    place = out_ptr + batch * o_b + head[:, None] * o_h + query * o_s + column[None, :]
    tl.store(place, result.to(out_ptr.dtype.element_ty), mask=here)
    lse = tl.where(some, (highest + tl.log2(divisor)) * LN_2, float("inf"))
    tl.store(lse_ptr + batch * l_b + head * l_h + query, lse, mask=member < group)


def triton_gather(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over each query's own rows. Returns the output and the log-sum-exp, fp32, natural logarithm."""
    batch, heads, queries, dim = q_BHSD.shape
    kv_heads = k_BGTD.shape[1]
    group = heads // kv_heads
    tile_heads = _TILE_HEADS[1] if group > _TILE_HEADS[0] else _TILE_HEADS[0]
    q, k, v, indices = (each.contiguous() for each in (q_BHSD, k_BGTD, v_BGTD, indices_BSK))
    out = torch.empty_like(q)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    grid = (queries, batch * kv_heads, -(-group // tile_heads))
    launch: Any = gather_attention_kernel
    launch[grid](
        q, k, v, indices, out, lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *indices.stride()[:2], *out.stride()[:3], *lse.stride()[:2],
        kv_heads, group, indices.shape[-1], dim, dim**-0.5 * _LOG2_E,
        TILE_HEADS=tile_heads, TILE_SLOTS=_TILE_SLOTS, TILE_DIM=triton.next_power_of_2(max(dim, 16)), LN_2=_LN_2,
        num_warps=4,
    )  # fmt: skip
    return out, lse
