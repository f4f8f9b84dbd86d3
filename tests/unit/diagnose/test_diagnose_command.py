"""What is concluded when a launched command fails: the rank that went first where that was seen, else the command."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lanemark.diagnose.first_cause import first_cause
from lanemark.diagnose.snapshot import RankState, Snapshot


def went(rank: int, at_ns: int, **changes: object) -> RankState:
    made = RankState(rank, ended_ns=at_ns, signal_by="nobody", phase="window")
    return replace(made, **changes)  # type: ignore[arg-type]


def failed(*ranks: RankState, **changes: object) -> Snapshot:
    made = Snapshot(ranks, "rank_failed", command_status=1, world_sizes=(len(ranks),) * len(ranks))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_rank_that_was_seen_to_go_first_is_named() -> None:
    cause = first_cause(failed(went(0, 9), went(1, 5), command_said="Signal 9 (SIGKILL) received"))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_vanished", 1)
    assert "the command printed: Signal 9 (SIGKILL) received" in cause.evidence
    after = first_cause(failed(went(0, 9), went(1, 5, phase="done")))  # one that came to its own end is no cause
    assert after is not None
    assert (after.kind, after.rank) == ("rank_vanished", 0)


@pytest.mark.parametrize(
    "ranks",
    [
        (went(0, 5), went(1, 5)),  # seen gone at one look
        (went(0, 5), went(1, 5), went(2, 9)),
        (went(0, 9, found=False), went(1, 5)),  # it may have gone before it could say that it is there
        (went(0, 9, elsewhere=True), went(1, 5)),  # its own host saw it go, and we did not
        (went(0, 9, phase="done"), went(1, 5, phase="done")),  # both came to Python's own end
        (went(0, 5, found=False),),
        (went(0, 5),),  # one rank has nobody to go before
    ],
)
def test_where_nobody_saw_who_went_first_the_command_failed(ranks: tuple[RankState, ...]) -> None:
    cause = first_cause(failed(*ranks))
    assert cause is not None
    assert cause.kind == "command_failed"


def test_what_was_seen_of_the_order_is_said_though_it_names_nobody() -> None:
    tied = first_cause(failed(went(0, 9), went(1, 5), went(2, 5)))
    assert tied is not None
    assert tied.rank is None
    assert tied.evidence == ("ranks 1 and 2 were gone at one look: nobody saw which went first",)
    elsewhere = first_cause(failed(went(0, 9, elsewhere=True), went(1, 5)))
    assert elsewhere is not None
    assert elsewhere.evidence == ("nobody saw when rank 0 went",)
    named = first_cause(failed(went(0, 5, phase="done"), went(1, 5)))  # one came to its own end: the other is known
    assert named is not None
    assert (named.kind, named.rank) == ("rank_vanished", 1)


def test_an_exception_outranks_whoever_vanished() -> None:
    cause = first_cause(failed(went(0, 9, exception="ValueError: mine", phase="failed"), went(1, 5)))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_raised", 0)


def test_another_world_is_an_error_though_all_ended_well() -> None:
    well = [went(rank, 5, status=0, end_marker=True) for rank in (0, 1)]
    assert first_cause(failed(*well, command_status=0)) is None
    cause = first_cause(failed(*well, command_status=0, world_sizes=(4, 4)))
    assert cause is not None
    assert cause.kind == "world_differs"
    assert cause.evidence == ("ask for --nproc 4",)
