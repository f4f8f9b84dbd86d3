"""A record of a command of the user's own, from hand-made facts: what it claims, and what it leaves unsaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lanemark.judge.admission import admit
from lanemark.judge.citing import Citation, cite
from lanemark.judge.comparing import compare
from lanemark.lanes.record import predicate_of, withdraw_figures
from lanemark.lanes.reports import AttemptFacts, RankReport
from lanemark.lanes.rules import broken_rules
from lanemark.measure.samples import Samples, StepRow
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.reading import read_record
from lanemark.records.script import ScriptAsked
from lanemark.records.statement import seal, subjects

STEP_NS = 100_000_000
CASE = Case(
    lane="training", preset="script", nproc=2, mode="any", compile="any", dtype="any", steps=43, warmup=3, sequence=1,
    micro_batch=1, data=DataAsked("own"), command=("torchrun", "--nproc-per-node", "2", "train.py"),
    script=ScriptAsked(),
)  # fmt: skip


def seen(value: Any) -> dict[str, Any]:
    return observed(value, "a test").to_json()


def samples(rank: int, *, taken: int = 43) -> Samples:
    rows, begin = [], 1_000
    for step in range(taken):
        took = STEP_NS + (step * 7919) % 1_000_000
        rows.append(StepRow(step, begin, begin, begin + took, 0, None))
        begin += took
    closed = rows[-1].end_ns if taken == 43 else None
    return Samples(rank, 3, 43, tuple(rows), rows[3].begin_ns, closed)


def rank(number: int, **changes: Any) -> RankReport:
    seen_by_rank = {
        "device_class": seen("cpu"), "device_name": absent("x").to_json(), "device_uuid": absent("x").to_json(),
        "device_memory_bytes": absent("x").to_json(), "cuda": absent("x").to_json(), "mode_observed": seen("ddp"),
        "world_size_observed": seen(2), "backend": seen("gloo"), "compile_observed": seen("eager"),
        "parameters": seen(1_000), "torch_version": seen("2.13.0"), "torch_build": seen("2.13.0"),
        "nccl": absent("x").to_json(), "way": seen("marks"), "parameter_dtypes": seen(["float32"]),
        "prewarm": {"planned": False, "done": False, "reason": "a command's own affair"}, "data_files": [],
    }  # fmt: skip
    none = unavailable("lanemark.note", "the command reported no loss").to_json()
    end = {
        "losses": {"first": none, "last": none, "finite": none}, "tokens": 40 * 512, "memory": {},
        "reported_tokens_per_s": unavailable("lanemark.note", "the command reported none").to_json(),
    }  # fmt: skip
    made = RankReport(
        number,
        samples=samples(number),
        observed=seen_by_rank,
        end=end,
        beacon={"phase": "done", "step": 43, "compilations": 0, "compile_ns": 0},
        exit={"rank": number, "ended_ns": 9, "clean": True, "command_status": 0, "signal_by": "nobody"},
        claim={"rank": number, "world_size": 2, "host": "boot", "found_by": "environment", "life": 0},
    )
    return replace(made, **changes)


def facts(*ranks: RankReport, case: Case = CASE, **changes: Any) -> AttemptFacts:
    given: dict[str, Any] = {
        "manifest": {
            "run_id": "training-20261128T000000Z-00000000", "argv": ["lanemark"], "argv_redacted": False,
            "boot_id": "boot", "transitions": [{"at": "2026-11-28T00:00:00.000Z"}],
        },
        "case": case, "host": {}, "host_end": {}, "launch": {"cache": {}}, "ranks": ranks or (rank(0), rank(1)),
        "findings": (), "cause": None, "state": "ok", "reason": "x", "launched_ns": 1,
        "duration_s": observed(9.0, "x"), "sealed_at": "2026-11-28T00:00:09.000Z",
        "transitions": ({"state": "ok", "at": "2026-11-28T00:00:09.000Z", "reason": "x"},),
    }  # fmt: skip
    return AttemptFacts(**{**given, **changes})


def sealed(given: AttemptFacts) -> bytes:
    predicate = predicate_of(given)
    about = subjects(plan_digest=given.case.digest, image_digest=None, commit=None)
    return seal(predicate, about).data


def kinds(predicate: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in predicate["findings"]}


def test_a_marked_script_has_a_throughput_of_the_tokens_that_its_ranks_counted():
    predicate = read_record(sealed(facts())).predicate
    part = predicate["training"]
    assert broken_rules(predicate) == ()
    assert predicate["outcome"]["receipt"] is True
    assert part["tokens_per_step"] == 1024
    total_s = sum(part["samples"]["measured"]) / 1e9
    assert value_of(part["tokens_per_s"]) == pytest.approx(40 * 1024 / total_s)
    assert value_of(part["script"]["steps_per_s"]) == pytest.approx(40 / total_s)
    assert part["script"]["tokens"] == "counted"
    assert kinds(predicate) == {"data_own", "loss_unseen", "source_unknown"}
    assert predicate["outcome"]["ranks"][0]["status"]["status"] == "unavailable"


def test_without_counted_tokens_there_are_steps_a_second_only_whatever_was_declared():
    case = replace(CASE, script=ScriptAsked(tokens_per_step=4096))
    ranks = [rank(n, end={k: v for k, v in (rank(n).end or {}).items() if k != "tokens"}) for n in (0, 1)]
    predicate = read_record(sealed(facts(*ranks, case=case))).predicate
    part = predicate["training"]
    assert broken_rules(predicate) == ()
    assert predicate["outcome"]["receipt"] is True
    assert part["tokens_per_s"]["status"] == "unavailable"
    assert "tokens_per_step" not in part
    assert part["script"]["tokens"] == "declared"
    assert value_of(part["script"]["steps_per_s"]) is not None
    assert any("nobody counted" in line for line in part["does_not_prove"])


def test_declared_tokens_that_were_counted_otherwise_are_disputed():
    predicate = predicate_of(facts(case=replace(CASE, script=ScriptAsked(tokens_per_step=4096))))
    assert "tokens_disputed" in kinds(predicate)
    assert "tokens_disputed" not in kinds(predicate_of(facts(case=replace(CASE, script=ScriptAsked(1024)))))


@pytest.mark.parametrize(("factor", "disputed"), [(1.019, False), (1.021, True), (0.5, True)])
def test_a_scripts_own_throughput_stands_beside_and_is_disputed_above_2_percent(factor, disputed):
    measured = value_of(predicate_of(facts())["training"]["tokens_per_s"])
    said = seen(measured * factor)
    ranks = [rank(n, end={**(rank(n).end or {}), "reported_tokens_per_s": said}) for n in (0, 1)]
    predicate = read_record(sealed(facts(*ranks))).predicate
    assert value_of(predicate["training"]["tokens_per_s"]) == measured
    assert value_of(predicate["training"]["script"]["reported_tokens_per_s"]) == pytest.approx(measured * factor)
    assert ("figure_disputed" in kinds(predicate)) is disputed
    assert broken_rules(predicate) == ()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"samples": samples(1, taken=20), "end": None}, "took 20 steps of the 43 declared: ask for --steps 20"),
        ({"samples": None, "end": None}, "took no step"),
        ({"claim": None, "samples": None, "end": None, "observed": None}, "was never found"),
        ({"end": None}, "left no end marker"),
    ],
)
def test_what_was_not_seen_to_its_end_is_no_receipt(changed, why):
    predicate = read_record(sealed(facts(rank(0), rank(1, **changed)))).predicate
    assert predicate["outcome"]["receipt"] is False
    assert why in predicate["outcome"]["receipt_reason"]
    assert value_of(predicate["training"]["script"]["steps_per_s"]) is None
    assert broken_rules(predicate) == ()


def test_a_loss_that_is_not_finite_takes_the_receipt_and_one_that_was_seen_needs_no_finding():
    def with_loss(finite: bool) -> RankReport:
        losses = {"first": seen(2.0), "last": seen(1.0), "finite": seen(finite)}
        return rank(0, end={**(rank(0).end or {}), "losses": losses})

    good = predicate_of(facts(with_loss(True), rank(1)))
    assert good["outcome"]["receipt"] is True
    assert value_of(good["training"]["loss"]["last"]) == 1.0
    assert "loss_unseen" not in kinds(good)
    bad = predicate_of(facts(with_loss(False), rank(1)))
    assert "not finite" in bad["outcome"]["receipt_reason"]


def test_restarts_are_counted_and_the_figures_are_of_the_last_life():
    again = {"rank": 1, "world_size": 2, "host": "boot", "found_by": "environment", "life": 2}
    predicate = predicate_of(facts(rank(0), rank(1, claim=again)))
    assert predicate["training"]["script"]["restarts"] == 2
    assert "restarted" in kinds(predicate)


def test_a_command_is_cited_with_how_it_was_measured_and_compared_with_itself():
    data = sealed(facts())
    said = cite(admit(digest(data), data))
    assert isinstance(said, Citation)
    for words in ("train.py", "2 ranks", "ddp", "eager", "float32 parameters", "marks in the script", "tok/s"):
        assert words in said.sentence
    manifest = {**facts().manifest, "run_id": "training-20261128T010000Z-00000001"}
    other = sealed(facts(sealed_at="2026-11-28T01:00:00.000Z", manifest=manifest))
    verdict = compare(admit(digest(data), data), admit(digest(other), other))
    # These facts come without a host; of what is a command's own nothing speaks against comparing it with itself.
    blocks = {reason.path.split(".")[0] for reason in verdict.reasons if reason.severity == "block"}
    assert blocks <= {"hardware", "toolchain", "source"}


def test_steps_a_second_are_cited_as_steps():
    ranks = [rank(n, end={k: v for k, v in (rank(n).end or {}).items() if k != "tokens"}) for n in (0, 1)]
    data = sealed(facts(*ranks))
    said = cite(admit(digest(data), data))
    assert isinstance(said, Citation)
    assert "steps/s" in said.figure
    assert "tokens not counted" in said.basis


def test_figures_are_withdrawn_from_a_record_that_contradicts_itself():
    predicate = predicate_of(facts())
    withdraw_figures(predicate)
    assert value_of(predicate["training"]["tokens_per_s"]) is None
    assert value_of(predicate["training"]["script"]["steps_per_s"]) is None


def test_a_commands_case_reads_back_and_pins_nothing_that_it_cannot_know():
    doc = CASE.to_json()
    assert Case.from_json(decode(encode(doc))) == CASE
    assert not {"sequence", "micro_batch", "grad_accum", "prewarm", "collective_timeout_s"} & set(doc)
    assert doc["mode"] == doc["compile"] == doc["dtype"] == "any"
    with pytest.raises(ValueError, match="decides"):
        Case.from_json({**doc, "sequence": 3})
    with pytest.raises(ValueError, match="command"):
        replace(CASE, command=())
