"""A straggler is the same rank each time; a busy host makes now this one late and now that one."""

from __future__ import annotations

import random

from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.diagnose.stragglers import MIN_STEPS, straggler

STEP_NS = 100_000_000


def run_of(num_ranks: int, steps: int, late: dict[int, dict[int, int]]) -> Snapshot:
    """Arrivals of a run whose ranks are all on time, but for `late`: rank → step → ns."""
    arrivals = {
        rank: {step: step * STEP_NS + rank * 1000 + late.get(rank, {}).get(step, 0) for step in range(steps)}
        for rank in range(num_ranks)
    }
    ranks = tuple(RankState(rank, 1, 0, end_marker=True, phase="done") for rank in range(num_ranks))
    return Snapshot(ranks, "all_ended", warmup=2, arrivals=arrivals)


def test_the_rank_that_comes_last_every_time_is_named() -> None:
    finding = straggler(run_of(4, 30, {2: dict.fromkeys(range(30), STEP_NS // 5)}))
    assert finding is not None
    assert (finding.kind, finding.severity, finding.rank) == ("straggler", "caveat", 2)
    assert finding.summary == "rank 2 arrived last at 28 of 28 steps, 20% of a step behind"


def test_of_two_ranks_the_later_one_is_the_straggler() -> None:
    finding = straggler(run_of(2, 20, {0: dict.fromkeys(range(20), STEP_NS // 4)}))
    assert finding is not None
    assert finding.rank == 0


def test_being_late_by_chance_is_no_straggling() -> None:
    chance = random.Random(7)
    late: dict[int, dict[int, int]] = {rank: {} for rank in range(8)}
    for step in range(60):
        late[chance.randrange(8)][step] = STEP_NS // 3
    assert straggler(run_of(8, 60, late)) is None


def test_a_little_late_is_on_time() -> None:
    assert straggler(run_of(4, 30, {2: dict.fromkeys(range(30), STEP_NS // 25)})) is None


def test_the_warm_up_does_not_count() -> None:
    assert straggler(run_of(4, 30, {2: {0: 30 * STEP_NS, 1: 10 * STEP_NS}})) is None


def test_too_few_steps_or_ranks_tell_nothing() -> None:
    late = {1: dict.fromkeys(range(30), STEP_NS // 2)}
    assert straggler(run_of(2, 2 + MIN_STEPS - 1, late)) is None
    assert straggler(run_of(2, 2 + MIN_STEPS, late)) is not None
    assert straggler(run_of(1, 30, {})) is None


def test_a_rank_without_arrivals_leaves_it_open() -> None:
    full = run_of(2, 30, {1: dict.fromkeys(range(30), STEP_NS // 2)})
    assert straggler(Snapshot(full.ranks, "all_ended", warmup=2, arrivals={0: full.arrivals[0]})) is None
