"""What a record supports, and what a sentence claims beyond it: each rule lets a text pass and catches one."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_records import GOOD, UNKNOWN, Doc, admitted, another, good, predicate, put

from lanemark.judge.admission import Admitted, admit
from lanemark.judge.badge import shields, svg
from lanemark.judge.citing import Citation, Refusal, cite
from lanemark.judge.claims import RULES, overreaches
from lanemark.judge.sets import compare_sets
from lanemark.records.encoding import digest

NAMES = sorted(path.stem for path in GOOD.glob("*.json"))
QUOTABLE = [name for name in NAMES if not any(reason.severity == "block" for reason in good(name).reasons)]
NO_RECEIPT = [name for name in NAMES if not good(name).predicate["outcome"]["receipt"]]


def citation(record: Admitted) -> Citation:
    found = cite(record)
    assert isinstance(found, Citation), found
    return found


def refusal(record: Admitted) -> str:
    found = cite(record)
    assert isinstance(found, Refusal), found
    return " ".join(found.reasons)


def test_a_training_sentence_has_all_of_its_circumstances() -> None:
    said = citation(good("cuda_h100_8")).sentence
    for part in (
        "training lane", "dense-1b (dense pattern)", "8 ranks", "fsdp2", "regionally compiled", "bf16", "sequence 4096",
        "8 × H100 observed", "local surface", "cold start", "local disk", "260,883 tok/s", "global batch",
        "12 measured steps", "2 warm-up steps", "95 % interval within this one run", "2026-11-22", good("cuda_h100_8").id[:19],
    ):  # fmt: skip
        assert part in said
    assert "\n" not in said


def test_a_sparse_sentence_says_what_ran_and_no_throughput() -> None:
    said = citation(good("sparse_rerouted_detached")).sentence
    assert "dense (reroute_to_full) ran, union asked for because seq_le_topk" in said
    assert "no training throughput follows" in said
    assert "tok/s" not in said


def test_a_promotion_sentence_says_how_far_it_got() -> None:
    assert "ready for promotion, state ready" in citation(good("promotion_ready_fa4")).sentence
    assert ": not ready for promotion, state rejected" in citation(good("promotion_rejected")).sentence


def test_what_must_be_said_beside_a_figure_is_in_the_sentence() -> None:
    doc = predicate("cuda_h100_8")
    put(doc, "source.dirty", value=True)
    doc["case"]["gpu"] = doc["hardware"]["requested"]["gpu"] = "B200:8"
    doc["findings"] = [
        {"kind": "gpu_substituted", "severity": "caveat", "summary": "x", "evidence": []},
        {"kind": "stalls_in_window", "severity": "caveat", "summary": "2 steps stalled", "evidence": []},
    ]
    said = citation(admitted(doc)).sentence
    assert "B200:8 was requested and not served" in said
    assert "source with uncommitted changes" in said
    assert "2 steps stalled" in said
    put(doc, "distributed.observed.mode", "ddp")
    assert "fsdp2 asked for, ddp seen" in citation(admitted(doc)).sentence
    assert "synthetic tokens, so that no data path was measured" in citation(good("synthetic")).sentence


@pytest.mark.parametrize("name", NO_RECEIPT)
def test_a_record_without_a_receipt_supports_no_sentence(name: str) -> None:
    assert "may not be quoted" in refusal(good(name))


@pytest.mark.parametrize(
    "path",
    ["hardware.observed.device_class", "distributed.observed.mode", "compile.observed.posture", "startup.state",
     "data.path_class", "hardware.observed.device_count"],
)  # fmt: skip
def test_a_circumstance_that_nobody_saw_refuses_the_sentence(path: str) -> None:
    said = refusal(admitted(put(predicate("cuda_h100_8"), path, UNKNOWN)))
    assert "not observed" in said or "an unobserved device" in said


def test_a_seeding_pass_supports_no_sentence() -> None:
    doc = predicate("cuda_h100_8")
    doc["record_version"], doc["startup"]["purpose"] = "1.1", {
        "status": "observed", "source": "coverage", "value": {"kind": "seeding_pass", "reason": "short"},
    }  # fmt: skip
    assert "no benchmark" in refusal(admitted(doc))


def test_a_broken_rule_or_a_bad_name_refuses_the_sentence() -> None:
    assert "breaks a rule" in refusal(admitted(put(predicate("cuda_h100_8"), "training.tokens_per_s", 1e6)))
    data = (GOOD / "cuda_h100_8.json").read_bytes()
    assert "not the ones" in refusal(admit("sha256:" + "1" * 64, data))
    assert "not the one" in refusal(admit(digest(data), data, tampered="samples.bin differs"))


def test_too_many_results_make_no_sentence() -> None:
    doc = predicate("sparse_smoke")
    doc["sparse"]["results"] *= 2
    assert isinstance(cite(Admitted("sha256:x", doc, ())), Refusal)


def test_uneven_steps_have_no_interval() -> None:
    doc = predicate("cuda_h100_8")
    uneven = [10**6] * 11 + [2 * 10**10]
    doc["training"]["samples"]["measured"] = uneven
    assert "too few or too uneven" in citation(Admitted("sha256:x", doc, ())).sentence


def test_text_of_a_record_is_no_markup_and_moves_no_cursor() -> None:
    doc = predicate("cuda_h100_8")
    doc["case"]["preset"] = "<b>*x*\x1b[2J\n`|"
    record = Admitted("sha256:" + "a" * 64, doc, ())
    found = citation(record)
    assert "\x1b" not in found.sentence
    assert "\n" not in found.sentence
    assert "<b>" not in found.markdown
    assert "\\*x\\*" in found.markdown
    root = ET.fromstring(svg(found, doc))
    assert root.tag.endswith("svg")
    assert "<b>" not in svg(found, doc)


@pytest.mark.parametrize("name", QUOTABLE)
def test_every_badge_is_well_formed_and_names_the_hardware(name: str) -> None:
    record = good(name)
    found = citation(record)
    drawn = ET.fromstring(svg(found, record.predicate))
    title = drawn.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == found.sentence
    badge = shields(found, record.predicate)
    assert set(badge) == {"schemaVersion", "label", "message", "color"}
    assert badge["schemaVersion"] == 1
    assert ("H100" in badge["label"]) or ("cpu" in badge["label"])
    assert json.dumps(badge)


@pytest.mark.parametrize("name", QUOTABLE)
def test_our_own_sentences_claim_nothing_beyond_their_records(name: str) -> None:
    found = citation(good(name))
    assert overreaches(found.sentence, good(name)) == ()
    assert overreaches(found.markdown, good(name)) == ()


# -- one text that passes and one that is caught, for each rule --------------------------------------------------------

H100, SPARSE, READY, REJECTED, SYNTHETIC = (
    "cuda_h100_8", "sparse_rerouted_detached", "promotion_ready_fa4", "promotion_rejected", "synthetic",
)  # fmt: skip
TEXTS: tuple[tuple[str, str, str, str], ...] = (
    ("no-receipt", "lost", "the run was lost", "it made 16,000 tok/s before it was lost"),
    ("wrong-lane", H100, "the training lane made 260,883 tok/s", "the sparse lane made 260,883 tok/s"),
    ("wrong-lane", SPARSE, "no training throughput follows", "a training throughput of some note"),
    ("wrong-lane", H100, "it says nothing about promotion", "the kernel is accepted"),
    ("wrong-lane", REJECTED, "it is not ready for promotion", "it is ready"),
    ("relative-without-verdict", H100, "260,883 tok/s", "260,883 tok/s, which is 1.5x the old figure"),
    ("relative-without-verdict", H100, "on 8x H100", "faster than before"),
    ("number-not-in-record", H100, "260,883 tok/s", "300,000 tok/s"),
    ("number-not-in-record", H100, "about 261k tok/s", "about 280k tok/s"),
    ("number-not-in-record", H100, "a step of 126 ms", "a step of 126 s"),
    ("number-not-in-record", H100, "an MFU of 41.2 %", "an MFU of 52 %"),
    ("number-not-in-record", H100, "first step after 9.25 s", "8 samples/s"),
    ("number-not-in-record", H100, "260,883 tokens per second", "260,883 tok/s per GPU"),
    ("count-not-in-record", H100, "8 ranks, 12 measured steps", "16 ranks"),
    ("count-not-in-record", H100, "over 12 measured steps after 2 warm-up steps", "over 1,200 measured steps"),
    ("hardware-not-observed", H100, "on 8 × H100", "on 8 × B200"),
    ("hardware-not-observed", H100, "on 8x H100", "on 16x H100"),
    ("hardware-not-observed", SYNTHETIC, "on a host CPU", "on an A100"),
    ("mode-not-observed", H100, "with FSDP2", "with DDP"),
    ("posture-not-observed", H100, "regionally compiled", "eager"),
    ("posture-not-observed", SYNTHETIC, "eager", "with torch.compile"),
    ("start-not-observed", H100, "from a cold start, after 2 warm-up steps", "from a warm cache"),
    ("data-path-not-observed", H100, "tokens from local disk", "tokens straight from S3"),
    ("data-path-not-observed", SYNTHETIC, "on synthetic tokens", "on real data"),
    ("precision-not-the-cases", H100, "in bf16", "in fp8"),
    ("surface-not-the-cases", H100, "on the local surface", "on Modal"),
    ("backend-not-observed", SPARSE, "dense ran, union asked for", "the union kernel ran"),
    ("between-runs", H100, "in this one run", "reproducible across runs"),
    ("sweeping", H100, "in this one case", "on any workload"),
    ("dropped-caveat", SYNTHETIC, "8,181 tok/s on synthetic tokens", "8,181 tok/s"),
)


@pytest.mark.parametrize(("rule", "name", "fair", "unfair"), TEXTS, ids=[f"{t[0]}:{t[3][:24]}" for t in TEXTS])
def test_a_rule_passes_a_fair_text_and_catches_an_unfair_one(rule: str, name: str, fair: str, unfair: str) -> None:
    assert rule not in [found.rule for found in overreaches(fair, good(name))]
    assert rule in [found.rule for found in overreaches(unfair, good(name))]


def test_every_rule_has_a_text() -> None:
    assert {text[0] for text in TEXTS} == {rule.name for rule in RULES}
    assert all(rule.why.endswith(".") for rule in RULES)


def test_a_device_that_was_only_requested_is_called_that() -> None:
    doc = predicate("cuda_h100_8")
    doc["case"]["gpu"] = doc["hardware"]["requested"]["gpu"] = "B200:8"
    doc["findings"] = [{"kind": "gpu_substituted", "severity": "caveat", "summary": "x", "evidence": []}]
    found = overreaches("260,883 tok/s on 8x B200", admitted(doc))
    assert {each.rule for each in found} == {"hardware-not-observed", "dropped-caveat"}
    assert "requested and not observed" in found[0].why


def comparison(speed: float) -> tuple[Admitted, Any]:
    """A record that is `speed` times as fast as another, and the comparison of three runs of each."""
    from lanemark.lanes.figures import step_time, tokens_per_s

    def run(serial: str, factor: float) -> Admitted:
        doc: Doc = another(predicate("cuda_h100_8"), serial)
        measured = [round(value / factor) for value in doc["training"]["samples"]["measured"]]
        doc["training"]["samples"]["measured"] = measured
        put(doc, "training.step_time", step_time(measured))
        put(doc, "training.tokens_per_s", tokens_per_s(doc["training"]["tokens_per_step"], measured))
        return admitted(doc, f"sha256:{serial}")

    a = [run(f"a{place}", factor) for place, factor in enumerate((1.0, 1.002, 0.998))]
    b = [run(f"b{place}", factor * speed) for place, factor in enumerate((1.0, 1.002, 0.998))]
    return b[0], compare_sets(a, b)


def test_a_relative_claim_needs_a_verdict_that_bears_it() -> None:
    record, faster = comparison(1.2)
    assert faster.effects[""].verdict == "faster"
    assert overreaches("it is 1.2x, so it is faster", record, faster) == ()
    assert [found.words for found in overreaches("it is 1.5x faster", record, faster)] == ["1.5x"]
    assert overreaches("it is slower", record, faster) != ()
    same, equal = comparison(1.0)
    assert "equivalent" in overreaches("it is faster", same, equal)[0].why
    _, single = comparison(1.2)
    unreplicated = compare_sets([good("cuda_h100_8")], [record])
    assert "spread between runs" in overreaches("it is faster", record, unreplicated)[0].why
    assert "not comparable" in overreaches("faster", record, compare_sets([good("synthetic")], [record]))[0].why
    assert single.verdict.comparable


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=120) | st.from_regex(r"[0-9,. ]{1,12}(tok/s|ms|GB|x|%) ?(H100|fsdp2|warm)?", fullmatch=True))
def test_no_text_makes_the_checker_raise(text: str) -> None:
    for name in (H100, SPARSE, READY, "lost"):
        overreaches(text, good(name))
    assert overreaches(text, admit("sha256:x", b"{}"))[0].rule == "no-record"
