"""Naming a hang from looks: what is named, with which rank, and above all what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looks_made import SECOND, flight, growing, lasting, look, rank

from lanemark.diagnose.hang import (
    DATA_STALL_S,
    DETECTORS,
    HangContext,
    infrastructure_hang,
    name_hang,
    same_collective,
)
from lanemark.diagnose.one_look import PREWARM_BARRIER
from lanemark.records.look import Look, RankLook

CONTEXT = HangContext(collective_timeout_s=600.0, preset="dense-nano", warmup=3)


def kinds(looks: tuple[Look, ...], context: HangContext = CONTEXT) -> tuple[str, int | None] | None:
    finding = name_hang(looks, context)
    return None if finding is None else (finding.kind, finding.rank)


# --- compile divergence -------------------------------------------------------------------------------------------


def building(
    *ranks: RankLook, numbers: tuple[int, ...] = (1,), seconds: tuple[float, ...] = (5.0, 5.5, 6.0)
) -> tuple[Look, ...]:
    """Three looks in which the caches of some ranks grow."""
    looks = lasting(*ranks, seconds=seconds)
    for number in numbers:
        looks = growing(looks, number, (3, 5, 8))
    return looks


def test_a_rank_that_builds_while_the_other_waits_is_compile_divergence() -> None:
    finding = name_hang(building(rank(0), rank(1, "compile", children=("g++", "cc1plus"))), CONTEXT)
    assert finding is not None
    assert (finding.kind, finding.rank, finding.severity) == ("compile_divergence", 1, "failure")
    assert finding.summary == "rank 1 is compiling for 3 s while rank 0 waits in all_gather_single"
    assert any("running cc1plus, g++; 8 new cache files" in line for line in finding.evidence)


def test_being_in_the_compiler_or_running_one_is_no_building() -> None:
    """A warm rank traces, and asks g++ which instructions the processor has; it leaves no file."""
    assert kinds(lasting(rank(0), rank(1, "compile"))) is None
    assert kinds(lasting(rank(0), rank(1, "compile", children=("g++", "cc1plus")))) is None


def test_several_ranks_that_build_are_named_together_and_none_alone() -> None:
    ranks = [rank(n, "compile") if n in (1, 3) else rank(n) for n in range(8)]
    finding = name_hang(building(*ranks, numbers=(1, 3)), CONTEXT)
    assert finding is not None
    assert finding.rank is None
    assert finding.summary.startswith("ranks 1 and 3 are compiling for 3 s while ranks 0, 2, 4-7 wait")


def test_eight_warm_ranks_tracing_on_two_cores_are_no_hang() -> None:
    """Seven seconds between the first rank and the last are usual there, and none of them builds anything."""
    ranks = [rank(n) if n < 3 else rank(n, "compile", compile_ns=0) for n in range(8)]
    assert kinds(lasting(*ranks, seconds=(4.0, 7.0, 10.0))) is None


def test_a_cold_start_in_which_all_ranks_build_is_no_divergence_while_the_last_one_is_only_slower() -> None:
    waiting = rank(0, compile_ns=20 * SECOND, new_cache_files=60)
    slower = rank(1, "compile", since_ns=1_000 * SECOND)
    assert kinds(building(waiting, slower, seconds=(22.0, 23.0, 24.0))) is None
    assert kinds(building(waiting, slower, seconds=(40.5, 41.0, 41.5))) == ("compile_divergence", 1)


def test_in_a_shared_cache_compilers_must_run_for_longer_than_the_waiting_ranks_needed() -> None:
    """There nobody can tell whose files are whose, and a lock makes one rank wait for another."""
    waiting = rank(0, compile_ns=4 * SECOND, new_cache_files=None)
    late = rank(1, "compile", children=("cc1plus",), new_cache_files=None)
    assert kinds(lasting(waiting, late, seconds=(8.0, 10.0, 11.9))) is None, "compilers for 3.9 s, and 4 s were needed"
    assert kinds(lasting(waiting, late, seconds=(8.0, 11.0, 12.5))) is None, "it held in one look only"
    assert kinds(lasting(waiting, late, seconds=(7.0, 11.5, 12.0))) == ("compile_divergence", 1)


@pytest.mark.parametrize("phase", ["collective", "prewarm"])
def test_the_barrier_after_prewarm_accuses_nobody(phase: str) -> None:
    waiting = rank(0, phase, label=PREWARM_BARRIER)
    assert kinds(building(waiting, rank(1, "compile"), seconds=(100.0, 200.0, 300.0))) is None


def test_what_a_rank_built_in_prewarm_is_not_held_against_it_later() -> None:
    before = rank(1, "compile", collectives=2, new_cache_files=20)
    waiting = rank(0, label=PREWARM_BARRIER, collectives=3)
    looks = (look(waiting, before, at_s=2.0), *lasting(rank(0), rank(1, "compile", new_cache_files=60)))
    assert kinds(looks) is None
    assert kinds((looks[0], *building(rank(0), rank(1, "compile")))) == ("compile_divergence", 1)


def test_waiting_for_half_the_time_out_is_evidence_whatever_the_compiler_does() -> None:
    looks = lasting(rank(0), rank(1, "compile"), seconds=(14.0, 14.5, 15.0))
    assert kinds(looks, replace(CONTEXT, collective_timeout_s=20.0)) == ("compile_divergence", 1)
    assert kinds(looks) is None


def test_a_rank_that_compiles_behind_the_waiting_one_is_not_waited_for() -> None:
    """Its own backward pass is compiled after it took part in the collective: someone else is late."""
    assert kinds(building(rank(0, collectives=10), rank(1, "compile", collectives=10))) is None


def test_without_hooks_a_stack_or_a_child_shows_the_compiler() -> None:
    stack = ("_run_compile_cmd (torch/_inductor/cpp_builder.py:600)",)
    assert kinds(building(rank(0), rank(1, "warmup", collectives=9, stack=stack))) == ("compile_divergence", 1)
    assert kinds(building(rank(0), rank(1, "warmup", collectives=9, children=("cc1plus",)))) is not None
    assert kinds(building(rank(0), rank(1, "warmup", collectives=9))) is None


def test_compiling_after_the_warm_up_has_a_class_of_its_own() -> None:
    looks = building(rank(0, step=7), rank(1, "compile", step=7))
    assert kinds(looks) == ("recompiled_after_warmup", 1)


def test_one_look_names_nothing() -> None:
    assert kinds(building(rank(0), rank(1, "compile"))[:1]) is None


# --- stopped, dead ------------------------------------------------------------------------------------------------


def test_a_stopped_rank_explains_everything() -> None:
    assert kinds(building(rank(0), rank(1, "compile", process_state="T"))) == ("rank_stopped", 1)


def test_a_rank_that_is_gone_is_not_a_hang() -> None:
    assert kinds(building(rank(0), rank(1, "compile", alive=False))) is None


# --- data ---------------------------------------------------------------------------------------------------------


def starved(number: int, **changes: object) -> RankLook:
    return rank(number, "window", waiting_for_data=True, step=5, **changes)


def test_a_loader_that_does_not_come_back_is_a_data_stall() -> None:
    looks = lasting(rank(0, step=5), starved(1), seconds=(7.5, 8.0, 8.5))
    finding = name_hang(looks, CONTEXT)
    assert finding is not None
    assert (finding.kind, finding.rank) == ("data_stall", 1)
    assert finding.summary == "rank 1 has waited for data for 6 s"


def test_a_little_waiting_for_data_is_no_stall() -> None:
    assert DATA_STALL_S == 5.0
    assert kinds(lasting(rank(0, step=5), starved(1), seconds=(5.0, 6.0, 7.9))) is None


def test_a_loader_that_computes_is_slow_and_not_stalled() -> None:
    assert kinds(lasting(rank(0, step=5), starved(1, process_state="R"), seconds=(9.0, 9.5))) is None


def test_data_is_not_blamed_while_another_rank_works() -> None:
    looks = lasting(starved(0), rank(1, "checkpoint"), seconds=(9.0, 9.5))
    assert kinds(looks) is None


def test_opening_the_data_may_take_longer_than_a_step_s_batch() -> None:
    loading = rank(1, "load", collectives=0, step=-1)
    assert kinds(lasting(rank(0), loading, seconds=(9.0, 9.5))) is None
    assert kinds(lasting(rank(0), loading, seconds=(24.0, 24.5))) == ("data_stall", 1)


# --- a collective that a rank does not come to ---------------------------------------------------------------------


def missed(*, seconds: tuple[float, ...] = (8.0, 8.5), quiet_s: float = 6.0, **changes: object) -> tuple[Look, ...]:
    """Rank 0 waits in its second operation, which DDP entered from C++; rank 1 has done one and sleeps."""
    waiting = rank(0, "window", step=5, flight=flight("gloo:broadcast", "gloo:all_reduce"))
    late = {
        "step": 5,
        "flight": (replace(flight("gloo:broadcast")[0], state="completed"),),
        "stack": ("main (a.py:3)",),
    }
    return lasting(waiting, rank(1, **{"phase": "window", **late, **changes}), seconds=seconds, quiet_s=quiet_s)


def test_a_rank_that_sleeps_elsewhere_while_the_others_wait_for_it_is_named_with_its_place() -> None:
    finding = name_hang(missed(), CONTEXT)
    assert finding is not None
    assert (finding.kind, finding.rank) == ("collective_missed", 1)
    said = "rank 1 has not entered all_reduce, operation 2, in which rank 0 waits; it is at main (a.py:3)"
    assert finding.summary == said


@pytest.mark.parametrize(
    "changes",
    [
        {"process_state": "R"},  # it computes
        {"flight": None},  # it did not answer
        {"flight": flight("gloo:broadcast", "gloo:all_reduce")},  # it came
        {"flight": ()},  # of another group, perhaps: its last operation is not the one before
        {"children": ("cc1plus",)},
        {"phase": "checkpoint"},
        {"quiet_s": 4.0},
        {"seconds": (8.0,)},
    ],
    ids=str,
)
def test_a_rank_that_may_only_be_late_is_not_named_as_missed(changes: dict[str, Any]) -> None:
    assert kinds(missed(**changes)) is None


# --- mismatched collective ----------------------------------------------------------------------------------------


def test_flight_recorders_name_both_operations_at_the_first_number_they_differ() -> None:
    one = rank(0, label="all_reduce", flight=flight("gloo:broadcast", "gloo:all_reduce"))
    other = rank(1, label="all_gather", collectives=11, flight=flight("gloo:broadcast", "gloo:all_gather"))
    finding = name_hang(lasting(one, other), CONTEXT)
    assert finding is not None
    assert finding.kind == "collective_mismatch"
    assert finding.rank is None, "of two ranks neither is the odd one"
    assert "operation 2: rank 0 in all_reduce, rank 1 in all_gather" in finding.summary


def test_of_three_ranks_the_one_that_differs_is_named() -> None:
    finding = name_hang(lasting(rank(0), rank(1, label="barrier"), rank(2)), CONTEXT)
    assert finding is not None
    assert (finding.kind, finding.rank) == ("collective_mismatch", 1)


def test_ranks_that_only_differ_in_how_far_they_are_are_no_mismatch() -> None:
    assert kinds(lasting(rank(0, collectives=10), rank(1, label="barrier", collectives=11))) is None


def test_a_moving_page_is_no_mismatch() -> None:
    before, after = look(rank(0), rank(1, label="barrier")), look(rank(0), rank(1, label="barrier", sequence=42))
    assert kinds((before, replace(after, at_ns=after.at_ns + SECOND))) is None


def test_a_mismatch_is_not_concluded_while_a_rank_still_works() -> None:
    assert kinds(lasting(rank(0), rank(1, label="barrier"), rank(2, "window"))) is None


# --- infrastructure -----------------------------------------------------------------------------------------------


def test_all_ranks_in_one_collective_is_the_machine_in_the_diagnostic_preset_only() -> None:
    looks = lasting(rank(0), rank(1), quiet_s=12.0)
    assert kinds(looks, replace(CONTEXT, preset="diagnostic")) == ("infrastructure_hang", None)
    assert kinds(looks) is None
    assert same_collective(looks)
    short = lasting(rank(0), rank(1), quiet_s=3.0)
    assert infrastructure_hang(short, replace(CONTEXT, preset="diagnostic")) is None


def test_a_gpu_rank_waits_where_its_flight_recorder_says() -> None:
    waiting = rank(0, "warmup", flight=flight("nccl:all_gather"))
    finding = name_hang(building(waiting, rank(1, "compile")), CONTEXT)
    assert finding is not None
    assert finding.kind == "compile_divergence"
    assert "waits in nccl:all_gather" in finding.summary


# --- nothing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["checkpoint", "drain", "window", "warmup", "import", "init_process_group", "done"])
def test_ranks_at_work_or_at_the_end_are_no_hang(phase: str) -> None:
    assert kinds(lasting(rank(0), rank(1, phase), seconds=(20.0, 40.0, 60.0))) is None


def test_no_look_no_name() -> None:
    assert name_hang((), CONTEXT) is None
    assert len(DETECTORS) == len(set(DETECTORS))


RANK_LOOKS = st.builds(
    RankLook,
    rank=st.integers(0, 3),
    alive=st.booleans(),
    phase=st.sampled_from([None, "collective", "compile", "warmup", "window", "load", "failed"]),
    label=st.sampled_from([None, "", "barrier", PREWARM_BARRIER]),
    since_ns=st.none() | st.integers(0, 2**63),
    step=st.none() | st.integers(-1, 9),
    sequence=st.none() | st.integers(0, 9),
    collectives=st.none() | st.integers(0, 3),
    compile_ns=st.none() | st.integers(0, 2**40),
    process_state=st.sampled_from([None, "R", "S", "T"]),
    children=st.none() | st.just(()) | st.just(("cc1plus",)),
    new_cache_files=st.none() | st.integers(0, 3),
    waiting_for_data=st.none() | st.booleans(),
    flight=st.none() | st.just(()) | st.just(flight("a", "b")) | st.just(flight("a", "c")),
    stack=st.none() | st.just(("f (g.py:1)",)),
)
LOOKS = st.lists(
    st.builds(
        Look,
        number=st.integers(1, 9),
        at_ns=st.integers(0, 2**63),
        launched_ns=st.integers(0, 2**63),
        quiet_s=st.floats(0, 1e6),
        depth=st.sampled_from(["shallow", "deep"]),
        ranks=st.lists(RANK_LOOKS, max_size=4).map(tuple),
    ),
    max_size=4,
).map(tuple)


@given(LOOKS)
def test_whatever_was_seen_the_detectors_answer(looks: tuple[Look, ...]) -> None:
    """Looks may be read back from a damaged attempt: a detector that raises would hide the record."""
    finding = name_hang(looks, CONTEXT)
    assert finding is None or finding.evidence


@given(LOOKS)
def test_a_look_survives_being_written_down(looks: tuple[Look, ...]) -> None:
    import json

    from lanemark.records.look import look_of

    for one in looks:
        assert look_of(json.dumps(one.to_json())) == one
