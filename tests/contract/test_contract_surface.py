"""What every surface holds to, whichever it is: one suite, run over the fake and over real processes."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lanemark.launch.fake import FakeRank, FakeSurface
from lanemark.launch.local import LocalSurface
from lanemark.launch.surface import Launched, Placement, Surface, SurfaceStatus
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import RunFailed

#: Behaviours, as a script of the fake and as a program of a real rank.
FAKE = {
    "ends": FakeRank(ends_after_s=0.1),
    "fails": FakeRank(ends_after_s=0.1, status=3),
    "killed": FakeRank(ends_after_s=0.1, status=None, signal="SIGKILL"),
    "stays": FakeRank(),
    "stays_stopped": FakeRank(stops_after_s=0.0),
    "ignores_term": FakeRank(ignores_term=True),
    "cannot_start": FakeRank(cannot_start=True),
}
STAY = "import time; time.sleep(600)"
REAL = {
    "ends": "pass",
    "fails": "import sys; sys.exit(3)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "stays": STAY,
    "stays_stopped": "import os; os.kill(os.getpid(), 19); " + STAY,
    "ignores_term": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); " + STAY,
}


@dataclass
class Place:
    """A surface under test, with attempts that are cleaned up whatever a test does."""

    make: Callable[[str], Surface]
    case: Callable[[str], Case]
    home: Home
    started: list[tuple[Surface, Launched]]

    def launch(self, behaviour: str, nproc: int = 2) -> tuple[Surface, Launched, AttemptPaths]:
        surface = self.make(behaviour)
        case = replace(self.case(behaviour), nproc=nproc)
        paths = self.home.attempt(f"training-20260101T000000Z-{len(self.started):08d}")
        paths.root.mkdir(parents=True)
        launched = surface.launch(surface.request(case, Placement(self.home)), paths)
        self.started.append((surface, launched))
        return surface, launched, paths

    def until(self, surface: Surface, launched: Launched, holds: Callable[[SurfaceStatus], bool]) -> SurfaceStatus:
        for _ in range(400):
            status = surface.poll(launched)
            if holds(status):
                return status
            surface.wait(launched, 0.1)
        raise AssertionError("it did not happen")


@pytest.fixture(params=["fake", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    base = Case(
        lane="training", preset="none", nproc=2, mode="ddp", compile="eager", dtype="fp32", steps=4, warmup=1,
        sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
    )  # fmt: skip

    def real_case(behaviour: str) -> Case:
        command = ("/nonexistent",) if behaviour == "cannot_start" else (sys.executable, "-c", REAL[behaviour])
        return replace(base, command=command)

    if request.param == "fake":
        made = Place(lambda behaviour: FakeSurface([FAKE[behaviour]]), lambda _: base, Home(tmp_path), [])
    else:
        made = Place(lambda _: LocalSurface(), real_case, Home(tmp_path), [])
    yield made
    for surface, launched in made.started:
        surface.cleanup(launched)


def test_request_is_data_and_starts_nothing(place: Place) -> None:
    surface = place.make("stays")
    case = place.case("stays")
    placement = Placement(place.home, data_dir=place.home.root / "shards")
    request = surface.request(case, placement)
    doc = request.to_json()
    assert json.loads(json.dumps(doc)) == doc
    assert surface.request(case, placement) == request
    assert request.surface == surface.name
    assert request.nproc == 2
    assert [variables["RANK"] for variables in request.rank_variables] == ["0", "1"]
    assert list(place.home.root.iterdir()) == []


def test_launch_gives_ids_that_can_be_written_down(place: Place) -> None:
    surface, launched, paths = place.launch("stays")
    doc = launched.to_json()
    assert json.loads(json.dumps(doc)) == doc
    assert [rank.rank for rank in launched.ranks] == [0, 1]
    assert launched.key == paths.run_id
    assert all(rank.alive for rank in surface.poll(launched).ranks)
    assert paths.rank(1).root.is_dir()


def test_ranks_that_end_are_seen_to_end(place: Place) -> None:
    surface, launched, _ = place.launch("ends")
    status = place.until(surface, launched, lambda status: not status.alive)
    assert [(rank.status, rank.signal) for rank in status.ranks] == [(0, None), (0, None)]
    assert all(rank.ended_ns is not None and rank.ended_ns >= launched.launched_ns for rank in status.ranks)
    assert surface.poll(launched) == status  # an end is told the same way ever after


def test_status_and_signal_are_told_apart(place: Place) -> None:
    surface, launched, _ = place.launch("fails", nproc=1)
    status = place.until(surface, launched, lambda status: not status.alive)
    assert (status.ranks[0].status, status.ranks[0].signal) == (3, None)
    surface, launched, _ = place.launch("killed", nproc=1)
    status = place.until(surface, launched, lambda status: not status.alive)
    assert (status.ranks[0].status, status.ranks[0].signal) == (None, "SIGKILL")


def test_stopped_rank_is_shown_as_stopped(place: Place) -> None:
    surface, launched, _ = place.launch("stays_stopped", nproc=1)
    status = place.until(surface, launched, lambda status: status.ranks[0].stopped_since_ns is not None)
    assert status.ranks[0].alive
    assert status.ranks[0].state == "T"
    assert [sent.signal for sent in surface.stop(launched, "test", grace_s=5.0)] == ["SIGTERM"]
    assert surface.poll(launched).ranks[0].signal == "SIGTERM"


def test_stop_ends_every_rank_and_says_which_signals_it_sent(place: Place) -> None:
    surface, launched, _ = place.launch("stays")
    sent = surface.stop(launched, "test", grace_s=5.0)
    assert [(each.rank, each.signal, each.reason) for each in sent] == [(0, "SIGTERM", "test"), (1, "SIGTERM", "test")]
    assert [rank.signal for rank in surface.poll(launched).ranks] == ["SIGTERM", "SIGTERM"]
    assert surface.stop(launched, "again") == ()


def test_stop_forces_what_does_not_obey(place: Place) -> None:
    surface, launched, paths = place.launch("ignores_term", nproc=1)
    if surface.name == "local":
        place.until(surface, launched, lambda _: paths.rank(0).stdout.read_bytes() == b"ready\n")
    assert [each.signal for each in surface.stop(launched, "test", grace_s=0.2)] == ["SIGTERM", "SIGKILL"]
    assert surface.poll(launched).ranks[0].signal == "SIGKILL"


def test_cleanup_ends_what_is_left_and_may_be_repeated(place: Place) -> None:
    surface, launched, _ = place.launch("stays")
    surface.cleanup(launched)
    assert not surface.poll(launched).alive
    surface.cleanup(launched)


def test_launch_that_fails_says_so(place: Place) -> None:
    with pytest.raises(RunFailed, match="rank 0 could not be started"):
        place.launch("cannot_start")
