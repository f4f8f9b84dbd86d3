"""One case of the matrix over one candidate: every number that the verdict rests on, and no verdict.

The order matters. The first call runs in poisoned memory, so that what is not written shows. The calls after it run
plainly, as in use, and must repeat the bits of one another; both are held to the reference and the worse one counts.
Only where the answer is off are further wrong questions answered exactly, to say which one the candidate seems to have
answered: that names the fault, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lanemark.lanes.promotion_matrix import Problem
from lanemark.lanes.promotion_parity import REPEATS
from lanemark.records.terms import fro_limit, row_limit
from lanemark.stack.promotion.distance import Distance, distance, largest_difference, lse_error
from lanemark.stack.promotion.inputs import Inputs, draw
from lanemark.stack.promotion.poison import is_poisoned, poisoned_memory
from lanemark.stack.promotion.reference import Answer, dense, everything, exact, mutants, recomputed, without_last

Doc = dict[str, Any]
#: A candidate: from a case's inputs to output and log-sum-exp, or the output alone.
Attend = Callable[[Inputs], "Tensor | tuple[Tensor, Tensor | None]"]


class ViolationError(Exception):
    """What came back is not what the signature promises. `slug`: `lanemark.lanes.promotion_parity.Violation`."""

    def __init__(self, slug: str, words: str) -> None:
        super().__init__(words)
        self.slug = slug


def call(attend: Attend, inputs: Inputs, *, backward: bool) -> Answer:
    """Call a candidate once and hold what comes back to the signature. Raises ViolationError."""
    given = inputs.with_leaves() if backward else inputs
    try:
        with torch.set_grad_enabled(backward):
            back = attend(given)
    except Exception as error:  # whatever a candidate raises is its answer
        first = (str(error).strip().splitlines() or ["no word"])[0]
        raise ViolationError("raised", f"{type(error).__name__}: {first}"[:300]) from error
    out, lse = back if isinstance(back, tuple) else (back, None)
    q = given.q_BHQD
    shape = (*q.shape[:3], given.v_BGKV.shape[-1])
    if not isinstance(out, Tensor) or tuple(out.shape) != shape:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ViolationError("shape_wrong", f"the output is {found} and {shape} was due")
    if out.dtype != q.dtype:
        raise ViolationError("dtype_wrong", f"the output is {out.dtype} and the inputs are {q.dtype}")
    if out.device != q.device:
        raise ViolationError("device_wrong", f"the output is on {out.device} and the inputs are on {q.device}")
    if lse is not None and tuple(lse.shape) != shape[:3]:
        raise ViolationError("lse_shape_wrong", f"the log-sum-exp is {tuple(lse.shape)} and {shape[:3]} was due")
    if not backward:
        return Answer(out.detach(), None if lse is None else lse.detach())
    leaves = (given.q_BHQD, given.k_BGKD, given.v_BGKV)
    try:
        grads = torch.autograd.grad(out, leaves, given.grad_BHQV)
    except Exception as error:  # an output without a graph, a backward that is not implemented
        raise ViolationError("gradient_missing", f"{type(error).__name__}: {error}"[:300]) from error
    for name, grad, leaf in zip(("dq", "dk", "dv"), grads, leaves, strict=True):
        if grad.shape != leaf.shape or grad.dtype != leaf.dtype:
            raise ViolationError("gradient_missing", f"{name} is {grad.dtype} {tuple(grad.shape)}")
    return Answer(out.detach(), None if lse is None else lse.detach(), *grads)


def examine_case(
    attend: Attend,
    problem: Problem,
    dtype: str,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    backward: bool = False,
    repeats: dict[str, int] | None = None,
    reached: Callable[[str], None] = lambda _: None,
) -> Doc:
    """Everything measured of one case: its shape and seed, `forward` and, where asked, `backward`, or a `violation`.

    Args:
        attend: the candidate.
        problem: the case.
        dtype: `fp32`, `bf16` or `fp16`.
        seed: what inputs are drawn with: fresh, unless a failure is looked at again.
        device: where it runs.
        backward: whether gradients are held to the reference as well.
        repeats: runs on equal inputs for each direction; `REPEATS` unless a test wants fewer.
        reached: told what begins, so that a long case is seen to move.
    """
    inputs = draw(problem, dtype, seed, device)
    shape = ("batch", "queries", "keys", "heads", "kv_heads", "head_dim", "head_dim_v", "masking", "input_scale")
    case: Doc = {"name": problem.name, "seed": seed, **{key: getattr(problem, key) for key in shape}}
    reached("reference")
    reference = exact(inputs, backward=backward)
    reached("yardstick")
    yardstick = yardstick_of(inputs, reference, backward=backward)
    planted = []
    for name, answer in mutants(inputs, backward=backward):
        planted.append((name, answer))
        reached(f"after {name}")
    counts = REPEATS if repeats is None else repeats
    try:
        reached("candidate, forward")
        case["forward"] = _forward(attend, inputs, reference, yardstick, counts["forward"])
        case["forward"]["mutants"] = [
            {"name": name, **distance(answer.out_BHQV, reference.out_BHQV)._asdict()} for name, answer in planted
        ]
        if backward:
            reached("candidate, backward")
            case["backward"] = _backward(attend, inputs, reference, yardstick, counts["backward"])
            case["backward"]["mutants"] = [
                {"name": name, **_mutated(worst(answer, yardstick, reference))} for name, answer in planted
            ]
    except ViolationError as error:
        case["violation"] = {"reason": error.slug, "words": str(error)}
    return case


def _forward(attend: Attend, inputs: Inputs, reference: Answer, yardstick: Yardstick, repeats: int) -> Doc:
    before = [x.clone() for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV)]
    with poisoned_memory():
        poisoned = is_poisoned(inputs.q_BHQD)
        answers = [call(attend, inputs, backward=False)]
    answers += [call(attend, inputs, backward=False) for _ in range(repeats)]
    for was, x in zip(before, (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV), strict=True):
        if not torch.equal(was, x):
            raise ViolationError("inputs_changed", "queries, keys or values are not what they were before the call")
    first, plain = answers[0], answers[1]
    own = [distance(answer.out_BHQV, reference.out_BHQV) for answer in (first, plain)]
    theirs = yardstick.out
    doc: Doc = {
        "direction": "forward",
        "fro": max(d.fro for d in own), "row": max(d.row for d in own),
        "masks_equal": all(d.masks_equal for d in own),
        "dense_fro": theirs.fro, "dense_row": theirs.row, "poisoned_output": poisoned, "repeats": repeats,
        "bitwise_equal": all(same(plain, other) for other in answers[2:]),
        "lse_returned": plain.lse_BHQ is not None,
        "max_difference": max(largest_difference(answer.out_BHQV, reference.out_BHQV) for answer in (first, plain)),
        "num_nonfinite": int((~plain.out_BHQV.isfinite()).sum()),
    }  # fmt: skip
    if plain.lse_BHQ is not None and first.lse_BHQ is not None and reference.lse_BHQ is not None:
        errors = [lse_error(lse, reference.lse_BHQ) for lse in (first.lse_BHQ, plain.lse_BHQ)]
        seen = [error for error in errors if error is not None]
        doc["masks_equal"] = doc["masks_equal"] and len(seen) == len(errors)
        if len(seen) == len(errors):
            doc["lse_max_error"] = max(seen)
    worse = first if own[0].fro >= own[1].fro or not own[0].masks_equal else plain
    if not doc["masks_equal"]:
        doc["nonfinite"] = where_nonfinite(inputs, worse)
    elif doc["fro"] > fro_limit("forward", theirs.fro) or doc["row"] > row_limit(theirs.row):
        named = looks_like(inputs, worse, reference, theirs)
        doc |= {"looks_like": named} if named else {}
    return doc


def _backward(attend: Attend, inputs: Inputs, reference: Answer, yardstick: Yardstick, repeats: int) -> Doc:
    with poisoned_memory():
        poisoned = is_poisoned(inputs.q_BHQD)
        first = call(attend, inputs, backward=True)
    answers = [call(attend, inputs, backward=True) for _ in range(repeats)]
    found = [worst(answer, yardstick, reference) for answer in (first, answers[0])]
    own, theirs, name = max(found, key=_excess)
    return {
        "direction": "backward", "fro": own.fro, "row": own.row, "gradient": name,
        "masks_equal": all(item[0].masks_equal for item in found),
        "dense_fro": theirs.fro, "dense_row": theirs.row, "poisoned_output": poisoned, "repeats": repeats,
        "bitwise_equal": all(same(answers[0], other) for other in answers[1:]),
    }  # fmt: skip


def _mutated(found: tuple[Distance, Distance, str]) -> Doc:
    own, theirs, name = found
    return {**own._asdict(), "gradient": name, "dense_fro": theirs.fro, "dense_row": theirs.row}


def _excess(found: tuple[Distance, Distance, str]) -> float:
    own, theirs, _ = found
    return max(own.fro / fro_limit("backward", theirs.fro), own.row / row_limit(theirs.row))


class Yardstick(NamedTuple):
    """How far plain computations of the tested type are from the reference: the output, and each gradient."""

    out: Distance
    gradients: dict[str, Distance]


def yardstick_of(inputs: Inputs, reference: Answer, *, backward: bool) -> Yardstick:
    """Of the output by the dense path; of each gradient the worse of the two plain ways to form it."""
    plain = dense(inputs, backward=backward)
    out = distance(plain.out_BHQV, reference.out_BHQV)
    if not backward:
        return Yardstick(out, {})
    other = recomputed(inputs)
    worse = {}
    for name, right in reference.gradients().items():
        both = [distance(way.gradients()[name], right, gradient=True) for way in (plain, other)]
        worse[name] = Distance(max(d.fro for d in both), max(d.row for d in both), masks_equal=True)
    return Yardstick(out, worse)


def worst(answer: Answer, yardstick: Yardstick, reference: Answer) -> tuple[Distance, Distance, str]:
    """Of the three gradients the one that is furthest over its own limits, with the dense path's and its name.

    Each is judged by its own yardstick: the value gradient's, which is usually the widest, excuses no other.
    """
    right = reference.gradients()
    found = [
        (distance(grad, right[name], gradient=True), yardstick.gradients[name], name)
        for name, grad in answer.gradients().items()
    ]
    chosen = max(found, key=_excess)
    masks = all(own.masks_equal for own, _, _ in found)
    return chosen[0]._replace(masks_equal=masks), chosen[1], chosen[2]


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers have equal bits. NaN is equal to NaN here: two runs that both gave it repeat each other."""
    pairs = [(one.out_BHQV, other.out_BHQV), *zip(one.gradients().values(), other.gradients().values(), strict=True)]
    if one.lse_BHQ is not None and other.lse_BHQ is not None:
        pairs.append((one.lse_BHQ, other.lse_BHQ))
    return all(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) for a, b in pairs)


def where_nonfinite(inputs: Inputs, answer: Answer) -> str:
    """`nan_in_padding` when only queries without a key are not finite, else `nonfinite_output`."""
    rows = (~answer.out_BHQV.isfinite()).any(-1).any(1)
    padding = ~inputs.visible_BQK.any(-1)
    return "nan_in_padding" if bool(rows.any()) and not bool((rows & ~padding).any()) else "nonfinite_output"


def looks_like(inputs: Inputs, answer: Answer, reference: Answer, theirs: Distance) -> str | None:
    """Which wrong question the answer is the right one to, if any that we know of. Names a fault, decides nothing."""
    zero = (answer.out_BHQV == 0).all(-1)
    right = (reference.out_BHQV == 0).all(-1)
    if bool(zero.all()):
        return "zero_output"
    if bool((zero & ~right).any()):
        return "zeroed_rows"
    for name, wrong in _wrong_questions(inputs):
        near = distance(answer.out_BHQV, wrong.out_BHQV)
        if near.fro <= fro_limit("forward", theirs.fro) and near.row <= row_limit(theirs.row):
            return name
    return None


def _wrong_questions(inputs: Inputs) -> Iterator[tuple[str, Answer]]:
    visible = inputs.visible_BQK
    shifted = torch.zeros_like(visible)
    shifted[..., 1:] = visible[..., :-1]
    some = visible.any(-1, keepdim=True)
    yield "rerouted_to_full", exact(inputs, backward=False, visible_BQK=everything(inputs))
    for by in (1.01, 0.99):
        yield "wrong_scale", exact(inputs, backward=False, scale=inputs.scale * by)
    yield "future_token_seen", exact(inputs, backward=False, visible_BQK=(visible | shifted) & some)
    yield "token_dropped", exact(inputs, backward=False, visible_BQK=without_last(visible))
    heads, kv_heads = inputs.problem.heads, inputs.problem.kv_heads
    if heads != kv_heads:
        order = [head % kv_heads for head in range(heads)]  # interleaved where they are grouped
        k, v = inputs.k_BGKD[:, order], inputs.v_BGKV[:, order]
        mixed = Inputs(inputs.problem, inputs.seed, inputs.q_BHQD, k, v, inputs.grad_BHQV, visible, inputs.scale)
        yield "kv_heads_mixed_up", exact(mixed, backward=False)
