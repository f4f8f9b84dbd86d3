"""Writes the corpus of records beside this file: `good/`, `bad/` and `cheat/`, and `expected.json`, which says why.

    python tests/assets/records/generate.py

Good records verify. Bad ones are refused by the strict reader or by their name: `expected.json` has the verification
step and the slug. Cheats are well-formed and lie: `expected.json` has the lane rule that catches each. The output is
deterministic; a test regenerates it in memory and compares.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from good_records import EVIDENCE, SAMPLES, Doc, case_of, finding, good, predicate_of, sealed, seen, sha

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.records.case import Case
from lanemark.records.encoding import encode

HERE = Path(__file__).resolve().parent


# -- bad: what the reader or the name refuses ------------------------------------------------------------------------


def base() -> Doc:
    """The smallest good record, as a whole statement. Bad ones and cheats are it with one thing changed."""
    return dict(json.loads(sealed(predicate_of(case_of(), serial="base", samples=SAMPLES)).data))


def at(doc: Doc, path: str) -> tuple[Any, Any]:
    """The container and the last key of a path such as `predicate.training.ranks.0.tokens`."""
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    node: Any = doc
    for step in parents:
        node = node[step]
    return node, last


def with_value(path: str, value: Any) -> Doc:
    doc = base()
    node, last = at(doc, path)
    node[last] = value
    return doc


def without(path: str) -> Doc:
    doc = base()
    node, last = at(doc, path)
    del node[last]
    return doc


def text_bad() -> dict[str, tuple[bytes, Doc]]:
    """Bytes that are no strict JSON, or no text. (bytes, expectation)"""
    data = encode(base())
    rate = str(base()["predicate"]["training"]["tokens_per_s"]["value"]).encode()
    syntax = {"step": "syntax", "slug": "record-malformed"}
    return {
        "empty": (b"", {"step": "size", "slug": "record-malformed"}),
        "truncated": (data[: len(data) // 2], {**syntax, "says": "not JSON"}),
        "duplicate_key": (data.replace(b'"attempt":1,', b'"attempt":1,"attempt":2,', 1), {**syntax, "says": "twice"}),
        "nan": (data.replace(rate, b"NaN", 1), {**syntax, "says": "NaN is not JSON"}),
        "infinity": (data.replace(rate, b"1e999", 1), {**syntax, "says": "too large"}),
        "deep": (b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n", {**syntax, "says": "deeper"}),
        "very_deep": (b"[" * 20_000 + b"]" * 20_000, {**syntax, "says": "deeper"}),
        "not_utf8": (data.replace(b"bench-01", b"bench\xff01", 1), {**syntax, "says": "not UTF-8"}),
        "lone_surrogate": (data.replace(b"bench-01", b"bench\\ud800", 1), {**syntax, "says": "surrogate"}),
        "huge_integer": (data.replace(b'"pid":4200', b'"pid":' + b"9" * 40, 1), {**syntax, "says": "integer"}),
        "array": (b"[" + data.strip() + b"]\n", {**syntax, "says": "array"}),
        "two_documents": (data + b"{}\n", {**syntax, "says": "not JSON"}),
        "byte_order_mark": (b"\xef\xbb\xbf" + data, {**syntax, "says": "not JSON"}),
    }


def shape_bad() -> dict[str, tuple[Doc, Doc]]:
    """Statements of the wrong version or shape. `json_schema` says whether a plain JSON Schema can see it too."""
    version = {"step": "version", "slug": "record-malformed", "json_schema": True}
    newer = {"step": "version", "slug": "record-too-new", "json_schema": True}
    schema = {"step": "schema", "slug": "record-malformed", "json_schema": True}
    paired = {**schema, "json_schema": False}
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
        "other_lane": (with_value("predicate.lane", "sparse"), {**schema, "says": "$.predicate.lane"}),
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
        "observed_without_value": (without(f"{path}.value"), {**paired, "says": "has a value and no reason"}),
        "unavailable_without_reason": (
            with_value(path, {"status": "unavailable", "source": "samples.bin"}), {**paired, "says": "says why"},
        ),
        "absent_with_value": (
            with_value("predicate.hardware.observed.mig", {"status": "absent", "source": "nvml", "value": False}),
            {**paired, "says": "has no value"},
        ),
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
    files |= {name: (encode(doc), expectation) for name, (doc, expectation) in shape_bad().items()}
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


# -- cheats: well-formed, and caught by a rule -----------------------------------------------------------------------


def cheat_of(change: Callable[[Doc], None], start: Doc | None = None) -> bytes:
    """A whole record whose predicate was changed and whose digests are all in order."""
    predicate = copy.deepcopy(base()["predicate"] if start is None else start)
    change(predicate)
    predicate["plan_digest"] = Case.from_json(predicate["case"]).digest
    return sealed(predicate).data


def put(*pairs: tuple[str, Any]) -> Callable[[Doc], None]:
    def change(predicate: Doc) -> None:
        for path, value in pairs:
            node, last = at(predicate, path)
            node[last] = value

    return change


def cheats() -> dict[str, tuple[bytes, str]]:
    """name: (bytes, the rule that catches it)"""
    records = good()
    compiled, synthetic, failed = records["fsdp2_regional_warm"], records["synthetic"], records["error_rank_killed"]
    cuda = records["cuda_h100_8"]
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

    def drop_cause(predicate: Doc) -> None:
        del predicate["outcome"]["first_cause"]

    def lose_a_rank(predicate: Doc) -> None:
        del predicate["outcome"]["ranks"][1]

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
        "missing_rank": (cheat_of(lose_a_rank, compiled), "ok-has-every-rank"),
        "warm_over_nothing": (cheat_of(put(("startup.cache_before.value", empty)), compiled), "warm-needs-cache"),
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


# -- files -----------------------------------------------------------------------------------------------------------


def build() -> dict[str, bytes]:
    """Every file of the corpus: its path below this directory, and its bytes."""
    files: dict[str, bytes] = {"evidence/ranks/0/samples.bin": EVIDENCE}
    expected: Doc = {"good": {}, "bad": {}, "cheat": {}}
    for name, predicate in good().items():
        record = sealed(predicate)
        files[f"good/{name}.json"] = record.data
        expected["good"][name] = {"id": record.id, "state": predicate["outcome"]["state"]}
    for name, (data, expectation) in bad().items():
        files[f"bad/{name}.json"] = data
        expected["bad"][name] = expectation
    for name, (data, rule) in cheats().items():
        files[f"cheat/{name}.json"] = data
        expected["cheat"][name] = {"step": "rules", "slug": "lane-rule-broken", "rule": rule}
    files["expected.json"] = (json.dumps(expected, indent=1, sort_keys=True) + "\n").encode()
    return files


def main() -> None:
    files = build()
    for directory in ("good", "bad", "cheat"):
        for stale in (HERE / directory).glob("*.json"):
            if f"{directory}/{stale.name}" not in files:
                stale.unlink()
    for name, data in files.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sys.stdout.write(f"{len(files)} files, {sum(map(len, files.values()))} bytes\n")


if __name__ == "__main__":
    main()
