"""A left wave on disk: which case is next, what is asked again, and what is no wave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lanemark.cli import wave_driver
from lanemark.cli.collect import _stopped_waves
from lanemark.cli.wave_driver import Driver, asked_of
from lanemark.collect.left_waves import LeftCase, LeftWave, LeftWavePlace, left_waves
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import GateRefused, LedgerError
from lanemark.records.questions import PromotionAsked

ASKED = PromotionAsked("dense_attention", "sdpa_flash", "forward", "attention-v1", ("causal-s48-d64-h2",))
CASE = Case(
    lane="promotion", preset="own", nproc=1, mode="single", compile="eager", dtype="bf16", steps=0, warmup=0, sequence=0,
    micro_batch=0, data=DataAsked("synthetic"), promotion=ASKED,
)  # fmt: skip
IDS = tuple(f"promotion-20261128T16000{number}Z-aaaaaaaa" for number in range(4))


def wave(*states: str | None) -> LeftWave:
    """Three cases; each state is of a case that has an attempt."""
    cases = [LeftCase(CASE, {"cases": "all"}) for _ in range(3)]
    for number, state in enumerate(states):
        cases[number] = replace(cases[number], run_id=IDS[number], state=state)
    return LeftWave(
        "first", "own", ("lanemark", "run"), ("promotion",), "/", tuple(cases),
        cache={"layout": "shared", "from": [], "to": None},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "number"),
    [
        ((), 0),
        ((None,), 0),
        (("ok",), 1),
        (("ok", "error", "lost"), None),
        (("ok", "cancelled"), None),
        (("ok", "error", None), 2),
    ],
)
def test_which_case_is_next(states: tuple[str | None, ...], number: int | None) -> None:
    assert wave(*states).next_case() == number


def test_what_did_not_end_well_is_asked_again_and_nothing_else() -> None:
    again = replace(wave("ok", "lost", None), stopped="the disk was full").resumed()
    assert [each.state for each in again.cases] == ["ok", None, None]
    assert [each.run_id for each in again.cases] == [IDS[0], None, IDS[2]]
    assert again.cases[1].earlier == (IDS[1],)
    assert again.stopped is None
    assert wave("ok", "ok", "ok").resumed() == wave("ok", "ok", "ok")
    assert wave("ok", "ok", "ok").whole
    assert not wave("ok", "ok", "error").whole


def test_a_state_is_read_back_and_anything_else_is_no_wave(tmp_path: Path) -> None:
    place = LeftWavePlace(tmp_path, "first")
    assert left_waves(tmp_path) == left_waves(tmp_path / "none") == []
    whole = replace(wave("ok"), stopped="x", driver={"pid": "7"}, artifacts={"pins": "sha256:0"})
    place.save(whole)
    assert place.read() == whole
    assert [each.root.name for each in left_waves(tmp_path)] == ["first"]
    doc = json.loads(place.state.read_bytes())
    for broken in ({**doc, "format": 2}, {**doc, "cases": [{}]}, [], {key: doc[key] for key in doc if key != "cwd"}):
        place.state.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(LedgerError) as caught:
            place.read()
        assert caught.value.slug == "wave-missing"


def test_whether_somebody_is_at_it_is_the_lock(tmp_path: Path) -> None:
    place = LeftWavePlace(tmp_path, "first")
    assert not place.is_driven()
    place.save(wave())
    assert not place.is_driven()
    assert place.lock.take()
    assert LeftWavePlace(tmp_path, "first").is_driven()
    place.lock.release()
    assert not place.is_driven()


def test_a_case_is_asked_as_its_command_line_would_have() -> None:
    asked = asked_of(wave(), wave().cases[0])
    assert (asked.case.digest, asked.cache_layout, asked.reasons) == (CASE.digest, "shared", {"cases": "all"})


@pytest.fixture
def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Home, LeftWavePlace, list[str]]:
    """A wave whose runs are only pretended: `left` lists them."""
    home, left = Home(tmp_path), []
    place = LeftWavePlace(home.left_waves, "first")
    place.save(wave())
    monkeypatch.setattr("lanemark.cli.run.prepare_run", lambda asked, *_: asked)

    def leave(*_: Any, prepared: Any, **__: Any) -> None:
        prepared(IDS[len(left)])
        left.append(IDS[len(left)])
        assert place.read().cases[place.read().next_case() or 0].run_id == left[-1], "noted before it is handed over"

    monkeypatch.setattr(wave_driver, "leave", leave)
    return home, place, left


def ended(monkeypatch: pytest.MonkeyPatch, *ends: tuple[str, str | None]) -> None:
    """How the runs end: their state, and the word that ended them."""
    told = iter(ends)

    def see(*_: Any) -> SimpleNamespace:
        state, word = next(told)
        end = None if word is None else SimpleNamespace(word=word)
        return SimpleNamespace(state=SimpleNamespace(value=state), end=end)

    monkeypatch.setattr(Driver, "_ended", see)


def test_a_driver_goes_through_all_and_tries_again_what_was_never_launched(
    at_work: tuple[Home, LeftWavePlace, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, place, left = at_work
    ended(monkeypatch, ("ok", None), ("lost", "absent"), ("error", None), ("ok", None))
    done = Driver(home, place).go()
    assert [each.state for each in done.cases] == ["ok", "error", "ok"], "a failed case ends no wave"
    assert done.cases[1].earlier == (IDS[1],)
    assert left == list(IDS)
    assert place.read() == done


def test_a_cancelled_case_ends_the_wave_and_a_gate_stops_it(
    at_work: tuple[Home, LeftWavePlace, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, place, left = at_work
    ended(monkeypatch, ("ok", None), ("cancelled", None))
    done = Driver(home, place).go()
    assert [each.state for each in done.cases] == ["ok", "cancelled", None]
    assert len(left) == 2
    assert _stopped_waves(home)
    assert "2 of 3 cases have ended, and nobody goes on with it (a case was cancelled)" in capsys.readouterr().err

    def refuse(*_: Any) -> None:
        raise GateRefused("disk-short", "there is no room", "make some")

    monkeypatch.setattr("lanemark.cli.run.prepare_run", refuse)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process is to hear of hang-ups
    monkeypatch.chdir(home.root)
    place.save(place.read().resumed())
    lock = place.lock
    assert lock.take()
    assert wave_driver.main([str(home.root), "first", "99999"]) == 1, "somebody is at it"
    lock.release()
    assert wave_driver.main([str(home.root), "first", "99999"]) == 1
    assert "there is no room" in (place.read().stopped or "")
    assert "there is no room" in capsys.readouterr().err
