"""A result as a worker on a GPU would leave it, made by hand: every number passes and every name was seen."""

from __future__ import annotations

import copy
from typing import Any

from lanemark.lanes.promotion_ladder import PROOF_FILES

CASES = ("causal-s128-d64-h8", "varlen-s128-d64-h4-b4")
FILES = tuple(f"ranks/0/{name}" for name in PROOF_FILES.values())


def numbers(direction: str) -> dict[str, Any]:
    mutants = [
        {"name": name, "fro": fro, "row": fro, "masks_equal": True}
        for name, fro in (("scale_1_01", 0.01), ("drop_one_token", 0.4), ("reroute_to_full", 0.7))
    ]
    more = {"lse_returned": True, "lse_max_error": 1e-6, "max_difference": 2e-3, "num_nonfinite": 0}
    return {
        "direction": direction, "fro": 1.7e-3, "row": 2e-3, "masks_equal": True, "dense_fro": 2.4e-3, "dense_row": 4e-3,
        "poisoned_output": True, "repeats": 20, "bitwise_equal": True, "mutants": mutants,
        **(more if direction == "forward" else {}),
    }  # fmt: skip


def asked(direction: str = "backward", mode: str = "dense_attention") -> dict[str, Any]:
    return {
        "mode": mode, "candidate": "sdpa_flash", "direction": direction, "matrix": "attention-v1", "cases": list(CASES),
    }  # fmt: skip


def result(direction: str = "backward", mode: str = "dense_attention") -> dict[str, Any]:
    masking = "sparse" if mode == "sparse_validation" else "causal"
    shape = {
        "batch": 1, "queries": 128, "keys": 128, "heads": 8, "kv_heads": 8, "head_dim": 64, "head_dim_v": 64,
        "masking": masking, "input_scale": 1.0,
    }  # fmt: skip
    cases = [
        {"name": name, "seed": 7, **shape, "forward": numbers("forward"),
         **({"backward": numbers("backward")} if direction == "backward" else {})}
        for name in CASES
    ]  # fmt: skip
    out = {
        "applicability": {"applies": True, "reason": "covered", "words": "sm_90, bf16"},
        "compiled": {"done": True, "words": "registered"},
        "imported": {"done": True, "words": "imported"},
        "executed": {"done": True},
        "witness": {
            "level": "kernel", "names": ["pytorch_flash::flash_fwd_kernel"], "candidates": ["sdpa_flash"], "forged": [],
            "num_events": 9, "backward": [],
        },
        "runtime_modes": ["exact_token", "block_superset"],
        "cases": cases,
        "two_steps": {"failed_steps": 0},
    }  # fmt: skip
    if mode == "sparse_validation":
        seen = [{"kind": "scattered", "poisoned_rows": 73, "looked_rows": 400, "nan_rows": 0, "changed_rows": 0}]
        out["canary"] = {"status": "observed", "source": "canary", "value": seen}
    return copy.deepcopy(out)
