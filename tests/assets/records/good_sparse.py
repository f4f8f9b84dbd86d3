"""Good records of the sparse lane: a training record's envelope, with another question and the lane's own part."""

from __future__ import annotations

import copy
from typing import Any

from good_records import SAMPLES, Doc, case_of, finding, not_there, predicate_of, seen, sha, unknown

from lanemark.records.case import DataAsked
from lanemark.records.encoding import digest, encode

PROFILER = "torch.profiler over one call outside the timed ones"
CANARY = "output after NaN in unselected key and value rows"
#: Fields of a training question that another lane's question does not have.
STEPS = ("steps", "warmup", "sequence", "micro_batch", "grad_accum", "prewarm", "collective_timeout_s")


def attention_case(name: str, **changes: Any) -> Doc:
    return {
        "name": name, "batch": 1, "sequence": 512, "topk": 64, "heads": 8, "kv_heads": 8, "head_dim": 64,
        "dtype": "fp32", "index_set": "local", "empty_rows": 0, "seed": 11, **changes,
    }  # fmt: skip


def valid_indices(case: Doc) -> int:
    return int(case["batch"]) * sum(min(row + 1, case["topk"]) for row in range(case["sequence"]))


def identity(requested: str, actual: str | None = None, *, names: list[str], mode: str | None, **changes: Any) -> Doc:
    verdicts = {"exact_token": "bit_identical", "block_superset": "nan_inside_blocks", "dense_masked": "nan_everywhere"}
    canary = not_there(CANARY, "every row was selected, so that none could be poisoned")
    if mode in verdicts:
        nan_rows = {"exact_token": 0, "block_superset": 96, "dense_masked": 512}[mode]
        canary = seen({"verdict": verdicts[mode], "poisoned_rows": 128, "nan_rows": nan_rows}, CANARY)
    return {
        "requested": requested,
        "actual": seen(actual or requested, PROFILER),
        "runtime_mode": seen(mode, CANARY) if mode else not_there(CANARY, "the baseline reads no index set"),
        "fallback_reason": not_there(PROFILER, "what was asked for ran"),
        "names": {"level": "op", "state": "observed", "names": names, "source": PROFILER},
        "canary": canary,
        **changes,
    }


def parity(case: Doc, error: float | None = None) -> Doc:
    tolerance = {"fp32": 1e-6, "bf16": 5e-3}[case["dtype"]]
    return seen(
        {
            "reference": "float64", "dtype": case["dtype"], "tolerance": tolerance, "passed": True,
            "max_relative_error": tolerance / 4 if error is None else error, "lse_max_error": seen(3e-7, "returned lse"),
        },
        "output against float64",
    )  # fmt: skip


def latency(**changes: Any) -> Doc:
    times = {
        "unit": "ns", "warmup": [21_400_000], "samples": [10_900_000, 11_200_000, 11_000_000], "p50": 11_000_000.0,
        "synchronised": True, "cache_flushed": not_there("device", "a CPU has no device cache"),
        "indexer_included": False, **changes,
    }  # fmt: skip
    return seen(times, "CLOCK_MONOTONIC around isolated calls")


def result(case: Doc, who: Doc, **changes: Any) -> Doc:
    valid = valid_indices(case)
    flops = 4 * valid * case["heads"] * case["head_dim"]
    return {
        "case": case,
        "backend_identity": who,
        "no_grad": seen(value=True, source="requires_grad of the output"),
        "parity": parity(case),
        "latency": latency(),
        "work": seen({"valid_indices": valid, "flops": flops}, "index tensor"),
        "indexer_digest": seen(sha("indices " + case["name"]), "index tensor"),
        "memory_peak_bytes": not_there("torch.cuda", "no CUDA device was used"),
        **changes,
    }


def remote_part(device: str) -> Doc:
    return {
        "worker": seen("bench-01", "uname"), "python": seen("3.11.7", "sys.version"),
        "torch": seen("2.13.0+cpu" if device == "cpu" else "2.13.0+cu128", "torch.__version__"),
        "arch": seen("x86_64" if device == "cpu" else "sm_90", "torch.cuda.get_device_capability"),
        "lanemark_digest": seen(sha("lanemark"), "installed package"),
    }  # fmt: skip


def collector_part(lifecycle: str, ended: str = "ok") -> Doc:
    if lifecycle == "blocking":
        return {
            "lifecycle": "blocking", "reattached": False, "looks": [], "snapshots": [],
            "last_polled_at": not_there("collector", "the launcher waited"),
            "completed_at": seen("2026-11-22T15:22:43.900Z", "end.json"),
        }  # fmt: skip
    looks = [
        {"at": "2026-11-22T15:22:40.000Z", "seen": "running"},
        {"at": "2026-11-22T15:22:43.990Z", "seen": ended},
    ]
    done = seen("2026-11-22T15:22:43.900Z", "end.json")
    return {
        "lifecycle": "detached", "reattached": True, "looks": looks, "snapshots": [],
        "last_polled_at": seen(looks[-1]["at"], "collector"),
        "completed_at": done if ended == "ok" else unknown("end.json", "the worker left no end marker"),
    }  # fmt: skip


def detached(transitions: list[Doc]) -> list[Doc]:
    step = {"state": "detached", "at": "2026-11-22T15:22:33.500Z", "monotonic_s": 0.396, "reason": "handed to local"}
    return [transitions[0], step, *transitions[1:]]


def of_lane(
    lane: str, asked: Doc, part: Doc, *, serial: str, state: str = "ok", device: str = "cpu", **changes: Any
) -> Doc:
    """A record of `lane`: the envelope of a training record with the question and the part replaced."""
    failed = state != "ok"
    finding_ = (
        (finding("rank_raised", "failure", "rank 0 raised RuntimeError", "error.json", rank=0),) if failed else ()
    )
    cause = {"kind": "rank_raised", "summary": "rank 0 raised RuntimeError", "rank": 0} if failed else None
    gpu = {"gpu": "H100!"} if device == "cuda" else {}
    start = predicate_of(
        case_of(data=DataAsked("synthetic"), preset="smoke", **gpu), serial=serial, samples=SAMPLES, state=state,
        ended=("killed",) if failed else None, findings=finding_, cause=cause, device=device,
        image=sha("image") if device == "cuda" else None,
    )  # fmt: skip
    doc = copy.deepcopy(start)
    del doc["training"]
    doc["lane"] = doc["case"]["lane"] = lane
    doc["run_id"] = doc["run_id"].replace("training-", f"{lane}-")
    for name in STEPS:
        del doc["case"][name]
    doc["case"] |= {lane: asked, **changes}
    doc["startup"]["prewarm"] = not_there("observed.json of every rank", "the lane has no model to compile beforehand")
    doc["source"]["argv"] = ["lanemark", "run", lane, "--preset", "smoke"]
    doc["plan_digest"] = digest(encode(doc["case"]))
    doc["outcome"]["receipt_reason"] = "every case was seen to run" if not failed else f"the run ended as {state}"
    if part["collector"]["lifecycle"] == "detached":
        doc["transitions"] = detached(doc["transitions"])
    doc["data"]["tokens_consumed"] = doc["data"]["token_parity"] = not_there("data", "the lane consumes no tokens")
    doc["toolchain"]["packages"] = doc["toolchain"]["packages"][:1]
    doc["environment"]["settings"] = []
    doc[lane] = part
    return doc


def sparse_part(results: list[Doc], *, device: str = "cpu", lifecycle: str = "blocking", ended: str = "ok") -> Doc:
    return {
        "launcher_args": ["--case-set", "smoke"],
        "selectors": [
            {"name": "LANEMARK_SPARSE_BACKEND", "value": not_there("environ")},
            {"name": "FLASH_ATTENTION_ARCH", "value": seen("sm_90", "environ") if device == "cuda" else not_there("environ")},
        ],
        "results": results,
        "remote": remote_part(device),
        "collector": collector_part(lifecycle, ended),
        "does_not_prove": [
            "any training throughput",
            "that the training or the promotion lane is healthy, on this image or any other",
        ],
    }  # fmt: skip


def asked(backends: list[str], cases: list[Doc]) -> Doc:
    return {"backends": backends, "cases": cases, "warmup": 1, "repeats": 3, "indexer_timed": False}


def good_sparse() -> dict[str, Doc]:
    near, short, wide = (
        attention_case("local-512"), attention_case("short-64", sequence=64), attention_case("random-512", index_set="random"),
    )  # fmt: skip
    matmul = ["aten::gather", "aten::bmm", "aten::softmax"]
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    smoke = [
        result(near, identity("gather", names=matmul, mode="exact_token")),
        result(wide, identity("gather", names=matmul, mode="exact_token")),
        result(near, identity("union", names=["aten::bmm", "aten::logsumexp"], mode="block_superset")),
        result(wide, identity("union", names=["aten::bmm", "aten::logsumexp"], mode="block_superset")),
        result(near, identity("dense", names=[flash], mode=None)),
        result(wide, identity("dense", names=[flash], mode=None)),
    ]
    rerouted = identity(
        "union", "dense", names=[flash], mode=None, runtime_mode=seen("reroute_to_full", PROFILER),
        fallback_reason=seen("seq_le_topk", "worker's dispatch log"),
    )  # fmt: skip
    kernels = {"level": "kernel", "state": "observed", "names": ["sparse_attn_fwd_sm90"], "source": PROFILER}
    on_h100 = attention_case("indexer-8k", sequence=8192, topk=2048, heads=128, kv_heads=1, head_dim=128, dtype="bf16",
                             index_set="indexer")  # fmt: skip
    triton = result(
        on_h100, identity("triton", names=[], mode="exact_token") | {"names": kernels},
        latency=latency(cache_flushed=seen(value=True, source="buffer of twice the L2 written between calls")),
        memory_peak_bytes=seen(1_912_602_624, "torch.cuda.max_memory_allocated"),
    )  # fmt: skip
    unseen = identity("flex", names=[], mode="block_superset") | {
        "actual": unknown(PROFILER, "a compiled graph shows its hash and no backend"),
        "fallback_reason": unknown(PROFILER, "it was not seen what ran"),
        "names": {"level": "op", "state": "unobserved", "names": [], "source": PROFILER},
    }
    hidden = of_lane("sparse", asked(["flex"], [near]), sparse_part([result(near, unseen)]), serial="unsn")
    hidden["outcome"] |= {"receipt": False, "receipt_reason": "it was not seen which backend ran"}
    nothing = sparse_part([], lifecycle="detached", ended="error")
    return {
        "sparse_smoke": of_lane(
            "sparse", asked(["gather", "union", "dense"], [near, wide]), sparse_part(smoke), serial="smok"
        ),
        "sparse_rerouted_detached": of_lane(
            "sparse", asked(["union"], [short]), sparse_part([result(short, rerouted)], lifecycle="detached"), serial="rert"
        ),
        "sparse_unobserved": hidden,
        "sparse_h100_triton": of_lane(
            "sparse", asked(["triton"], [on_h100]), sparse_part([triton], device="cuda"), serial="trtn", device="cuda",
            dtype="bf16",
        ),
        "sparse_error": of_lane("sparse", asked(["gather"], [near]), nothing, serial="serr", state="error"),
    }  # fmt: skip
