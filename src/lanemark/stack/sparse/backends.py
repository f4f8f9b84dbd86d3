"""The backends by name, and the dispatch that takes one of them: it may take another than was asked for, and say why.

Its word is a log, not an observation. Which backend ran is told by names and a canary
(`lanemark.lanes.sparse_identity`); the log only gives the reason for a fallback that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lanemark.records.errors import UsageError
from lanemark.records.terms import FallbackReason
from lanemark.stack.sparse.gather import gather
from lanemark.stack.sparse.sdpa import dense, sdpa_masked
from lanemark.stack.sparse.union import union

#: Queries, keys, values and indices to the output and, where the backend returns one, the log-sum-exp.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
#: Sequences up to this length are rerouted to dense attention, as serving stacks do by a variable of this kind.
FULL_BELOW: Final = "LANEMARK_SPARSE_FULL_BELOW"

BACKENDS: Final[dict[str, Attend]] = {
    "gather": gather,
    "sdpa_masked": sdpa_masked,
    "union": union,
    "dense": dense,
}


@dataclass(frozen=True)
class Dispatch:
    """What will be called.

    Attributes:
        attend: the function.
        reason: why it is not the one asked for, from the closed list; None where it is.
    """

    attend: Attend
    reason: FallbackReason | None = None


def dispatch(name: str, q_BHSD: Tensor, *, environ: Mapping[str, str]) -> Dispatch:
    """Choose what runs for a request.

    Raises:
        UsageError: `value-invalid`, where no backend has that name.
    """
    if name not in BACKENDS:
        raise UsageError("value-invalid", f"no sparse backend is called {name[:60]!r}", f"use {', '.join(BACKENDS)}")
    threshold = environ.get(FULL_BELOW, "")
    if name != "dense" and threshold.isascii() and threshold.isdigit() and q_BHSD.shape[2] <= int(threshold):
        return Dispatch(BACKENDS["dense"], "threshold_env")
    return Dispatch(BACKENDS[name])


def call(attend: Attend, q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    """One call without autograd."""
    with torch.no_grad():
        return attend(q, k, v, indices)
