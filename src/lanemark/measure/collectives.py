"""Watching collectives: the beacon counts them and names the one a rank is waiting in.

The names that callers look up on `torch.distributed` are replaced by thin wrappers. FSDP2 finds its collectives there
at each call (`torch.distributed.fsdp._fully_shard._fsdp_collectives` holds `import torch.distributed as dist`), under
`all_gather_single` and `reduce_scatter_single` since torch 2.13 and the `_into_tensor` / `_tensor` names before.
DDP's gradient buckets are reduced by C++ and never pass here: for DDP the count covers only what Python calls.

With `async_op=True` the call returns at once, and so does the phase; it is the count that moves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from lanemark.measure.beacon import Beacon
from lanemark.records.observation import observed, unavailable

NAMES: Final = (
    "all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_gather_single", "reduce_scatter_single",
    "barrier", "broadcast",
)  # fmt: skip
_SOURCE: Final = "torch.distributed"


def watch_collectives(beacon: Beacon) -> dict[str, Any]:
    """Wrap the collectives that this torch has.

    Returns:
        An observation in JSON form: the names that are watched, or why none is.
    """
    try:
        import torch
        import torch.distributed as dist

        is_compiling = torch.compiler.is_compiling
        present = [name for name in NAMES if callable(getattr(dist, name, None))]
    except Exception as error:  # no torch, or a build without distributed support
        return unavailable(_SOURCE, f"{type(error).__name__}: {error}"[:300]).to_json()
    if not present:
        return unavailable(_SOURCE, "this build of torch has no collectives").to_json()
    for name in present:
        setattr(dist, name, watched(beacon, name, getattr(dist, name), is_compiling))
    return observed(present, _SOURCE).to_json()


def watched(
    beacon: Beacon, name: str, collective: Callable[..., Any], is_compiling: Callable[[], bool]
) -> Callable[..., Any]:
    """`collective` with a beacon phase around it; inside a graph that is being traced, `collective` alone.

    While tracing, `is_compiling()` is a constant to the compiler: the graph holds the collective and no trace of us.
    """

    @functools.wraps(collective)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return collective(*args, **kwargs)
        token = beacon.push("collective", name)
        try:
            return collective(*args, **kwargs)
        finally:
            beacon.pop(token)

    return call
