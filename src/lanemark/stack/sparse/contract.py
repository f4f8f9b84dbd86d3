"""The contract of an index set, checked at the door.

Indices `[B, S, K]` int32: for each query the key positions it attends, each once, none later than the query itself,
and -1 in every slot that holds none. A query that holds none at all has output 0 and log-sum-exp +inf. Without the
contract backends disagree in silence: a gather counts a duplicate twice, a bitmap counts it once, and every backend
attends to the future if it is told to.

One index set serves all heads of a sequence, as in DeepSeek-V3.2's sparse attention (facts: its technical report).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lanemark.records.errors import DataError

#: What stands in a slot that holds no index.
PADDING = -1
_REMEDY = "give each query the key positions it attends, each once, none later than itself, and -1 elsewhere"


def check_indices(indices_BSK: Tensor, *, batch: int, queries: int, keys: int) -> None:
    """Refuse an index set that breaks the contract.

    Args:
        indices_BSK: the index set.
        batch: sequences.
        queries: query positions; the last of them is the last key position.
        keys: key positions.

    Raises:
        DataError: `indices-invalid`, naming the first query that breaks it.
    """
    if indices_BSK.dtype != torch.int32 or indices_BSK.dim() != 3:
        raise _refused(f"an index set is a tensor [B, S, K] of int32, not {indices_BSK.dim()}-dimensional "
                       f"{str(indices_BSK.dtype).removeprefix('torch.')}")  # fmt: skip
    if indices_BSK.shape[:2] != (batch, queries):
        raise _refused(f"an index set of {tuple(indices_BSK.shape[:2])} does not fit {batch} × {queries} queries")
    own_S1 = torch.arange(keys - queries, keys, device=indices_BSK.device)[:, None]
    held = indices_BSK != PADDING
    _refuse_first(held & (indices_BSK < 0), "holds a negative index that is not -1")
    _refuse_first(held & (indices_BSK > own_S1), "attends a position later than its own")
    ordered = indices_BSK.sort(dim=-1).values
    _refuse_first((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0), "holds one index twice")


def _refuse_first(broken_BSK: Tensor, what: str) -> None:
    rows = broken_BSK.any(dim=-1).nonzero()
    if len(rows):
        sequence, query = (int(value) for value in rows[0])
        raise _refused(f"query {query} of sequence {sequence} {what}")


def _refused(what: str) -> DataError:
    return DataError("indices-invalid", what, _REMEDY)


def held_rows(indices_BSK: Tensor) -> Tensor:
    """Which queries hold any index at all, `[B, S]` bool."""
    return (indices_BSK != PADDING).any(dim=-1)


def count_valid(indices_BSK: Tensor) -> int:
    """Indices that are not padding, over all queries: what FLOPs are counted over."""
    return int((indices_BSK != PADDING).sum())


def indices_digest(indices_BSK: Tensor) -> str:
    """`sha256:…` of shape and values: two runs with one digest attended the same positions.

    The bytes are little-endian int32 in row-major order after the three sizes as text, whatever device they came from.
    """
    shape = "x".join(str(size) for size in indices_BSK.shape)
    values = indices_BSK.detach().to("cpu", torch.int32).contiguous().numpy().astype("<i4", copy=False)
    return "sha256:" + hashlib.sha256(f"{shape}\n".encode() + values.tobytes()).hexdigest()
