"""Cheats: well-formed records that lie. `expected.json` has the rule that catches each, or the step that does."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from changing import cheat_of, leave_out, put
from good_paths import good_paths
from good_promotion import good_promotion, ladder
from good_records import (
    EVIDENCE,
    KEPT,
    LONG_SAMPLES,
    SAMPLES,
    Doc,
    case_of,
    finding,
    good,
    not_there,
    predicate_of,
    samples_of,
    seen,
    sha,
    unknown,
)
from good_records import evidence_entry as entry
from good_sparse import PROFILER, good_sparse

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.records.encoding import encode

#: Files in the corpus whose bytes are not what the records beside them say.
FORGED = {
    "ranks/0/forged.bin": b"LMSTEPS\0 stands for samples that somebody wrote afterwards\n",
    "ranks/0/stale.bin": EVIDENCE,
    "ranks/0/beacon.page": b"LMBEACON stands for the page of rank 0\n",
    "ranks/1/beacon.page": b"LMBEACON stands for the page of rank 1, which died\n",
}


def training_cheats() -> dict[str, tuple[bytes, str]]:
    """name: (bytes, the rule that catches it)"""
    records = good()
    compiled, synthetic, failed = records["fsdp2_regional_warm"], records["synthetic"], records["error_rank_killed"]
    cuda, lived = records["cuda_h100_8"], records["regional_long_lived"]
    seeded, seeding = records["fsdp2_regional_seeded"], records["seeding_pass"]
    empty = {"files": 61, "bytes": 91_000, "keys": 61, "binaries": 0, "digest": sha("keys alone")}

    def drop_slow_step(predicate: Doc) -> None:
        training = predicate["training"]
        samples = training["samples"]["measured"] = [*training["samples"]["measured"][1:], 1_000_000]
        training["step_time"]["value"] = step_time(samples)

    def two_steps(predicate: Doc) -> None:
        predicate["case"]["steps"] = 4
        training = predicate["training"]
        training["window"] = {"steps": 4, "warmup": 2, "measured": 2}
        samples = training["samples"]["measured"] = SAMPLES[:2]
        training["step_time"]["value"] = step_time(samples)
        training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], samples)
        training["ranks"][0]["tokens"]["value"] = training["tokens_per_step"] * 2

    def measured_step_zero(predicate: Doc) -> None:
        predicate["case"] |= {"steps": 3, "warmup": 0}
        predicate["training"]["window"] = {"steps": 3, "warmup": 0, "measured": 3}
        predicate["training"]["samples"]["warmup"] = []

    def hidden_substitute(predicate: Doc) -> None:
        predicate["hardware"]["observed"]["device_class"]["value"] = "A100-80GB"

    def measured_nothing(predicate: Doc) -> None:
        training, why = predicate["training"], unknown("samples.bin", "nothing was measured")
        training["samples"]["measured"] = []
        training |= {"tokens_per_s": why, "step_time": why}
        predicate["outcome"] |= {"receipt": False, "receipt_reason": "nothing was measured"}

    def drop_cause(predicate: Doc) -> None:
        del predicate["outcome"]["first_cause"]

    def lose_a_rank(predicate: Doc) -> None:
        del predicate["outcome"]["ranks"][1]

    def skip_prewarm(predicate: Doc) -> None:
        for rank in predicate["training"]["ranks"]:
            parts = rank["first_step"]["value"]
            parts["other_s"] += parts["prewarm_s"]
            parts["prewarm_s"] = 0.0

    no_end = put(("outcome.ranks.0.end_marker", False))
    nothing_said = put(("training.does_not_prove", []))
    return {
        "throughput_without_receipt": (cheat_of(put(("outcome.receipt", False))), "figures-need-receipt"),
        "receipt_of_a_failed_run": (cheat_of(put(("outcome.receipt", True)), failed), "receipt-needs-ok"),
        "two_samples": (cheat_of(two_steps), "receipt-needs-samples"),
        "dropped_slow_step": (cheat_of(drop_slow_step), "throughput-from-samples"),
        "inflated_throughput": (cheat_of(put(("training.tokens_per_s.value", 98_304.0))), "throughput-from-samples"),
        "prettier_p99": (cheat_of(put(("training.step_time.value.p99_s", 0.125))), "step-time-from-samples"),
        "hidden_stalls": (cheat_of(put(("training.step_time.value.stalls", 4))), "step-time-from-samples"),
        "shortened_window": (cheat_of(put(("training.window.measured", 2))), "window-is-the-cases"),
        "measured_step_zero": (cheat_of(measured_step_zero), "window-is-the-cases"),
        "diverged": (cheat_of(put(("training.loss.finite.value", False))), "receipt-needs-finite-loss"),
        "no_end_marker": (cheat_of(no_end), "receipt-needs-end-markers"),
        "fewer_tokens": (cheat_of(put(("training.ranks.0.tokens.value", 100))), "receipt-counts-tokens"),
        "no_parity": (cheat_of(put(("data.token_parity.value", False))), "receipt-needs-parity"),
        "bigger_batch_than_asked": (cheat_of(put(("training.tokens_per_step", 4096))), "step-is-the-cases"),
        "mfu_of_a_cpu": (cheat_of(put(("training.mfu", seen(0.38, "an estimate")))), "mfu-needs-peak"),
        "mfu_above_one": (cheat_of(put(("training.mfu.value", 1.2)), cuda), "mfu-needs-peak"),
        "other_gpu_requested": (cheat_of(put(("hardware.requested.gpu", "H100!:8"))), "requested-mirrors-case"),
        "declared_device": (
            cheat_of(put(("hardware.observed.device_class", seen("H100", "requested"))), cuda), "observed-is-not-declared",
        ),
        "hidden_substitute": (cheat_of(hidden_substitute, cuda), "substitution-is-said"),
        "half_a_world": (cheat_of(put(("distributed.observed.ranks_reporting", 1)), compiled), "world-is-whole"),
        "observed_without_ranks": (
            cheat_of(put(("distributed.observed.ranks_reporting", 0), ("outcome.receipt", False)), failed),
            "observed-needs-a-probe",
        ),
        "compiled_inside_the_window": (
            cheat_of(put(("compile.observed.last_end_step", seen(6, "samples.bin of every rank"))), compiled),
            "compilation-is-said",
        ),
        "exit_0_measured_nothing": (cheat_of(measured_nothing), "ok-measured-something"),
        "two_lanes_in_one": (cheat_of(put(("record_version", "1.9"), ("sparse", {"results": []}))), "lane-part-alone"),
        "missing_rank": (cheat_of(lose_a_rank, compiled), "ok-has-every-rank"),
        "warm_over_nothing": (cheat_of(put(("startup.cache_before.value", empty)), compiled), "warm-needs-cache"),
        "warm_with_new_files": (
            cheat_of(put(("training.ranks.1.cache.new_files.value", 3)), compiled), "warm-adds-nothing",
        ),
        "warm_with_misses": (
            cheat_of(put(("training.ranks.0.cache.used.value.misses.fx", 2)), compiled), "warm-adds-nothing",
        ),
        "long_lived_that_compiled": (
            cheat_of(put(("startup.cache_after.value.digest", sha("more"))), lived), "warm-needs-cache",
        ),
        "seeded_from_nowhere": (
            cheat_of(put(("startup.layers.value.1.outcome", "incompatible")), seeded), "seeded-needs-a-layer",
        ),
        "seeded_without_layers": (
            cheat_of(put(("startup.layers", not_there("layers of the seed", "none was given"))), seeded),
            "seeded-needs-a-layer",
        ),
        "seeded_called_baked": (cheat_of(put(("startup.state.value", "image_seed")), seeded), "seeded-needs-a-layer"),
        "two_layers_used": (
            cheat_of(put(("startup.layers.value.0.outcome", "used")), seeded), "seeded-needs-a-layer",
        ),
        "benchmark_over_short_coverage": (
            cheat_of(put(("startup.purpose.value.kind", "benchmark")), seeding), "purpose-is-earned",
        ),
        "benchmark_of_unseen_coverage": (
            cheat_of(put(("startup.coverage_before", unknown("coverage manifest", "it does not read"))), compiled),
            "purpose-is-earned",
        ),
        "cold_start_called_benchmark": (
            cheat_of(put(("startup.purpose.value.kind", "benchmark")), cuda), "purpose-is-earned",
        ),
        "compiled_called_eager": (
            cheat_of(put(("startup.purpose.value.kind", "not_compiled")), compiled), "purpose-is-earned",
        ),
        "unsaid_seeding_pass": (cheat_of(put(("findings", [])), seeding), "purpose-is-earned"),
        "covered_with_holes": (
            cheat_of(put(("startup.coverage_before.value.missing", ["rank 1: graph abc is missing"])), compiled),
            "coverage-is-whole",
        ),
        "covered_by_nothing": (
            cheat_of(put(("startup.coverage_before.value.required", 0)), compiled), "coverage-is-whole",
        ),
        "first_step_with_a_hole": (
            cheat_of(put(("training.ranks.0.first_step.value.compile_s", 0.5)), compiled), "first-step-sums",
        ),
        "prewarmed_by_nobody": (cheat_of(skip_prewarm, compiled), "prewarm-was-seen"),
        "purpose_left_out": (cheat_of(leave_out("startup", "purpose"), compiled), "minor-is-whole"),
        "split_left_out": (cheat_of(leave_out("training.ranks.0", "first_step"), compiled), "minor-is-whole"),
        "prewarm_not_asked": (cheat_of(leave_out("case", "prewarm"), compiled), "minor-is-whole"),
        "synthetic_as_disk": (
            cheat_of(put(("data.path_class.value", "local_disk")), synthetic), "synthetic-is-no-data-path",
        ),
        "disk_as_synthetic": (cheat_of(put(("data.path_class.value", "synthetic"))), "synthetic-is-no-data-path"),
        "failure_without_cause": (cheat_of(drop_cause, failed), "failure-names-its-cause"),
        "ok_with_a_failure": (
            cheat_of(put(("findings", [finding("disk_full", "failure", "the disk is full")]))), "ok-has-no-failure",
        ),
        "other_last_state": (cheat_of(put(("transitions.2.state", "running"))), "transitions-end-in-outcome"),
        "proves_everything": (cheat_of(nothing_said), "says-what-it-does-not-prove"),
        "null_for_unknown": (cheat_of(put(("outcome.first_cause", None))), "no-null"),
        "evidence_outside": (cheat_of(put(("evidence.0.name", "../../secrets"))), "evidence-names-are-inside"),
    }  # fmt: skip


def path_cheats() -> dict[str, tuple[bytes, str]]:
    records = good_paths()
    mounted, cached = records["data_object_mount"], records["data_page_cache"]

    def cheat(rule: str, *pairs: tuple[str, Any], of: Doc = mounted) -> tuple[bytes, str]:
        return cheat_of(put(*pairs), of), rule

    twice = cached["data"]["ranks"][0]["windows"]
    return {
        "data_mount_called_disk": cheat("class-is-the-ranks", ("data.path_class.value", "local_disk")),
        "data_one_rank_on_a_mount": cheat(
            "class-is-the-ranks", ("data.ranks.1.path_class.value", "object_mount"), of=cached,
        ),
        "data_disk_called_cached": cheat(
            "cached-needs-evidence", ("data.ranks.0.resident_before.value.resident_bytes", 1024),
            ("data.ranks.0.io.value.read_bytes", 1_048_576), of=cached,
        ),
        "data_both_ranks_read_the_same": cheat("windows-add-up", ("data.ranks.1.windows", twice), of=cached),
        "data_other_windows_called_ours": cheat(
            "windows-add-up", ("data.windows.value.expected.sum", "0123456789abcdef"), of=cached,
        ),
        "data_unsaid_contradiction": cheat("class-contradiction-is-said", ("findings", mounted["findings"][:1])),
    }  # fmt: skip


def sparse_cheats() -> dict[str, tuple[bytes, str]]:
    records = good_sparse()
    start, unseen, h100 = (
        records[name] for name in ("sparse_rerouted_detached", "sparse_unobserved", "sparse_h100_triton")
    )
    who = "sparse.results.0.backend_identity"

    def cheat(rule: str, *pairs: tuple[str, Any], of: Doc = start) -> tuple[bytes, str]:
        return cheat_of(put(*pairs), of), rule

    nan = {"verdict": "nan_everywhere", "poisoned_rows": 128, "nan_rows": 64}
    served = {
        "actual": seen("union", "requested backend"),
        "runtime_mode": seen("block_superset", "request"),
        "fallback_reason": {"status": "absent", "source": PROFILER},
    }
    identity = copy.deepcopy(start["sparse"]["results"][0]["backend_identity"])
    return {
        "sparse_actual_from_request": cheat("actual-is-witnessed", (who, identity | served)),
        "sparse_unobserved_made_actual": cheat("actual-is-witnessed", (f"{who}.actual", seen("flex", PROFILER)), of=unseen),
        "sparse_canary_denies_mode": cheat("mode-fits-canary", (f"{who}.canary.value", nan), of=h100),
        "sparse_silent_fallback": cheat(
            "fallback-is-explained", (f"{who}.fallback_reason", {"status": "absent", "source": PROFILER}),
        ),
        "sparse_receipt_for_nobody_knows": cheat("receipt-needs-identity", ("outcome.receipt", True), of=unseen),
        "sparse_easier_case": cheat("results-are-the-cases", ("sparse.results.0.case.topk", 32)),
        "sparse_ran_nothing": cheat("ok-ran-something", ("sparse.results", []), ("outcome.receipt", False)),
        "sparse_wide_tolerance": cheat(
            "parity-is-within-tolerance", ("sparse.results.0.parity.value.tolerance", 0.05),
            ("sparse.results.0.parity.value.max_relative_error", 0.04),
        ),
        "sparse_times_the_queue": cheat("latency-is-honest", ("sparse.results.0.latency.value.synchronised", False)),
        "sparse_counts_padding": cheat("work-counts-valid-indices", ("sparse.results.0.work.value.valid_indices", 4096)),
        "sparse_future_field_with_rate": cheat("states-no-rate", ("record_version", "1.9"), ("sparse.tokens_per_s", 1.0)),
        "sparse_never_detached": cheat("collected-as-it-lived", ("sparse.collector.lifecycle", "blocking")),
    }  # fmt: skip


def promotion_cheats() -> dict[str, tuple[bytes, str]]:
    records = good_promotion()
    ready, compiled = records["promotion_ready_fa4"], records["promotion_compiled_only"]
    part, rungs = "promotion", ladder(6)

    def cheat(rule: str, *pairs: tuple[str, Any], of: Doc = ready) -> tuple[bytes, str]:
        return cheat_of(put(*pairs), of), rule

    by_import = [{**rung, "proof_class": "observational"} if rung["rung"] == "executed" else rung for rung in rungs]
    skipped = [{**rung, "held": False} if rung["rung"] == "imported" else rung for rung in rungs]
    return {
        "promotion_ready_by_compiling": cheat(
            "ready-is-computed", ("promotion.promotion_ready", True), ("promotion.state", "ready"), of=compiled,
        ),
        "promotion_promoted_on_nothing": cheat(
            "promoted-names-evidence", ("promotion.promotion_status", "promoted"), ("promotion.state", "promoted"),
        ),
        "promotion_executed_by_import": cheat("rungs-have-evidence", (f"{part}.ladder", by_import)),
        "promotion_skipped_rung": cheat("ladder-is-whole", (f"{part}.ladder", skipped)),
        "promotion_dispatch_by_operator": cheat(
            "executed-needs-proof", (f"{part}.execute_proof.value.names.level", "op"),
        ),
        "promotion_parity_never_run": cheat("parity-rungs-need-cases", (f"{part}.parity", [])),
        "promotion_surviving_mutant": cheat("parity-has-power", (f"{part}.parity.0.mutants.0.killed", False)),
        "promotion_widened_limit": cheat("parity-is-within-limits", (f"{part}.parity.0.fro_limit", 0.05)),
        "promotion_left_out_case": cheat(
            "parity-is-the-matrix", ("case.promotion.cases", ["causal-d64-s128", "varlen-d128"]),
        ),
        "promotion_other_scope": cheat("scope-mirrors-case", (f"{part}.scope.dtype", "fp16")),
        "promotion_stale_key": cheat("key-is-of-its-components", (f"{part}.evidence_key.components.driver", "580.1")),
        "promotion_future_field_with_rate": cheat(
            "states-no-rate", ("record_version", "1.9"), ("promotion.speedup", {"TFLOP/s": 1, "tokens/s": 2}),
        ),
    }  # fmt: skip


def evidence_cheats() -> dict[str, bytes]:
    """Records in perfect order whose files are other ones: only the evidence step can tell."""
    honest = good()["eager_ddp_cpu"]
    forged, stale = "ranks/0/forged.bin", "ranks/0/stale.bin"
    pages = {rank: f"ranks/{rank}/beacon.page" for rank in (0, 1)}
    faster = [value // 2 for value in SAMPLES]

    def edit_number(predicate: Doc) -> None:
        training = predicate["training"]
        training["samples"]["measured"] = faster
        training["step_time"]["value"] = step_time(faster)
        training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], faster)
        predicate["evidence"] = [entry(stale, encode(faster))]

    longer = {**entry("ranks/0/samples.bin", EVIDENCE), "bytes": len(EVIDENCE) + 1}
    return {
        "forged_samples": cheat_of(put(("evidence", [entry(forged, EVIDENCE)])), honest),
        "edited_number_stale_evidence": cheat_of(edit_number, honest),
        "swapped_evidence": cheat_of(
            put(("evidence", [entry(pages[0], FORGED[pages[1]]), entry(pages[1], FORGED[pages[0]])])), honest
        ),
        "evidence_of_another_size": cheat_of(put(("evidence", [longer])), honest),
        "promotion_forged_proof": cheat_of(
            put(("evidence.0", entry(forged, EVIDENCE))), good_promotion()["promotion_ready_fa4"]
        ),
    }


def figure_cheats() -> dict[str, bytes]:
    """Records whose figures, samples and rules agree, over evidence that is untouched and says something else."""
    case, honest, two = (
        case_of(),
        predicate_of(case_of(), serial="fgrs", samples=SAMPLES),
        good()["fsdp2_regional_warm"],
    )

    def restate(training: Doc, measured: list[int]) -> None:
        training["samples"]["measured"] = measured
        training["step_time"]["value"] = step_time(measured)
        training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], measured)
        training["split"]["window_s"]["value"] = sum(measured) / 1e9

    def faster(predicate: Doc) -> None:
        restate(predicate["training"], [value // 2 for value in predicate["training"]["samples"]["measured"]])

    def one_stall_less(predicate: Doc) -> None:
        measured = list(LONG_SAMPLES)
        measured[measured.index(max(measured))] = min(measured)
        restate(predicate["training"], measured)

    def shorter_question(predicate: Doc) -> None:
        training, steps = predicate["training"], predicate["case"]["steps"] - 3
        predicate["case"]["steps"] = steps
        training["window"] |= {"steps": steps, "measured": steps - training["window"]["warmup"]}
        restate(training, LONG_SAMPLES[:-3])
        for rank in training["ranks"]:
            rank["tokens"]["value"] = training["tokens_per_step"] * (steps - 2) // len(training["ranks"])

    def cut_off(predicate: Doc) -> None:
        predicate["evidence"] = [entry("ranks/0/samples.bin", samples_of(case, 0, SAMPLES, "lost"))]

    def no_sample_file(predicate: Doc) -> None:
        none = FORGED["ranks/0/forged.bin"]
        KEPT[hashlib.sha256(none).hexdigest()] = none
        predicate["evidence"] = [entry("ranks/0/samples.bin", none)]

    swapped = [{**two["evidence"][1 - rank], "name": f"ranks/{rank}/samples.bin"} for rank in (0, 1)]
    return {
        "faster_than_its_files": cheat_of(faster, honest),
        "stall_left_out_of_samples": cheat_of(one_stall_less, two),
        "window_cut_short_of_its_files": cheat_of(shorter_question, two),
        "receipt_of_an_open_window": cheat_of(cut_off, honest),
        "samples_of_another_rank": cheat_of(put(("evidence", swapped)), two),
        "samples_that_are_none": cheat_of(no_sample_file, honest),
        "window_time_edited": cheat_of(put(("training.split.data_wait_s.value", 0.0)), honest),
        "straggler_hidden": cheat_of(put(("training.ranks.1.step_p50_s.value", 0.001)), two),
    }


def cheats() -> dict[str, tuple[bytes, Doc]]:
    """name: (bytes, expectation)"""
    broken = {"step": "rules", "slug": "lane-rule-broken"}
    by_rule = {**training_cheats(), **path_cheats(), **sparse_cheats(), **promotion_cheats()}
    files = {name: (data, {**broken, "rule": rule}) for name, (data, rule) in by_rule.items()}
    other = {"step": "evidence", "slug": "evidence-mismatch"}
    files |= {name: (data, dict(other)) for name, data in evidence_cheats().items()}
    underived = {"step": "figures", "slug": "figures-not-derived"}
    return files | {name: (data, dict(underived)) for name, data in figure_cheats().items()}
