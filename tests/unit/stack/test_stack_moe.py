"""Routed experts: groups hold every assignment whatever the routing, and the result is the written-out one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lanemark.lanes.presets import preset
from lanemark.stack.grouped import grouped_mm
from lanemark.stack.moe import GROUP_ROWS, RoutedFeedForward, buffer_rows, group_slots

RECIPE = dataclasses.replace(
    preset("moe-nano"), width=16, num_heads=2, num_kv_heads=1, head_dim=8, num_experts=5, top_k=2, expert_ffn_width=12
)


def routed(dtype: torch.dtype = torch.float32) -> RoutedFeedForward:
    torch.manual_seed(0)
    layer = RoutedFeedForward(RECIPE, dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.5)
    return layer


def written_out(layer: RoutedFeedForward, x: Tensor) -> Tensor:
    """Every token through each of its experts, one at a time."""
    probability = layer.router(x).softmax(-1)
    rows = []
    for token, weights in zip(x, probability, strict=True):
        best = weights.topk(layer.top_k)
        row = torch.zeros_like(token)
        for weight, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
            gate, up = (token @ layer.gate_up_EDF[expert]).chunk(2)
            row = row + weight * ((F.silu(gate) * up) @ layer.down_EFD[expert])
        rows.append(row)
    return torch.stack(rows)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=120))
def test_every_assignment_has_a_row_of_its_own_inside_its_group(experts: list[int]):
    slots, ends = group_slots(torch.tensor(experts), 5)
    rows = buffer_rows(len(experts), 5)
    assert ends.dtype == torch.int32
    assert len(set(slots.tolist())) == len(experts)
    assert int(ends[-1]) == rows
    begins = [0, *ends.tolist()[:-1]]
    assert ends.tolist() == sorted(ends.tolist())
    for expert, slot in zip(experts, slots.tolist(), strict=True):
        assert begins[expert] <= slot < int(ends[expert])
    assert all(begin % GROUP_ROWS == 0 for begin in begins)


@pytest.mark.parametrize("experts", [[0] * 40, [4] * 40, [3] * 33 + [0], [2]])
def test_a_lopsided_routing_drops_no_token(experts: list[int]):
    slots, ends = group_slots(torch.tensor(experts), 5)
    assert len(set(slots.tolist())) == len(experts)
    assert int(slots.max()) < int(ends[-1])


def test_the_layer_is_the_written_out_one_with_its_gradients():
    layer = routed()
    x = torch.randn(2, 9, 16, requires_grad=True)
    out, balance = layer(x)
    expected = written_out(layer, x.flatten(0, 1)).view_as(x)
    assert torch.allclose(out, expected, atol=1e-5)
    assert balance.shape == ()

    wanted = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    given_ = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])
    for name, a, b in zip(("x", "router", "gate_up", "down"), given_, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4), name


def test_an_expert_that_nobody_chose_has_a_zero_gradient():
    layer = routed()
    with torch.no_grad():
        layer.router.weight[3] = 0.0
        layer.router.weight[[0, 1, 2, 4]] = 10.0 * torch.ones(16)
    x = torch.rand(1, 20, 16) + 0.1  # positive, so that every other expert scores far above expert 3
    out, _ = layer(x)
    out.square().sum().backward()
    assert layer.gate_up_EDF.grad is not None
    assert layer.gate_up_EDF.grad[3].abs().max() == 0
    assert layer.gate_up_EDF.grad.abs().max() > 0


def test_the_balance_loss_is_least_when_experts_are_used_alike():
    layer = routed()
    with torch.no_grad():
        layer.router.weight.zero_()
    _, even = layer(torch.randn(1, 50, 16))
    assert even.item() == pytest.approx(1.0)
    with torch.no_grad():
        layer.router.weight[:2] = 10.0
    _, uneven = layer(torch.rand(1, 50, 16))
    assert uneven.item() == pytest.approx(2.5, rel=0.05)  # all in 2 of 5 experts


def test_bf16_products_are_near_those_in_fp32():
    x = torch.randn(2, 32, 16)
    exact, _ = routed()(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough, balance = routed(torch.bfloat16)(x)
    assert rough.dtype == torch.bfloat16
    assert balance.dtype == torch.float32
    assert (rough.float() - exact).abs().median() < 0.05 * exact.abs().median() + 0.02


def test_the_grouped_product_handles_empty_groups():
    x, weight = torch.randn(6, 4, requires_grad=True), torch.randn(3, 4, 2, requires_grad=True)
    ends = torch.tensor([0, 6, 6], dtype=torch.int32)
    out = grouped_mm(x, weight, ends)
    assert torch.allclose(out, x @ weight[1])
    out.sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].abs().max() == weight.grad[2].abs().max() == 0


def test_the_operators_say_truthfully_what_they_return():
    x, weight = torch.randn(32, 4, requires_grad=True), torch.randn(3, 4, 2, requires_grad=True)
    ends = torch.tensor([16, 16, 32], dtype=torch.int32)
    torch.library.opcheck(torch.ops.lanemark.grouped_mm.default, (x, weight, ends))


# torch's own import of its compiler uses what it has deprecated itself.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_layer_is_one_graph_for_any_routing():
    """Traced without generating code: a second routing must neither break the graph nor trace again."""
    layer = routed()
    torch._dynamo.reset()
    traced = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for scale in (1.0, -5.0, 0.0):
        x = scale * torch.randn(2, 9, 16)
        assert torch.allclose(traced(x)[0], layer(x)[0], atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
