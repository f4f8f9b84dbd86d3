"""The lines that a script may carry: nothing outside a run, exact steps and tokens inside one, in every form."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

import lanemark
from lanemark.measure import marks, script
from lanemark.measure.claim import Claim, host_id, start_ticks, take
from lanemark.measure.samples import read_samples
from lanemark.measure.script import Script
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.script import ScriptAsked


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AttemptPaths:
    """This process as the rank of an attempt of 8 steps, 2 of them warm-up."""
    paths = AttemptPaths(tmp_path / "attempt")
    paths.root.mkdir()
    case = Case(
        lane="training", preset="script", nproc=1, mode="any", compile="any", dtype="any", steps=8, warmup=2,
        sequence=1, micro_batch=1, data=DataAsked("own"), command=("x",), script=ScriptAsked(),
    )  # fmt: skip
    paths.case.write_bytes(encode(case.to_json()))
    monkeypatch.setattr(script, "_SCRIPT", Script(paths))
    monkeypatch.setattr(marks, "_STEP", None)
    monkeypatch.setattr(script.atexit, "register", lambda call: call)
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return paths


def end_of(paths: AttemptPaths) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(paths.rank(0).end.read_bytes())
    return doc


def test_no_mark_has_the_name_of_a_room() -> None:
    """Importing a room sets its name on the package, and would take the mark's place."""
    rooms = {path.name for path in Path(lanemark.__file__).parent.iterdir() if path.is_dir()}
    assert "measure" in rooms
    assert not rooms & set(lanemark._MARKS)


def test_outside_a_run_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_SCRIPT", None)
    monkeypatch.setattr(marks, "_STEP", None)
    monkeypatch.delenv("LANEMARK_ATTEMPT_DIR", raising=False)
    loader = [1, 2]
    assert lanemark.steps(loader, tokens=3) is loader
    with lanemark.step(tokens=3):
        pass
    lanemark.note(loss=1.0)
    with pytest.raises(ValueError, match="no way to count"):
        lanemark.steps(loader, accumulate=0)
    with pytest.raises(AttributeError):
        _ = lanemark.nothing


def test_steps_over_epochs_fill_one_window_and_tokens_are_those_inside(inside: AttemptPaths) -> None:
    for _epoch in range(4):
        taken = list(lanemark.steps(range(3), tokens=10))
        assert taken == [0, 1, 2]
    samples = read_samples(inside.rank(0).samples)
    assert (len(samples.rows), samples.window_end_ns is not None) == (8, True)
    assert (end_of(inside)["tokens"], end_of(inside)["tokens_warmup"]) == (60, 20)
    assert all(row.data_ready_ns >= row.begin_ns for row in samples.rows)


def test_accumulated_batches_are_one_step_and_tokens_may_depend_on_the_batch(inside: AttemptPaths) -> None:
    batches = [[0] * (1 + number % 2) for number in range(20)]
    assert len(list(lanemark.steps(batches, tokens=len, accumulate=2))) == 20
    assert len(read_samples(inside.rank(0).samples).rows) == 8
    assert end_of(inside)["tokens"] == 6 * 3


def test_a_step_may_be_a_block_and_one_that_raised_is_none(inside: AttemptPaths) -> None:
    for number in itertools.count():
        try:
            with lanemark.step(tokens=5):
                _ = {3: None}[3] if number != 3 else {}[number]
        except KeyError:
            continue
        if number == 9:
            break
    assert len(read_samples(inside.rank(0).samples).rows) == 8
    assert end_of(inside)["tokens"] == 30


def test_without_tokens_none_are_claimed_and_what_is_reported_is_kept(inside: AttemptPaths) -> None:
    for number in lanemark.steps(range(8)):
        lanemark.note(loss=4.0 - number / 2, tokens_per_s=100.0 + number)
        lanemark.note(loss=None, tokens_per_s=float("nan"))
    end = end_of(inside)
    assert "tokens" not in end
    assert (end["losses"]["first"]["value"], end["losses"]["last"]["value"]) == (4.0, 0.5)
    assert end["reported_tokens_per_s"]["value"] == pytest.approx(103.5)


def test_a_way_that_knows_less_waits_and_one_that_knows_more_takes_over(inside: AttemptPaths) -> None:
    mine = script.script()
    assert mine.begin("hooks") is not None
    assert mine.begin("callback") is mine.recorder  # nothing was counted yet
    assert mine.way == "callback"
    mine.end_step()
    assert mine.begin("marks") is None
    assert mine.begin("hooks") is None
    assert mine.way == "callback"


def claim(rank: int = 0, **changes: Any) -> Claim:
    pid = os.getpid()
    given = {
        "rank": rank, "world_size": 1, "local_rank": 0, "pid": pid, "start_ticks": start_ticks(pid), "restart": 0,
        "life": 0, "host": host_id(), "found_by": "environment",
    }  # fmt: skip
    return Claim(**{**given, **changes})


def test_a_place_is_held_by_the_living_and_taken_from_the_dead(tmp_path: Path) -> None:
    paths = AttemptPaths(tmp_path).rank(0)
    parent = os.getppid()
    holder = claim(pid=parent, start_ticks=start_ticks(parent))
    assert take(paths, holder, has_steps=False) == holder
    assert take(paths, claim(), has_steps=False) is None  # a helper that inherited the variables
    taken = take(paths, claim(), has_steps=True)  # but steps are the better claim where the holder took none
    assert taken is not None
    assert taken.took_over
    paths.samples.write_bytes(b"steps")
    assert take(paths, holder, has_steps=True) is None
    gone = claim(start_ticks=1)
    paths.claim.write_bytes(encode(gone.to_json()))
    again = take(paths, claim(restart=1), has_steps=False)
    assert again is not None
    assert again.life == 1
    assert (paths.root / "earlier" / "0" / "samples.bin").read_bytes() == b"steps"
    assert not paths.samples.exists()


def test_a_claim_that_cannot_be_read_is_none_and_is_taken_over(tmp_path: Path) -> None:
    paths = AttemptPaths(tmp_path).rank(3)
    paths.root.mkdir(parents=True)
    for text in ("", "[]", '{"rank": 1}', "\\0"):
        paths.claim.write_text(text)
        assert take(paths, claim(3), has_steps=False) is not None
