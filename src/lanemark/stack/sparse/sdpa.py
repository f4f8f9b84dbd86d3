"""`sdpa_masked` and `dense`: torch's own fused attention, under a bitmap of the index set, and causal over everything.

The masked form reads every key row and multiplies what was not chosen by 0. It is exact in its arithmetic and no
sparse kernel at all, which is what its canary shows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lanemark.stack.sparse.contract import PADDING, held_rows


def bitmap(indices_BSK: Tensor, keys: int) -> Tensor:
    """The index set as `[B, S, T]` bool. Padding is written to a column of its own, which is cut off."""
    places = torch.where(indices_BSK == PADDING, keys, indices_BSK).long()
    shape = (*indices_BSK.shape[:2], keys + 1)
    return torch.zeros(shape, dtype=torch.bool, device=indices_BSK.device).scatter_(-1, places, value=True)[..., :keys]


def sdpa_masked(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, None]:
    """Attention over all rows under a mask. Returns the output; fused attention keeps its log-sum-exp."""
    mask_B1ST = bitmap(indices_BSK, k_BGTD.shape[2])[:, None]
    out = F.scaled_dot_product_attention(
        q_BHSD, k_BGTD, v_BGTD, attn_mask=mask_B1ST, enable_gqa=k_BGTD.shape[1] != q_BHSD.shape[1]
    )
    # What a fused kernel makes of a row without any key is its own affair (0, NaN, a mean); the contract says 0.
    return out.where(held_rows(indices_BSK)[:, None, :, None], 0.0), None


def dense(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, _indices_BSK: Tensor) -> tuple[Tensor, None]:
    """The baseline: causal attention over everything, as a model without an index would run it."""
    grouped = k_BGTD.shape[1] != q_BHSD.shape[1]
    return F.scaled_dot_product_attention(q_BHSD, k_BGTD, v_BGTD, is_causal=True, enable_gqa=grouped), None
