"""`collect`, `runs` and `cancel` as a person types them; what happens to real processes is tested with real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lanemark.cli.collect import pause_s
from lanemark.cli.main import main
from lanemark.collect.manifest import load
from lanemark.collect.preparing import prepare
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked

CASE = Case(
    lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=6, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    return Home(tmp_path)


def abandoned(home: Home) -> AttemptPaths:
    """An attempt whose launcher died before it handed anything over."""
    return prepare(home, CASE, argv=["lanemark", "run"], placement={}, data={}).paths


def test_looks_become_rarer_the_longer_a_run_takes() -> None:
    assert [pause_s(elapsed_s) for elapsed_s in (0, 10, 60, 600, 86_400)] == [0.5, 0.5, 3.0, 30.0, 30.0]


def test_an_abandoned_attempt_is_collected_as_never_launched(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    paths = abandoned(home)
    assert main(["collect", paths.run_id, "--json"]) == 1
    said = capsys.readouterr()
    (row,) = json.loads(said.out)["runs"]
    assert (row["state"], row["outcome"], row["appended"], row["detached"]) == ("lost", "sealed", True, False)
    assert "nothing was launched" in row["reason"]
    assert "sealed as lost" in said.err
    record = json.loads(paths.record.read_bytes())["predicate"]
    assert record["outcome"]["first_cause"]["kind"] == "never_launched"
    assert [step["state"] for step in record["transitions"]] == ["prepared", "lost"]


def test_waiting_for_what_has_ended_returns_at_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    paths = abandoned(home)
    assert main(["collect", str(paths.root), "--wait"]) == 1
    assert main(["collect", str(paths.manifest), "--wait"]) == 1
    assert paths.run_id in capsys.readouterr().out


def test_cancelling_what_was_never_launched_is_a_cancellation(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    paths = abandoned(home)
    assert main(["cancel", paths.run_id, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["state"] == "cancelled"
    assert load(paths).cancel_asked_at is not None


def test_runs_shows_age_and_seals_on_the_way(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    paths = abandoned(home)
    assert main(["runs"]) == 0
    said = capsys.readouterr()
    heading, line = said.out.splitlines()
    assert heading.split() == ["run", "state", "preset", "age", "where", "looked", "record", "reason"]
    assert line.split()[:3] == [paths.run_id, "lost", "dense-nano"]
    assert "sealed as lost" in said.err


@pytest.mark.parametrize(
    ("args", "code", "slug"),
    [
        (["collect", "--all", "training-20260101T000000Z-00000000"], 2, "arguments-invalid"),
        (["collect", "training-20260101T000000Z-00000000"], 1, "attempt-missing"),
        (["cancel"], 2, "arguments-invalid"),
        (["cancel", "no/such/place"], 1, "attempt-missing"),
        (["run", "training", "--detach", "--repeat", "3", "--against", "--compile regional"], 2, "value-invalid"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    home: Home, capsys: pytest.CaptureFixture[str], args: list[str], code: int, slug: str
) -> None:
    assert main(args) == code
    assert f"[{slug}]" in capsys.readouterr().err
    assert not home.attempts.exists()
