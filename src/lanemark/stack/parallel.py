"""How ranks share one model: single, DDP or FSDP2, eager or compiled, fp32 or bf16; and what was really built.

**Precision.** `bf16` never means bf16 weights that are stepped. Under `fsdp2` each group's fp32 shards are gathered as
bf16 and gradients reduced in fp32 (`MixedPrecisionPolicy`). Under `single` and `ddp` weights stay fp32 and products run
in bf16 by autocast, gradients being fp32. Master weights, optimizer state and reductions are fp32 in every mode.

**Posture.** `eager` compiles nothing. `regional` compiles each block in place with `fullgraph=True`; blocks are alike,
so the compiler works once and serves all of them. `model` compiles the whole model: one graph in `single` and `ddp`,
and as many as FSDP2's hooks cut it into in `fsdp2`. Shapes are fixed, so compilation is told not to try symbolic ones.

`observe_mode` and `observe_posture` look at the built module and at nothing else: they are what a record may call
observed.
"""

from __future__ import annotations

import datetime as dt
import inspect
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lanemark.lanes.presets import ADAM_BETAS, ADAM_EPS, WEIGHT_DECAY, Preset
from lanemark.records.case import Dtype, Mode, Posture
from lanemark.records.errors import UsageError
from lanemark.stack.model import Decoder

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

#: Device types whose AdamW has a fused kernel (torch.optim documentation, `fused`).
_FUSED_DEVICES: Final = ("cpu", "cuda")

#: torch 2.13 renamed `broadcast_buffers` and warns about the old name; 2.11 knows only that one.
_NO_BUFFER_SYNC: Final = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)


def choose_device(local_rank: int) -> torch.device:
    """This rank's GPU where CUDA is seen to work, else the CPU. Raises UsageError when ranks outnumber GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UsageError(
            "nproc-invalid",
            f"local rank {local_rank} has no GPU of its own: {count} are visible",
            f"ask for --nproc {count} or fewer, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to run on the CPU",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def open_store(*, rank: int, world_size: int, host: str, port: int, listen_fd: int | None, timeout_s: float) -> Store:
    """Connect to the store that ranks meet at; rank 0 keeps it.

    Args:
        rank: as launched.
        world_size: as launched.
        host: where rank 0 is.
        port: of the store.
        listen_fd: a socket that already listens there, on rank 0, so that nobody can take the port in between.
        timeout_s: how long ranks may be apart. Give the run's wall limit: whether a run is stuck is judged from
            outside, where the rank that is late can be told from the ranks that wait for it.
    """
    store: Store = dist.TCPStore(  # type: ignore[attr-defined]  # bound in C, absent from its module's __all__
        host,
        port,
        world_size,
        is_master=rank == 0,
        timeout=dt.timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listen_fd if rank == 0 else None,
    )
    return store


def meet(store: Store, place: str, *, world_size: int) -> None:
    """Return when every rank has come here, however late the last is: the store's timeout is the long one.

    No process group is needed, and none of its timeouts applies.

    Args:
        store: from `open_store`.
        place: a name; ranks meet there once.
        world_size: how many ranks there are.
    """
    here = f"lanemark/{place}"
    if store.add(here, 1) == world_size:
        store.set(f"{here}/all", "met")
    store.wait([f"{here}/all"])


def init_process_group(device: torch.device, store: Store, *, rank: int, world_size: int, timeout_s: float) -> None:
    """Join the ranks: NCCL between GPUs, gloo between CPUs. Mode `single` joins a group of one, on the same code path.

    Ranks should have met before (`meet`), so that `timeout_s` is never spent on waiting for one that is still starting.

    Args:
        device: where this rank computes; it decides the backend.
        store: from `open_store`.
        rank: as launched.
        world_size: as launched.
        timeout_s: how long any collective may wait.
    """
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=dt.timedelta(seconds=timeout_s),
        device_id=device if on_gpu else None,
    )


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """What products are computed in."""
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def autocasts(mode: Mode, dtype: Dtype) -> bool:
    """Whether bf16 comes from autocast; under `fsdp2` it comes from the gathered parameters instead."""
    return dtype == "bf16" and mode != "fsdp2"


def build(preset: Preset, sequence: int, dtype: Dtype) -> Decoder:
    """The model on the meta device: sizes and no memory."""
    with torch.device("meta"):
        return Decoder(preset, sequence, torch_dtype(dtype))


def compile_in_place(model: Decoder, posture: Posture, mode: Mode) -> None:
    """Ask for compilation, which happens at the first call. In place: parameter names stay as they are."""
    if posture == "regional":
        for block in model.blocks:
            block.compile(fullgraph=True, dynamic=False)
    elif posture == "model":
        # FSDP2 gathers in hooks between blocks, where a graph has to end.
        model.compile(fullgraph=mode != "fsdp2", dynamic=False)


def distribute(
    model: Decoder, *, mode: Mode, posture: Posture, dtype: Dtype, device: torch.device, seed: int
) -> nn.Module:
    """Compile, shard or wrap, allocate and initialise a model that `build` made. Collective in `ddp` and `fsdp2`.

    Returns:
        The module to call: the model itself, or DDP around it.
    """
    compile_in_place(model, posture, mode)
    if mode == "fsdp2":
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        # Inputs are not cast: the stream is bf16 from the embedding on, and the rotary table and losses stay fp32.
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
            if dtype == "bf16"
            else MixedPrecisionPolicy()
        )
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device)
    model.reset_parameters(seed)
    if mode == "ddp":
        # Gradients are views of the reduction's buckets: one copy less a step. The only buffer, the rotary table, is
        # the same on every rank from the start: sending it before each forward would measure nothing of the model.
        options: dict[str, Any] = {_NO_BUFFER_SYNC: False, "gradient_as_bucket_view": True}
        if device.type == "cuda":
            options["device_ids"] = [device.index]
        return DistributedDataParallel(model, **options)
    return model


def make_optimizer(model: nn.Module, preset: Preset, device: torch.device) -> torch.optim.AdamW:
    """AdamW, fused where the device has it. Matrices decay, vectors (norms) do not, as in GPT-2's released training."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=preset.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=device.type in _FUSED_DEVICES
    )


def observe_mode(module: nn.Module) -> Mode | Literal["mixed"]:
    """How the built module is shared, from its type: the DDP wrapper, FSDP2's marker class, or neither.

    `mixed` when only some of what should be sharded is: no mode may be claimed then.
    """
    if isinstance(module, DistributedDataParallel):
        return "ddp"
    marked = [isinstance(part, FSDPModule) for part in (module, *_blocks(module))]
    if all(marked):
        return "fsdp2"
    return "mixed" if any(marked) else "single"


def observe_posture(module: nn.Module) -> Posture | Literal["mixed"]:
    """Which parts carry a compiled call: the whole model, every block, or none. `mixed` for anything between."""
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    whole = _is_compiled(module) or _is_compiled(inner)
    blocks = [_is_compiled(block) for block in _blocks(module)]
    if whole and not any(blocks):
        return "model"
    if not whole and all(blocks):
        return "regional"
    return "mixed" if whole or any(blocks) else "eager"


def _blocks(module: nn.Module) -> list[nn.Module]:
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(inner, Decoder), "the reference stack wraps its own model"
    return list(inner.blocks)


def _is_compiled(module: nn.Module) -> bool:
    """`Module.compile` leaves the compiled call in this attribute; `torch.compile(module)` wraps in OptimizedModule."""
    return getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"
