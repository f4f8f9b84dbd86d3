"""The canary: key and value rows that nobody selected hold NaN, and the output tells who read them.

Names can be forged and a poisoned row cannot. Two questions over one set of index rows: rows scattered all over are
poisoned, and a kernel that reads exactly the tokens it was told gives the same bits as before; then one whole block is
poisoned, and a kernel that reads blocks around its tokens never comes there, while one that masks dense attention, or
reroutes to it, has NaN in every query that could have seen the block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from lanemark.lanes.promotion_matrix import Problem
from lanemark.stack.promotion.inputs import Inputs, draw
from lanemark.stack.promotion.parity import Attend, call

#: Long enough for four blocks of 128, the widest that sparse kernels use (facts: union-128); the third is never selected.
_LENGTH: Final = 512
_BLOCK: Final = (128, 256)


def sing(attend: Attend, problem: Problem, dtype: str, *, seed: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Poison and look. Returns `verdict`, `poisoned_rows` and `nan_rows` (`schema_runtime.CanaryPart`), and the seed.

    Args:
        attend: the candidate.
        problem: a sparse case, for its heads and dimensions; the length is the canary's own.
        dtype: element type.
        seed: what is drawn with.
        device: where it runs.

    Raises:
        ViolationError: the candidate does not return what it should.
    """
    longer = replace(problem, queries=_LENGTH, keys=_LENGTH, topk=32, empty_rows=0, batch=1)
    inputs = draw(longer, dtype, seed, device)
    place = torch.arange(_LENGTH, device=device)
    scattered, block = place % 7 == 3, (place >= _BLOCK[0]) & (place < _BLOCK[1])
    changed, nan_rows = _poison(attend, inputs, scattered)
    found = {"poisoned_rows": int(scattered.sum()), "nan_rows": int(nan_rows.sum()), "seed": seed}
    if not changed:
        return {"verdict": "bit_identical", **found}
    if not bool(nan_rows.any()):
        return {"verdict": "changed_without_nan", **found}
    _, rows = _poison(attend, inputs, block)
    everywhere = bool(rows[..., _BLOCK[1] :].all())
    return {"verdict": "nan_everywhere" if everywhere else "nan_inside_blocks", **found}


def _poison(attend: Attend, inputs: Inputs, bad_K: Tensor) -> tuple[bool, Tensor]:
    """Whether the output changed when unselected rows were poisoned, and which queries then held NaN, [B, H, Q]."""
    assert inputs.indices_BQT is not None
    indices = inputs.indices_BQT
    selected_bad = (indices >= 0) & bad_K[indices.clamp_min(0).long()]
    kept = indices.masked_fill(selected_bad, -1).sort(dim=-1, descending=True).values
    visible = inputs.visible_BQK & ~bad_K
    clean = replace(inputs, indices_BQT=kept.contiguous(), visible_BQK=visible)
    keys, values = (
        x.masked_fill(bad_K[None, None, :, None], float("nan")) for x in (inputs.k_BGKD, inputs.v_BGKV)
    )
    before = call(attend, clean, backward=False).out_BHQV
    after = call(attend, replace(clean, k_BGKD=keys, v_BGKV=values), backward=False).out_BHQV
    same = torch.equal(before.contiguous().view(torch.uint8), after.contiguous().view(torch.uint8))
    return not same, after.isnan().any(-1)
