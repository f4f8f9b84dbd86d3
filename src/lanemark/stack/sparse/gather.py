"""`gather`: the exact reference. Fetches the chosen rows of each query and attends over them, chunk by chunk.

It does what the contract says and nothing cleverer, in fp32 arithmetic whatever the inputs are. No row that was not
chosen is ever read: a slot of padding fetches a row that the query holds anyway and gets weight 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lanemark.stack.sparse.contract import PADDING

#: Bytes of gathered keys that are held at once; small enough for a CPU's shared cache.
_CHUNK_BYTES = 16 * 1024 * 1024
#: Queries that are taken at once, at the least and at the most.
_ROWS = (4, 256)


def gather(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, indices_BSK: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over each query's own rows.

    Returns:
        Output `[B, H, S, D]` in the inputs' dtype, and the log-sum-exp `[B, H, S]` in fp32, natural logarithm.
    """
    batch, heads, queries, dim = q_BHSD.shape
    kv_heads, slots = k_BGTD.shape[1], indices_BSK.shape[-1]
    rows = min(max(_ROWS[0], _CHUNK_BYTES // max(1, 4 * kv_heads * slots * dim)), _ROWS[1])
    out_BHSD = torch.empty(batch, heads, queries, v_BGTD.shape[-1], dtype=q_BHSD.dtype, device=q_BHSD.device)
    lse_BHS = torch.empty(batch, heads, queries, dtype=torch.float32, device=q_BHSD.device)
    for sequence in range(batch):
        for start in range(0, queries, rows):
            stop = min(start + rows, queries)
            out, lse = _attend(
                q_BHSD[sequence, :, start:stop], k_BGTD[sequence], v_BGTD[sequence], indices_BSK[sequence, start:stop]
            )
            out_BHSD[sequence, :, start:stop], lse_BHS[sequence, :, start:stop] = out.to(q_BHSD.dtype), lse
    return out_BHSD, lse_BHS


def _attend(q_HSD: Tensor, k_GTD: Tensor, v_GTD: Tensor, indices_SK: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of one sequence. The H / G query heads of a key head share the rows that are fetched for it."""
    heads, queries, dim = q_HSD.shape
    kv_heads, slots = k_GTD.shape[0], indices_SK.shape[-1]
    held_SK = indices_SK != PADDING
    # The highest index of a query is one that it holds, if it holds any; a query that holds none reads row 0 and
    # its result is thrown away below.
    own_S1 = indices_SK.amax(dim=-1, keepdim=True).clamp_min(0)
    flat = torch.where(held_SK, indices_SK, own_S1).reshape(-1)
    k_GSKD = k_GTD.index_select(1, flat).view(kv_heads, queries, slots, dim).float()
    v_GSKD = v_GTD.index_select(1, flat).view(kv_heads, queries, slots, -1).float()
    q_GSRD = (q_HSD.float() * dim**-0.5).view(kv_heads, heads // kv_heads, queries, dim).transpose(1, 2)
    scores_GSRK = torch.matmul(q_GSRD, k_GSKD.transpose(-1, -2)).masked_fill_(~held_SK[None, :, None], -torch.inf)
    lse_GSR = scores_GSRK.logsumexp(dim=-1)
    out_GSRD = torch.matmul(torch.softmax(scores_GSRK, dim=-1), v_GSKD)
    any_S = held_SK.any(dim=-1)
    out_HSD = out_GSRD.transpose(1, 2).reshape(heads, queries, -1)
    lse_HS = lse_GSR.transpose(1, 2).reshape(heads, queries)
    return out_HSD.where(any_S[None, :, None], 0.0), lse_HS.where(any_S[None], torch.inf)
