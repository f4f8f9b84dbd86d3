"""The sparse lane's record from a worker's word: what is copied, what is computed, and what keeps it from a receipt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lanemark.lanes.reports import AttemptFacts, RankReport
from lanemark.lanes.rules import broken_rules
from lanemark.lanes.sparse_identity import CANARY, PROFILER
from lanemark.lanes.sparse_record import sparse_predicate
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import decode, encode
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.questions import AttentionCase, SparseAsked
from lanemark.records.schema import SparsePredicate

CASE = AttentionCase("near", 1, 512, 64, 4, 2, 32, "fp32", "local", 0, 11)
ASKED = SparseAsked(("gather", "dense"), (CASE,), warmup=1, repeats=3, indexer_timed=False)
Raw = dict[str, Any]


def seen(value: Any, source: str = "worker") -> Raw:
    return observed(value, source).to_json()


def word(backend: str) -> Raw:
    """What a worker leaves of one backend."""
    names = {"gather": ["aten::index_select", "aten::bmm", "aten::_softmax"],
             "dense": ["aten::_scaled_dot_product_flash_attention_for_cpu"]}[backend]  # fmt: skip
    passes = [{"kind": "scattered", "poisoned_rows": 73, "looked_rows": 512, "nan_rows": 0, "changed_rows": 0}]
    dense = backend == "dense"
    return {
        "case": "near", "backend": backend,
        "no_grad": seen(value=True),
        "valid_indices": absent("index tensor", "the baseline reads no index set").to_json() if dense else seen(30_752),
        "indexer_digest": seen("sha256:" + "a" * 64),
        "errors": seen({"max_relative_error": 2.5e-7, "lse_max_error": absent("lse", "none is returned").to_json()}),
        "telemetry": {
            "profile": seen([{"name": name, "kind": "op"} for name in names], PROFILER),
            "canary": absent(CANARY, "the baseline reads no index set").to_json() if dense else seen(passes, CANARY),
        },
        "latency": seen(
            {
                "warmup": [9_000_000], "samples": [3_000_000, 1_000_000, 2_000_000], "synchronised": True,
                "cache_flushed": absent("device", "a CPU has no device cache").to_json(), "indexer_included": False,
            },
            "CLOCK_MONOTONIC around isolated calls",
        ),
        "memory_peak_bytes": absent("torch.cuda", "no CUDA device was used").to_json(),
    }  # fmt: skip


def told() -> Raw:
    return {"selectors": [{"name": "TRITON_INTERPRET", "value": absent("environ").to_json()}],
            "results": [word("gather"), word("dense")]}  # fmt: skip


def facts_of(result: Raw | None, state: str = "ok", *, device_class: str = "cpu") -> AttemptFacts:
    case = Case(
        lane="sparse", preset="own", nproc=1, mode="single", compile="eager", dtype="fp32", steps=0, warmup=0,
        sequence=0, micro_batch=0, data=DataAsked("synthetic"), sparse=ASKED,
    )  # fmt: skip
    single = "torch.distributed.is_initialized"
    report = RankReport(
        0,
        observed={
            "device_class": seen(device_class), "mode_observed": seen("single", single),
            "world_size_observed": seen(1, single), "backend": absent(single, "no process group was formed").to_json(),
            "compile_observed": seen("eager"), "token_source": seen("synthetic", "inputs drawn in memory"),
            "torch_version": seen("2.13.0+cpu"), "torch_build": seen("2.13.0+cpu"),
            "remote": {name: seen("x") for name in ("worker", "python", "arch")}
            | {"lanemark_digest": seen("sha256:" + "b" * 64)},
        },
        result=result,
        end={"completed_at": "2026-11-22T15:22:43.900Z"},
        beacon={"phase": "done", "step": 0, "compilations": 0, "compile_ns": 0},
        exit={"rank": 0, "pid": 7, "status": 0, "ended_ns": 1, "signal_by": "nobody"},
        takes_steps=False,
    )  # fmt: skip
    steps = tuple(
        {"state": name, "at": "2026-11-22T15:22:33.000Z", "monotonic_s": float(at), "reason": "so"}
        for at, name in enumerate(("prepared", "running", state))
    )
    manifest = {
        "run_id": "sparse-20261122T152233Z-7k3f9q2x", "argv": ["lanemark", "run", "sparse"], "argv_redacted": False,
        "transitions": list(steps), "boot_id": "boot",
    }  # fmt: skip
    return AttemptFacts(
        manifest=manifest, case=case, host={}, host_end={}, launch={"argv": ["python", "-m", "program"]},
        ranks=(report,), findings=(), cause=None, state=state, reason="so", launched_ns=1,
        duration_s=observed(2.0, "CLOCK_MONOTONIC"), sealed_at="2026-11-22T15:22:44.000Z", transitions=steps,
    )  # fmt: skip


def sealed(result: Raw | None, state: str = "ok", **more: Any) -> Raw:
    """The predicate, which always has the record's shape and keeps the rules that hold with or without a receipt."""
    predicate = decode(encode(sparse_predicate(facts_of(result, state, **more))))
    SparsePredicate.model_validate(predicate)
    found: Raw = predicate
    return found


def test_a_whole_word_is_a_receipt_that_keeps_every_rule() -> None:
    predicate = sealed(told())
    assert predicate["outcome"]["receipt"] is True, predicate["outcome"]["receipt_reason"]
    assert broken_rules(predicate) == ()
    first, baseline = predicate["sparse"]["results"]
    assert value_of(first["latency"])["p50"] == 2_000_000.0
    assert value_of(first["work"]) == {"valid_indices": 30_752, "flops": 4 * 30_752 * 4 * 32}
    assert value_of(first["parity"])["tolerance"] == 1e-6
    assert baseline["work"]["status"] == "absent"
    assert value_of(predicate["data"]["path_class"]) == "synthetic"


def change(path: str, value: Any) -> Callable[[Raw], None]:
    def apply(result: Raw) -> None:
        node = result["results"][0]
        *way, last = path.split(".")
        for step in way:
            node = node[step]
        node[last] = value

    return apply


NOT_SEEN = unavailable("worker", "it could not look").to_json()


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (change("errors.value.max_relative_error", 2e-6), "its output is off by 2e-06"),
        (change("errors", NOT_SEEN), "held against nothing"),
        (change("no_grad", seen(value=False)), "without autograd"),
        (change("indexer_digest", NOT_SEEN), "was not hashed"),
        (change("telemetry.profile", NOT_SEEN), "it was not seen what ran"),
        (change("telemetry.canary", NOT_SEEN), "runtime mode was not seen"),
        (change("latency.value.synchronised", False), "had not ended"),
        (change("latency", {"status": "observed"}), "1 results can be read where 2"),
        (change("telemetry", "gather"), "1 results can be read where 2"),
        (change("backend", "triton"), "1 results can be read where 2"),
        (lambda result: result["results"].pop(), "1 results can be read where 2"),
        (lambda result: result.pop("results"), "0 results can be read where 2"),
    ],
)
def test_what_keeps_a_record_from_a_receipt(apply: Callable[[Raw], None], words: str) -> None:
    result = copy.deepcopy(told())
    apply(result)
    predicate = sealed(result)
    assert predicate["outcome"]["receipt"] is False
    assert words in predicate["outcome"]["receipt_reason"]
    left = {broken.rule for broken in broken_rules(predicate)}
    assert left <= {"ok-ran-something"}


def test_times_with_a_warm_device_cache_are_no_receipt_on_a_gpu() -> None:
    predicate = sealed(told(), device_class="H100")
    assert "warm device cache" in predicate["outcome"]["receipt_reason"]


def test_a_run_that_failed_says_so_and_not_what_it_saw() -> None:
    predicate = sealed(None, "error")
    assert predicate["outcome"]["receipt_reason"] == "the run ended as error"
    assert predicate["sparse"]["results"] == []


def test_a_pinned_device_that_was_not_served_is_no_receipt() -> None:
    facts = facts_of(told())
    predicate = sparse_predicate(replace(facts, case=replace(facts.case, gpu="H100!")))
    assert "the device was pinned" in predicate["outcome"]["receipt_reason"]
    assert broken_rules(decode(encode(predicate))) == ()


def test_a_worker_cannot_widen_a_tolerance_or_state_a_median() -> None:
    result = told()
    result["results"][0]["errors"]["value"] |= {"tolerance": 1.0, "passed": True, "max_relative_error": 1e-3}
    result["results"][0]["latency"]["value"]["p50"] = 1.0
    first = sealed(result)["sparse"]["results"][0]
    assert value_of(first["parity"])["passed"] is False
    assert value_of(first["latency"])["p50"] == 2_000_000.0
