"""The doctor's text: golden at 80 columns, and no line wider than asked except where a command has a long word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lanemark.cli.doctor_page import page
from lanemark.diagnose.examination import Attempt, Examination, conclude_diagnostic, examine
from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.records.case import Case, DataAsked
from lanemark.records.finding import Finding
from lanemark.records.look import Look, RankLook

GOLDEN = Path(__file__).parents[2] / "golden" / "doctor"
SECOND = 1_000_000_000
RUN = "training-20261122T152233Z-7k3f9q2x"
CASE = Case(
    lane="training", preset="dense-nano", nproc=3, mode="fsdp2", compile="regional", dtype="fp32", steps=20, warmup=3,
    sequence=64, micro_batch=1, data=DataAsked("synthetic"), gpu="H100:3",
)  # fmt: skip
STATES = tuple(RankState(n, phase="compile" if n == 1 else "collective", step=0) for n in range(3))


def looked(number: int, at_s: float) -> Look:
    waiting = {"phase": "collective", "label": "all_gather_single", "collectives": 2, "new_cache_files": 0}
    ranks = (
        RankLook(0, alive=True, since_ns=3 * SECOND, step=0, **waiting, stack=("wait (c10d.py:12)",)),  # type: ignore[arg-type]
        RankLook(
            1,
            alive=True,
            phase="compile",
            since_ns=2 * SECOND,
            step=0,
            collectives=1,
            new_cache_files=number * 4,
            children=("g++", "cc1plus"),
        ),
        RankLook(2, alive=True, since_ns=3 * SECOND, step=0, **waiting),  # type: ignore[arg-type]
    )
    return Look(number, int(at_s * SECOND), 0, at_s - 3.0, "deep" if number == 3 else "shallow", ranks)


def hanging() -> Examination:
    picture = Snapshot(
        STATES, None, looks=(looked(1, 5.0), looked(2, 5.5), looked(3, 6.0)), warmup=3, preset="dense-nano"
    )
    return examine(Attempt(RUN, "running", "training", "running", CASE, picture, fresh=True))


def stalled() -> Examination:
    lines = ("rank 0: last seen in phase collective (all_reduce), step 7", "rank 1: last seen in phase window, step 7")
    cause = Finding("stalled", "failure", "no rank made progress for 300 s", lines)
    picture = Snapshot(STATES, "stalled", warmup=3, settings=(("NCCL_IB_HCA", "scrubbed"),))
    return examine(
        Attempt(RUN, "ended", "training", "error", CASE, picture, sealed_cause=cause, record_id="sha256:" + "ab" * 32)
    )


def healthy() -> Examination:
    states = tuple(RankState(n, status=0, end_marker=True, phase="done", step=19) for n in range(3))
    slow = Finding("straggler", "caveat", "rank 2 arrived last at 17 of 17 steps, 31% of a step behind", (), 2)
    return examine(
        Attempt(RUN, "ended", "training", "ok", CASE, Snapshot(states, "all_ended", warmup=3), sealed_caveats=(slow,),
                record_id="sha256:" + "cd" * 32)
    )  # fmt: skip


def damaged() -> Examination:
    problems = ("attempt.json is missing or damaged", "case.json cannot be read as a case (KeyError)")
    return examine(Attempt("copy-of-something", "unknown", None, None, None, Snapshot((), None), problems=problems))


EXAMINATIONS = {"hanging": hanging, "stalled": stalled, "healthy": healthy, "damaged": damaged}


@pytest.mark.parametrize("name", EXAMINATIONS)
def test_golden_text_at_80_columns(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    text = page(EXAMINATIONS[name](), None, width=80) + "\n"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


def test_golden_text_after_the_diagnostic_run(update_golden: bool) -> None:
    seen = stalled()
    path = GOLDEN / "concluded.txt"
    text = (
        page(seen, conclude_diagnostic(seen.finding, None, ("diagnostic run: record sha256:" + "ef" * 32,)), width=80)
        + "\n"
    )
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", EXAMINATIONS)
def test_no_line_is_wider_than_asked(name: str, width: int) -> None:
    for line in page(EXAMINATIONS[name](), None, width=width).split("\n"):
        assert len(line) <= width
        assert line == line.rstrip()


def test_a_command_over_several_lines_is_the_same_command() -> None:
    seen = stalled()
    assert seen.diagnostic is not None
    text = page(seen, None, width=60)
    block = re.search(r"^model or infrastructure\?\n((?:  .*\\\n)+  .*)$", text, re.MULTILINE)
    assert block is not None
    assert tuple(shlex.split(block[1].replace("\\\n", " "))) == seen.diagnostic
