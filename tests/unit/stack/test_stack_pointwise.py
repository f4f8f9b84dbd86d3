"""Written backwards against autograd's own: RMSNorm, rotary positions, and the head's loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lanemark.lanes.presets import NORM_EPS
from lanemark.stack import loss
from lanemark.stack.loss import head_loss
from lanemark.stack.pointwise import RmsNorm, _RmsNorm, rotary_table, rotate


def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the branch that is traced, without a compiler."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def test_the_norm_is_torchs_with_its_gradients():
    norm = RmsNorm(16)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(3, 5, 16, requires_grad=True)
    expected = F.rms_norm(x, (16,), norm.weight, NORM_EPS)
    assert torch.allclose(norm(x), expected, atol=1e-6)
    direction = torch.randn(3, 5, 16)
    wanted = torch.autograd.grad((expected * direction).sum(), [x, norm.weight])
    given = torch.autograd.grad((norm(x) * direction).sum(), [x, norm.weight])
    for a, b in zip(given, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_norms_backward_is_its_derivative():
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_RmsNorm.apply, (x, weight))


def test_the_norm_of_nothing_is_nothing_and_not_infinite():
    norm = RmsNorm(8)
    x = torch.zeros(1, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_the_norm_keeps_bf16(monkeypatch: pytest.MonkeyPatch):
    norm = RmsNorm(16).to(torch.bfloat16)
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    plain = norm(x)
    compiling(monkeypatch)
    assert plain.dtype == norm(x).dtype == torch.bfloat16
    assert torch.allclose(plain.float(), norm(x).float(), atol=0.05)


def test_rotation_keeps_lengths_and_depends_on_the_distance_only():
    table = rotary_table(32, 8, "cpu")
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    turned_q, turned_k = rotate(q.expand(1, 32, 1, 8), table), rotate(k.expand(1, 32, 1, 8), table)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(1, 32, 1), atol=1e-5)
    assert torch.allclose(turned_q[:, 0], q[:, 0])
    scores = turned_q[0, :, 0] @ turned_k[0, :, 0].T
    for distance in (1, 7):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_the_traced_rotation_is_the_complex_one_with_its_gradients(monkeypatch: pytest.MonkeyPatch):
    table = rotary_table(16, 8, "cpu")
    x = torch.randn(2, 16, 3, 8, requires_grad=True)
    direction = torch.randn(2, 16, 3, 8)
    plain = rotate(x, table)
    (gradient,) = torch.autograd.grad((plain * direction).sum(), x)
    compiling(monkeypatch)
    traced = rotate(x, table)
    assert torch.allclose(plain, traced, atol=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad((traced * direction).sum(), x)[0], atol=1e-6)


def test_rotation_is_done_in_fp32_and_given_back_in_bf16():
    table = rotary_table(4096, 8, "cpu")
    x = torch.randn(1, 4096, 1, 8, dtype=torch.bfloat16)
    turned = rotate(x, table)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), table).bfloat16())


def head_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(10, 6, dtype=dtype, requires_grad=True)
    return x, torch.randn(20, 6, dtype=dtype, requires_grad=True), torch.randint(0, 20, (10,))


@pytest.mark.parametrize("rows", [1, 3, 10, 1024])
def test_the_heads_loss_is_the_composed_one_in_any_slices(monkeypatch: pytest.MonkeyPatch, rows: int):
    monkeypatch.setattr(loss, "SLICE_TOKENS", rows)
    x, weight, target = head_inputs()
    expected = F.cross_entropy(F.linear(x, weight), target)
    given = head_loss(x, weight, target)
    assert torch.allclose(given, expected, atol=1e-6)
    wanted = torch.autograd.grad(expected * 0.5, [x, weight])
    for a, b in zip(torch.autograd.grad(given * 0.5, [x, weight]), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_traced_loss_is_the_same(monkeypatch: pytest.MonkeyPatch):
    plain = head_loss(*head_inputs())
    compiling(monkeypatch)
    assert torch.allclose(plain, head_loss(*head_inputs()), atol=1e-6)


def test_the_loss_is_fp32_and_its_gradients_have_the_weights_type():
    x, weight, target = head_inputs(torch.bfloat16)
    given = head_loss(x, weight, target)
    assert given.dtype == torch.float32
    given.backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert x.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_under_autocast_fp32_weights_get_fp32_gradients():
    x, weight, target = head_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        given = head_loss(x, weight, target)
    given.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert torch.allclose(given, F.cross_entropy(F.linear(x, weight), target), atol=0.05)


def test_a_hopeless_prediction_has_a_finite_loss_and_a_broken_one_has_none():
    x, weight = torch.full((1, 1), 1000.0), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    assert head_loss(x, weight, torch.tensor([1])).item() == pytest.approx(87.34, abs=0.01)
    for broken in (float("nan"), float("inf")):
        assert head_loss(torch.full((1, 1), broken), weight, torch.tensor([1])).isnan()
