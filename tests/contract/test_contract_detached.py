"""What every detached surface holds to, whichever it is: hand over, leave, ask by ids alone, fetch, cancel.

A surface joins with an entry in `PLACES`: how a run of each behaviour is begun there, and how to wait for its end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lanemark.collect.collecting import handle_of
from lanemark.collect.handing_over import Handover
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import load, save
from lanemark.collect.modal_launch import launching_surface
from lanemark.collect.preparing import prepare
from lanemark.collect.starting import Start
from lanemark.launch.detached import DetachedSurface, Handle, Status, Submission
from lanemark.launch.fake import FakeSurface
from lanemark.launch.fake_detached import FakeDetached
from lanemark.launch.local import LocalSurface
from lanemark.launch.local_detached import LocalDetached
from lanemark.launch.modal import ModalSurface
from lanemark.launch.modal_request import Rental
from lanemark.launch.surface import Placement
from lanemark.measure.durable import replace_file
from lanemark.records.attempt import Home, State
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.errors import SurfaceError
from modal_plane import IMAGE, shared_plane

CASE = Case(
    lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
)  # fmt: skip


@dataclass
class Place:
    """A surface under test."""

    surface: DetachedSurface
    home: Home
    settle: Callable[[Handle, str], None]
    noted: list[dict[str, str]] = field(default_factory=list)

    def submission(self) -> Submission:
        attempt = prepare(self.home, CASE, argv=["lanemark", "run"], placement={"cwd": os.getcwd()}, data={})
        lock = AttemptLock(attempt.paths.lock)
        assert lock.take()
        placement = Placement(self.home)
        request = FakeSurface().request(CASE, placement)
        return Submission(attempt.paths, CASE, request, placement, lock.fileno())

    def begin(self, behaviour: str) -> tuple[Submission, Handle]:
        submission = self.submission()
        handle = self.surface.submit(submission, lambda ids: self.noted.append(dict(ids)))
        self.settle(handle, behaviour)
        return submission, handle

    def until(self, handle: Handle, holds: Callable[[Status], bool]) -> Status:
        end = time.monotonic() + 60
        while not holds(status := self.surface.probe(handle)):
            assert time.monotonic() < end, status
            time.sleep(0.02)
        return status


def fake(tmp_path: Path) -> Place:
    far = FakeDetached(tmp_path / "far")

    def settle(handle: Handle, behaviour: str) -> None:
        if behaviour == "finishes":
            far.leave(handle.run_id, {"ranks/0/end.json": b"{}\n", "exits.json": b"{}\n"})
            far.say(handle.run_id, "finished", "the function returned", completed_at="2026-01-01T00:00:05.000Z")
        else:
            far.say(handle.run_id, "running", "one task")

    return Place(far, Home(tmp_path / "home"), settle)


class LocalPlace(Place):
    """Supervisors on this host, whose ranks are the command of the case. They note their own ids."""

    behaviour = "stays"

    def submission(self) -> Submission:
        does = {"stays": "sleep 60", "finishes": 'echo "{}" > "$LANEMARK_RANK_DIR/end.json"'}[self.behaviour]
        case = replace(CASE, command=("sh", "-c", does))
        attempt = prepare(self.home, case, argv=["lanemark"], placement={"cwd": os.getcwd()}, data={}, hold=True)
        assert attempt.lock is not None
        placement = Placement(self.home)
        replace_file(attempt.paths.handover, encode(Handover(attempt.manifest, placement, Start()).to_json()))
        save(attempt.paths, attempt.manifest.moved(State.DETACHED, "handed over"))
        request = LocalSurface().request(case, placement)
        self.lock = attempt.lock
        return Submission(attempt.paths, case, request, placement, attempt.lock.fileno())

    def begin(self, behaviour: str) -> tuple[Submission, Handle]:
        self.behaviour = behaviour
        submission = self.submission()
        self.surface.submit(submission, lambda ids: self.noted.append(dict(ids)))
        self.lock.release()
        paths = submission.paths
        end = time.monotonic() + 60
        while not load(paths).ids or (behaviour == "finishes" and not load(paths).appended):
            assert time.monotonic() < end, paths.supervisor_log.read_text()
            time.sleep(0.02)
        handle = handle_of(load(paths))
        self.noted.append(dict(handle.ids))
        return submission, handle


def local(tmp_path: Path) -> Place:
    return LocalPlace(LocalDetached(), Home(tmp_path / "home"), lambda handle, behaviour: None)


class ModalPlace(Place):
    """Runs on the loopback Modal, each in a real container. What a run does, its own command says."""

    behaviour = "stays"

    def submission(self) -> Submission:
        does = {"stays": "sleep 60", "finishes": 'echo "{}" > "$LANEMARK_RANK_DIR/end.json"'}[self.behaviour]
        case = replace(CASE, surface="modal", command=("sh", "-c", does))
        attempt = prepare(self.home, case, argv=["lanemark", "run"], placement={"cwd": os.getcwd()}, data={})
        lock = AttemptLock(attempt.paths.lock)
        assert lock.take()
        placement = Placement(self.home)
        assert isinstance(self.surface, ModalSurface)
        return Submission(attempt.paths, case, self.surface.request(case, placement), placement, lock.fileno())

    def begin(self, behaviour: str) -> tuple[Submission, Handle]:
        self.behaviour = behaviour
        return super().begin(behaviour)


def modal(tmp_path: Path) -> Place:
    shared_plane()
    return ModalPlace(launching_surface(Rental(image=IMAGE)), Home(tmp_path / "home"), lambda handle, behaviour: None)


PLACES: Mapping[str, Callable[[Path], Place]] = {"fake": fake, "local": local, "modal": modal}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


def test_ids_are_noted_and_find_the_run_again_from_json_alone(place: Place) -> None:
    _, handle = place.begin("stays")
    merged: dict[str, str] = {}
    for ids in place.noted:
        merged |= ids
    assert merged == dict(handle.ids)
    again = Handle(handle.run_id, handle.surface, json.loads(json.dumps(dict(handle.ids))), handle.directory)
    status = place.until(again, lambda status: status.word == "running")
    assert not status.ended
    assert status.ids == {}
    place.surface.cancel(handle, "the test is over")
    place.until(handle, lambda status: status.ended)


def test_a_run_whose_ids_were_never_noted_is_found_by_its_run_id(place: Place) -> None:
    """The launcher died between the launch and the note."""
    if place.surface.supervised_here:
        pytest.skip("here the supervisor notes its own ids, and holds the lock before that")
    _, handle = place.begin("stays")
    found = place.until(replace(handle, ids={}), lambda status: status.word == "running")
    assert dict(found.ids) == dict(handle.ids)


def test_what_was_never_launched_is_absent_and_not_unknown(place: Place) -> None:
    submission = place.submission()
    handle = Handle(submission.run_id, place.surface.name, {}, str(submission.paths.root))
    assert place.surface.probe(handle).word == "absent"


def test_a_finished_run_is_fetched_again_and_again_and_into_another_directory(place: Place, tmp_path: Path) -> None:
    submission, handle = place.begin("finishes")
    status = place.until(handle, lambda status: status.ended)
    assert status.word == "finished"
    before = submission.paths.manifest.read_bytes()
    first = place.surface.fetch(handle, submission.paths)
    assert place.surface.fetch(handle, submission.paths) == first
    assert submission.paths.manifest.read_bytes() == before
    assert first.problems == ()
    assert all((submission.paths.root / name).is_file() for name in first.files)
    elsewhere = Home(tmp_path / "elsewhere").attempt(submission.run_id)
    elsewhere.root.mkdir(parents=True)
    brought = place.surface.fetch(handle, elsewhere)
    assert set(first.files) <= set(brought.files)
    assert not elsewhere.manifest.exists()
    assert elsewhere.rank(0).end.is_file()


def test_cancel_ends_a_run_and_has_no_effect_on_one_that_ended(place: Place) -> None:
    _, handle = place.begin("stays")
    place.until(handle, lambda status: status.word == "running")
    place.surface.cancel(handle, "no longer wanted")
    place.until(handle, lambda status: status.ended)
    ended = place.surface.probe(handle)
    place.surface.cancel(handle, "again")
    assert place.surface.probe(handle).word == ended.word


def test_the_call_graph_is_plain_json(place: Place) -> None:
    _, handle = place.begin("stays")
    place.until(handle, lambda status: status.word == "running")
    graph = place.surface.call_graph(handle)
    assert json.loads(json.dumps(graph)) == graph
    assert graph
    place.surface.cancel(handle, "the test is over")
    place.until(handle, lambda status: status.ended)


def test_silence_is_no_end_and_every_order_says_that_it_was_not_carried_out(tmp_path: Path) -> None:
    place = fake(tmp_path)
    assert isinstance(place.surface, FakeDetached)
    submission, handle = place.begin("finishes")
    place.surface.fall_silent()
    assert place.surface.probe(handle).word == "unreachable"
    for order in (
        lambda: place.surface.fetch(handle, submission.paths),
        lambda: place.surface.cancel(handle, "x"),
        lambda: place.surface.call_graph(handle),
    ):
        with pytest.raises(SurfaceError) as caught:
            order()
        assert caught.value.slug == "surface-unreachable"
    place.surface.fall_silent(silent=False)
    assert place.surface.probe(handle).word == "finished"


def test_a_status_that_contradicts_itself_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        Status("failed", "it failed")
    with pytest.raises(AssertionError):
        Status("running", "it runs", kind="gone")
