"""`flex_attention`, compiled: its eager form computes the same formula with plain operators and would prove nothing.

Each problem is compiled by itself and whole (`fullgraph`): past its limit of recompilations the compiler would run it
uncompiled, in silence. The block mask is made once for a problem, outside the compiled function, so that equal calls
are equal graphs. A first call takes some seconds on a GPU and 13 to 23 s on a CPU, where there is no backward and no
log-sum-exp (torch 2.13: "only supports inference and `return_lse` is not supported yet").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lanemark.stack.promotion.inputs import Inputs
from lanemark.stack.promotion.parity import Attend


def compiled_flex() -> Attend:
    """The candidate. A block mask of the case's own visibility says which scores count."""
    kept: dict[tuple[Any, ...], tuple[Any, Any, Tensor]] = {}

    def attend(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        p, q = inputs.problem, inputs.q_BHQD
        key = (p.name, inputs.seed, q.dtype, q.requires_grad)
        if key not in kept:
            kept.clear()  # one problem at a time is looked at
            torch.compiler.reset()
            visible = inputs.visible_BQK.contiguous()
            kept[key] = (
                torch.compile(flex_attention, dynamic=False, fullgraph=True),
                _blocks(inputs, visible),
                visible,
            )
        call, blocks, _ = kept[key]
        words = {"block_mask": blocks, "scale": inputs.scale, "enable_gqa": p.heads != p.kv_heads}
        if not q.is_cuda:
            return call(q, inputs.k_BGKD, inputs.v_BGKV, **words), None
        out, lse = call(q, inputs.k_BGKD, inputs.v_BGKV, return_lse=True, **words)
        return out, lse

    return attend


def _blocks(inputs: Inputs, visible: Tensor) -> Any:
    """A mask over blocks of a problem; None where everything is visible."""
    p = inputs.problem
    if p.masking == "full":
        return None

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001 - the signature is torch's
        return visible[b, q, k]

    return create_block_mask(seen, p.batch, None, p.queries, p.keys, device=str(inputs.q_BHQD.device))
