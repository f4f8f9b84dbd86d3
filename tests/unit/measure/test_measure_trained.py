"""What is seen of a script's model through its optimizers: with torch's own DDP, FSDP and compiler, in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lanemark.measure.trained import Trained


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one rank, which is enough for torch's wrappers to wrap."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))


def trained(module: nn.Module) -> tuple[Trained, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seen = Trained()
    seen.take(optimizer)
    seen.take(optimizer)
    return seen, optimizer


def test_a_plain_model_is_single_alone_and_unknown_among_many() -> None:
    seen, _kept = trained(model())
    assert seen.mode(1).value == "single"
    assert seen.parameters().value == 4 * 8 + 8 + 8 * 4 + 4
    assert seen.dtypes().value == ["float32"]
    assert str(seen.device()) == "cpu"


def test_what_never_stepped_was_not_seen() -> None:
    seen = Trained()
    assert {seen.mode(2).status, seen.parameters().status, seen.dtypes().status} == {"unavailable"}
    assert seen.device() is None


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, of FSDP1
def test_ddp_fsdp2_and_fsdp1_are_told_by_what_they_make_of_the_parameters(group: None) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard

    wrapped = nn.parallel.DistributedDataParallel(model())
    seen, _ddp = trained(wrapped)
    assert seen.mode(2).value == "ddp"
    del wrapped, seen, _ddp
    sharded = model()
    fully_shard(sharded)
    seen, _two = trained(sharded)
    assert seen.mode(2).value == "fsdp2"
    assert seen.parameters().value == 76  # of the whole model, not of one rank's shard
    del sharded, seen, _two
    for keeps in (False, True):
        flat = FullyShardedDataParallel(
            model(), device_id=torch.device("cpu"), sharding_strategy=ShardingStrategy.NO_SHARD, use_orig_params=keeps
        )
        seen, _one = trained(flat)
        assert seen.mode(2).value == "fsdp1"
        assert seen.parameters().status == "unavailable"


def test_the_posture_is_what_was_compiled_and_not_what_was_asked_for() -> None:
    whole, part = model(), model()
    seen, _kept = trained(whole)
    assert seen.posture(0).value == "eager"
    assert seen.posture(3).status == "unavailable"  # something compiled, and not through torch.compile
    seen.compiled(whole, backend="eager")
    assert seen.posture(3).status == "unavailable"
    seen.compiled(whole._call_impl, backend="inductor")  # what `Module.compile` passes
    assert seen.posture(0).value == "eager"
    assert seen.posture(2).value == "model"
    seen, _kept = trained(part)
    seen.compiled(part[0], backend="inductor")
    assert seen.posture(2).value == "regional"


def test_of_a_compiled_function_only_what_it_names_is_known() -> None:
    whole = model()

    def step(x: torch.Tensor) -> torch.Tensor:
        return whole(x)

    def head(x: torch.Tensor) -> torch.Tensor:
        return last(x)

    class Holder:
        def __init__(self) -> None:
            self.net = whole

        def step(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    last, holder = whole[1], Holder()
    for function, posture in ((step, "model"), (head, "regional"), (holder.step, "model")):
        seen, _kept = trained(whole)
        seen.compiled(None, backend="inductor")  # `torch.compile(mode=…)` alone, which makes a decorator
        seen.compiled(function, backend="inductor")
        assert seen.posture(0).value == "eager"
        assert seen.posture(1).value == posture
    # What it is handed is nobody's to see from outside: that it was a part is not claimed.
    seen, _kept = trained(whole)
    elsewhere = lambda net, x: net(x)  # noqa: E731
    seen.compiled(elsewhere, backend="inductor")
    seen.compiled(len, backend="inductor")
    assert seen.posture(1).status == "unavailable"


class _Engine:
    """What DeepSpeed's engine has of what is read of it."""

    def __init__(self, module: nn.Module, stage: int) -> None:
        self.module, self.device, self._stage = module, torch.device("meta"), stage

    def zero_optimization_stage(self) -> int:
        return self._stage


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> type[_Engine]:
    """DeepSpeed's place among the modules, with a class of engines that is this test's alone."""
    kind = type("DeepSpeedEngine", (_Engine,), {})
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.engine", SimpleNamespace(DeepSpeedEngine=kind))  # type: ignore[misc]
    return kind


def test_a_model_in_an_engine_of_deepspeed_is_the_engines_and_not_the_optimizers_shard(deepspeed: Any) -> None:
    whole = model()
    engine = deepspeed(whole, 2)
    shard = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([shard], lr=0.1)
    seen = Trained()
    seen.take(optimizer)
    assert (seen.mode(2).value, seen.parameters().value, seen.device().type) == ("deepspeed_zero2", 76, "meta")
    seen.compiled(whole, backend="inductor")
    assert seen.posture(1).value == "model"
    whole[0].weight.ds_numel = 1000  # at stage 3 it is empty, and knows what it is
    assert seen.parameters().value == 1000 + 76 - 32
    whole[1].weight.allreduce = False  # an expert of this rank alone
    assert seen.parameters().status == "unavailable"
    engine.mpu = object()
    assert "divided" in str(seen.parameters().reason)
    other = deepspeed(model(), 3)
    seen = Trained()
    seen.take(optimizer)
    assert seen.mode(2).value == "mixed"
    del engine, other


def test_without_an_engine_deepspeeds_presence_changes_nothing(deepspeed: Any) -> None:
    seen, _kept = trained(model())
    assert (seen.mode(1).value, seen.parameters().value) == ("single", 76)


def test_data_files_are_what_is_read_and_no_part_of_a_program(tmp_path: Path) -> None:
    from lanemark.measure.open_data import DataSeen

    big, small, written = tmp_path / "tokens.bin", tmp_path / "small.bin", tmp_path / "out.bin"
    big.write_bytes(bytes(200_000))
    small.write_bytes(b"x")
    seen = DataSeen()
    with big.open("rb"), small.open("rb"), written.open("wb") as out:
        out.write(bytes(200_000))
        out.flush()
        seen.look()
    names = [entry["name"] for entry in seen.files()]
    assert "tokens.bin" in names
    assert not {"small.bin", "out.bin"} & set(names)
    assert not [name for name in names if name.endswith((".so", ".py", ".pyc"))]
