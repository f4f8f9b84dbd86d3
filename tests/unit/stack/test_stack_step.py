"""One step, in one process: accumulation, clipping, precision, and what the built module says of itself."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from lanemark.lanes.presets import CLIP_NORM, Preset, preset
from lanemark.measure.torch_facts import device_facts, guarded, torch_facts
from lanemark.records.errors import UsageError
from lanemark.stack.parallel import (
    autocasts,
    build,
    choose_device,
    distribute,
    make_optimizer,
    observe_mode,
    observe_posture,
    torch_dtype,
)
from lanemark.stack.step import TrainStep, clip_gradients, make_step

CPU = torch.device("cpu")
TINY = dataclasses.replace(
    preset("diagnostic"), width=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48, vocab=64, sequence=16
)
TINY_MOE = dataclasses.replace(TINY, ffn_width=0, num_experts=4, top_k=2, expert_ffn_width=24)


def built(recipe: Preset = TINY, dtype: str = "fp32", posture: str = "eager") -> tuple[nn.Module, TrainStep]:
    module = distribute(
        build(recipe, 16, dtype),
        mode="single",
        posture=posture,
        dtype=dtype,
        device=CPU,
        seed=0,  # type: ignore[arg-type]
    )
    optimizer = make_optimizer(module, recipe, CPU)
    return module, make_step(module, optimizer, autocast=autocasts("single", dtype), device=CPU)  # type: ignore[arg-type]


def tokens(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (rows, 17), generator=torch.Generator().manual_seed(seed))


def batch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows[:, :-1], rows[:, 1:]


@pytest.mark.parametrize("recipe", [TINY, TINY_MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_repeated_batch_is_learned(recipe: Preset, dtype: str):
    _, step = built(recipe, dtype)
    rows = batch(tokens(8))
    losses = [step([rows]).item() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3


def test_accumulated_batches_step_like_one_large_batch():
    whole, in_parts = built(), built()
    rows = tokens(8)
    for _ in range(3):
        one = whole[1]([batch(rows)])
        four = in_parts[1]([batch(part) for part in rows.chunk(4)])
        assert one.item() == pytest.approx(four.item(), rel=1e-5)
    for a, b in zip(whole[0].parameters(), in_parts[0].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(("size", "kept"), [(0.3, True), (1.0, True), (40.0, False)])
def test_only_gradients_that_are_too_large_are_clipped(size: float, kept: bool):
    parameters = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(2))]
    whole = torch.randn(17)
    whole *= size * 0.9999 / whole.norm()
    parameters[0].grad, parameters[1].grad = whole[:12].view(3, 4).clone(), whole[12:].clone()
    clip_gradients(parameters)
    assert parameters[0].grad is not None
    assert parameters[1].grad is not None
    clipped = torch.cat([parameters[0].grad.flatten(), parameters[1].grad])
    assert torch.equal(clipped, whole) == kept
    assert clipped.norm().item() == pytest.approx(min(size, CLIP_NORM), rel=1e-3)
    assert torch.allclose(clipped / clipped.norm(), whole / whole.norm(), atol=1e-6)


def test_a_gradient_that_is_no_number_is_not_taken_for_a_small_one():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([float("nan"), 1.0])
    clip_gradients([parameter])
    assert parameter.grad.isnan().all()


def test_gradients_are_let_go_after_a_step():
    module, step = built()
    step([batch(tokens(8))])
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_loss_carries_no_graph_and_stays_a_tensor():
    loss = built()[1]([batch(tokens(2))])
    assert isinstance(loss, torch.Tensor)
    assert loss.shape == ()
    assert not loss.requires_grad


def test_bf16_keeps_fp32_weights_and_optimizer_state():
    module, step = built(TINY_MOE, "bf16")
    optimizer = make_optimizer(module, TINY_MOE, CPU)
    step([batch(tokens(4))])
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert torch_dtype("bf16") is torch.bfloat16
    assert autocasts("ddp", "bf16")
    assert not autocasts("fsdp2", "bf16")
    assert not autocasts("single", "fp32")
    assert all(group["fused"] for group in optimizer.param_groups)


def test_matrices_decay_and_norms_do_not():
    module, _ = built()
    decayed, kept = make_optimizer(module, TINY, CPU).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert all(parameter.dim() == 1 for parameter in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(module.parameters()))


# torch's own import of its compiler uses what it has deprecated itself.
compiles = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@compiles
@pytest.mark.parametrize("posture", ["eager", "regional", "model"])
def test_the_posture_is_read_off_the_module(posture: str):
    module, _ = built(posture=posture)
    assert observe_posture(module) == posture
    assert observe_mode(module) == "single"


@compiles
def test_a_half_compiled_model_is_no_posture():
    module, _ = built(posture="eager")
    module.blocks[0].compile()  # type: ignore[index, operator]
    assert observe_posture(module) == "mixed"


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="2 are visible") as caught:
        choose_device(2)
    assert caught.value.slug == "nproc-invalid"


def test_without_cuda_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(7) == CPU


def test_a_cpu_rank_has_no_gpu_facts_and_says_so():
    facts = device_facts(CPU)
    assert facts["device_class"] == {"status": "observed", "source": "torch.device of the built model", "value": "cpu"}
    for key in ("device_uuid", "device_memory_bytes", "compute_capability", "device_name"):
        assert facts[key]["status"] == "absent"


def test_a_build_without_cuda_says_absent_and_never_none():
    facts = torch_facts()
    assert facts["torch_version"]["value"] == torch.__version__
    assert torch.__version__ in facts["torch_build"]["value"]
    assert facts["cuda"]["status"] == ("observed" if torch.version.cuda else "absent")


def test_a_probe_that_raises_is_unavailable_with_its_reason():
    def look() -> None:
        raise RuntimeError("driver is gone")

    assert guarded(look, "driver") == {  # type: ignore[arg-type]
        "status": "unavailable",
        "source": "driver",
        "reason": "RuntimeError: driver is gone",
    }


def test_building_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, step = built(TINY_MOE, "bf16")
        step([batch(tokens(4))])
