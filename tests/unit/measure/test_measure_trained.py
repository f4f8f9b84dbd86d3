"""What is seen of a script's model through its optimizers: with torch's own DDP, FSDP and compiler, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    seen, _kept = trained(part)
    seen.compiled(lambda x: x, backend="inductor")
    assert seen.posture(1).value == "regional"


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
