"""The collector's next step: every rule, and a machine that lets everything happen in any order.

The machine plays launcher, far side, two collectors and a disk in memory. Whoever acts may die between any two of its
acts. What the code under test decides (`step`, `applied`, the lock's rule, publishing without clobbering) is played as
it is; whatever happens, nothing is launched twice, no second record appears, and in the end there is one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lanemark.collect.manifest import End, Manifest
from lanemark.collect.states import MOVES, IllegalMoveError, check_move
from lanemark.collect.steps import (
    QUEUE_S,
    SLACK_S,
    Append,
    Conclude,
    Done,
    Enter,
    Fetch,
    Leave,
    Look,
    NoteIds,
    Seal,
    Snapshot,
    applied,
    ending_of,
    overdue,
    step,
)
from lanemark.launch.detached import ENDED, FAILURES, WORDS, Status
from lanemark.records.attempt import State, Transition

AT = "2026-11-28T15:00:00.000Z"


def manifest(*states: State, **more) -> Manifest:
    states = states or (State.PREPARED, State.DETACHED)
    return Manifest(
        run_id="training-20261128T150000Z-7k3f9q2x", plan_digest="sha256:" + "0" * 64, lane="training",
        preset="dense-nano", surface="fake", argv=("lanemark", "run"), argv_redacted=False, placement={},
        state=states[-1], transitions=tuple(Transition(state, AT, None, "x") for state in states), prepared_ns=0,
        boot_id="boot", **more,
    )  # fmt: skip


def status(word, kind=None, **more):
    return Status(word, f"it is {word}", kind, **more)


RUNNING = (State.PREPARED, State.DETACHED, State.RUNNING)


# --- the table


def test_every_state_has_its_moves_and_final_ones_have_none():
    assert set(MOVES) == set(State)
    for state, targets in MOVES.items():
        assert bool(targets) != state.final
        for target in State:
            if target in targets:
                check_move(state, target)
            else:
                with pytest.raises(IllegalMoveError, match=f"{state.value} cannot become {target.value}"):
                    check_move(state, target)


def test_a_detached_run_is_ok_only_after_it_ran():
    assert State.OK not in MOVES[State.DETACHED]
    assert State.OK not in MOVES[State.PREPARED]


# --- each rule


@pytest.mark.parametrize("state", [State.OK, State.ERROR, State.CANCELLED, State.LOST])
def test_a_final_attempt_is_appended_and_then_done_whatever_the_surface_says(state):
    sealed = manifest(*RUNNING, state)
    for word in WORDS:
        said = status(word, "gone" if word == "failed" else None)
        assert step(sealed, said) == Append()
        assert step(replace(sealed, appended=True), said) == Done()


def test_what_was_never_handed_over_is_concluded_without_asking_anybody():
    action = step(manifest(State.PREPARED), None)
    assert isinstance(action, Conclude)
    assert action.end.word == "absent"


def test_ids_are_noted_before_anything_else_follows_from_a_look():
    said = status("finished", ids={"app_id": "a", "call_id": "c"})
    assert step(manifest(ids={"app_id": "a"}), said) == NoteIds({"call_id": "c"})
    noted = applied(manifest(ids={"app_id": "a"}), NoteIds({"call_id": "c"}))
    assert noted.ids == {"app_id": "a", "call_id": "c"}
    assert isinstance(step(noted, said), Conclude)


def test_running_is_entered_once_and_queued_stays():
    assert step(manifest(), None) == Look()
    assert isinstance(step(manifest(), status("queued")), Leave)
    action = step(manifest(), status("running"))
    assert isinstance(action, Enter)
    running = applied(manifest(), action)
    assert running.state is State.RUNNING
    assert step(running, status("running", progress="step 3")) == Leave("step 3")


@pytest.mark.parametrize("word", ["unreachable", "unknown"])
@pytest.mark.parametrize("late", [False, True])
def test_nothing_follows_from_silence_however_long_it_lasts(word, late):
    for before in (manifest(), manifest(*RUNNING)):
        action = step(before, status(word), overdue=late)
        assert isinstance(action, Leave)
        assert action.problem


def test_a_run_that_takes_too_long_gets_one_call_graph_and_goes_on():
    running = manifest(*RUNNING)
    assert step(running, status("running"), overdue=True) == Snapshot("overdue_in_running")
    taken = replace(running, snapshots=("snapshots/overdue_in_running.json",))
    assert step(taken, status("running"), overdue=True) == Leave("it is running")
    assert step(manifest(), status("queued"), overdue=True) == Snapshot("overdue_in_detached")


@pytest.mark.parametrize(
    ("since_s", "late"), [(-1e9, False), (0, False), (100 + SLACK_S, False), (101 + SLACK_S, True)]
)
def test_a_clock_that_is_behind_makes_nothing_late(since_s, late):
    assert overdue(manifest(*RUNNING), 100.0, since_s) is late
    assert not overdue(manifest(), 1e9, QUEUE_S)
    assert overdue(manifest(), 0.0, QUEUE_S + 1)


def actions_after(before, said):
    """All actions from here on, with files and ledger that always take what they are given."""
    taken = []
    for _ in range(20):
        action = step(before, said)
        taken.append(type(action))
        if isinstance(action, (Done, Leave)):
            return taken, before
        if isinstance(action, (NoteIds, Enter, Conclude)):
            before = applied(before, action)
        elif isinstance(action, Snapshot):
            before = replace(before, snapshots=(*before.snapshots, f"snapshots/{action.name}.json"))
        elif isinstance(action, Fetch):
            before = replace(before, end=replace(before.end, fetched=True))
        elif isinstance(action, Seal):
            verdict = action.ending.verdict or (State.OK if action.ending.supervisor_alive else State.LOST)
            before = before.moved(verdict, "sealed")
        elif isinstance(action, Append):
            before = replace(before, appended=True)
    raise AssertionError(taken)


@pytest.mark.parametrize(
    ("word", "kind", "start", "expected", "state"),
    [
        ("finished", None, (), [Conclude, Fetch, Enter, Seal, Append, Done], "ok"),
        ("finished", None, RUNNING, [Conclude, Fetch, Seal, Append, Done], "ok"),
        ("failed", "raised", RUNNING, [Conclude, Snapshot, Fetch, Seal, Append, Done], "ok"),
        ("failed", "start_failed", (), [Conclude, Snapshot, Fetch, Seal, Append, Done], None),
        ("failed", "gone", RUNNING, [Conclude, Fetch, Seal, Append, Done], "lost"),
        ("cancelled", None, RUNNING, [Conclude, Snapshot, Fetch, Seal, Append, Done], "cancelled"),
        ("expired", None, RUNNING, [Conclude, Snapshot, Fetch, Seal, Append, Done], "lost"),
        ("absent", None, (), [Conclude, Seal, Append, Done], "lost"),
    ],
)
def test_each_end_is_written_down_then_fetched_then_sealed_then_appended(word, kind, start, expected, state):
    if state is None:  # the evidence, of which there is none here, would make it an error
        assert ending_of(manifest(), End(word, "x", kind), same_clock=False).said.kind == "surface_failed"
        return
    taken, after = actions_after(manifest(*start), status(word, kind))
    assert taken == expected
    assert after.state.value == state


def test_an_end_that_was_written_down_is_never_asked_for_again():
    """The result expired, or the surface fell silent, after a collector had seen it."""
    known = manifest(*RUNNING, end=End("finished", "x", completed_at=AT))
    for said in (None, status("expired"), status("unreachable"), status("unknown")):
        assert step(known, said) == Fetch()
    assert isinstance(step(replace(known, end=replace(known.end, fetched=True)), status("expired")), Seal)


def test_who_asked_for_the_end_gets_cancelled_and_a_finished_run_stays_finished():
    asked = manifest(*RUNNING, cancel_asked_at=AT)
    for end in (End("cancelled", "x"), End("failed", "x", "gone"), End("absent", "x")):
        ending = ending_of(asked, end, same_clock=True)
        assert (ending.verdict, ending.said.kind) == (State.CANCELLED, "interrupted")
    assert ending_of(asked, End("finished", "x"), same_clock=True).verdict is None
    assert ending_of(asked, End("expired", "x"), same_clock=True).said.kind == "result_expired"


@pytest.mark.parametrize("kind", FAILURES)
def test_every_failure_says_what_it_was(kind):
    ending = ending_of(manifest(*RUNNING), End("failed", "the words of the surface", kind), same_clock=False)
    if kind == "gone":
        assert not ending.supervisor_alive
    else:
        assert "the words of the surface" in ending.said.summary


# --- everything in any order


class World(RuleBasedStateMachine):
    """See the module."""

    def __init__(self):
        super().__init__()
        self.disk = None  # the manifest on disk; "damaged" when it cannot be read
        self.handover = None  # the manifest that lies beside it
        self.case_written = False
        self.record = None
        self.records = set()
        self.lock = None
        self.serial = itertools.count()
        self.launches = 0
        self.far = None  # the word of the far side; None: it never heard of the run
        self.ever_finished = False
        self.silent = False
        self.launcher = "alive"
        self.steps_of_launcher = iter(
            ("lock", "case", "manifest", "handover", "detached", "app", "launch", "call", "leave")
        )
        self.collectors = {}
        self.asked = False

    # launcher

    @precondition(lambda self: self.launcher == "alive")
    @rule()
    def launcher_goes_on(self):
        act = next(self.steps_of_launcher)
        if act == "lock":
            assert self.lock is None
            self.lock = "launcher"
        elif act == "case":
            self.case_written = True
        elif act == "manifest":
            self.disk = manifest(State.PREPARED)
        elif act == "handover":
            self.handover = self.disk
        elif act == "detached":
            self.disk = self.disk.moved(State.DETACHED, "handed over")
        elif act == "app":
            self.disk = replace(self.disk, ids={"app_id": "a"})
        elif act == "launch":
            self.launches += 1
            self.far = "queued"
        elif act == "call":
            self.disk = replace(self.disk, ids={"app_id": "a", "call_id": "c"})
        else:
            self.launcher, self.lock = "gone", None

    @precondition(lambda self: self.launcher == "alive" and self.lock == "launcher")
    @rule()
    def launcher_is_killed(self):
        self.launcher, self.lock = "killed", None

    # far side

    @precondition(lambda self: self.far in ("queued", "running"))
    @rule(word=st.sampled_from(["running", "finished", "failed", "cancelled"]))
    def far_side_moves(self, word):
        self.far = word
        self.ever_finished |= word == "finished"

    @precondition(lambda self: self.far in ENDED)
    @rule()
    def result_expires(self):
        self.far = "expired"

    @rule()
    def far_side_falls_silent_or_answers_again(self):
        self.silent = not self.silent

    def probe(self):
        if self.silent:
            return status("unreachable")
        if self.far is None:
            return status("absent")
        known = {"app_id": "a", "call_id": "c"}
        return status(self.far, "raised" if self.far == "failed" else None, ids=known)

    # collectors

    def read(self):
        """The manifest, put together again where it is damaged: see `lanemark.collect.recovering`."""
        if self.disk == "damaged" or (self.disk is None and self.case_written):
            if self.record is not None:
                return replace(manifest(*RUNNING, self.record[0]), recovered="x")
            base = replace(self.handover or manifest(State.PREPARED), recovered="x")
            return base if self.handover is None else base.moved(State.DETACHED, "put together again")
        return self.disk

    @precondition(lambda self: self.lock is None and self.read() is not None)
    @rule(name=st.sampled_from("AB"))
    def collector_begins(self, name):
        if name in self.collectors:
            return
        self.lock = name
        self.disk = self.read()
        self.collectors[name] = (self.disk, None)

    @precondition(lambda self: self.lock in self.collectors)
    @rule(late=st.booleans())
    def collector_goes_on(self, late):
        name = self.lock
        mine, said = self.collectors[name]
        assert mine == self.disk, "nobody else wrote while the lock was held"
        action = step(mine, said, overdue=late)
        if isinstance(action, (Done, Leave)):
            self.end_of(name)
            return
        if isinstance(action, Look):
            said = self.probe()
        elif isinstance(action, (Fetch, Snapshot)):
            if isinstance(action, Snapshot):
                mine = replace(mine, snapshots=(*mine.snapshots, f"snapshots/{action.name}.json"))
            elif self.silent:
                self.end_of(name)  # a fetch that fails is tried again by whoever comes next
                return
            else:
                mine = replace(mine, end=replace(mine.end, fetched=True))
        elif isinstance(action, Seal):
            if self.record is None:
                verdict = action.ending.verdict or (State.ERROR if action.ending.said is not None else State.OK)
                self.record = (verdict, next(self.serial))
                self.records.add(self.record)
            if self.records and self.cut_short():
                self.end_of(name)  # killed between the record and the manifest
                return
            mine = mine.moved(self.record[0], "sealed")
        elif isinstance(action, Append):
            mine = replace(mine, appended=True)
        else:
            mine = applied(mine, action)
        self.disk = mine
        self.collectors[name] = (mine, said)

    cut = False

    def cut_short(self):
        self.cut, was = False, self.cut
        return was

    @rule()
    def the_next_seal_is_cut_short(self):
        self.cut = True

    def end_of(self, name):
        del self.collectors[name]
        self.lock = None

    @precondition(lambda self: self.lock in self.collectors)
    @rule()
    def collector_is_killed(self):
        self.end_of(self.lock)

    # people and disks

    @precondition(lambda self: self.lock is None and isinstance(self.disk, Manifest) and not self.disk.state.final)
    @rule()
    def somebody_cancels(self):
        self.disk = replace(self.disk, cancel_asked_at=AT)
        self.asked = True
        if self.far in ("queued", "running") and not self.silent:
            self.far = "cancelled"

    @precondition(lambda self: self.lock is None and self.disk is not None)
    @rule()
    def the_manifest_is_damaged(self):
        self.disk = "damaged"

    @invariant()
    def nothing_happens_twice(self):
        assert self.launches <= 1
        assert len(self.records) <= 1

    @invariant()
    def it_is_never_out_of_sight(self):
        assert self.launches == 0 or self.read() is not None

    def teardown(self):
        """Everybody dies, the far side ends and answers; then one collector must bring it to its end."""
        self.lock, self.collectors, self.silent, self.cut = None, {}, False, False
        if self.read() is None:
            assert self.launches == 0
            return
        if self.far in ("queued", "running"):
            self.far, self.ever_finished = "finished", True
        self.collector_begins("A")
        for _ in range(40):
            if "A" in self.collectors:
                self.collector_goes_on(late=False)
        assert isinstance(self.disk, Manifest)
        assert self.disk.state.final
        assert self.disk.appended
        assert self.record is not None
        assert self.disk.state is self.record[0]
        if self.launches == 0:
            assert self.disk.state in (State.LOST, State.CANCELLED)
        if self.disk.state is State.OK:
            assert self.ever_finished
        if self.far == "finished" and not self.asked:
            assert self.disk.state is State.OK
        self.nothing_happens_twice()


World.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_nothing_is_lost_and_nothing_happens_twice = World.TestCase
