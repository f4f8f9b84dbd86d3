"""The policy of compiling ahead: every way out, and its reason."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from lanemark.lanes.prewarm import prewarm_plan
from lanemark.records.case import Case, DataAsked


def a_case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "lane": "training", "preset": "dense-nano", "nproc": 8, "mode": "fsdp2", "compile": "regional",
        "dtype": "bf16", "steps": 4, "warmup": 1, "sequence": 64, "micro_batch": 1, "data": DataAsked("synthetic"),
    }  # fmt: skip
    return Case(**{**fields, **changes})


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("mode", ["fsdp2", "ddp"])
@pytest.mark.parametrize(("posture", "what"), [("regional", "one unsharded block"), ("model", "an unsharded model")])
def test_ranks_that_wait_for_one_another_compile_first(cuda: bool, mode: str, posture: str, what: str) -> None:
    plan = prewarm_plan(a_case(mode=mode, compile=posture), cuda=cuda)
    assert plan.do
    assert plan.reason == f"8 ranks compile {what} before they wait for one another"


@pytest.mark.parametrize(
    ("changes", "cuda", "words"),
    [
        ({"prewarm": "off"}, False, "switched off"),
        ({"command": ("train.py",)}, False, "the user's own"),
        ({"compile": "eager"}, True, "nothing is compiled"),
        ({"nproc": 1, "mode": "single"}, True, "waits for nobody"),
        ({"preset": "their-own"}, True, "none of ours"),
        ({"preset": "moe-nano"}, True, "known to stall on CUDA"),
    ],
)
def test_skips_and_says_why(changes: dict[str, Any], cuda: bool, words: str) -> None:
    plan = prewarm_plan(a_case(**changes), cuda=cuda)
    assert not plan.do
    assert words in plan.reason


def test_expert_blocks_are_skipped_in_that_one_combination_only() -> None:
    assert prewarm_plan(a_case(preset="moe-nano"), cuda=False).do
    assert prewarm_plan(a_case(preset="moe-nano", compile="model"), cuda=True).do


def test_the_policy_needs_no_torch() -> None:
    program = "import sys, lanemark.lanes.prewarm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
