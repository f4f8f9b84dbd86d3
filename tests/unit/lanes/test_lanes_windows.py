"""The windows of a run: one number for a set, the same in any order, and what the case has its ranks read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.lanes import windows
from lanemark.lanes.order import batch_positions, sequence_at
from lanemark.lanes.windows import added, expected, scrambled, sum_of
from lanemark.records.case import Case, DataAsked

CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="ddp", compile="eager", dtype="fp32", steps=7, warmup=2,
    sequence=256, micro_batch=3, grad_accum=2, seed=11, data=DataAsked("shards", "sha256:" + "a" * 64),
)  # fmt: skip


def dealt(case: Case, rank: int, sequences: int) -> list[int]:
    """The windows of one rank, as a loader deals them out: a forward after the other."""
    forwards = range(case.warmup * case.grad_accum, case.steps * case.grad_accum)
    positions: Iterable[int] = itertools.chain.from_iterable(
        batch_positions(one, rank=rank, world_size=case.nproc, micro_batch=case.micro_batch) for one in forwards
    )
    return [place - place % sequences + sequence_at(place, sequences, case.seed) for place in positions]


def test_the_scrambling_is_the_published_one():
    # The first outputs of SplitMix64 seeded with 0 (Vigna's reference code): its state is a multiple of the constant.
    step = 0x9E3779B97F4A7C15
    assert [scrambled(number * step % 2**64) for number in range(3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


@given(st.lists(st.integers(0, 2**62), max_size=30), st.integers(0, 30))
def test_order_does_not_matter_and_parts_add_up(numbers: list[int], cut: int):
    assert sum_of(numbers) == sum_of(reversed(numbers)) == added([sum_of(numbers[:cut]), sum_of(numbers[cut:])])


@pytest.mark.parametrize("sequences", [37, 60, 1_000])
def test_the_ranks_of_a_case_read_what_is_expected_together(sequences: int):
    ranks = [dealt(CASE, rank, sequences) for rank in range(2)]
    assert expected(CASE, sequences) == {"count": 60, "sum": added(map(sum_of, ranks))}
    assert len({*ranks[0], *ranks[1]}) == 60, "also over the end of an epoch every window is read once"


@pytest.mark.parametrize("fault", ["twice", "missing", "foreign", "same rank", "other seed"])
def test_whatever_else_they_read_is_noticed(fault: str):
    first, second = (dealt(CASE, rank, 100) for rank in range(2))
    if fault == "twice":
        second[3] = second[4]
    elif fault == "missing":
        del second[0]
    elif fault == "foreign":
        second[0] += 100
    elif fault == "same rank":
        second = first
    else:
        second = [window - window % 100 + sequence_at(window, 100, 12) for window in second]
    read = {"count": len(first) + len(second), "sum": added([sum_of(first), sum_of(second)])}
    assert read != expected(CASE, 100)


def test_more_windows_than_can_be_walked_again_are_not_guessed_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(windows, "MAX_RECOUNTED", 10)
    with pytest.raises(ValueError, match="60 windows are more than the 10"):
        expected(CASE, 101)
    with pytest.raises(ValueError, match="no sequence"):
        expected(CASE, 0)
