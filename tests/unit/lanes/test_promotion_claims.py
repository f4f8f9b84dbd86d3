"""Applicability fails closed, each time with a reason of the closed list; declarations of users are held to a shape."""

from __future__ import annotations

import dataclasses

import pytest

from lanemark.lanes.promotion_claims import (
    ARCH_OF_CLASS,
    CANDIDATES,
    INAPPLICABLE,
    Applicability,
    Claims,
    case_applies,
    check_candidate,
    declared,
    scope_applies,
)
from lanemark.lanes.promotion_matrix import problem_of
from lanemark.lanes.promotion_waves import PRESETS, questions, wave_of_document
from lanemark.records.case import GPU_NAMES
from lanemark.records.errors import DataError, UsageError

DENSE, SPARSE = "dense_attention", "sparse_validation"

SCOPES = [
    ("sdpa_flash", DENSE, "cpu", "fp32", "backward", "covered"),
    ("sdpa_flash", DENSE, "sm_90", "bf16", "backward", "covered"),
    ("sdpa_flash", DENSE, "sm_90", "fp32", "forward", "dtype_unsupported"),
    ("sdpa_flash", DENSE, "sm_75", "bf16", "forward", "arch_unsupported"),
    ("sdpa_flash", DENSE, None, "bf16", "forward", "arch_unknown"),
    ("sdpa_flash", SPARSE, "cpu", "bf16", "forward", "mode_unsupported"),
    ("sdpa_efficient", DENSE, "cpu", "bf16", "forward", "arch_unsupported"),
    ("fa3", DENSE, "sm_100", "bf16", "forward", "arch_unsupported"),
    ("fa4", DENSE, "cpu", "bf16", "forward", "arch_unsupported"),
    ("fa4", DENSE, "sm_80", "bf16", "forward", "covered"),
    ("fa4", DENSE, "sm_80", "bf16", "backward", "direction_unsupported"),
    ("fa4", DENSE, "sm_90", "bf16", "backward", "covered"),
    ("fa4", DENSE, "sm_90", "fp32", "forward", "dtype_unsupported"),
    ("flex", DENSE, "cpu", "bf16", "forward", "covered"),
    ("flex", DENSE, "cpu", "bf16", "backward", "direction_unsupported"),
    ("gather", SPARSE, "cpu", "fp16", "forward", "covered"),
    ("gather", SPARSE, "cpu", "fp16", "backward", "direction_unsupported"),
]
CASES = [
    ("sdpa_flash", "causal-s127x1000-d64-h8x2", "cpu", "covered"),
    ("sdpa_flash", "causal-s128-d192x128-h8", "cpu", "value_dim_unsupported"),
    ("sdpa_flash", "window64-s128-d64-h8", "cpu", "covered"),
    ("sdpa_flash", "window64-s128-d64-h8", "sm_90", "masking_unsupported"),
    ("sdpa_flash", "causal-s128-d512-h8", "cpu", "head_dim_unsupported"),
    ("sdpa_flash", "causal-s128-d60-h8", "sm_90", "head_dim_unsupported"),
    ("sdpa_math", "causal-s128-d192x128-h8", "cpu", "covered"),
    ("sdpa_efficient", "causal-s128-d64-h8x2", "sm_90", "grouping_unsupported"),
    ("sdpa_cudnn", "varlen-s128-d64-h8-b3", "sm_90", "masking_unsupported"),
    ("sdpa_cudnn", "causal-s127x1000-d64-h8", "sm_90", "unequal_lengths_unsupported"),
    ("fa4", "topk64-s128-d64-h8", "sm_90", "masking_unsupported"),
    ("gather", "causal-s128-d64-h8", "cpu", "masking_unsupported"),
    ("gather", "topk64-s128-d192x128-h8-e2", "cpu", "covered"),
]


@pytest.mark.parametrize(("name", "mode", "arch", "dtype", "direction", "reason"), SCOPES)
def test_a_scope_is_covered_or_refused_with_its_reason(name, mode, arch, dtype, direction, reason):
    found = scope_applies(CANDIDATES[name], mode, arch, dtype, direction)
    assert (found.reason, found.applies) == (reason, reason == "covered")
    assert found.words


@pytest.mark.parametrize(("name", "case", "arch", "reason"), CASES)
def test_a_case_is_covered_or_refused_with_its_reason(name, case, arch, reason):
    found = case_applies(CANDIDATES[name], problem_of(case), arch)
    assert (found.reason, found.applies) == (reason, reason == "covered")


def test_every_reason_has_a_case_here_or_belongs_to_a_declaration_or_a_module():
    seen = {row[-1] for row in SCOPES} | {row[-1] for row in CASES} | {"covered"}
    elsewhere = {"declaration_missing", "declaration_invalid", "module_missing"}
    assert seen | elsewhere == {*INAPPLICABLE, "covered"}


GOOD = {"mode": DENSE, "archs": ["cpu"], "dtypes": ["bf16"]}


def test_a_declaration_becomes_claims():
    found = declared({**GOOD, "names": ["^mine::attend$"], "value_dims": [[192, 128]], "grouped": False}, "mine:attend")
    assert isinstance(found, Claims)
    assert found.names == ("^mine::attend$",)
    assert found.value_dims == ((192, 128),)
    assert found.source == "declared by its author"


@pytest.mark.parametrize(
    ("doc", "reason"),
    [
        (None, "declaration_missing"),
        ([], "declaration_invalid"),
        ({}, "declaration_invalid"),
        ({**GOOD, "speed": 3}, "declaration_invalid"),
        ({**GOOD, "mode": "fast"}, "declaration_invalid"),
        ({**GOOD, "archs": []}, "declaration_invalid"),
        ({**GOOD, "archs": "cpu"}, "declaration_invalid"),
        ({**GOOD, "dtypes": [""]}, "declaration_invalid"),
        ({**GOOD, "grouped": "yes"}, "declaration_invalid"),
        ({**GOOD, "max_head_dim": True}, "declaration_invalid"),
        ({**GOOD, "value_dims": [[192]]}, "declaration_invalid"),
        ({**GOOD, 3: ["x"]}, "declaration_invalid"),
        ({**GOOD, "source": "me"}, "declaration_invalid"),
    ],
)
def test_a_declaration_of_another_shape_applies_to_nothing(doc, reason):
    found = declared(doc, "mine:attend")
    assert isinstance(found, Applicability)
    assert (found.applies, found.reason) == (False, reason)


@pytest.mark.parametrize("name", ["fa5", "", "a b:c", "module:", ":f", "a:b:c", "a.b", "x" * 130 + ":f", "1a:f"])
def test_what_is_no_candidate(name):
    with pytest.raises(UsageError) as caught:
        check_candidate(name, CANDIDATES)
    assert caught.value.slug == "candidate-unknown"


@pytest.mark.parametrize("name", ["fa4", "gather", "kernels.mine:attend"])
def test_what_is_a_candidate(name):
    check_candidate(name, CANDIDATES)


def test_every_gpu_class_has_an_architecture_to_plan_with():
    assert set(ARCH_OF_CLASS) == {"cpu", *GPU_NAMES}


def test_a_wave_asks_each_candidate_for_what_it_claims_and_says_what_it_leaves_out():
    asked, left = questions(PRESETS["smoke"], "cpu")
    assert {question.asked.candidate for question in asked} == {
        "sdpa_math",
        "sdpa_flash",
        "gather",
        "union",
        "sdpa_masked",
    }
    assert {question.asked.direction for question in asked if question.asked.mode == DENSE} == {"backward"}
    reasons = {(each.candidate, each.reason) for each in left}
    assert {("fa4", "arch_unsupported"), ("flex", "slow_on_cpu"), ("triton", "arch_unsupported")} <= reasons
    on_hopper = {question.asked.candidate for question in questions(PRESETS["smoke"], "sm_90")[0]}
    assert {"fa2", "fa3", "fa4", "sdpa_cudnn", "flex", "triton"} <= on_hopper


def test_the_matrix_leaves_out_single_cases_with_their_reason():
    asked, left = questions(PRESETS["matrix"], "cpu")
    flash = next(question for question in asked if question.asked.candidate == "sdpa_flash")
    assert all("192x128" not in case for case in flash.asked.cases)
    assert {each.reason for each in left if each.candidate == "sdpa_flash"} == {"value_dim_unsupported"}


def test_a_candidate_that_was_named_is_asked_even_where_it_does_not_apply():
    wave = dataclasses.replace(PRESETS["smoke"], candidates=("fa4",))
    asked, left = questions(wave, "cpu")
    assert [question.asked.candidate for question in asked] == ["fa4"]
    assert left == ()


WAVE = {"candidates": ["sdpa_math"], "dtypes": ["bf16"], "cases": ["causal-s128-d64-h8", "topk64-s128-d64-h8"]}


def test_a_wave_of_ones_own():
    wave = wave_of_document("mine", WAVE)
    assert (wave.dense, wave.sparse) == (("causal-s128-d64-h8",), ("topk64-s128-d64-h8",))


@pytest.mark.parametrize(
    "doc",
    [
        [], {}, {**WAVE, "cases": []}, {**WAVE, "cases": "causal-s128-d64-h8"}, {**WAVE, "dtypes": ["fp8"]},
        {**WAVE, "directions": ["sideways"]}, {**WAVE, "speed": 1}, {**WAVE, "candidates": [None]},
    ],
)  # fmt: skip
def test_a_wave_of_another_shape_is_refused(doc):
    with pytest.raises(DataError) as caught:
        wave_of_document("mine", doc)
    assert caught.value.slug == "wave-invalid"
