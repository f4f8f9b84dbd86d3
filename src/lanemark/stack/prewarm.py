"""Compiling ahead: a rank compiles on its own what the sharded run will look up, before it depends on anyone.

The part that is compiled stands in for the whole: one block where blocks are compiled, called twice, because the second
block of a routed model sees a balance loss that carries gradient and the first does not; or a whole model. It has the
sizes, types and input layouts of the run, zeros for weights, and draws no random number. After a forward and a backward
it is dropped, and the compiler's state in memory with it: what stays is on disk, and the run's own first step finds all
of it there. `torch.compiler.reset` matters to the measurement too, since a stale entry would be tried, and refused, at
every call of every block.

**Keys.** A graph found again needs more than equal shapes, because the compiler looks at how a module is wrapped:

- `fsdp2`: modules carry two marks, which decide how the sources of a graph's inputs are written down. Without them the
  compiled code is found and the joint graph above it is not: a second of tracing, not half a minute of compiling. And
  under `model` FSDP2's hooks cut the graph around every block, so the stand-in has hooks that cut it there too; its
  blocks being alike, two of them cover any depth.
- `ddp`: the graph is cut at DDP's buckets wherever the compiler sees a DDP wrapper at work, so a stand-in for that
  wrapper says how large its buckets are.

All three are details of torch that it does not promise (seen alike from 2.11 to 2.13). Where one changes, keys differ,
lookups miss, and each rank's counts show it (`lanemark.measure.cache_use`): nothing breaks but the protection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lanemark.lanes.presets import Preset
from lanemark.lanes.prewarm import PrewarmPlan
from lanemark.measure.beacon import Beacon
from lanemark.measure.compiling import watch_compilations
from lanemark.records.case import Case
from lanemark.stack import parallel
from lanemark.stack.loader import split
from lanemark.stack.model import Decoder

#: What the beacon says while a rank waits for those that still compile. Seen from outside it is no hang.
BARRIER: Final = "prewarm barrier"
#: DDP's default, which the reference stack keeps (torch.nn.parallel.DistributedDataParallel, `bucket_cap_mb`).
_BUCKET_BYTES: Final = 25 * 1024 * 1024
#: Blocks that stand for all blocks of a model whose graphs end at each block.
_CUT_DEPTH: Final = 2


def prewarm(plan: PrewarmPlan, case: Case, recipe: Preset, device: torch.device, beacon: Beacon) -> dict[str, Any]:
    """Follow the plan, on this rank alone: no collective runs, and no process group is needed.

    What goes wrong in a compilation is raised: the run's own step would meet the same.

    Returns:
        `done`, `reason`, `seconds` and `compilations`, for `observed.json`.
    """
    if not plan.do:
        return {"done": False, "planned": False, "reason": plan.reason, "seconds": 0.0, "compilations": 0}
    beacon.enter("prewarm", case.compile)
    begin_ns, before = time.monotonic_ns(), beacon.compilations
    # Everything imported so far lives to the end: the collector need not walk it, here or in the measured window.
    gc.freeze()
    compile_ahead(case, recipe, device)
    torch.compiler.reset()
    watch_compilations(beacon)
    # The compiled call of a module refers to the module: only the collector gives its memory back.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "done": True,
        "planned": True,
        "reason": plan.reason,
        "seconds": (time.monotonic_ns() - begin_ns) / 1e9,
        "compilations": beacon.compilations - before,
    }


def compile_ahead(case: Case, recipe: Preset, device: torch.device) -> None:
    """One forward and backward of the stand-in, compiled as the run will ask for it."""
    depth = 1 if case.compile == "regional" else _CUT_DEPTH if case.mode == "fsdp2" else recipe.depth
    whole = parallel.build(dataclasses.replace(recipe, depth=depth), case.sequence, case.dtype)
    parallel.compile_in_place(whole, case.compile, case.mode)
    part: nn.Module = whole.blocks[0] if case.compile == "regional" else whole
    sharded = case.mode == "fsdp2"
    # Gathered parameters arrive in the type that products are computed in; elsewhere they stay fp32.
    dtype = parallel.torch_dtype(case.dtype) if sharded else torch.float32
    _allocate(part, dtype, device)
    if sharded:
        _mark_as_sharded(part)
        if isinstance(part, Decoder):
            _cut_around_blocks(part)
    autocast = parallel.autocasts(case.mode, case.dtype)
    with (
        torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext(),
        _as_if_in_ddp() if case.mode == "ddp" else contextlib.nullcontext(),
    ):
        objective = (
            part(*_tokens(case, device))[0]
            if isinstance(part, Decoder)
            else _through_block(part, case, recipe, dtype, device)
        )
    objective.backward()


def _through_block(block: nn.Module, case: Case, recipe: Preset, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The block after itself, on inputs as the embedding and the loop over blocks give them."""
    x_BLD = torch.zeros(case.micro_batch, case.sequence, recipe.width, dtype=dtype, device=device, requires_grad=True)
    table_L1R2 = torch.zeros(case.sequence, 1, recipe.head_dim // 2, 2, device=device)
    balance = torch.zeros((), device=device)
    y_BLD, balance = block(x_BLD, table_L1R2, balance)
    y_BLD, balance = block(y_BLD, table_L1R2, balance)
    total: Tensor = y_BLD.float().sum() + balance
    return total


def _tokens(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets laid out as the loaders lay them out: views of one buffer, a token apart."""
    return split(torch.zeros(case.micro_batch, case.sequence + 1, dtype=torch.int64).to(device))


@torch.no_grad()
def _allocate(part: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    part.to_empty(device=device)
    for parameter in part.parameters():
        parameter.data = torch.zeros_like(parameter, dtype=dtype)
    for buffer in part.buffers():
        buffer.zero_()


def _mark_as_sharded(part: nn.Module) -> None:
    """The marks that `fully_shard` leaves for the compiler (torch.distributed.fsdp._fully_shard, "For Dynamo")."""
    for name in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
        for module in part.modules():
            setattr(module, name, True)


def _cut_around_blocks(model: Decoder) -> None:
    """End graphs where FSDP2's hooks end them: before and after every block."""

    def before(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        return output

    disable: Any = torch.compiler.disable  # untyped in torch's own annotations
    for block in model.blocks:
        block.register_forward_pre_hook(disable(before), prepend=True, with_kwargs=True)
        block.register_forward_hook(disable(after))


@contextlib.contextmanager
def _as_if_in_ddp() -> Iterator[None]:
    """Let the compiler see a DDP wrapper at work, as far as it looks at one: the size of its buckets."""
    name = "_active_ddp_module"  # read through DistributedDataParallel._get_active_ddp_module
    before = getattr(DistributedDataParallel, name, None)
    setattr(DistributedDataParallel, name, SimpleNamespace(bucket_bytes_cap=_BUCKET_BYTES))
    try:
        yield
    finally:
        setattr(DistributedDataParallel, name, before)
