"""Presets: names, sizes and the arithmetic that follows from them."""

from __future__ import annotations

import dataclasses

import pytest

from lanemark.lanes.presets import MAX_VOCAB, PRESETS, preset
from lanemark.records.errors import UsageError


def test_each_preset_goes_by_its_own_name():
    assert list(PRESETS) == ["dense-nano", "moe-nano", "dense-1b", "dense-52", "moe-52", "diagnostic"]
    for name, recipe in PRESETS.items():
        assert preset(name) is recipe
        assert recipe.name == name
        assert recipe.vocab <= MAX_VOCAB
        assert recipe.steps >= recipe.warmup + 3
        assert recipe.warmup >= 1


def test_an_unknown_name_is_refused_with_the_closest_one():
    with pytest.raises(UsageError, match="did you mean dense-nano") as caught:
        preset("dense-nan")
    assert caught.value.slug == "preset-unknown"
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_is_refused_with_the_whole_list():
    with pytest.raises(UsageError, match=r"use one of dense-nano, .*diagnostic"):
        preset("\x00" * 500)


@pytest.mark.parametrize("name", ["dense-52", "moe-52"])
def test_the_deep_presets_have_the_shape_they_are_named_for(name: str):
    recipe = preset(name)
    assert (recipe.depth, recipe.width, recipe.num_heads, recipe.num_kv_heads) == (52, 3584, 56, 8)
    assert recipe.sequence == 4096
    assert recipe.num_heads * recipe.head_dim == recipe.width


def test_moe_52_routes_to_4_of_16_experts_and_is_as_active_as_dense_52():
    moe, dense = preset("moe-52"), preset("dense-52")
    assert (moe.num_experts, moe.top_k) == (16, 4)
    router = moe.depth * moe.width * moe.num_experts
    assert moe.num_active_parameters == dense.num_parameters + router
    assert moe.num_parameters > 3 * moe.num_active_parameters


def test_a_dense_preset_is_all_active():
    for name in ("dense-nano", "dense-1b", "dense-52", "diagnostic"):
        assert preset(name).num_active_parameters == preset(name).num_parameters


def test_flops_per_token_are_those_of_the_cited_convention():
    recipe = dataclasses.replace(
        preset("dense-nano"), depth=1, width=8, num_heads=2, num_kv_heads=1, head_dim=4, ffn_width=16, vocab=10
    )
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8  # query, key and value, output
    feed_forward = 3 * 8 * 16
    head = 10 * 8
    assert recipe.num_multiplied_parameters == attention + feed_forward + head
    assert recipe.num_parameters == recipe.num_multiplied_parameters + 10 * 8 + 3 * 8  # the table and three norms
    assert recipe.flops_per_token(32) == 6 * recipe.num_multiplied_parameters + 12 * 1 * 8 * 32


def test_longer_sequences_cost_more_per_token():
    recipe = preset("dense-1b")
    assert recipe.flops_per_token(8192) - recipe.flops_per_token(4096) == 12 * recipe.depth * recipe.width * 4096


@pytest.mark.parametrize(
    "change",
    [{"num_kv_heads": 3}, {"head_dim": 63}, {"vocab": MAX_VOCAB + 1}, {"num_experts": 4, "top_k": 2}, {"top_k": 1}],
)
def test_sizes_that_contradict_each_other_are_no_preset(change: dict[str, int]):
    with pytest.raises(AssertionError):
        dataclasses.replace(preset("dense-nano"), **change)
