"""`flex` and `flex_flash`: torch's flex attention, compiled, over a block mask of the index set.

Whole blocks of keys that no query of a block chose are skipped; inside a visited block every row is read and masked.
`flex_flash` asks for FA4's kernels by an option that is honoured on few devices and ignored without a word elsewhere:
it is here because that is a fallback worth catching.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from lanemark.stack.sparse.contract import held_rows
from lanemark.stack.sparse.sdpa import bitmap

#: Dynamo gives up compiling one function for more shapes than this, and then would run it uncompiled in silence
#: (torch._dynamo.config.recompile_limit is 8); a case set has more shapes.
_SHAPES: Final = 512


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # `fullgraph` makes whatever keeps the compiler from compiling an error, and not a slow success. Shapes are compiled
    # one by one: for sizes left open the C++ template makes code that g++ refuses (torch 2.13, on a CPU).
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


def flex(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, None]:
    """Compiled flex attention. Returns the output alone."""
    return _attend(q_BHSD, k_BGTD, v_BGTD, indices_BSK, None), None


def flex_flash(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, None]:
    """The same with the option that asks for FA4's kernels."""
    return _attend(q_BHSD, k_BGTD, v_BGTD, indices_BSK, {"BACKEND": "FLASH"}), None


def _attend(q: Tensor, k: Tensor, v: Tensor, indices_BSK: Tensor, options: dict[str, Any] | None) -> Tensor:
    import torch._dynamo.config as dynamo_config
    from torch.nn.attention.flex_attention import create_block_mask

    chosen_BST = bitmap(indices_BSK, k.shape[2])

    def chosen(b: Tensor, _h: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return chosen_BST[b, s, t]

    mask = create_block_mask(chosen, len(indices_BSK), None, q.shape[2], k.shape[2], device=str(q.device))
    with dynamo_config.patch(recompile_limit=_SHAPES, accumulated_recompile_limit=_SHAPES):
        out: Tensor = _compiled()(q, k, v, block_mask=mask, enable_gqa=k.shape[1] != q.shape[1], kernel_options=options)
    return out.where(held_rows(indices_BSK)[:, None, :, None], 0.0)
