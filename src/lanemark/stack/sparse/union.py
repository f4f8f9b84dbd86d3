"""`union`: for each block of queries the union of the rows they chose, and fused attention over it under a small mask.

Where neighbours choose alike, as they do in practice, the union is little larger than one query's own choice, and its
rows are fetched once for the block and not once for each query. A query then reads rows that only its neighbours chose,
with weight 0: a superset, which is what its canary shows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lanemark.stack.sparse.contract import PADDING

#: Queries that share a union. Fewer fetch rows twice, more widen the union (measured on a CPU at S 4096: 64 to 256
#: differ by less than a tenth).
_BLOCK = 128


def union(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, None]:
    """Attention block by block. Returns the output; fused attention keeps its log-sum-exp."""
    keys = k_BGTD.shape[2]
    grouped = k_BGTD.shape[1] != q_BHSD.shape[1]
    out_BHSD = torch.zeros(*q_BHSD.shape[:3], v_BGTD.shape[-1], dtype=q_BHSD.dtype, device=q_BHSD.device)
    place_T = torch.empty(keys + 1, dtype=torch.long, device=q_BHSD.device)
    for sequence in range(q_BHSD.shape[0]):
        for start in range(0, q_BHSD.shape[2], _BLOCK):
            block = slice(start, start + _BLOCK)
            indices_SK = indices_BSK[sequence, block]
            held_SK = indices_SK != PADDING
            rows_U = torch.unique(indices_SK[held_SK])
            if not len(rows_U):
                continue
            place_T[rows_U.long()] = torch.arange(len(rows_U), device=place_T.device)
            place_T[keys] = len(rows_U)
            columns_SK = place_T[torch.where(held_SK, indices_SK, keys).long()]
            mask_SU = torch.zeros(len(indices_SK), len(rows_U) + 1, dtype=torch.bool, device=q_BHSD.device)
            mask_SU = mask_SU.scatter_(-1, columns_SK, value=True)[:, :-1]
            out = F.scaled_dot_product_attention(
                q_BHSD[sequence : sequence + 1, :, block],
                k_BGTD[sequence : sequence + 1].index_select(2, rows_U),
                v_BGTD[sequence : sequence + 1].index_select(2, rows_U),
                attn_mask=mask_SU[None, None],
                enable_gqa=grouped,
            )
            out_BHSD[sequence, :, block] = out[0].where(held_SK.any(dim=-1)[None, :, None], 0.0)
    return out_BHSD, None
