"""A selector in the manner of DeepSeek-V3.2's lightning indexer: small heads, ReLU, weights, and a real top-k.

    score[t, s] = Σ_j  w[t, j] · ReLU( q[t, j] · k[s] ),   s ≤ t

Few dimensions and no softmax make it cheap beside attention, and it still looks at every earlier position: its cost is
quadratic and may be left out of a time only where that is said.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lanemark.stack.sparse.contract import PADDING

#: Heads and dimensions of the indexer. DeepSeek-V3.2 uses 64 heads of 128; a small model's is as much smaller.
INDEXER_HEADS = 4
INDEXER_DIM = 32
#: Rows of scores that are held at once: [B, rows, S] in fp32.
_CHUNK_BYTES = 64 * 1024 * 1024


class IndexerInputs(NamedTuple):
    """What the indexer scores with: shapes `[B, S, J, E]`, `[B, S, E]` and `[B, S, J]`, fp32."""

    q_BSJE: Tensor
    k_BSE: Tensor
    weight_BSJ: Tensor


def draw_indexer(batch: int, sequence: int, generator: torch.Generator) -> IndexerInputs:
    """Inputs of an indexer, drawn on the CPU so that every device sees the same ones."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return IndexerInputs(
        draw(batch, sequence, INDEXER_HEADS, INDEXER_DIM),
        draw(batch, sequence, INDEXER_DIM),
        draw(batch, sequence, INDEXER_HEADS),
    )


def choose(inputs: IndexerInputs, topk: int) -> Tensor:
    """The index set `[B, S, K]` int32 of the highest scores among each query's own and earlier positions.

    K is `topk`, padded with -1 where fewer positions exist.
    """
    batch, sequence = inputs.k_BSE.shape[:2]
    rows = max(1, _CHUNK_BYTES // (4 * batch * sequence * INDEXER_HEADS))
    chunks = []
    for start in range(0, sequence, rows):
        stop = min(start + rows, sequence)
        logits = torch.einsum("bsje,bte->bsjt", inputs.q_BSJE[:, start:stop], inputs.k_BSE).relu_()
        scores = torch.einsum("bsjt,bsj->bst", logits, inputs.weight_BSJ[:, start:stop])
        chunks.append(highest(scores, topk, first=start))
    return torch.cat(chunks, dim=1)


def highest(scores_BST: Tensor, topk: int, *, first: int) -> Tensor:
    """The `topk` highest of each row's causal scores, as indices padded with -1.

    Args:
        scores_BST: scores of rows `first` onwards over all key positions.
        topk: slots of a row.
        first: position of the first row.
    """
    rows, keys = scores_BST.shape[1:]
    own_S1 = torch.arange(first, first + rows, device=scores_BST.device)[:, None]
    future = torch.arange(keys, device=scores_BST.device) > own_S1
    values, found = scores_BST.masked_fill(future, -torch.inf).topk(min(topk, keys), dim=-1)
    indices = found.masked_fill(values == -torch.inf, PADDING).to(torch.int32)
    return torch.nn.functional.pad(indices, (0, topk - indices.shape[-1]), value=PADDING)
