"""Float64 arithmetic over the same rounded inputs: what every backend is held against.

`fro` norms and cosines over a whole tensor hide a row that is wrong; what is stated here is the largest error of any
element over the reference's largest magnitude, and that is what the record's tolerance is for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor

from lanemark.stack.sparse.contract import PADDING
from lanemark.stack.sparse.problem import Problem

_Attend = Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
#: Bytes of float64 rows that are held at once.
_CHUNK_BYTES = 32 * 1024 * 1024


def reference(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output `[B, H, S, D]` and log-sum-exp `[B, H, S]` in float64, over the chosen rows alone."""
    slots = problem.indices_BSK.shape[-1]

    def attend(q_GRSD: Tensor, k_GTD: Tensor, v_GTD: Tensor, sequence: int, start: int) -> tuple[Tensor, Tensor]:
        indices_SK = problem.indices_BSK[sequence, start : start + q_GRSD.shape[2]]
        held_SK, safe_SK = indices_SK != PADDING, indices_SK.clamp_min(0).long()
        scores = torch.einsum("grsd,gskd->grsk", q_GRSD, k_GTD[:, safe_SK]).masked_fill_(~held_SK, -torch.inf)
        empty_S = ~held_SK.any(dim=-1)
        weights = torch.softmax(scores, dim=-1).masked_fill_(empty_S[:, None], 0.0)
        lse = scores.logsumexp(dim=-1).masked_fill_(empty_S, torch.inf)
        return torch.einsum("grsk,gskd->grsd", weights, v_GTD[:, safe_SK]), lse

    return _in_chunks(problem, attend, row_bytes=8 * slots * problem.k_BGSD.shape[1] * problem.k_BGSD.shape[-1])


def dense_reference(problem: Problem) -> tuple[Tensor, Tensor]:
    """The same over every causal row: what the dense baseline has to compute."""
    keys_T = torch.arange(problem.k_BGSD.shape[2], device=problem.q_BHSD.device)

    def attend(q_GRSD: Tensor, k_GTD: Tensor, v_GTD: Tensor, _sequence: int, start: int) -> tuple[Tensor, Tensor]:
        future_ST = keys_T > torch.arange(start, start + q_GRSD.shape[2], device=keys_T.device)[:, None]
        scores = torch.einsum("grsd,gtd->grst", q_GRSD, k_GTD).masked_fill_(future_ST, -torch.inf)
        return torch.einsum("grst,gtd->grsd", torch.softmax(scores, dim=-1), v_GTD), scores.logsumexp(dim=-1)

    return _in_chunks(problem, attend, row_bytes=8 * problem.q_BHSD.shape[1] * len(keys_T))


def _in_chunks(problem: Problem, attend: _Attend, *, row_bytes: int) -> tuple[Tensor, Tensor]:
    """`attend` over chunks of queries, each of which takes about `row_bytes` of working memory a query."""
    q, k, v = problem.q_BHSD, problem.k_BGSD, problem.v_BGSD
    batch, heads, queries, dim = q.shape
    kv_heads = k.shape[1]
    rows = max(1, _CHUNK_BYTES // row_bytes)
    out = torch.empty(batch, heads, queries, v.shape[-1], dtype=torch.float64, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float64, device=q.device)
    for sequence in range(batch):
        k_GTD, v_GTD = k[sequence].double(), v[sequence].double()
        for start in range(0, queries, rows):
            stop = min(start + rows, queries)
            q_GRSD = q[sequence, :, start:stop].double().view(kv_heads, heads // kv_heads, stop - start, dim)
            part, total = attend(q_GRSD * dim**-0.5, k_GTD, v_GTD, sequence, start)
            out[sequence, :, start:stop] = part.reshape(heads, stop - start, -1)
            lse[sequence, :, start:stop] = total.reshape(heads, stop - start)
    return out, lse


def largest_error(out: Tensor, expected: Tensor) -> float:
    """Largest error of an element over the reference's largest magnitude; infinity where anything is not finite."""
    scale = float(expected.abs().max())
    error = float((out.double() - expected).abs().max())
    if scale == 0.0:  # every row is empty: nothing but 0 is right
        return 0.0 if error == 0.0 else float("inf")
    return error / scale if isfinite(error) else float("inf")


def largest_lse_error(lse: Tensor, expected: Tensor) -> float:
    """Largest difference of finite log-sum-exps; infinity where one is infinite and the other is not."""
    finite = expected.isfinite()
    if not torch.equal(lse.isfinite(), finite) or not torch.equal(lse[~finite].double(), expected[~finite]):
        return float("inf")
    return float((lse.double() - expected)[finite].abs().max()) if bool(finite.any()) else 0.0
