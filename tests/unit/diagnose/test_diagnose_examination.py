"""The doctor's conclusion from what could be read, its advice, and the diagnostic run that settles what is open."""

from __future__ import annotations

import shlex

import pytest
from looks_made import growing, lasting, rank

from lanemark.diagnose.advice import ADVICE, advice_for
from lanemark.diagnose.examination import (
    STAGES,
    Attempt,
    conclude_diagnostic,
    diagnostic_command,
    examine,
    stage_of,
)
from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.measure.beacon import PHASES
from lanemark.records.case import Case, DataAsked
from lanemark.records.finding import FINDINGS, Finding

CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="fsdp2", compile="regional", dtype="fp32", steps=20, warmup=3,
    sequence=64, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
)  # fmt: skip
DONE = RankState(0, ended_ns=9, status=0, end_marker=True, phase="done")
GONE = RankState(1, ended_ns=9, signal="SIGKILL", signal_by="other", phase="window", step=4)


def attempt(*ranks: RankState, **changes: object) -> Attempt:
    picture = Snapshot(ranks, "rank_failed", warmup=3, preset="dense-nano", **changes.pop("picture", {}))  # type: ignore[arg-type]
    base: dict[str, object] = {"life": "ended", "lane": "training", "state": "error", "case": CASE}
    return Attempt("training-x", snapshot=picture, **{**base, **changes})  # type: ignore[arg-type]


def test_a_sealed_cause_is_told_with_its_advice() -> None:
    cause = Finding("rank_killed", "failure", "rank 1 was killed by SIGKILL", ("line",), 1)
    seen = examine(attempt(DONE, GONE, sealed_cause=cause, record_id="sha256:ab"))
    assert seen.finding == cause
    assert not seen.healthy
    assert seen.stage == "measured window"
    assert seen.steps[1].startswith("for SIGSEGV")
    assert "ranks/1/stderr.log" in seen.steps[1]
    assert seen.diagnostic == diagnostic_command(CASE)


def test_what_this_version_would_conclude_stands_beside_the_sealed_cause() -> None:
    sealed = Finding("rank_raised", "failure", "rank 0 raised ValueError", (), 0)
    seen = examine(attempt(DONE, GONE, sealed_cause=sealed, record_id="sha256:ab"))
    assert seen.finding == sealed
    assert seen.notes[0].startswith("this version concludes rank_killed: rank 1 was killed by SIGKILL")


def test_a_record_left_undecided_is_decided_where_this_version_can() -> None:
    sealed = Finding("undecided", "failure", "an older version could not tell")
    seen = examine(attempt(DONE, GONE, sealed_cause=sealed, record_id="sha256:ab"))
    assert seen.finding is not None
    assert (seen.finding.kind, seen.finding.rank) == ("rank_killed", 1)
    assert seen.notes == ("its record was sealed as undecided: an older version could not tell",)


def test_a_good_run_is_healthy_and_its_caveats_are_told() -> None:
    slow = Finding("straggler", "caveat", "rank 1 arrived last at 20 of 20 steps", (), 1)
    both = (DONE, RankState(1, ended_ns=9, status=0, end_marker=True, phase="done"))
    seen = examine(attempt(*both, state="ok", record_id="sha256:ab", sealed_caveats=(slow,)))
    assert seen.healthy
    assert seen.caveats == (slow,)
    assert seen.steps == ADVICE["straggler"].steps
    assert seen.stage == "done"


def test_a_running_attempt_is_judged_by_looks_of_now_only() -> None:
    looks = growing(lasting(rank(0), rank(1, "compile")), 1, (3, 5, 8))
    ranks = (RankState(0, phase="collective", step=0), RankState(1, phase="compile", step=0))
    running = {"life": "running", "state": "running", "picture": {"looks": looks}}
    seen = examine(attempt(*ranks, fresh=True, **running))
    assert seen.finding is not None
    assert (seen.finding.kind, seen.finding.rank, seen.stage) == ("compile_divergence", 1, "first step")
    assert seen.not_fixes
    old = examine(attempt(*ranks, fresh=False, life="running", state="running", picture={"looks": looks}))
    assert old.healthy


def test_a_running_attempt_with_a_dead_rank_is_not_healthy() -> None:
    seen = examine(attempt(RankState(0, phase="window"), GONE, life="running", state="running"))
    assert seen.finding is not None
    assert seen.finding.kind == "rank_killed"


def test_nothing_left_to_read_is_undecided_and_never_healthy() -> None:
    seen = examine(attempt(case=None, state=None, life="unknown", problems=("case.json cannot be read",)))
    assert seen.finding is not None
    assert seen.finding.kind == "undecided"
    assert seen.diagnostic is None
    assert seen.notes == ("could not be read: case.json cannot be read",)


def test_a_copy_of_an_attempt_that_was_still_running_is_undecided() -> None:
    ranks = (RankState(0, phase="window", step=4), RankState(1, phase="window", step=4))
    seen = examine(attempt(*ranks, life="unknown", state="running"))
    assert seen.finding is not None
    assert seen.finding.summary == "the attempt has no record, and what is there does not show a failure"


def test_what_was_scrubbed_and_what_was_named_live_are_notes() -> None:
    settings = (("NCCL_NET_PLUGIN", "scrubbed"), ("OMP_NUM_THREADS", "lanemark: 1"))
    seen = examine(attempt(DONE, GONE, named=("rank 1 is compiling",), picture={"settings": settings}))
    assert "named while it ran: rank 1 is compiling" in seen.notes
    assert "taken out of the ranks' environment by the launcher: NCCL_NET_PLUGIN" in seen.notes


@pytest.mark.parametrize(
    ("phase", "step", "stage"),
    [("import", -1, "bootstrap"), ("shard", -1, "building the model"), ("collective", 0, "first step"),
     ("collective", 2, "warm-up"), ("compile", 5, "measured window"), ("load", -1, "opening the data"),
     (None, None, "before any rank was seen")],
)  # fmt: skip
def test_stage_of_life(phase: str | None, step: int | None, stage: str) -> None:
    ahead = RankState(0, phase=None if phase is None else "drain", step=9)
    assert stage_of(Snapshot((ahead, RankState(1, phase=phase, step=step)), None, warmup=3), None) == stage


def test_every_phase_of_a_page_belongs_to_a_stage() -> None:
    assert set(PHASES) - set(STAGES) == {"collective", "compile", "failed"}


# --- advice -------------------------------------------------------------------------------------------------------

FAILURES = list(FINDINGS)[: list(FINDINGS).index("gpu_substituted")]


@pytest.mark.parametrize("kind", FAILURES)
def test_every_cause_of_a_failure_has_advice(kind: str) -> None:
    assert ADVICE[kind].steps


def test_advice_is_about_declared_classes_only() -> None:
    assert set(ADVICE) <= set(FINDINGS)
    assert "messages.md" in advice_for("a_class_of_a_later_version").steps[0]


@pytest.mark.parametrize("kind", ["compile_divergence", "collective_mismatch", "bootstrap_failed", "stalled"])
def test_a_longer_time_out_is_never_called_a_fix(kind: str) -> None:
    assert any("longer time-out" in line for line in ADVICE[kind].not_fixes)


def test_compiling_elsewhere_is_not_called_a_fix_for_divergence() -> None:
    text = " ".join(ADVICE["compile_divergence"].not_fixes)
    assert "rank 0" in text
    assert "ahead of time" in text


# --- the diagnostic run -------------------------------------------------------------------------------------------


def test_the_diagnostic_command_asks_for_the_same_ranks_mode_compilation_and_devices() -> None:
    from lanemark.cli.asked import add_arguments, understand
    from lanemark.cli.parsing import parser

    command = diagnostic_command(CASE)
    assert shlex.join(command).startswith("lanemark run training --preset diagnostic --nproc 2 --mode fsdp2")
    verb = parser("run", "")
    add_arguments(verb)
    case = understand(verb.parse_args(list(command[2:]))).case
    same = ("nproc", "mode", "compile", "dtype", "gpu")
    assert [getattr(case, name) for name in same] == [getattr(CASE, name) for name in same]
    assert case.preset == "diagnostic"


BEFORE = Finding("stalled", "failure", "no rank made progress for 300 s")
IDS = ("diagnostic run: record sha256:cd",)


def test_a_diagnostic_run_that_passes_leaves_the_model() -> None:
    concluded = conclude_diagnostic(BEFORE, None, IDS)
    assert concluded.kind == "stalled"
    assert "the model or its compilation is the suspect" in concluded.summary
    assert concluded.evidence == IDS


@pytest.mark.parametrize("kind", ["stalled", "infrastructure_hang", "bootstrap_failed"])
def test_a_diagnostic_run_that_hangs_as_well_leaves_the_machine(kind: str) -> None:
    concluded = conclude_diagnostic(BEFORE, Finding(kind, "failure", "it hung", ("line",)), IDS)
    assert concluded.kind == "infrastructure_hang"
    assert concluded.evidence == (*IDS, "it hung", "line")


def test_the_same_death_without_the_model_is_the_machine_s() -> None:
    crash = Finding("rank_killed", "failure", "rank 1 was killed by SIGBUS", (), 1)
    assert conclude_diagnostic(crash, crash, IDS).kind == "infrastructure_hang"


def test_the_same_failure_of_another_class_keeps_its_class() -> None:
    cold = Finding("compile_divergence", "failure", "rank 1 is compiling", (), 1)
    concluded = conclude_diagnostic(cold, cold, IDS)
    assert concluded.kind == "compile_divergence"
    assert "the model is not the cause" in concluded.summary


@pytest.mark.parametrize(("before", "kind"), [("stalled", "disk_full"), ("undecided", "undecided")])
def test_a_diagnostic_run_that_fails_otherwise_decides_nothing(before: str, kind: str) -> None:
    concluded = conclude_diagnostic(Finding(before, "failure", "a"), Finding(kind, "failure", "b", (), 0), IDS)
    assert concluded.kind == "undecided"
    assert "nothing follows" in concluded.summary
