"""The backends by name, and the dispatch that takes one of them: it may take another than was asked for, and say why.

Its word is a log, not an observation. Which backend ran is told by names and a canary
(`lanemark.lanes.sparse_identity`); the log only gives the reason for a fallback that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor

from lanemark.lanes.sparse_identity import BASELINE
from lanemark.records.errors import UsageError
from lanemark.records.terms import FallbackReason
from lanemark.stack.sparse.flex import flex, flex_flash
from lanemark.stack.sparse.gather import gather
from lanemark.stack.sparse.sdpa import dense, sdpa_masked
from lanemark.stack.sparse.union import union

#: Queries, keys, values and indices to the output and, where the backend returns one, the log-sum-exp.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
#: Sequences up to this length are rerouted to dense attention, as serving stacks do by a variable of this kind.
FULL_BELOW: Final = "LANEMARK_SPARSE_FULL_BELOW"
#: What the Triton kernel asks of a device: tensor cores that take bf16 (compute capability 8.0), and rows of at most
#: 256 elements, or its tiles spill.
_TRITON_CAPABILITY: Final = (8, 0)
_TRITON_DIM: Final = 256


def _triton(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    from lanemark.stack.sparse.triton_kernel import triton_gather

    return triton_gather(q, k, v, indices)


BACKENDS: Final[dict[str, Attend]] = {
    "gather": gather,
    "sdpa_masked": sdpa_masked,
    "flex": flex,
    "flex_flash": flex_flash,
    "union": union,
    "triton": _triton,
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
    if name != BASELINE and threshold.isascii() and threshold.isdigit() and q_BHSD.shape[2] <= int(threshold):
        return Dispatch(BACKENDS[BASELINE], "threshold_env")
    reason = _unfit_for_triton(q_BHSD, environ) if name == "triton" else None
    return Dispatch(BACKENDS[name]) if reason is None else Dispatch(BACKENDS["gather"], reason)


def _unfit_for_triton(q_BHSD: Tensor, environ: Mapping[str, str]) -> FallbackReason | None:
    """Why the Triton kernel cannot take these inputs here, or None. The gather then does, which is as exact."""
    interpreted = environ.get("TRITON_INTERPRET") == "1"
    if find_spec("triton") is None or not (q_BHSD.is_cuda or interpreted):
        return "backend_unavailable"
    if q_BHSD.shape[-1] > _TRITON_DIM:
        return "head_dim_unsupported"
    if interpreted:  # its arithmetic is numpy's, which has no bf16
        return "dtype_unsupported" if q_BHSD.dtype != torch.float32 else None
    return "arch_unsupported" if torch.cuda.get_device_capability(q_BHSD.device) < _TRITON_CAPABILITY else None


def call(attend: Attend, q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    """One call without autograd."""
    with torch.no_grad():
        return attend(q, k, v, indices)
