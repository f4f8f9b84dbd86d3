"""The collector on real directories: every end, silence, damage, copies, two collectors at once, and clocks."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detached_runs import DONE_AT, finish, leave_one, manifest_of, real_run
from lanemark.collect.collecting import cancel_one, collect_many, collect_one
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import save
from lanemark.collect.named import named_attempts
from lanemark.collect.polls import append_poll, last_poll, read_polls
from lanemark.collect.recovering import load_or_recover
from lanemark.collect.sweep import attempts, seal_lost
from lanemark.launch.fake_detached import FakeDetached
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case
from lanemark.records.encoding import decode
from lanemark.records.errors import LedgerError, RunFailed


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, dict[str, bytes]]:
    return real_run(tmp_path_factory.mktemp("real") / "home")


class Room:
    """A home, a far side, and runs that are left there."""

    def __init__(self, root: Path, ran: tuple[Case, dict[str, bytes]]) -> None:
        self.root = root
        self.home = Home(root / "home")
        self.far = FakeDetached(root / "far")
        self.case, self.files = ran
        self.surfaces = {"fake": self.far}

    def leave(self) -> AttemptPaths:
        return leave_one(self.home, self.far, self.case)

    def finish(self, paths: AttemptPaths) -> None:
        finish(self.far, paths.run_id, self.files)

    def collect(self, paths: AttemptPaths) -> Any:
        return collect_one(self.home, paths, self.surfaces)

    def record(self, paths: AttemptPaths) -> dict[str, Any]:
        """The one record, as the ledger has it, verified with its evidence."""
        ledger = Ledger(self.home.ledger)
        rows = [row for row in ledger.list().rows if row.run_id == paths.run_id]
        assert len(rows) == 1
        report = ledger.verify(rows[0].id)
        assert report.ok, report.steps
        predicate: dict[str, Any] = ledger.get(rows[0].id).doc["predicate"]
        return predicate


@pytest.fixture
def room(tmp_path: Path, ran: tuple[Case, dict[str, bytes]]) -> Iterator[Room]:
    return Room(tmp_path, ran)


def states(predicate: dict[str, Any]) -> list[str]:
    return [step["state"] for step in predicate["transitions"]]


def test_a_finished_run_comes_home_with_every_move_and_its_time(room: Room) -> None:
    paths = room.leave()
    room.far.say(paths.run_id, "running", "one task")
    waiting = room.collect(paths)
    assert (waiting.outcome, waiting.manifest.state.value, waiting.line) == ("waiting", "running", None)
    room.finish(paths)
    done = room.collect(paths)
    assert (done.outcome, done.manifest.state.value, done.manifest.appended) == ("sealed", "ok", True)
    predicate = room.record(paths)
    assert states(predicate) == ["prepared", "detached", "running", "ok"]
    assert all(step["at"] for step in predicate["transitions"])
    assert [poll.seen for poll in read_polls(paths)] == ["running", "finished"]
    assert manifest_of(paths).end.completed_at == DONE_AT
    assert room.collect(paths).outcome == "done"
    assert room.far.launches(paths.run_id) == 1


def test_a_run_that_nobody_saw_run_says_so(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    room.collect(paths)
    predicate = room.record(paths)
    assert states(predicate) == ["prepared", "detached", "running", "ok"]
    assert "ran unseen" in predicate["transitions"][2]["reason"]


@pytest.mark.parametrize(
    ("word", "kind", "state", "cause"),
    [
        ("failed", "raised", "error", "surface_failed"),
        ("failed", "start_failed", "error", "surface_failed"),
        ("failed", "timed_out", "error", "surface_failed"),
        ("failed", "gone", "lost", "supervisor_lost"),
        ("cancelled", None, "cancelled", "interrupted"),
        ("expired", None, "lost", "result_expired"),
    ],
)
def test_every_bad_end_is_sealed_and_named(room: Room, word: Any, kind: Any, state: str, cause: str) -> None:
    paths = room.leave()
    room.far.say(paths.run_id, word, "the words of the far side", kind=kind)
    assert room.collect(paths).outcome == "sealed"
    predicate = room.record(paths)
    assert (predicate["outcome"]["state"], predicate["outcome"]["first_cause"]["kind"]) == (state, cause)
    assert predicate["outcome"]["receipt"] is False
    names = [item["name"] for item in predicate["evidence"]]
    assert ("snapshots/" + word + ".json" in names) == (kind != "gone")


def test_silence_is_noted_and_waited_out(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    room.far.fall_silent()
    silent = room.collect(paths)
    assert (silent.outcome, silent.slug, silent.manifest.state.value) == ("problem", "surface-unreachable", "detached")
    last = last_poll(paths)
    assert last is not None
    assert last.seen == "unreachable"
    room.far.fall_silent(silent=False)
    assert room.collect(paths).manifest.state.value == "ok"


def test_an_end_that_was_seen_survives_the_expiry_of_its_result(room: Room) -> None:
    """The first collector died after it had written down and fetched; the second finds the result gone."""
    paths = room.leave()
    room.finish(paths)
    other = FakeDetached(room.root / "far")
    seen = collect_one(room.home, paths, {"fake": other})
    assert seen.outcome == "sealed"
    # Back to the moment between the fetch and the seal.
    sealed = manifest_of(paths)
    steps = sealed.transitions[:3]
    paths.record.unlink()
    from dataclasses import replace

    save(paths, replace(sealed, state=steps[-1].state, transitions=steps, record_id=None, appended=False))
    room.far.say(paths.run_id, "expired", "seven days have passed")
    again = room.collect(paths)
    assert (again.outcome, again.manifest.state.value) == ("sealed", "ok")


def test_a_refused_launch_is_sealed_as_what_it_is(room: Room) -> None:
    refusing = FakeDetached(room.root / "far", refuses=True)
    with pytest.raises(RunFailed):
        leave_one(room.home, refusing, room.case)
    (manifest,), _ = attempts(room.home)
    predicate = room.record(room.home.attempt(manifest.run_id))
    assert states(predicate) == ["prepared", "detached", "error"]
    assert predicate["outcome"]["first_cause"]["kind"] == "start_failed"


# --- cancelling


def test_cancel_ends_a_run_and_leaves_a_finished_one_as_it_is(room: Room) -> None:
    running, finished = room.leave(), room.leave()
    room.far.say(running.run_id, "running", "one task")
    room.finish(finished)
    assert cancel_one(room.home, running, room.surfaces).manifest.state.value == "cancelled"
    assert cancel_one(room.home, finished, room.surfaces).manifest.state.value == "ok"
    assert room.record(running)["outcome"]["first_cause"]["kind"] == "interrupted"
    assert cancel_one(room.home, running, room.surfaces).outcome == "done"


def test_cancel_of_a_silent_surface_ends_nothing_unless_it_is_given_up(room: Room) -> None:
    paths = room.leave()
    room.far.fall_silent()
    assert cancel_one(room.home, paths, room.surfaces).outcome == "problem"
    assert manifest_of(paths).cancel_asked_at is not None
    done = cancel_one(room.home, paths, room.surfaces, give_up=True)
    assert done.manifest.state.value == "cancelled"
    assert "given up" in done.manifest.transitions[-1].reason


# --- damage


@pytest.mark.parametrize("left", [b"", b'{"format":1,"run_id":"tr', b"\x00" * 500, b"[]", b'{"format":99}'])
@pytest.mark.parametrize("when", ["running", "sealed"])
def test_a_damaged_manifest_is_put_together_again(room: Room, left: bytes, when: str) -> None:
    paths = room.leave()
    room.finish(paths)
    if when == "sealed":
        room.collect(paths)
    paths.manifest.write_bytes(left)
    recovered = load_or_recover(paths)
    assert "put together from" in (recovered.recovered or "")
    assert paths.manifest.read_bytes() == left, "reading changes nothing"
    done = room.collect(paths)
    assert done.manifest.state.value == "ok"
    assert done.manifest.appended
    assert room.record(paths)["outcome"]["state"] == "ok"
    assert room.far.launches(paths.run_id) == 1
    # The ids, which the damage took, were found again by run id.
    assert when == "sealed" or manifest_of(paths).ids["call_id"] == f"call-{paths.run_id}"


def test_with_the_case_alone_the_run_is_found_by_its_run_id(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    paths.manifest.unlink()
    paths.handover.unlink()
    done = room.collect(paths)
    # Nothing says that it was handed over: it is concluded that it was not, and nothing of it is removed.
    assert done.manifest.state.value == "lost"
    assert (room.root / "far" / paths.run_id / "files").is_dir()


def test_with_nothing_left_the_error_says_where_to_look_and_nothing_is_touched(room: Room) -> None:
    paths, whole = room.leave(), room.leave()
    room.finish(whole)
    for path in (paths.manifest, paths.handover, paths.case):
        path.write_bytes(b"{")
    before = sorted(path.name for path in paths.root.iterdir())
    with pytest.raises(LedgerError) as caught:
        load_or_recover(paths)
    assert caught.value.slug == "attempt-unreadable"
    assert room.collect(paths).slug == "attempt-unreadable"
    assert sorted(path.name for path in paths.root.iterdir()) == before
    outcomes = {done.run_id: done.outcome for done in collect_many(room.home, [paths, whole], room.surfaces)}
    assert outcomes == {paths.run_id: "problem", whole.run_id: "sealed"}


def test_looks_that_a_crash_cut_short_take_no_other_with_them(room: Room) -> None:
    paths = room.leave()
    append_poll(paths, "queued")
    with open(paths.polls, "ab") as file:
        file.write(b'{"at":"2026-11-28T15:00')
    append_poll(paths, "running")
    with open(paths.polls, "ab") as file:
        file.write(b'{"at":"yesterday","seen":"running"}\n[]\nnull\n')
    assert [poll.seen for poll in read_polls(paths)] == ["queued", "running"]
    room.finish(paths)
    assert room.collect(paths).manifest.state.value == "ok"


# --- copies


def test_a_copy_elsewhere_is_collected_and_the_original_then_has_the_same_record(room: Room) -> None:
    paths = room.leave()
    copy = AttemptPaths(room.root / "elsewhere" / paths.run_id)
    shutil.copytree(paths.root, copy.root)
    room.finish(paths)
    first = room.collect(paths)
    second = collect_one(Home(room.root / "other home"), copy, room.surfaces)
    assert (first.manifest.state.value, second.manifest.state.value) == ("ok", "ok")
    assert copy.record.read_bytes() == paths.record.read_bytes()


def test_a_copy_is_left_alone_while_somebody_is_at_the_original(room: Room) -> None:
    paths = room.leave()
    copy = AttemptPaths(room.root / "elsewhere" / paths.run_id)
    shutil.copytree(paths.root, copy.root)
    room.finish(paths)
    lock = AttemptLock(paths.lock)
    assert lock.take()
    assert room.collect(copy).outcome == "busy"
    assert not copy.record.exists()
    lock.release()
    assert room.collect(copy).outcome == "sealed"


def test_a_moved_directory_is_collected_where_it_is(room: Room) -> None:
    paths = room.leave()
    moved = AttemptPaths(room.root / "elsewhere" / paths.run_id)
    moved.root.parent.mkdir()
    shutil.move(paths.root, moved.root)
    room.finish(moved)
    assert collect_one(room.home, moved, room.surfaces).manifest.state.value == "ok"
    assert room.record(moved)["outcome"]["state"] == "ok"


# --- at once


def test_many_collectors_at_once_make_one_record_each(room: Room) -> None:
    places = [room.leave() for _ in range(6)]
    for paths in places:
        room.finish(paths)
    outcomes: list[str] = []

    def work() -> None:
        outcomes.extend(done.outcome for done in collect_many(room.home, places, room.surfaces))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(outcomes) <= {"sealed", "busy", "done", "appended"}
    assert all(done.outcome == "done" for done in collect_many(room.home, places, room.surfaces))
    assert {room.record(paths)["outcome"]["state"] for paths in places} == {"ok"}
    assert len(Ledger(room.home.ledger).list().rows) == 6


# --- clocks


@pytest.mark.parametrize("at", ["2020-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"])
def test_a_clock_years_off_costs_a_call_graph_and_no_run(room: Room, at: str) -> None:
    paths = room.leave()
    room.far.say(paths.run_id, "running", "one task")
    doc = json.loads(paths.manifest.read_bytes())
    for step in doc["transitions"]:
        step["at"] = at
    paths.manifest.write_text(json.dumps(doc))
    assert room.collect(paths).outcome == "waiting"
    room.finish(paths)
    assert room.collect(paths).manifest.state.value == "ok"
    assert room.record(paths)["outcome"]["state"] == "ok"


# --- what is not asked


def test_runs_on_another_surface_are_left_to_collect(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    assert seal_lost(room.home) == []
    assert manifest_of(paths).state.value == "detached"
    done = collect_one(room.home, paths, {})
    assert (done.outcome, done.slug) == ("problem", "surface-unavailable")
    assert decode(paths.manifest.read_bytes())["state"] == "detached"


# --- a manifest alone


def test_a_manifest_alone_brings_the_run_home(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    sent = room.root / "mail" / "a run of mine.json"
    sent.parent.mkdir()
    shutil.copy(paths.manifest, sent)
    shutil.rmtree(paths.root)
    elsewhere = Home(room.root / "their home")
    (there,) = named_attempts(elsewhere, [str(sent)])
    assert there.root == elsewhere.attempt(paths.run_id).root
    done = collect_one(elsewhere, there, room.surfaces)
    assert (done.outcome, done.manifest.state.value) == ("sealed", "ok")
    assert decode(there.case.read_bytes()) == decode(there.manifest.read_bytes())["case"]
    assert named_attempts(elsewhere, [str(sent), paths.run_id, str(there.manifest)]) == [there]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format":1}', b'{"format":1,"run_id":"../../etc"}'])
def test_a_file_that_is_no_manifest_is_refused_and_makes_nothing(room: Room, data: bytes) -> None:
    sent = room.root / "sent.json"
    sent.write_bytes(data)
    with pytest.raises(LedgerError) as caught:
        named_attempts(room.home, [str(sent)])
    assert caught.value.slug == "attempt-missing"
    assert not room.home.attempts.exists()


def test_a_case_that_is_not_the_one_that_was_planned_is_not_taken_from_a_manifest(room: Room) -> None:
    paths = room.leave()
    room.finish(paths)
    doc = json.loads(paths.manifest.read_bytes())
    doc["case"]["steps"] += 1
    paths.manifest.write_text(json.dumps(doc))
    paths.case.unlink()
    done = room.collect(paths)
    assert (done.outcome, done.slug) == ("problem", "attempt-unreadable")
    assert not paths.case.exists()


def test_a_directory_with_another_runs_manifest_is_refused(room: Room) -> None:
    paths, other = room.leave(), room.leave()
    room.finish(paths)
    shutil.copy(other.manifest, paths.manifest)
    before = paths.manifest.read_bytes()
    done = room.collect(paths)
    assert (done.run_id, done.outcome, done.slug) == (paths.run_id, "problem", "attempt-unreadable")
    assert paths.manifest.read_bytes() == before
