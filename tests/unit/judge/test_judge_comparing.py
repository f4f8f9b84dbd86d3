"""The laws of comparing: symmetric, fail-closed, and never better for knowing less."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from judge_records import CHEAT, GOOD, UNKNOWN, Doc, admitted, another, good, put, quiet

from lanemark.judge.admission import admit
from lanemark.judge.comparing import compare, factors_of, is_declared, may_vary
from lanemark.judge.facts import facts_of
from lanemark.judge.metrics import METRICS, metric_of
from lanemark.judge.table import rows_of, table_of
from lanemark.lanes.shared_roles import Role
from lanemark.records.encoding import digest
from lanemark.records.statement import RECORD_VERSION
from lanemark.records.verdict import REASONS, Reason, Verdict, ordered, word_for

H100 = "cuda_h100_8"
GOOD_NAMES = sorted(path.stem for path in GOOD.glob("*.json"))


def verdict_of(change: Any = None, *, name: str = H100, both: Any = None, **asked: Any) -> Verdict:
    a = quiet(name)
    if both is not None:
        both(a)
    b = another(a)
    if change is not None:
        change(b)
    return compare(admitted(a), admitted(b), **asked)


def setting(path: str, value: Any) -> Any:
    return lambda doc: put(doc, path, value)


def test_a_replicate_is_comparable() -> None:
    assert verdict_of().word == "comparable"
    assert verdict_of().reasons == ()


RECEIPTS = [name for name in GOOD_NAMES if good(name).predicate["outcome"]["receipt"]]
OPEN = [name for name in RECEIPTS if not any(reason.severity == "block" for reason in good(name).reasons)]


def test_only_seeding_passes_have_a_receipt_and_are_refused() -> None:
    refused = [good(name) for name in RECEIPTS if name not in OPEN]
    assert {reason.code for one in refused for reason in one.reasons} <= {"SEEDING_PASS"}
    assert len(OPEN) >= 12


@pytest.mark.parametrize("name", OPEN)
def test_every_quotable_record_may_be_compared_with_a_replicate_of_itself(name: str) -> None:
    verdict = verdict_of(name=name)
    assert {reason.code for reason in verdict.reasons} <= {"RECORD_CAVEAT"}, "caveats of the runs themselves at most"
    assert verdict.word == ("comparable_with_caveats" if verdict.reasons else "comparable")


def test_the_page_cache_over_a_disk_is_that_disk_with_a_caveat() -> None:
    cached = setting("data.path_class.value", "page_cache")
    verdict = verdict_of(cached)
    assert verdict.word == "comparable_with_caveats"
    assert [(reason.code, reason.path) for reason in verdict.reasons] == [("COVARIATE_DIFFERS", "data.path_class")]
    for other in ("ram", "object_mount", "network_volume"):
        verdict = verdict_of(setting("data.path_class.value", other))
        assert verdict.word == "not_comparable"
        assert [(reason.code, reason.path) for reason in verdict.reasons] == [("KEY_MISMATCH", "data.path_class")]


@pytest.mark.parametrize("name", [name for name in GOOD_NAMES if not good(name).predicate["outcome"]["receipt"]])
def test_a_record_without_a_receipt_may_not(name: str) -> None:
    assert "NO_RECEIPT" in verdict_of(name=name).codes("block")


@pytest.mark.parametrize(
    ("path", "value", "code", "word"),
    [
        ("hardware.observed.device_class", "H200", "KEY_MISMATCH", "not_comparable"),
        ("hardware.observed.device_count", 4, "KEY_MISMATCH", "not_comparable"),
        ("data.dataset_digest", "sha256:" + "1" * 64, "KEY_MISMATCH", "not_comparable"),
        ("training.window.warmup", 3, "KEY_MISMATCH", "not_comparable"),
        ("training.tokens_per_step", 1, "KEY_MISMATCH", "not_comparable"),
        ("surface.name", "modal", "KEY_MISMATCH", "not_comparable"),
        ("distributed.observed.mode", "ddp", "UNDECLARED_FACTOR", "not_comparable"),
        ("compile.observed.posture", "model", "UNDECLARED_FACTOR", "not_comparable"),
        ("source.commit", "f" * 40, "UNDECLARED_FACTOR", "not_comparable"),
        ("environment.python", "3.12.1", "UNDECLARED_FACTOR", "not_comparable"),
        ("image.digest", "sha256:" + "2" * 64, "OPAQUE_IMAGE_CHANGE", "comparable_with_caveats"),
        ("hardware.observed.driver", "580.1", "COVARIATE_DIFFERS", "comparable_with_caveats"),
        ("startup.state", "partly_warm", "COVARIATE_DIFFERS", "comparable_with_caveats"),
        ("surface.hostname", "another", None, "comparable"),
        ("times.sealed_at", "2026-12-01T00:00:00.000Z", None, "comparable"),
        ("case.seed", 12, None, "comparable"),
    ],
)
def test_a_difference_is_what_its_role_says(path: str, value: Any, code: str | None, word: str) -> None:
    found = verdict_of(setting(path, value))
    assert found.word == word
    if code is not None:
        assert code in found.codes()
        assert any(reason.path == path for reason in found.reasons if reason.code == code)


def test_start_up_state_is_a_key_of_the_first_step_and_a_covariate_of_the_loop() -> None:
    change = setting("startup.state", "partly_warm")
    assert verdict_of(change).codes() == ("COVARIATE_DIFFERS",)
    assert "KEY_MISMATCH" in verdict_of(change, metric="time_to_first_step_s").codes("block")


def test_on_a_processor_its_model_is_a_key_and_beside_a_device_a_covariate() -> None:
    change = setting("hardware.observed.cpu_model", "another")
    assert verdict_of(change).codes() == ("COVARIATE_DIFFERS",)
    assert "KEY_MISMATCH" in verdict_of(change, name="fsdp2_regional_warm").codes("block")


def test_unknown_never_equals_unknown() -> None:
    for path, word in [
        ("hardware.observed.mig", "not_comparable"),
        ("hardware.observed.driver", "comparable_with_caveats"),
    ]:
        for found in (verdict_of(setting(path, UNKNOWN)), verdict_of(both=setting(path, UNKNOWN))):
            assert "MISSING_EVIDENCE" in found.codes()
            assert found.word == word


def test_absent_on_both_sides_is_known_and_equal() -> None:
    none = {"status": "absent", "source": "importlib.metadata", "reason": "not installed"}
    assert verdict_of(both=setting("toolchain.nccl", none)).word == "comparable"


def test_a_redacted_value_is_unknown() -> None:
    hidden = setting("environment.variables.NCCL_CONF_FILE", "[redacted]")
    assert "MISSING_EVIDENCE" in verdict_of(both=hidden).codes("block")
    assert "MISSING_EVIDENCE" in verdict_of(both=setting("source.argv", ["x", "--token", "[redacted]"])).codes("block")


def test_an_unlisted_field_blocks_where_it_differs() -> None:
    assert "UNLISTED_FIELD" in verdict_of(setting("hardware.observed.interposer", "x")).codes("block")
    assert "UNLISTED_FIELD" in verdict_of(setting("training.ranks.3.boosted", 1)).codes("block")
    assert "UNLISTED_FIELD" in verdict_of(setting("later", {"a": 1})).codes("block")
    assert verdict_of(both=setting("hardware.observed.interposer", "x")).word == "comparable"


def test_what_was_asked_for_does_not_count() -> None:
    def asks(doc: Doc) -> None:
        doc["case"]["gpu"] = doc["hardware"]["requested"]["gpu"] = "any"

    assert verdict_of(asks).word == "comparable"


def test_a_substituted_device_is_a_caveat_and_only_the_observed_one_counts() -> None:
    def served(doc: Doc) -> None:
        doc["case"]["gpu"] = doc["hardware"]["requested"]["gpu"] = "H200:8"
        doc["findings"] = [{"kind": "gpu_substituted", "severity": "caveat", "summary": "x", "evidence": []}]

    found = verdict_of(served)
    assert found.word == "comparable_with_caveats"
    assert [(reason.code, reason.side) for reason in found.reasons if reason.code == "GPU_SUBSTITUTED"] == [
        ("GPU_SUBSTITUTED", "b")
    ]


def test_a_mode_that_was_not_asked_for_is_a_caveat() -> None:
    def other(doc: Doc) -> None:
        put(doc, "distributed.observed.mode", "ddp")
        put(doc, "compile.observed.posture", "eager")

    found = verdict_of(both=other)
    assert found.codes() == ("NOT_AS_REQUESTED",)
    assert len(found.reasons) == 4


def test_lanes_never_mix() -> None:
    found = compare(good(H100), good("sparse_h100_triton"))
    assert found.codes("block") == ("DIFFERENT_LANE",)
    assert found.unblock is None


def test_a_run_is_not_compared_with_itself() -> None:
    assert "SAME_RUN" in compare(good(H100), good(H100)).codes("block")


def as_asked(doc: Doc) -> None:
    """ddp, asked for and seen."""
    doc["case"]["mode"] = doc["distributed"]["requested"]["mode"] = "ddp"
    put(doc, "distributed.observed.mode", "ddp")


def test_a_question_admits_factors_and_a_refusal_says_which() -> None:
    change = as_asked
    refused = verdict_of(change)
    assert refused.unblock == ("mode",)
    for name in ("mode", "distributed.observed.mode", "distributed.observed", "distributed"):
        assert verdict_of(change, vary=(name,)).word == "comparable", name
        assert verdict_of(change, vary=(name,)).question == ("mode",)


def test_no_question_admits_a_key() -> None:
    change = setting("data.dataset_digest", "sha256:" + "1" * 64)
    assert verdict_of(change).unblock is None
    assert verdict_of(change, vary=("data.dataset_digest",)).word == "not_comparable"


def test_what_unblocks_really_unblocks() -> None:
    def change(doc: Doc) -> None:
        as_asked(doc)
        put(doc, "environment.variables.NCCL_ALGO", "Ring")
        put(doc, "toolchain.torch_build", "2.14.0+cu128")

    refused = verdict_of(change)
    assert refused.unblock == ("environment.NCCL_ALGO", "mode", "torch")
    admitted_ = verdict_of(change, vary=refused.unblock)
    assert admitted_.comparable
    assert admitted_.codes() == ("CONFOUNDED_QUESTION",)


def test_two_fields_of_one_factor_do_not_confound() -> None:
    def change(doc: Doc) -> None:
        put(doc, "toolchain.torch_build", "2.14.0+cu128")
        put(doc, "toolchain.nccl", "2.28.1")
        put(doc, "hardware.observed.cuda", "12.9")

    assert verdict_of(change, vary=("torch",)).word == "comparable"


def test_a_declared_field_that_does_not_differ_is_said() -> None:
    assert verdict_of(vary=("mode",)).codes() == ("VARIED_NOTHING",)


def test_what_may_be_varied() -> None:
    sides = (good(H100),)
    for name in ("mode", "torch", "environment", "environment.OMP_NUM_THREADS", "hardware.observed.driver", "packages"):
        assert may_vary("training", name, sides) is None, name
    assert "must be equal" in str(may_vary("training", "data.path_class", sides))
    assert "ignored" in str(may_vary("training", "run_id", sides))
    assert "no field" in str(may_vary("training", "moon", sides))
    assert "mode" in factors_of("training")


def test_a_variable_that_only_places_ranks_is_ignored() -> None:
    assert verdict_of(setting("environment.variables.MASTER_PORT", "29501")).word == "comparable"
    assert verdict_of(setting("environment.variables.NCCL_DEBUG", "INFO")).unblock == ("environment.NCCL_DEBUG",)


def with_setting(name: str, value: str, origin: str) -> Any:
    def change(doc: Doc) -> None:
        entry = {"name": name, "value": value, "origin": origin, "reason": "r"}
        doc["environment"]["settings"] = [*doc["environment"]["settings"], entry]

    return change


def test_what_lanemark_set_by_itself_follows_from_the_case() -> None:
    name = "TRITON_DEFAULT_NUM_STAGES"
    chosen, other, own = (
        with_setting(name, *pair) for pair in (("2", "lanemark"), ("3", "lanemark"), ("3", "operator"))
    )
    assert verdict_of(chosen).word == "comparable"
    assert verdict_of(other, both=lambda doc: None).word == "comparable"
    assert verdict_of(own).unblock == (f"environment.{name}",)
    a, b = quiet(), another(quiet())
    chosen(a)
    own(b)
    assert compare(admitted(a), admitted(b)).unblock == (f"environment.{name}",)
    a, b = quiet(), another(quiet())
    other(a)
    own(b)
    assert compare(admitted(a), admitted(b)).word == "comparable"
    assert verdict_of(with_setting("TMPDIR", "/x", "operator")).word == "comparable"


def test_a_second_item_of_one_name_hides_nothing() -> None:
    def change(doc: Doc) -> None:
        package = copy.deepcopy(doc["toolchain"]["packages"][0])
        package["version"]["value"] = "9.9"
        doc["toolchain"]["packages"].insert(0, package)

    assert not verdict_of(change).comparable


def test_what_the_case_pins_is_taken_out_of_the_command_line() -> None:
    argv = ["/opt/venv/bin/lanemark", "run", "training", "--preset=dense-1b", "--nproc", "8", "--steps", "99", "--json"]
    assert verdict_of(setting("source.argv", argv)).word == "comparable"
    assert verdict_of(setting("source.argv", [*argv, "--unheard-of"])).unblock == ("argv",)
    assert verdict_of(setting("source.argv", [*argv, "--", "python", "x.py"])).word == "comparable"


FIRST_STEP = ("import_s", "init_s", "build_s", "shard_s", "prewarm_s", "compile_s", "first_collective_s")
NEW_IN_1_1 = ("purpose", "layers", "layout", "prewarm", "coverage_before", "clocks")


def newer(doc: Doc) -> Doc:
    """What version 1.1 adds, of a cold start that was measured on purpose; nothing where the record has it already."""

    def seen(value: Any) -> Doc:
        return {"status": "observed", "source": "s", "value": value}

    if "purpose" in doc["startup"]:
        return doc
    none = {"status": "absent", "source": "s", "reason": "none was given"}
    doc["record_version"] = "1.1"
    unplanned = {"policy": "auto", "planned": False, "reason": "r", "done": none, "seconds": none, "compilations": none}
    doc["startup"] |= {
        "purpose": seen({"kind": "cold_measurement", "reason": "asked for"}), "layers": none, "layout": seen("shared"),
        "prewarm": seen(unplanned), "clocks": {"container_age_s": seen(3.0), "asleep_s": seen(0.0)},
        "coverage_before": seen({"covered": False, "required": 9, "missing": [], "mismatches": []}),
    }  # fmt: skip
    for rank in doc["training"]["ranks"]:
        parts = dict.fromkeys(FIRST_STEP, 0.0) | {"other_s": rank["first_step_s"]["value"]}
        rank |= {"cache": {"used": none, "new_files": none}, "first_step": seen(parts)}
    return doc


def older(doc: Doc) -> Doc:
    """The same record as version 1.0 would have left it."""
    doc["record_version"] = "1.0"
    for name in NEW_IN_1_1:
        doc["startup"].pop(name, None)
    for rank in doc["training"]["ranks"]:
        rank.pop("cache", None)
        rank.pop("first_step", None)
    return doc


SEEDING = {"status": "observed", "source": "s", "value": {"kind": "seeding_pass", "reason": "3 keys were missing"}}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (setting("data.token_parity", UNKNOWN), "TOKEN_PARITY_BROKEN"),
        (setting("compile.observed.last_end_step", 9), "NO_STEADY_STATE"),
        (setting("compile.observed.last_end_step", UNKNOWN), "NO_STEADY_STATE"),
        (lambda doc: doc["transitions"].pop(), "UNSEALED"),
        (setting("training.tokens_per_s", 999_999.0), "BROKEN_RULE"),
        (lambda doc: doc.pop("hardware"), "BROKEN_RULE"),
        (setting("outcome.receipt", value=False), "NO_RECEIPT"),
        (setting("startup.purpose", SEEDING), "SEEDING_PASS"),
        (setting("startup.purpose", UNKNOWN), "MISSING_EVIDENCE"),
        (lambda doc: newer(doc)["startup"].pop("purpose"), "MISSING_EVIDENCE"),
    ],
)
def test_a_gate_closes(change: Any, code: str) -> None:
    found = verdict_of(change)
    assert found.word == "not_comparable"
    assert code in found.codes("block")


def test_version_1_1_has_rows_of_its_own() -> None:
    assert verdict_of(both=newer).word == "comparable"
    found = verdict_of(setting("startup.layout", "per_rank"), both=newer)
    assert [(reason.code, reason.path) for reason in found.reasons] == [("COVARIATE_DIFFERS", "startup.layout")]

    def covered(doc: Doc) -> None:
        doc["startup"]["coverage_before"]["value"] |= {"covered": True, "required": 9, "missing": [], "mismatches": []}

    assert verdict_of(covered, both=newer).word == "comparable"
    first = verdict_of(covered, both=newer, metric="time_to_first_step_s")
    assert [reason.path for reason in first.reasons] == ["startup.coverage_before.covered"]


def test_a_record_of_version_1_0_cannot_say_what_1_1_does() -> None:
    assert verdict_of(both=older).word == "comparable"
    mixed = compare(admitted(older(quiet())), admitted(newer(another(quiet()))))
    assert mixed.word == "comparable_with_caveats"
    assert set(mixed.codes()) == {"MISSING_EVIDENCE"}


def test_an_audit_that_found_no_steady_state_closes() -> None:
    data = (GOOD / f"{H100}.json").read_bytes()
    record = admit(digest(data), data, unsteady="it drifts")
    assert [reason.code for reason in record.reasons] == ["NO_STEADY_STATE"]


def test_bytes_that_are_not_their_names_are_refused() -> None:
    data = (GOOD / f"{H100}.json").read_bytes()
    assert [reason.code for reason in admit("sha256:" + "0" * 64, data).reasons] == ["BAD_DIGEST"]
    for hostile in (b"", b"[]", b"{", b'{"predicate": 3}', b'{"predicate": {}}', b'{"predicate": {"lane": []}}'):
        assert admit(digest(hostile), hostile).reasons
        assert compare(admit(digest(hostile), hostile), good(H100)).word == "not_comparable"


def test_findings_and_uncommitted_changes_are_carried_over() -> None:
    def change(doc: Doc) -> None:
        put(doc, "source.dirty", value=True)
        doc["findings"] = [{"kind": "stalls_in_window", "severity": "caveat", "summary": "two", "evidence": []}]

    assert set(verdict_of(both=change).codes()) == {"UNCOMMITTED_SOURCE", "RECORD_CAVEAT"}


#: Cheats that only their evidence shows. The judge reads none; who calls it hands over what a verification found.
SHOWN_BY_EVIDENCE = {
    name
    for name, expected in json.loads(CHEAT.with_name("expected.json").read_bytes())["cheat"].items()
    if expected["step"] in ("evidence", "figures")
}


@pytest.mark.parametrize("path", sorted(CHEAT.glob("*.json")), ids=lambda path: path.stem)
def test_no_cheat_is_comparable(path: Any) -> None:
    data = path.read_bytes()
    tampered = "evidence: it is another file" if path.stem in SHOWN_BY_EVIDENCE else None
    record = admit(digest(data), data, tampered=tampered)
    copied = admitted(another(json.loads(data)["predicate"]))
    assert compare(record, copied).word == "not_comparable"
    assert compare(copied, record).word == "not_comparable"


# -- the tables and the verdict itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_every_field_of_every_good_record_is_listed(name: str) -> None:
    record = good(name)
    facts = facts_of(record.predicate, table_of(record.lane, metric_of(record.lane).name, True))
    assert [path for path in facts.values if facts.spot(path).role == "unlisted"] == []
    assert not any("lacks it" in why for why in facts.unknown.values())


def defined(part: Any, path: str = "") -> set[str]:
    """The paths of every field that the schema defines below a part, down to where a row may end."""
    from typing import Annotated, Literal, get_args, get_origin, get_type_hints

    from lanemark.records.schema_parts import Observed, Part

    def below(hint: Any, here: str) -> set[str]:
        if isinstance(hint, type) and issubclass(hint, Observed):
            hint = hint.__pydantic_generic_metadata__["args"][0]
            inner = below(hint, here)
            return inner if inner != {here} else {here}
        if isinstance(hint, type) and issubclass(hint, Part):
            return defined(hint, here)
        if get_origin(hint) is list:
            inner = below(get_args(hint)[0], here + "[]")
            return {here} if inner == {here + "[]"} else inner
        if get_origin(hint) is Literal:
            return {here}
        if get_origin(hint) is dict:
            return {here + ".any"}
        if get_origin(hint) is Annotated:
            return below(get_args(hint)[0], here)
        found = [below(each, here) for each in get_args(hint) if each is not type(None)]
        return set().union(*found) if found else {here}

    hints = get_type_hints(part, include_extras=True)
    return set().union(*(below(hints[name], f"{path}.{name}".lstrip(".")) for name in part.model_fields))


def listed(path: str, rows: list[str]) -> bool:
    """Whether a row is about a field: its own, one of an object or list above it, or one of everything in that."""
    plain = path.replace("[]", "")
    return any(
        path == row
        or (path + "[]").startswith((row + ".", row + "["))
        or (row.endswith(".*") and plain.startswith(row[:-1].replace("[]", "")))
        for row in rows
    )


@pytest.mark.parametrize("lane", METRICS)
def test_every_field_of_the_schema_has_a_row_and_every_row_a_field(lane: str) -> None:
    import re

    from lanemark.records.schema import PREDICATES

    paths = defined(PREDICATES[lane])
    rows = {re.sub(r"\[[^]]+\]", "[]", row.path): row for row in rows_of(lane)}
    assert len(paths) > 150
    assert sorted(path for path in paths if not listed(path, list(rows))) == []
    released = int(RECORD_VERSION.partition(".")[2])
    kept = [row for row in rows if not rows[row].optional and rows[row].since <= released]
    stale = [row for row in kept if not any(listed(path, [row]) for path in paths)]
    assert stale == []
    assert not listed("hardware.observed.interposer", list(rows))


@pytest.mark.parametrize("lane", METRICS)
def test_a_table_lists_each_path_once_and_gives_a_reason(lane: str) -> None:
    rows: tuple[Role, ...] = table_of(lane, metric_of(lane).name, False).rows
    paths = [row.path for row in rows]
    assert len(set(paths)) == len(paths)
    assert all(row.why and row.why[0].islower() for row in rows)


def test_declared_names_are_whole_words() -> None:
    assert is_declared("toolchain.packages[flash-attn].version", "packages.flash-attn", ("packages",))
    assert is_declared("toolchain.packages[flash-attn].version", "packages.flash-attn", ("toolchain.packages",))
    assert not is_declared(
        "toolchain.packages[flash-attn-3].version", "packages.flash-attn-3", ("packages.flash-attn",)
    )


def test_reasons_are_listed_with_blocks_first_and_once() -> None:
    caveat, block = Reason("RECORD_CAVEAT", "caveat", "x"), Reason("KEY_MISMATCH", "block", "y", a="1", b="2")
    assert ordered([caveat, block, caveat]) == (block, caveat)
    assert word_for(()) == "comparable"
    assert word_for((caveat,)) == "comparable_with_caveats"
    assert block.swapped().a == "2"
    assert block.text == "y: a field that must be equal differs: 1 | 2"
    assert set(block.to_json()) == {"code", "severity", "path", "side", "text", "a", "b"}
    assert set(REASONS) >= {"KEY_MISMATCH", "RECORD_CAVEAT"}


def test_an_unknown_metric_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        compare(good(H100), admitted(another(quiet())), "flops")
