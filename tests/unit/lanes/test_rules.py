"""The training lane's rules: each accepts every good record and refuses the lie it is there for."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lanemark.lanes.rules import broken_rules, rules_of
from lanemark.lanes.shared_rules import SHARED_RULES
from lanemark.records.encoding import Survey

CORPUS = Path(__file__).parents[2] / "assets" / "records"
EVERY = {path.stem: json.loads(path.read_bytes())["predicate"] for path in (CORPUS / "good").glob("*.json")}
GOOD = {name: doc for name, doc in EVERY.items() if doc["lane"] == "training"}


def at(doc, path):
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in parents:
        doc = doc[step]
    return doc, last


def changed(name, changes):
    doc = copy.deepcopy(GOOD[name])
    for path, value in changes.items():
        node, last = at(doc, path)
        if value is DROP:
            del node[last]
        else:
            node[last] = value
    return doc


DROP = object()
OK, WARM, CUDA, FAILED, LOST = "eager_ddp_cpu", "fsdp2_regional_warm", "cuda_h100_8", "error_rank_killed", "lost"
CANCELLED, SYNTHETIC = "cancelled", "synthetic"
MOUNTED, CACHED = "data_object_mount", "data_page_cache"
SEEDED, LIVED, SEEDING = "fsdp2_regional_seeded", "regional_long_lived", "seeding_pass"
UNKNOWN = {"status": "unavailable", "source": "x", "reason": "could not look"}
ABSENT = {"status": "absent", "source": "x"}


def seen(value, source="x"):
    return {"status": "observed", "source": source, "value": value}


#: The finding that a record with a substituted device carries.
SAID = {"kind": "gpu_substituted", "severity": "caveat", "summary": "x", "evidence": []}
COMPILED = {"kind": "compiled_in_window", "severity": "caveat", "summary": "x", "evidence": []}
UNPINNED = {"case.gpu": "H100:8", "hardware.requested.gpu": "H100:8"}


#: What makes a command's record of a reference stack's: enough of it for the rules about commands.
SCRIPT = {
    "measured_by": seen("hooks"), "tokens": "counted", "steps_per_s": seen(3 / 0.3755),
    "reported_tokens_per_s": UNKNOWN, "parameter_dtypes": seen(["float32"]), "ranks_found": 2,
    "found_by": ["environment"], "restarts": 0, "command_status": seen(0),
}  # fmt: skip
OF_A_COMMAND = {
    "training.script": SCRIPT, "case.script": {}, "case.command": ["torchrun", "train.py"], "case.sequence": DROP,
    "case.micro_batch": DROP, "case.grad_accum": DROP, "case.prewarm": DROP,
}  # fmt: skip

#: rule, a good record, what is changed in it: each case breaks that rule.
REFUSED = [
    ("a-script-is-whole", OK, {"training.script": SCRIPT}),
    ("a-script-is-whole", OK, {"case.script": {}}),
    ("a-script-is-whole", OK, {"case.grad_accum": DROP}),
    ("a-script-is-whole", OK, {"case.mode": "any", "distributed.requested.mode": "any"}),
    ("a-script-is-whole", OK, {**OF_A_COMMAND, "case.command": []}),
    ("a-script-is-whole", OK, {**OF_A_COMMAND, "case.prewarm": "off"}),
    ("a-script-is-whole", OK, {**OF_A_COMMAND, "training.script": {**SCRIPT, "tokens": "absent"}}),
    ("a-script-is-whole", OK, {**OF_A_COMMAND, "training.script": {**SCRIPT, "ranks_found": 1}}),
    ("steps-per-s-from-samples", OK, {**OF_A_COMMAND, "training.script": {**SCRIPT, "steps_per_s": seen(9.0)}}),
    ("dispute-is-said", OK, {**OF_A_COMMAND, "training.script": {**SCRIPT, "reported_tokens_per_s": seen(1.0)}}),
    ("figures-need-receipt", OK, {**OF_A_COMMAND, "outcome.receipt": False, "training.tokens_per_s": UNKNOWN}),
    ("receipt-needs-figure", OK, {**OF_A_COMMAND, "training.script": {**SCRIPT, "steps_per_s": UNKNOWN}}),
    ("receipt-needs-finite-loss", OK, {**OF_A_COMMAND, "training.loss.finite": UNKNOWN}),
    ("receipt-needs-finite-loss", OK, {**OF_A_COMMAND, "training.loss.finite": seen(value=False)}),
    ("throughput-from-samples", OK, {**OF_A_COMMAND, "training.ranks.0.tokens": UNKNOWN}),
    ("step-is-the-cases", OK, {**OF_A_COMMAND, "training.tokens_per_step": 7}),
    ("figures-need-receipt", OK, {"outcome.receipt": False}),
    ("figures-need-receipt", CUDA, {"outcome.receipt": False, "training.tokens_per_s": UNKNOWN}),
    ("receipt-needs-figure", OK, {"training.tokens_per_s": UNKNOWN}),
    ("receipt-needs-ok", FAILED, {"outcome.receipt": True}),
    ("receipt-needs-ok", CANCELLED, {"outcome.receipt": True}),
    ("receipt-needs-samples", OK, {"training.samples.measured": [125_000_000, 126_000_000]}),
    ("receipt-needs-samples", OK, {"training.samples.measured": []}),
    ("receipt-needs-window", OK, {"training.samples.measured": [125_000_000] * 4}),
    ("receipt-needs-finite-loss", OK, {"training.loss.finite": seen(value=False)}),
    ("receipt-needs-finite-loss", OK, {"training.loss.finite": UNKNOWN}),
    ("receipt-needs-finite-loss", OK, {"training.loss.last": UNKNOWN}),
    ("receipt-needs-end-markers", OK, {"outcome.ranks.1.end_marker": False}),
    ("receipt-needs-parity", OK, {"data.token_parity": seen(value=False)}),
    ("receipt-counts-tokens", OK, {"training.ranks.1.tokens": UNKNOWN}),
    ("receipt-counts-tokens", OK, {"training.ranks.1.tokens": seen(1)}),
    ("throughput-from-samples", OK, {"training.tokens_per_s": seen(1.0)}),
    ("throughput-from-samples", OK, {"training.tokens_per_s": seen("many")}),
    ("throughput-from-samples", OK, {"training.samples.measured": [0, 0, 0]}),
    ("throughput-from-samples", OK, {"training.samples.measured.0": 125_000_001}),
    ("step-time-from-samples", OK, {"training.step_time.value.mean_s": 0.125}),
    ("step-time-from-samples", OK, {"training.step_time.value.p50_s": 0.126}),
    ("step-time-from-samples", OK, {"training.step_time.value.p95_s": 0.125}),
    ("step-time-from-samples", OK, {"training.step_time.value.min_s": 0.1}),
    ("step-time-from-samples", OK, {"training.step_time.value.max_s": 0.1}),
    ("step-time-from-samples", OK, {"training.step_time.value.stalls": 1}),
    ("step-time-from-samples", OK, {"training.samples.measured": []}),
    ("window-is-the-cases", OK, {"training.window.warmup": 0, "case.warmup": 0}),
    ("window-is-the-cases", OK, {"training.window.steps": 6}),
    ("window-is-the-cases", OK, {"case.steps": 50}),
    ("ok-measured-something", OK, {"outcome.receipt": False, "training.samples.measured": []}),
    ("compilation-is-said", WARM, {"compile.observed.last_end_step": seen(2)}),
    ("compilation-is-said", WARM, {"compile.observed.last_end_step": seen(13)}),
    ("lane-part-alone", OK, {"sparse": {}}),
    ("lane-part-alone", OK, {"promotion": None}),
    ("lane-part-alone", OK, {"case.sparse": {}}),
    ("observed-needs-a-probe", FAILED, {"distributed.observed.ranks_reporting": 0}),
    (
        "observed-needs-a-probe",
        LOST,
        {
            "distributed.observed.ranks_reporting": 0,
            "distributed.observed.mode": UNKNOWN,
            "distributed.observed.world_size": UNKNOWN,
            "distributed.observed.backend": UNKNOWN,
            "hardware.observed.device_class": UNKNOWN,
            "hardware.observed.device_names": UNKNOWN,
        },
    ),
    ("samples-fit-the-window", OK, {"training.samples.warmup": [1, 2, 3]}),
    ("samples-fit-the-window", FAILED, {"training.samples.measured": [1, 2, 3, 4]}),
    ("step-is-the-cases", OK, {"training.tokens_per_step": 4096}),
    ("step-is-the-cases", OK, {"case.grad_accum": 2}),
    ("mfu-needs-peak", OK, {"training.mfu": seen(0.4)}),
    ("mfu-needs-peak", CUDA, {"training.mfu": seen(1.01)}),
    ("mfu-needs-peak", CUDA, {"training.mfu": seen(0)}),
    ("mfu-needs-peak", CUDA, {"hardware.observed.device_class": UNKNOWN}),
    ("requested-mirrors-case", OK, {"hardware.requested.gpu": "H100"}),
    ("requested-mirrors-case", OK, {"hardware.requested.nproc": 4}),
    ("requested-mirrors-case", OK, {"distributed.requested.mode": "fsdp2"}),
    ("requested-mirrors-case", OK, {"compile.requested": "model"}),
    ("requested-mirrors-case", OK, {"startup.declared": "require"}),
    ("requested-mirrors-case", OK, {"data.requested": {"kind": "synthetic"}}),
    ("requested-mirrors-case", OK, {"surface.name": "modal"}),
    ("requested-mirrors-case", OK, {"run_id": "sparse-20261122T152233Z-0000ddp0"}),
    ("observed-is-not-declared", CUDA, {"hardware.observed.device_class": seen("H100", "requested")}),
    (
        "observed-is-not-declared",
        CUDA,
        {"hardware.observed.mig": seen(value=False, source="as declared by the operator")},
    ),
    ("observed-is-not-declared", OK, {"toolchain.packages.0.version": seen("2.13.0", "Case")}),
    ("substitution-is-said", CUDA, {"hardware.observed.device_class": seen("H200")}),
    ("substitution-is-said", CUDA, {"hardware.observed.device_class": seen("cpu"), "training.mfu": UNKNOWN}),
    ("substitution-is-said", CUDA, {"hardware.observed.device_count": seen(4)}),
    ("pinned-is-served", CUDA, {"hardware.observed.device_class": seen("H200"), "findings": [SAID]}),
    ("substitution-is-said", CUDA, {"hardware.observed.device_class": seen("H100-NVL")}),
    ("world-is-whole", WARM, {"distributed.observed.ranks_reporting": 1}),
    ("world-is-whole", WARM, {"distributed.observed.ranks_reporting": 3}),
    ("world-is-whole", WARM, {"distributed.observed.world_size": seen(4)}),
    ("ok-has-every-rank", OK, {"outcome.ranks.1": DROP}),
    ("ok-has-every-rank", OK, {"training.ranks.1": DROP}),
    ("ok-has-every-rank", OK, {"outcome.ranks.1.rank": 0}),
    ("ok-has-every-rank", OK, {"outcome.ranks.1.status": seen(3)}),
    ("ok-has-every-rank", OK, {"outcome.ranks.1.signal": seen("SIGKILL")}),
    ("ranks-are-listed-once", FAILED, {"outcome.ranks.1.rank": 0}),
    ("ranks-are-listed-once", FAILED, {"training.ranks.1.rank": 7}),
    ("warm-needs-cache", WARM, {"startup.cache_before.value.binaries": 0}),
    ("warm-needs-cache", WARM, {"startup.cache_before.value.keys": 0}),
    ("warm-needs-cache", WARM, {"startup.cache_before": ABSENT}),
    ("warm-needs-cache", WARM, {"startup.cache_after.value.digest": "sha256:" + "0" * 64}),
    ("cold-needs-empty-cache", CUDA, {"startup.cache_before.value.keys": 3}),
    ("cold-needs-empty-cache", WARM, {"startup.state": seen("cold")}),
    ("warm-needs-cache", CUDA, {"startup.state": seen("seeded")}),
    ("eager-compiles-nothing", OK, {"compile.observed.compilations": seen(2)}),
    ("synthetic-is-no-data-path", SYNTHETIC, {"data.path_class": seen("local_disk")}),
    ("synthetic-is-no-data-path", SYNTHETIC, {"data.path_class": UNKNOWN}),
    ("synthetic-is-no-data-path", SYNTHETIC, {"data.dataset_digest": seen("sha256:" + "0" * 64)}),
    ("synthetic-is-no-data-path", OK, {"data.path_class": seen("synthetic")}),
    ("dataset-is-asked-for", OK, {"data.dataset_digest": seen("sha256:" + "0" * 64)}),
    ("ok-has-no-failure", OK, {"outcome.first_cause": {"kind": "undecided", "summary": "x"}}),
    (
        "ok-has-no-failure",
        OK,
        {"findings": [{"kind": "disk_full", "severity": "failure", "summary": "x", "evidence": []}]},
    ),
    ("failure-names-its-cause", FAILED, {"outcome.first_cause": DROP}),
    ("failure-names-its-cause", LOST, {"outcome.first_cause": DROP}),
    ("transitions-end-in-outcome", OK, {"transitions.2.state": "lost"}),
    ("transitions-end-in-outcome", OK, {"transitions.1.state": "error"}),
    ("transitions-go-forward", OK, {"transitions.1.monotonic_s": 99.0}),
    ("says-what-it-does-not-prove", OK, {"training.does_not_prove": []}),
    ("warm-needs-cache", LIVED, {"startup.cache_after.value.digest": "sha256:" + "0" * 64}),
    ("warm-adds-nothing", WARM, {"training.ranks.0.cache.new_files": seen(1)}),
    ("warm-adds-nothing", SEEDED, {"training.ranks.1.cache.used.value.misses.aot": 1}),
    ("warm-adds-nothing", LIVED, {"training.ranks.0.cache.used.value.misses.fx": 2}),
    ("seeded-needs-a-layer", WARM, {"startup.state": seen("seeded")}),
    ("seeded-needs-a-layer", WARM, {"startup.state": seen("image_seed"), "startup.layers": UNKNOWN}),
    ("seeded-needs-a-layer", SEEDED, {"startup.layers.value.1.outcome": "refused"}),
    ("seeded-needs-a-layer", SEEDED, {"startup.layers.value.1.kind": "image_directory"}),
    ("seeded-needs-a-layer", SEEDED, {"startup.layers.value.0.outcome": "used"}),
    ("purpose-is-earned", SEEDING, {"startup.purpose.value.kind": "benchmark"}),
    ("purpose-is-earned", WARM, {"startup.coverage_before.value.covered": False}),
    ("purpose-is-earned", WARM, {"startup.coverage_before": UNKNOWN}),
    ("purpose-is-earned", WARM, {"startup.purpose.value.kind": "cold_measurement"}),
    ("purpose-is-earned", CUDA, {"startup.purpose.value.kind": "seeding_pass"}),
    ("purpose-is-earned", OK, {"startup.purpose.value.kind": "benchmark"}),
    ("purpose-is-earned", SEEDING, {"findings": []}),
    ("coverage-is-whole", WARM, {"startup.coverage_before.value.missing": ["rank 0: graph x is missing"]}),
    ("coverage-is-whole", WARM, {"startup.coverage_before.value.required": 0}),
    ("first-step-sums", WARM, {"training.ranks.1.first_step.value.compile_s": 99.0}),
    ("first-step-sums", WARM, {"training.ranks.1.first_step_s": UNKNOWN}),
    ("prewarm-was-seen", OK, {"startup.prewarm.value.done": seen(True)}),
    ("prewarm-was-seen", WARM, {"training.ranks.0.first_step": UNKNOWN, "training.ranks.1.first_step": UNKNOWN}),
    ("minor-is-whole", OK, {"startup.clocks": DROP}),
    ("minor-is-whole", OK, {"case.collective_timeout_s": DROP}),
    ("minor-is-whole", OK, {"training.ranks.1.cache": DROP}),
    ("class-is-the-ranks", MOUNTED, {"data.path_class": seen("local_disk")}),
    ("class-is-the-ranks", CACHED, {"data.ranks.1.path_class": seen("object_mount")}),
    ("class-is-the-ranks", CACHED, {"data.ranks.1.path_class": UNKNOWN}),
    (
        "cached-needs-evidence",
        CACHED,
        {"data.ranks.1.resident_after.value.resident_bytes": 9, "data.ranks.1.io.value.read_bytes": 1},
    ),
    ("cached-needs-evidence", CACHED, {"data.ranks.0.resident_before": UNKNOWN, "data.ranks.0.io": UNKNOWN}),
    ("windows-add-up", CACHED, {"data.ranks.1.windows.value.sum": "0" * 16}),
    ("windows-add-up", CACHED, {"data.ranks.1.windows": UNKNOWN}),
    ("windows-add-up", CACHED, {"data.ranks.1": DROP}),
    ("windows-add-up", CACHED, {"data.windows.value.expected.sum": "0" * 16}),
    ("windows-add-up", CACHED, {"data.windows.value.expected.sum": "0" * 16, "data.windows.value.as_expected": False}),
    ("class-contradiction-is-said", MOUNTED, {"findings": []}),
    ("no-null", OK, {"outcome.first_cause": None}),
    ("no-null", OK, {"training.samples.measured.1": None}),
    ("scrubbed-has-no-value", OK, {"environment.settings.1.value": "ib"}),
    ("scrubbed-has-no-value", OK, {"environment.settings.0.value": DROP}),
    ("evidence-names-are-inside", OK, {"evidence.0.name": "/etc/passwd"}),
    ("evidence-names-are-inside", OK, {"evidence.0.name": "ranks/../../x"}),
    ("evidence-names-are-inside", OK, {"evidence.0.name": ""}),
]

#: A good record and a change that looks like a lie and is none: nothing is broken.
ACCEPTED = [
    (OK, OF_A_COMMAND),
    (OK, {**OF_A_COMMAND, "training.tokens_per_step": DROP}),
    (
        OK,
        {**OF_A_COMMAND, "training.script": {**SCRIPT, "reported_tokens_per_s": seen(2 * 4 * 256 * 3 / 0.3755 * 1.01)}},
    ),
    (WARM, {"compile.observed.last_end_step": seen(1)}),
    (WARM, {"compile.observed.last_end_step": seen(5), "findings": [COMPILED]}),
    (FAILED, {"training.samples.measured": [], "outcome.ranks.0.end_marker": True}),
    (
        LOST,
        {
            "distributed.observed.ranks_reporting": 0,
            "distributed.observed.mode": UNKNOWN,
            "distributed.observed.world_size": UNKNOWN,
            "distributed.observed.backend": UNKNOWN,
            "compile.observed.posture": UNKNOWN,
            "hardware.observed.device_class": UNKNOWN,
            "hardware.observed.device_names": UNKNOWN,
        },
    ),
    (OK, {"data.token_parity": UNKNOWN}),
    (CACHED, {"data.ranks.1.path_class": seen("local_disk"), "data.path_class": seen("local_disk")}),
    (CACHED, {"data.ranks.0.resident_before": UNKNOWN, "data.ranks.0.resident_after.value.resident_bytes": 9}),
    (CACHED, {"data.ranks": DROP, "data.windows": UNKNOWN}),
    (MOUNTED, {"case.data.path_class": "object_mount", "data.requested.path_class": "object_mount", "findings": []}),
    (MOUNTED, {"data.path_class": UNKNOWN, "findings": []}),
    (OK, {"outcome.receipt": False, "training.tokens_per_s": UNKNOWN}),
    (CUDA, {"training.mfu": UNKNOWN}),
    (CUDA, {**UNPINNED, "hardware.observed.device_class": seen("H100-PCIe")}),
    (CUDA, {**UNPINNED, "hardware.observed.device_class": seen("H200"), "findings": [SAID]}),
    (CUDA, {"hardware.observed.device_count": UNKNOWN}),
    (CUDA, {"hardware.observed.device_class": UNKNOWN, "training.mfu": UNKNOWN}),
    (
        CUDA,
        {"case.gpu": "H100+:8", "hardware.requested.gpu": "H100+:8", "hardware.observed.device_class": seen("H200")},
    ),
    (FAILED, {"distributed.observed.ranks_reporting": 1}),
    (FAILED, {"distributed.observed.world_size": UNKNOWN, "training.ranks.1": DROP}),
    (LOST, {"outcome.ranks": []}),
    (CANCELLED, {"training.loss.finite": UNKNOWN, "findings": []}),
    (WARM, {"startup.state": seen("partly_warm"), "training.ranks.0.cache.new_files": seen(4)}),
    (WARM, {"training.ranks.0.cache.new_files": UNKNOWN, "training.ranks.0.cache.used": UNKNOWN}),
    (SEEDING, {"startup.coverage_before": UNKNOWN}),
    (FAILED, {"training.ranks.0.first_step": UNKNOWN, "training.ranks.0.first_step_s": UNKNOWN}),
    (WARM, {"training.ranks.1.first_step": UNKNOWN}),
    (OK, {"record_version": "1.0", "case.prewarm": DROP, "startup.layers": DROP, "training.ranks.0.first_step": DROP}),
    (WARM, {"startup.state": seen("partly_warm"), "startup.cache_before.value.binaries": 0}),
    (CUDA, {"startup.cache_before": ABSENT}),
    (WARM, {"startup.state": seen("partly_warm"), "startup.cache_after.value.digest": "sha256:" + "0" * 64}),
    (WARM, {"startup.state": UNKNOWN, "startup.cache_before": UNKNOWN}),
    (WARM, {"transitions.1.monotonic_s": DROP}),
]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_records_break_nothing(name):
    assert broken_rules(GOOD[name]) == ()


@pytest.mark.parametrize(("rule", "name", "changes"), REFUSED)
def test_each_rule_refuses(rule, name, changes):
    broken = {item.rule: item for item in broken_rules(changed(name, changes))}
    assert rule in broken
    assert "cannot be judged" not in broken[rule].problem
    assert broken[rule].why
    assert len(broken[rule].problem) < 300


@pytest.mark.parametrize(("name", "changes"), ACCEPTED)
def test_what_is_no_lie_is_accepted(name, changes):
    assert broken_rules(changed(name, changes)) == ()


def test_every_rule_has_a_case_it_refuses():
    assert {rule.name for rule in rules_of("training")} == {rule for rule, _, _ in REFUSED}


def test_figures_worked_out_by_hand():
    """tokens ÷ mean step: 2 ranks · 4 sequences · 256 tokens over (125 + 126 + 124.5) / 3 ms."""
    doc = GOOD[OK]
    assert doc["training"]["samples"]["measured"] == [125_000_000, 126_000_000, 124_500_000]
    doc = changed(OK, {"training.tokens_per_s": seen(2 * 4 * 256 * 3 / 0.3755)})
    assert broken_rules(doc) == ()


@pytest.mark.parametrize("doc", [{}, {"outcome": {}}, {"outcome": None, "training": [], "case": "x"}])
def test_what_is_no_record_breaks_rules_and_raises_nothing(doc):
    broken = broken_rules(doc)
    assert len(broken) > len(SHARED_RULES) // 2
    assert any("cannot be judged" in item.problem for item in broken)


def test_the_survey_of_the_statement_around_it_serves_as_well():
    for changes in ({}, {"image.digest": None}, {"image.reference": seen("x") | {"source": "As REQUESTED"}}):
        doc = changed(OK, changes)
        around = {"predicate": doc, "subject": [{"name": None, "status": "observed", "source": "case"}]}
        assert broken_rules(doc, Survey(around)) == broken_rules(doc)
    assert {item.rule for item in broken_rules(doc)} == {"observed-is-not-declared"}


@pytest.mark.parametrize(
    "source", ["case", "Plan", "a\u017fked for", "command line", "request\n", "assumed, as it were"]
)
def test_every_spelling_of_a_request_is_noticed(source):
    doc = changed(OK, {"image.reference": seen("x") | {"source": source}})
    assert "observed-is-not-declared" in {item.rule for item in broken_rules(doc)}


def test_a_command_that_counted_no_tokens_has_steps_a_second_and_no_throughput():
    none = {"training.ranks.0.tokens": UNKNOWN, "training.tokens_per_s": UNKNOWN, "training.tokens_per_step": DROP}
    doc = changed(OK, {**OF_A_COMMAND, **none, "training.script": {**SCRIPT, "tokens": "absent"}})
    assert broken_rules(doc) == ()
