"""A case as tensors: queries, keys, values and their index set, all from the case's seed.

Everything is drawn on the CPU and then moved, so that a case is the same problem on every device and its index digest
tells whether two runs had it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lanemark.records.errors import DataError
from lanemark.records.questions import AttentionCase
from lanemark.stack.sparse.contract import PADDING, check_indices
from lanemark.stack.sparse.selector import choose, draw_indexer, highest

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: How strongly `local` sets prefer the neighbourhood over chance: mostly near, a few far.
_NEARNESS: Final = 4.0
#: Rows of scores that are held at once while an index set is drawn, [B, rows, S] in fp32.
_CHUNK_BYTES: Final = 64 * 1024 * 1024


class Problem(NamedTuple):
    """Inputs of one attention call.

    Attributes:
        q_BHSD: queries.
        k_BGSD: keys; G key and value heads, each serving H / G query heads.
        v_BGSD: values.
        indices_BSK: the index set.
        reselect: chooses the indices anew, for when choosing is to be timed; None where they were drawn.
    """

    q_BHSD: Tensor
    k_BGSD: Tensor
    v_BGSD: Tensor
    indices_BSK: Tensor
    reselect: Callable[[], Tensor] | None


def draw_problem(case: AttentionCase, device: torch.device) -> Problem:
    """The tensors of a case.

    Raises:
        DataError: `indices-invalid`, where a set from outside breaks the contract or cannot be had.
    """
    generator = torch.Generator().manual_seed(case.seed)
    dtype = DTYPES[case.dtype]

    def draw(heads: int) -> Tensor:
        made = torch.randn(case.batch, heads, case.sequence, case.head_dim, generator=generator)
        return made.to(device, dtype)

    q, k, v = draw(case.heads), draw(case.kv_heads), draw(case.kv_heads)
    indices, reselect = _indices(case, generator, device)
    check_indices(indices, batch=case.batch, queries=case.sequence, keys=case.sequence)
    return Problem(q, k, v, indices, reselect)


def _indices(
    case: AttentionCase, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Callable[[], Tensor] | None]:
    empty = empty_queries(case)
    if case.index_set == "indexer":
        inputs = draw_indexer(case.batch, case.sequence, generator)
        there = type(inputs)(*(part.to(device) for part in inputs))

        def reselect() -> Tensor:
            return _emptied(choose(there, case.topk), empty)

        return reselect(), reselect
    if case.index_set in ("random", "local"):
        drawn = _drawn(case, generator, near=case.index_set == "local")
        return _emptied(drawn, empty).to(device), None
    raise DataError(
        "indices-invalid", "an index set from a file is not read by this version", "use random, local or indexer"
    )


def _drawn(case: AttentionCase, generator: torch.Generator, *, near: bool) -> Tensor:
    """An index set by chance: uniform over earlier positions, or mostly from the neighbourhood."""
    keys = torch.arange(case.sequence)
    rows = max(1, _CHUNK_BYTES // (4 * case.batch * case.sequence))
    chunks = []
    for start in range(0, case.sequence, rows):
        stop = min(start + rows, case.sequence)
        scores = torch.rand(case.batch, stop - start, case.sequence, generator=generator)
        if near:
            distance = (torch.arange(start, stop)[:, None] - keys).abs()
            scores += _NEARNESS * torch.exp(-distance / (case.topk / 2))
        chunks.append(highest(scores, case.topk, first=start))
    return torch.cat(chunks, dim=1)


def empty_queries(case: AttentionCase) -> list[int]:
    """Which queries of a sequence hold nothing: spread evenly, so that every block of a backend meets some."""
    step = case.sequence / max(1, case.empty_rows)
    return [int((place + 0.5) * step) for place in range(min(case.empty_rows, case.sequence))]


def _emptied(indices_BSK: Tensor, queries: list[int]) -> Tensor:
    if queries:
        indices_BSK[:, queries] = PADDING
    return indices_BSK
