"""The decoder: sizes, initial values, causality, rotary positions, and attention against a written-out reference."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lanemark.lanes.presets import PRESETS, Preset, preset
from lanemark.stack.describe import describe, main
from lanemark.stack.model import Attention, Decoder, count_parameters
from lanemark.stack.parallel import build
from lanemark.stack.pointwise import rotary_table, rotate

TINY = dataclasses.replace(
    preset("diagnostic"), width=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48, vocab=64, sequence=16
)
TINY_MOE = dataclasses.replace(TINY, ffn_width=0, num_experts=4, top_k=2, expert_ffn_width=24)


def made(recipe: Preset, seed: int = 0) -> Decoder:
    model = build(recipe, recipe.sequence, "fp32").to_empty(device="cpu")
    model.reset_parameters(seed)
    return model


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_closed_form_counts_what_is_built(name: str):
    recipe = preset(name)
    facts = describe(recipe, recipe.sequence)
    assert facts["device"] == "meta"
    assert facts["parameters"] == recipe.num_parameters
    assert facts["parameters_active"] == recipe.num_active_parameters
    assert facts["flops_per_token"] == recipe.flops_per_token(recipe.sequence)
    assert facts["bytes_fp32"] == 4 * recipe.num_parameters


def test_describe_prints_one_json_document(capsys: pytest.CaptureFixture[str]):
    assert main(["--preset", "diagnostic", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["--preset", "diagnostic"]) == 0
    assert "parameters: 622,912" in capsys.readouterr().out


def test_describe_refuses_an_unknown_preset(capsys: pytest.CaptureFixture[str]):
    assert main(["--preset", "nope"]) == 2
    assert "no preset named 'nope'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [TINY, TINY_MOE], ids=["dense", "moe"])
def test_the_first_loss_is_that_of_a_model_that_knows_nothing(recipe: Preset):
    tokens = torch.randint(0, recipe.vocab, (4, 17), generator=torch.Generator().manual_seed(0))
    objective, loss = made(recipe)(tokens[:, :-1], tokens[:, 1:])
    assert abs(loss.item() - math.log(recipe.vocab)) < 0.1
    assert objective.requires_grad
    assert not loss.requires_grad
    if recipe.num_experts:
        assert 0.005 < (objective - loss).item() < 0.05  # 0.01 of a balance loss near 1
    else:
        assert objective.item() == loss.item()


def test_every_parameter_is_given_a_value_and_a_gradient():
    for recipe in (TINY, TINY_MOE):
        model = build(recipe, recipe.sequence, "fp32").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)
        model.reset_parameters(0)
        tokens = torch.randint(0, recipe.vocab, (8, 17), generator=torch.Generator().manual_seed(0))
        model(tokens[:, :-1], tokens[:, 1:])[0].backward()
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter).all(), name
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_initial_weights_follow_from_the_seed_alone():
    first, again, other = (dict(made(TINY, seed).named_parameters()) for seed in (3, 3, 4))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name])
        assert parameter.dim() == 1 or not torch.equal(parameter, other[name])


def test_residual_projections_start_smaller():
    model = made(dataclasses.replace(TINY, depth=8, width=128, ffn_width=256))
    block = model.blocks[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for projection in (block.attention.out, block.feed_forward.down):
        assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert torch.equal(block.attention_norm.weight, torch.ones(128))


@pytest.mark.parametrize("recipe", [TINY, TINY_MOE], ids=["dense", "moe"])
def test_no_token_sees_a_later_one(recipe: Preset):
    model = made(recipe)
    # Larger weights than the initial ones, so that a leak would be seen.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tokens = torch.randint(0, recipe.vocab, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % recipe.vocab
    model(tokens, tokens)
    model(changed, tokens)
    assert torch.allclose(seen[0][0, :9], seen[1][0, :9], atol=1e-5)
    assert not torch.allclose(seen[0][0, 9:], seen[1][0, 9:], atol=1e-3)


def test_grouped_query_attention_is_the_written_out_one():
    attention = Attention(TINY)
    table = rotary_table(16, 8, "cpu")
    x = torch.randn(2, 16, 32)
    q, k, v = attention.qkv(x).split([32, 16, 16], dim=-1)
    q, k = (rotate(part.unflatten(-1, (-1, 8)), table).transpose(1, 2) for part in (q, k))
    v = v.unflatten(-1, (-1, 8)).transpose(1, 2)
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)  # heads 0 and 1 share the first key head
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -math.inf)
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, table), expected, atol=1e-5)


def test_the_feed_forward_is_swiglu():
    feed_forward = made(TINY).blocks[0].feed_forward
    x = torch.randn(3, 32)
    gate, up = feed_forward.gate.weight, feed_forward.up.weight
    expected = (F.silu(x @ gate.T) * (x @ up.T)) @ feed_forward.down.weight.T
    assert torch.allclose(feed_forward(x), expected, atol=1e-6)


def test_counting_is_over_distinct_parameters():
    assert count_parameters(made(TINY)) == TINY.num_parameters
