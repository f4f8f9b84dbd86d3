"""`flex_attention`, compiled: its eager form computes the same formula with plain operators and would prove nothing.

The first call of a shape compiles for some seconds on a GPU and for 13 to 23 s on a CPU, where there is no backward.
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
    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def attend(inputs: Inputs) -> tuple[Tensor, Tensor]:
        visible = inputs.visible_BQK

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001 - the signature is torch's
            return visible[b, q, k]

        p, device = inputs.problem, inputs.q_BHQD.device
        blocks = None
        if p.masking != "full":
            blocks = create_block_mask(seen, p.batch, None, p.queries, p.keys, device=str(device))
        out, lse = compiled(
            inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, block_mask=blocks, scale=inputs.scale,
            enable_gqa=p.heads != p.kv_heads, return_lse=True,
        )  # fmt: skip
        return out, lse

    return attend
