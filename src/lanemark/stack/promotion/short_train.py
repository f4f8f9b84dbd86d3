"""Two optimizer steps through the candidate: the shortest training that can fail. A stop rule, and no proof of more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lanemark.lanes.promotion_matrix import Problem
from lanemark.stack.promotion.inputs import draw
from lanemark.stack.promotion.parity import Attend

_STEPS = 2
_RATE = 1e-2


def two_steps(attend: Attend, problem: Problem, dtype: str, *, seed: int, device: torch.device) -> dict[str, Any]:
    """Learn a drawn target for two steps. Returns the losses, and how many steps failed to give finite numbers.

    Args:
        attend: the candidate.
        problem: the case whose shape is trained on.
        dtype: element type.
        seed: of inputs and target.
        device: where it runs.
    """
    inputs = draw(problem, dtype, seed, device)
    leaves = [x.detach().float().requires_grad_() for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV)]
    optimizer = torch.optim.SGD(leaves, lr=_RATE)
    losses: list[float | None] = []
    failed = 0
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        q, k, v = (x.to(inputs.q_BHQD.dtype) for x in leaves)
        try:
            back = attend(replace(inputs, q_BHQD=q, k_BGKD=k, v_BGKV=v))
            out = back[0] if isinstance(back, tuple) else back
            loss = (out.float() - inputs.grad_BHQV.float()).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # a step that raises has failed
            return {"failed_steps": _STEPS - len(losses), "error": f"{type(error).__name__}: {error}"[:300]}
        optimizer.step()
        finite = bool(loss.isfinite()) and all(bool(x.isfinite().all()) for x in leaves)
        failed += not finite
        losses.append(float(loss.detach()) if bool(loss.isfinite()) else None)
    return {"failed_steps": failed, "losses": losses, "seed": seed}
