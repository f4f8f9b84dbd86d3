"""Bad records: refused by the strict reader or by their name, each at the step that `expected.json` says."""

from __future__ import annotations

import hashlib
from typing import Any

from changing import base, statement_of, with_value, without
from good_promotion import good_promotion
from good_records import Doc, seen
from good_sparse import good_sparse

from lanemark.records.encoding import encode


def text_bad() -> dict[str, tuple[bytes, Doc]]:
    """Bytes that are no strict JSON, or no text. (bytes, expectation)"""
    data = encode(base())
    rate = str(base()["predicate"]["training"]["tokens_per_s"]["value"]).encode()
    syntax = {"step": "syntax", "slug": "record-malformed"}
    return {
        "empty": (b"", {**syntax, "says": "empty"}),
        "truncated": (data[: len(data) // 2], {**syntax, "says": "not JSON"}),
        "duplicate_key": (data.replace(b'"attempt":1,', b'"attempt":1,"attempt":2,', 1), {**syntax, "says": "twice"}),
        "nan": (data.replace(rate, b"NaN", 1), {**syntax, "says": "NaN is not JSON"}),
        "infinity": (data.replace(rate, b"1e999", 1), {**syntax, "says": "too large"}),
        "deep": (b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n", {**syntax, "says": "deeper"}),
        "very_deep": (b"[" * 4_000 + b"]" * 4_000, {**syntax, "says": "deeper"}),
        "not_utf8": (data.replace(b"bench-01", b"bench\xff01", 1), {**syntax, "says": "not UTF-8"}),
        "lone_surrogate": (data.replace(b"bench-01", b"bench\\ud800", 1), {**syntax, "says": "surrogate"}),
        "huge_integer": (data.replace(b'"pid":4200', b'"pid":' + b"9" * 40, 1), {**syntax, "says": "integer"}),
        "array": (b"[" + data.strip() + b"]\n", {**syntax, "says": "array"}),
        "two_documents": (data + b"{}\n", {**syntax, "says": "not JSON"}),
        "byte_order_mark": (b"\xef\xbb\xbf" + data, {**syntax, "says": "not JSON"}),
    }


def shape_bad() -> dict[str, tuple[Doc, Doc]]:
    """Statements of the wrong version or shape."""
    version = {"step": "version", "slug": "record-foreign"}
    newer = {"step": "version", "slug": "record-too-new"}
    schema = {"step": "schema", "slug": "record-unfit"}
    path = "predicate.training.tokens_per_s"
    return {
        "newer_major": (with_value("predicate.record_version", "2.0"), {**newer, "says": "version 2.0"}),
        "newer_predicate_type": (with_value("predicateType", "urn:x-lanemark:record:v3"), {**newer, "says": "version 3"}),
        "other_statement_type": (with_value("_type", "https://in-toto.io/Statement/v0.1"), {**version, "says": "$._type"}),
        "other_predicate": (with_value("predicateType", "https://slsa.dev/provenance/v1"), {**version, "says": "not a L"}),
        "no_predicate": (without("predicate"), {**version, "says": "record_version"}),
        "version_not_a_version": (with_value("predicate.record_version", "one"), {**version, "says": "MAJOR.MINOR"}),
        "version_zero": (with_value("predicate.record_version", "0.9"), {**version, "says": "ever released"}),
        "missing_part": (without("predicate.hardware"), {**schema, "says": "$.predicate.hardware is missing"}),
        "missing_field": (without("predicate.training.window.warmup"), {**schema, "says": "warmup is missing"}),
        "unknown_field": (with_value("predicate.gpu_hours", 3), {**schema, "says": "$.predicate.gpu_hours is no field"}),
        "unknown_field_deep": (with_value(f"{path}.confidence", "high"), {**schema, "says": "confidence is no field"}),
        "number_as_text": (with_value("predicate.attempt", "1"), {**schema, "says": "$.predicate.attempt"}),
        "true_as_number": (with_value("predicate.attempt", value=True), {**schema, "says": "$.predicate.attempt"}),
        "fraction_as_count": (with_value("predicate.attempt", 1.5), {**schema, "says": "$.predicate.attempt"}),
        "negative_count": (with_value("predicate.training.samples.measured.0", -1), {**schema, "says": "measured[0]"}),
        "unknown_state": (with_value("predicate.outcome.state", "fine"), {**schema, "says": "outcome.state"}),
        "other_lane": (with_value("predicate.lane", "sparse"), {**schema, "says": "$.predicate.case.lane"}),
        "short_digest": (with_value("predicate.plan_digest", "sha256:abc"), {**schema, "says": "plan_digest"}),
        "local_time": (with_value("predicate.times.sealed_at", "2026-11-22 15:22:44"), {**schema, "says": "sealed_at"}),
        "other_digits": (
            with_value("predicate.times.sealed_at", "２０26-11-22T15:22:44.020Z"), {**schema, "says": "sealed_at"},
        ),
        "no_subject": (with_value("subject", []), {**schema, "says": "$.subject"}),
        "no_transitions": (with_value("predicate.transitions", []), {**schema, "says": "transitions"}),
        "empty_text": (with_value("predicate.surface.name", ""), {**schema, "says": "surface.name"}),
        "bare_value": (with_value(path, 81_920.0), {**schema, "says": "tokens_per_s"}),
        "fourth_status": (with_value(f"{path}.status", "estimated"), {**schema, "says": "tokens_per_s.status"}),
        "observed_without_value": (without(f"{path}.value"), {**schema, "says": "has a value and no reason"}),
        "unavailable_without_reason": (
            with_value(path, {"status": "unavailable", "source": "samples.bin"}), {**schema, "says": "says why"},
        ),
        "absent_with_value": (
            with_value("predicate.hardware.observed.mig", {"status": "absent", "source": "nvml", "value": False}),
            {**schema, "says": "has no value"},
        ),
    }  # fmt: skip


def lane_bad() -> dict[str, tuple[Doc, Doc]]:
    """Statements of the other two lanes that have not the shape of their lane, and lanes posing as one another."""
    schema = {"step": "schema", "slug": "record-unfit"}
    sparse, promotion = (
        statement_of(good_sparse()["sparse_rerouted_detached"]),
        statement_of(good_promotion()["promotion_ready_fa4"]),
    )
    result, who = "predicate.sparse.results.0", "predicate.sparse.results.0.backend_identity"
    part = "predicate.promotion"
    training = base()["predicate"]["training"]

    def sparse_bad(path: str, value: Any, says: str) -> tuple[Doc, Doc]:
        return with_value(path, value, sparse), {**schema, "says": says}

    def promotion_bad(path: str, value: Any, says: str) -> tuple[Doc, Doc]:
        return with_value(path, value, promotion), {**schema, "says": says}

    return {
        "no_lane": (without("predicate.lane"), {**schema, "says": "$.predicate.lane is none of"}),
        "unknown_lane": (with_value("predicate.lane", "inference"), {**schema, "says": "$.predicate.lane is none of"}),
        "training_poses_as_promotion": (with_value("predicate.lane", "promotion"), {**schema, "says": "$.predicate.case.lane"}),
        "sparse_poses_as_training": sparse_bad("predicate.lane", "training", "$.predicate.case.lane"),
        "training_case_in_sparse": sparse_bad("predicate.case.steps", 5, "$.predicate.case.steps is no field"),
        "sparse_with_training_part": sparse_bad("predicate.training", training, "$.predicate.training is no field"),
        "training_with_sparse_part": (
            with_value("predicate.sparse", sparse["predicate"]["sparse"]), {**schema, "says": "$.predicate.sparse is no field"},
        ),
        "sparse_with_throughput": sparse_bad("predicate.sparse.tokens_per_s", 81_920.0, "tokens_per_s is no field"),
        "sparse_result_with_rate": sparse_bad(f"{result}.latency.value.tokens_per_s", 1.0, "tokens_per_s is no field"),
        "sparse_unknown_mode": sparse_bad(f"{who}.runtime_mode.value", "mostly_exact", "runtime_mode"),
        "sparse_unlisted_fallback": sparse_bad(f"{who}.fallback_reason.value", "it was slow", "fallback_reason"),
        "sparse_no_observation_level": (without(f"{who}.names.level", sparse), {**schema, "says": "level is missing"}),
        "sparse_latency_in_seconds": sparse_bad(f"{result}.latency.value.unit", "s", "latency.value.unit"),
        "sparse_no_case": sparse_bad("predicate.case.sparse.cases", [], "case.sparse.cases"),
        "sparse_canary_without_rows": sparse_bad(
            f"{who}.canary", seen({"verdict": "bit_identical", "poisoned_rows": 0, "nan_rows": 0}, "output"), "poisoned_rows",
        ),
        "promotion_with_throughput": promotion_bad(f"{part}.throughput", 1.55, "throughput is no field"),
        "promotion_unknown_rung": promotion_bad(f"{part}.ladder.0.rung", "believed", "ladder[0].rung"),
        "promotion_unknown_proof_class": promotion_bad(f"{part}.ladder.3.proof_class", "obvious", "proof_class"),
        "promotion_parity_without_mutants": (
            without(f"{part}.parity.0.mutants", promotion), {**schema, "says": "mutants is missing"},
        ),
        "promotion_short_key": promotion_bad(f"{part}.evidence_key.digest", "sha256:0", "evidence_key.digest"),
    }  # fmt: skip


def edited_number() -> Doc:
    doc = base()
    doc["predicate"]["training"]["tokens_per_s"]["value"] *= 1.5
    return doc


def edited_case() -> Doc:
    """The case made easier after the run, everywhere but in the digest that was fixed before it."""
    doc = base()
    doc["predicate"]["case"]["seed"] = 7
    return doc


def bad() -> dict[str, tuple[bytes, Doc]]:
    files = dict(text_bad())
    files |= {name: (encode(doc), expectation) for name, (doc, expectation) in {**shape_bad(), **lane_bad()}.items()}
    corrupt = {"step": "digest", "slug": "record-corrupt"}
    plan = {"step": "plan", "slug": "plan-mismatch"}
    honest = encode(base())
    # Named by the digest of what they were before somebody changed them.
    files[hashlib.sha256(honest).hexdigest()] = (encode(edited_number()), {**corrupt, "says": "its bytes are"})
    files["0" * 64] = (honest, {**corrupt, "says": "its bytes are"})
    files["edited_case"] = (encode(edited_case()), {**plan, "says": "the case hashes to"})
    subject = with_value("subject.0.digest.sha256", "0" * 64)
    files["other_subject"] = (encode(subject), {**plan, "says": "subject 'case'"})
    extra = base()
    extra["subject"].append({"name": "image", "digest": {"sha256": "0" * 64}})
    files["image_never_seen"] = (encode(extra), {**plan, "says": "subject 'image'"})
    return files
