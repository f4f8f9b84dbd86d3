"""Everything that is looked at of one candidate, in the order of the ladder, as one plain document.

Nothing here decides: `lanemark.lanes.promotion_ladder` reads the document and says which rungs are held and why. A step
that cannot be taken leaves its reason and ends the climb; what lies above it was then simply not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from lanemark.lanes.promotion_claims import DENSE_CANDIDATES, SPARSE_CANDIDATES, Claims
from lanemark.lanes.promotion_matrix import Problem
from lanemark.lanes.sparse_identity import telling_names
from lanemark.stack.promotion.inputs import Inputs, draw, fresh_seed
from lanemark.stack.promotion.kernels import Kernel
from lanemark.stack.promotion.parity import ViolationError, call, examine_case
from lanemark.stack.promotion.short_train import two_steps
from lanemark.stack.promotion.witness import watch
from lanemark.stack.sparse.problem import Problem as SparseProblem
from lanemark.stack.sparse.watch import canary, profile

Doc = dict[str, Any]
#: Long enough for four blocks of 128, so that a whole one can be left unchosen; short of what a CPU takes long over.
_CANARY_LENGTH: Final = 512
_CANARY_TOPK: Final = 32


def examine(
    kernel: Kernel,
    problems: Sequence[Problem],
    dtype: str,
    direction: str,
    *,
    device: torch.device,
    known: Mapping[str, Claims] = DENSE_CANDIDATES,
    repeats: dict[str, int] | None = None,
    reached: Callable[[str], None] = lambda _: None,
    into: Doc | None = None,
) -> Doc:
    """Run a candidate: execution, dispatch, canary, parity, a short training. Every seed is fresh and in the document.

    Args:
        kernel: the opened candidate.
        problems: the cases that are asked for.
        dtype: element type.
        direction: `forward` or `backward`, which includes forward.
        device: where it runs.
        known: other candidates whose names are recognised.
        repeats: runs on equal inputs; the lane's unless a test wants fewer.
        reached: told each step's name as it begins.
        into: the document to fill, so that a run which ends half-way has what it saw.
    """
    backward = direction == "backward"
    out: Doc = {} if into is None else into
    out |= {"direction": direction, "dtype": dtype, "cases": []}
    first = draw(problems[0], dtype, fresh_seed(), device)
    reached("execute")
    out["executed"] = _execution(kernel, first, backward=backward)
    if not out["executed"]["done"]:
        return out
    reached("dispatch")
    if kernel.name in SPARSE_CANDIDATES:
        seen = profile(lambda: kernel.attend(first), on_cuda=device.type == "cuda")
        out["profile"] = _telling(seen.to_json())
    else:
        out["witness"] = _witness(kernel, first, known, backward=backward)
    if kernel.claims.mode == "sparse_validation":
        out["canary"] = _canary(kernel, problems[0], dtype, device)
    for problem in problems:
        reached(problem.name)

        def within(step: str, case: str = problem.name) -> None:
            reached(f"{case}: {step}")

        case = examine_case(
            kernel.attend, problem, dtype, seed=fresh_seed(), device=device, backward=backward, repeats=repeats,
            reached=within,
        )  # fmt: skip
        out["cases"].append(case)
    if backward:
        reached("short training")
        out["two_steps"] = two_steps(kernel.attend, problems[0], dtype, seed=fresh_seed(), device=device)
    if device.type == "cuda":
        out["memory"] = _memory(kernel, first)
    return out


def _execution(kernel: Kernel, inputs: Inputs, *, backward: bool) -> Doc:
    try:
        answer = call(kernel.attend, inputs, backward=backward)
    except ViolationError as error:
        return {"done": False, "reason": error.slug, "words": str(error), "seed": inputs.seed}
    return {
        "done": True, "seed": inputs.seed, "name": inputs.problem.name, "shape": list(answer.out_BHQV.shape),
        "dtype": str(answer.out_BHQV.dtype), "device": str(answer.out_BHQV.device),
        "lse_returned": answer.lse_BHQ is not None, "gradients": sorted(answer.gradients()),
    }  # fmt: skip


def _witness(kernel: Kernel, inputs: Inputs, known: Mapping[str, Claims], *, backward: bool) -> Doc:
    try:
        seen = watch(
            lambda: call(kernel.attend, inputs, backward=backward), kernel.claims, kernel.name, known,
            cuda=inputs.q_BHQD.is_cuda,
        )  # fmt: skip
    except Exception as error:  # a profiler that does not work here is a look that could not be taken
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return seen.to_json()


def _telling(seen: Doc) -> Doc:
    """Of all names those that any signature knows: the rest are allocations and views."""
    return {**seen, "value": telling_names(seen["value"])} if seen["status"] == "observed" else seen


def _canary(kernel: Kernel, problem: Problem, dtype: str, device: torch.device) -> Doc:
    """The sparse lane's canary over index rows of its own length, with the case's heads and dimensions."""
    longer = replace(problem, queries=_CANARY_LENGTH, keys=_CANARY_LENGTH, topk=_CANARY_TOPK, empty_rows=0, batch=1)
    inputs = draw(longer, dtype, fresh_seed(), device)
    assert inputs.indices_BQT is not None

    def run(k: torch.Tensor, v: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        changed = replace(inputs, k_BGKD=k, v_BGKV=v, indices_BQT=indices)
        return call(kernel.attend, changed, backward=False).out_BHQV

    drawn = SparseProblem(inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, inputs.indices_BQT, None)
    return canary(drawn, run).to_json()


def _memory(kernel: Kernel, inputs: Inputs) -> Doc:
    """Peak bytes of one forward of the candidate and of torch's own choice on the same inputs. CUDA only."""
    peaks = {}
    for name, attend in (("candidate", kernel.attend), ("dense", _torch_choice)):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        attend(inputs)
        torch.cuda.synchronize()
        peaks[f"{name}_bytes"] = int(torch.cuda.max_memory_allocated())
    return peaks


def _torch_choice(inputs: Inputs) -> torch.Tensor:
    p = inputs.problem
    mask = None if p.masking == "full" else inputs.visible_BQK[:, None]
    return torch.nn.functional.scaled_dot_product_attention(
        inputs.q_BHQD,
        inputs.k_BGKD,
        inputs.v_BGKV,
        attn_mask=mask,
        scale=inputs.scale,
        enable_gqa=p.heads != p.kv_heads,
    )
