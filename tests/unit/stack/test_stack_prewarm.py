"""The stand-in that is compiled ahead: right sizes and types in every mode, and no trace of it afterwards.

Compiling is left out here (`compile_in_place` does nothing), so each case is an eager forward and backward.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lanemark.lanes.presets import preset
from lanemark.lanes.prewarm import PrewarmPlan
from lanemark.measure.beacon import Beacon, read_beacon
from lanemark.records.case import Case, DataAsked
from lanemark.stack import parallel, prewarm
from lanemark.stack.model import Block, Decoder

CPU = torch.device("cpu")


def a_case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "lane": "training", "preset": "diagnostic", "nproc": 2, "mode": "fsdp2", "compile": "regional",
        "dtype": "fp32", "steps": 4, "warmup": 1, "sequence": 16, "micro_batch": 2, "data": DataAsked("synthetic"),
    }  # fmt: skip
    return Case(**{**fields, **changes})


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, tuple[Any, ...], Any]]:
    """Each call of a block or model while nothing is compiled: the module, its arguments, DDP's stand-in then."""
    seen: list[tuple[nn.Module, tuple[Any, ...], Any]] = []
    for kind in (Block, Decoder):
        forward = kind.forward

        def watched(self: nn.Module, *args: Any, _forward: Any = forward) -> Any:
            seen.append((self, args, DistributedDataParallel._get_active_ddp_module()))
            return _forward(self, *args)

        monkeypatch.setattr(kind, "forward", watched)
    monkeypatch.setattr(parallel, "compile_in_place", lambda *_: None)
    return seen


@pytest.mark.parametrize("name", ["diagnostic", "moe-nano"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["fsdp2", "ddp"])
def test_a_block_is_called_as_the_model_calls_it(called: Any, mode: str, dtype: str, name: str) -> None:
    case, recipe = a_case(mode=mode, dtype=dtype, preset=name), preset(name)
    prewarm.compile_ahead(case, recipe, CPU)
    (block, first, wrapper), (again, second, _) = called
    assert block is again
    assert isinstance(block, Block)
    arrives = torch.bfloat16 if (mode, dtype) == ("fsdp2", "bf16") else torch.float32
    assert {parameter.dtype for parameter in block.parameters()} == {arrives}
    assert all(parameter.grad is not None for parameter in block.parameters())
    x, table, balance = first
    assert (x.shape, x.dtype, x.requires_grad) == ((2, 16, recipe.width), arrives, True)
    assert (table.shape, table.dtype) == ((16, 1, recipe.head_dim // 2, 2), torch.float32)
    assert (balance.dtype, balance.requires_grad) == (torch.float32, False)
    # In a routed model only the blocks after the first see a balance loss with a gradient: that is a graph of its own.
    assert second[2].requires_grad is (recipe.num_experts > 0)
    assert second[0].dtype == arrives
    marks = {getattr(module, "_is_fsdp_managed_module", False) for module in block.modules()}
    assert marks == {mode == "fsdp2"}
    assert (wrapper is not None) is (mode == "ddp")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("mode", "depth"), [("fsdp2", 2), ("ddp", 4)])
def test_a_model_takes_tokens_as_the_loaders_give_them(called: Any, mode: str, depth: int, dtype: str) -> None:
    prewarm.compile_ahead(a_case(mode=mode, compile="model", dtype=dtype, preset="moe-nano"), preset("moe-nano"), CPU)
    model, (inputs, targets), wrapper = called[0]
    assert isinstance(model, Decoder)
    assert len(model.blocks) == depth == len(called) - 1
    assert inputs.shape == targets.shape == (2, 16)
    assert inputs.stride() == targets.stride() == (17, 1)
    assert (inputs.storage_offset(), targets.storage_offset()) == (0, 1)
    assert model.table_L1R2.dtype == torch.float32
    assert all(bool(block._forward_pre_hooks) is (mode == "fsdp2") for block in model.blocks)
    assert wrapper is None if mode == "fsdp2" else wrapper.bucket_bytes_cap == 25 * 1024**2


def test_bucket_size_is_the_one_that_ddp_takes_by_itself() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert DistributedDataParallel(nn.Linear(2, 2)).bucket_bytes_cap == prewarm._BUCKET_BYTES
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("mode", "posture"), [("fsdp2", "regional"), ("ddp", "model")])
def test_nothing_of_it_stays(called: Any, mode: str, posture: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    beacon = Beacon.create(tmp_path / "beacon.page", rank=0, world_size=2)
    plan = PrewarmPlan(do=True, reason="asked by a test")
    done = prewarm.prewarm(plan, a_case(mode=mode, compile=posture), preset("diagnostic"), CPU, beacon)
    assert torch.equal(state, torch.random.get_rng_state())
    assert DistributedDataParallel._get_active_ddp_module() is None
    assert read_beacon(tmp_path / "beacon.page").phase == "prewarm"
    assert (done["done"], done["planned"], done["reason"], done["compilations"]) == (True, True, plan.reason, 0)
    assert done["seconds"] > 0
    gone = weakref.ref(called[0][0])
    called.clear()
    gc.unfreeze()
    gc.collect()
    assert gone() is None


def test_what_is_not_planned_is_not_done(called: Any, tmp_path: Path) -> None:
    beacon = Beacon.create(tmp_path / "beacon.page", rank=0, world_size=2)
    done = prewarm.prewarm(PrewarmPlan(do=False, reason="no need"), a_case(), preset("diagnostic"), CPU, beacon)
    assert done == {"done": False, "planned": False, "reason": "no need", "seconds": 0.0, "compilations": 0}
    assert called == []
    assert read_beacon(tmp_path / "beacon.page").phase == "start"


def test_a_failing_forward_leaves_no_wrapper_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "compile_in_place", lambda *_: None)
    monkeypatch.setattr(Block, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prewarm.compile_ahead(a_case(mode="ddp"), preset("diagnostic"), CPU)
    assert DistributedDataParallel._get_active_ddp_module() is None
