"""Good records of the promotion lane: ready, promoted, rejected, without power, blocked, and a detached wave."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from good_records import Doc, not_there, seen, sha, unknown
from good_sparse import CANARY, PROFILER, collector_part, identity, of_lane, remote_part

from lanemark.records.encoding import digest, encode
from lanemark.records.terms import RUNG_NEEDS, RUNGS, STOP_RULES, fro_limit, row_limit

#: Files that rungs rest on; small, since only their digests matter here.
PROOFS = {name: f"stands for the proof of {name}\n".encode() for name in RUNGS}
KERNEL = "flash_attncuteflash_fwd_sm90"


def proof(rung: str) -> Doc:
    data = PROOFS[rung]
    return {
        "name": f"proofs/{rung}.json", "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "media_type": "application/json",
    }  # fmt: skip


def ladder(held: int) -> list[Doc]:
    """The lowest `held` rungs are held."""
    out = []
    for place, rung in enumerate(RUNGS):
        if place < held:
            entry = {
                "held": True,
                "proof_class": RUNG_NEEDS[rung],
                "evidence": [f"proofs/{rung}.json"],
                "reason": "shown",
            }
        else:
            entry = {"held": False, "evidence": [], "reason": "not shown"}
        out.append({"rung": rung, **entry})
    return out


def parity_case(name: str, direction: str = "forward", **changes: Any) -> Doc:
    mutants = [
        {"name": "scale_1_01", "killed": True, "fro": 0.01},
        {"name": "drop_one_token", "killed": True, "fro": 0.031},
        {"name": "reroute_to_full", "killed": True, "fro": 0.42},
    ]
    return {
        "name": name, "direction": direction, "seed": 90_211, "batch": 1, "queries": 128, "keys": 128, "heads": 8,
        "kv_heads": 8, "head_dim": 64, "head_dim_v": 64, "masking": "causal", "input_scale": 1.0, "reference": "float64",
        "dense_fro": 2e-3, "dense_row": 4e-3, "fro": 2.1e-3, "fro_limit": fro_limit(direction, 2e-3), "row": 4.2e-3,
        "row_limit": row_limit(4e-3), "masks_equal": True, "poisoned_output": True,
        "lse_max_error": seen(2e-6, "returned lse"), "repeats": 20, "bitwise_equal": True, "mutants": mutants,
        "verdict": "pass", **changes,
    }  # fmt: skip


def evidence_key() -> Doc:
    components = {
        "image": sha("image"), "driver": "570.86.15", "torch": "2.13.0+cu128", "cuda": "12.8", "packages": sha("packages"),
        "kernel_source": sha("kernel"), "selectors": sha("selectors"), "matrix": "attention-v1",
    }  # fmt: skip
    return {"digest": digest(encode(components)), "components": components}


def stop_rules(broken: str | None = None) -> list[Doc]:
    looked = {"max_abs_difference", "nan_or_inf"}
    return [
        {
            "rule": name, "limit": rule.limit,
            "broken": seen(name == broken, "parity cases") if name in looked or name == broken
            else unknown("short training", "it is not part of this wave"),
        }
        for name, rule in STOP_RULES.items()
    ]  # fmt: skip


def promotion_part(mode: str, candidate: str, direction: str, *, device: str, **changes: Any) -> Doc:
    names = {"level": "kernel", "state": "observed", "names": [KERNEL], "source": PROFILER}
    who = identity(candidate, names=[], mode=None) | {
        "names": names,
        "runtime_mode": not_there(CANARY, "dense attention reads no index set"),
        "canary": not_there(CANARY, "dense attention selects nothing"),
    }
    return {
        "mode": mode,
        "candidate": {
            "name": candidate, "source_digest": seen(sha("kernel"), "installed package"),
            "applicable": seen(value=True, source="applicability matrix"), "applicable_reason": "sm90, bf16, head dim 64",
        },
        "scope": {
            "surface": "local", "arch": seen("sm_90" if device == "cuda" else "x86_64", "worker"), "dtype": "bf16",
            "direction": direction,
        },
        "ladder": ladder(6 if direction == "forward" else 7),
        "state": "ready",
        "state_reason": "every rung is held",
        "execute_proof": seen(who, PROFILER),
        "parity": [parity_case("causal-d64-s128")],
        "stop_rules": stop_rules(),
        "promotion_ready": True,
        "promotion_status": "none",
        "promoted_on": [],
        "evidence_key": evidence_key(),
        "wave": {"name": "smoke-1", "manifest": unknown("wave manifest", "the wave goes on")},
        "import_health": [
            {"module": "flash_attn.cute", "imported": seen(value=True, source="import probe"), "error": not_there("import probe")}
        ],
        "remote": remote_part(device),
        "collector": collector_part("blocking"),
        "does_not_prove": ["any speed", "that any other lane, or the same image's runtime import, is healthy"],
        **changes,
    }  # fmt: skip


def promotion(
    serial: str,
    *,
    mode: str = "dense_attention",
    candidate: str = "fa4",
    direction: str = "forward",
    device: str = "cuda",
    ended: str = "ok",
    cases: tuple[str, ...] = ("causal-d64-s128",),
    **changes: Any,
) -> Doc:
    asked = {
        "mode": mode,
        "candidate": candidate,
        "direction": direction,
        "matrix": "attention-v1",
        "cases": list(cases),
    }
    part = promotion_part(mode, candidate, direction, device=device, **changes)
    doc = of_lane("promotion", asked, part, serial=serial, device=device, state=ended, dtype="bf16")
    held = [rung["rung"] for rung in part["ladder"] if rung["held"]]
    doc["evidence"] = [*doc["evidence"], *(proof(rung) for rung in held)]
    return doc  # fmt: skip


def good_promotion() -> dict[str, Doc]:
    both = [
        parity_case("causal-d64-s128"),
        parity_case("causal-d64-s128", "backward", fro_limit=fro_limit("backward", 2e-3)),
    ]
    broken = parity_case("causal-d64-s128", fro=0.013, row=0.02, verdict="fail")
    survived = parity_case("causal-d64-s128", input_scale=0.1, verdict="no_power")
    survived["mutants"][2] |= {"killed": False, "fro": 1.1e-3}
    nothing = {
        "execute_proof": unknown("worker", "nothing was executed"), "parity": [], "stop_rules": [
            {**entry, "broken": unknown("worker", "nothing was executed")} for entry in stop_rules()
        ], "promotion_ready": False,
    }  # fmt: skip
    sparse_names = {"level": "kernel", "state": "observed", "names": ["sparse_attn_fwd_sm90"], "source": PROFILER}
    sparse_proof = identity("triton", names=[], mode="exact_token") | {"names": sparse_names}
    unimported = [
        {
            "module": "flash_attn.cute", "imported": seen(value=False, source="import probe"),
            "error": seen("ModuleNotFoundError: no module named 'quack'", "import probe"),
        }
    ]  # fmt: skip
    detached = promotion(
        "pdet",
        collector=collector_part("detached"),
        wave={"name": "matrix-1", "manifest": seen(sha("wave"), "manifest.json")},
    )
    weak = promotion(
        "pnop", parity=[survived], promotion_ready=False, state="inconclusive", state_reason="no_power: a mutant survives",
        ladder=ladder(5),
    )  # fmt: skip
    blocked = promotion(
        "pblk", device="cpu", ladder=ladder(2), state="compiled", state_reason="no device of that architecture",
        import_health=unimported, **copy.deepcopy(nothing),
    )  # fmt: skip
    blocked["outcome"] |= {"receipt": False, "receipt_reason": "nothing was executed"}
    error = promotion(
        "perr", ended="error", ladder=ladder(3), state="imported", state_reason="the worker failed", **copy.deepcopy(nothing),
    )  # fmt: skip
    return {
        "promotion_ready_fa4": promotion("prdy"),
        "promotion_promoted": promotion(
            "pprm", state="promoted", state_reason="promoted by a person", promotion_status="promoted",
            promoted_on=[sha("evidence record")],
        ),
        "promotion_backward": promotion("pbwd", direction="backward", parity=both),
        "promotion_detached": detached,
        "promotion_sparse_kernel": promotion(
            "pspk", mode="sparse_validation", candidate="triton", execute_proof=seen(sparse_proof, PROFILER),
            parity=[parity_case("causal-d64-s128", masking="sparse")],
        ),
        "promotion_rejected": promotion(
            "prej", parity=[broken], promotion_ready=False, promotion_status="rejected", state="rejected",
            state_reason="forward parity failed", stop_rules=stop_rules("max_abs_difference"), ladder=ladder(5),
        ),
        "promotion_no_power": weak,
        "promotion_compiled_only": blocked,
        "promotion_error": error,
    }  # fmt: skip
