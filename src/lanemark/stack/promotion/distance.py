"""How far an answer is from the reference: over all, in its worst row, and in where it is not a number.

Each catches what the others miss. A norm over everything does not see one zeroed row among a thousand; the worst row
does not see an error of half a percent everywhere; neither may be asked where values are infinite or NaN, so those must
stand exactly where the reference has them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Distance(NamedTuple):
    """Relative errors, dimensionless, and whether the values that are no numbers stand where they belong.

    Attributes:
        fro: norm of the difference over the reference's norm.
        row: largest of that over the rows.
        masks_equal: whether infinities and NaN stand where the reference has them.
    """

    fro: float
    row: float
    masks_equal: bool


def distance(answer: Tensor, reference: Tensor, *, gradient: bool = False) -> Distance:
    """Distance of an output or a gradient from its float64 reference. Rows are the last dimension.

    A row is measured against its own reference, and one whose reference is 0 by its absolute size. Rows of gradients
    are measured against the root mean square of all rows where their own is smaller: a causal gradient's first row is
    exactly 0 in real numbers, and a difference of two rounded ones in any kernel (measured: docs/adr/0029).
    """
    got = answer.detach().double()
    masks_equal = bool(
        torch.equal(got.isnan(), reference.isnan())
        and torch.equal(got.isposinf(), reference.isposinf())
        and torch.equal(got.isneginf(), reference.isneginf())
    )
    difference = torch.nan_to_num(got, nan=0.0, posinf=0.0, neginf=0.0) - torch.nan_to_num(reference)
    rows, sizes = (x.norm(dim=-1) for x in (difference, torch.nan_to_num(reference)))
    if gradient:
        sizes = sizes.clamp_min(float(sizes.square().mean().sqrt()))
    relative = torch.where(sizes > 0, rows / sizes.clamp_min(torch.finfo(torch.float64).tiny), rows)
    whole = float(reference.norm()) or 1.0
    return Distance(float(difference.norm()) / whole, float(relative.max()) if relative.numel() else 0.0, masks_equal)


def largest_difference(answer: Tensor, reference: Tensor) -> float:
    """Largest difference of one element, over the larger of 1 and the reference's largest magnitude.

    The field's stop rule is absolute and was made for outputs below 1. An element of 6 has no neighbour in bfloat16
    that is nearer than 0.03, so that the rule as it stands would stop every correct kernel.
    """
    difference = (answer.detach().double() - reference).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs()
    top = max(1.0, float(reference.nan_to_num().abs().max())) if reference.numel() else 1.0
    return float(difference.max()) / top if difference.numel() else 0.0


def lse_error(lse: Tensor, reference: Tensor) -> float | None:
    """Largest difference of the log-sum-exp over finite rows; None when infinities do not stand where they belong.

    Queries without a key are infinite with either sign: flash-attention's releases do not agree on it.
    """
    got = lse.detach().double()
    if got.shape != reference.shape or not torch.equal(got.isinf(), reference.isinf()) or bool(got.isnan().any()):
        return None
    finite = reference.isfinite()
    return float((got[finite] - reference[finite]).abs().max()) if bool(finite.any()) else 0.0
