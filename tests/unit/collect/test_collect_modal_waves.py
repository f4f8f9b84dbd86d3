"""Waves: what is launched next, under how many at once and how many dollars; resumed without launching anything twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.collect.modal_waves import (
    Entry,
    Wave,
    dollars_until,
    first_trustworthy,
    following,
    load,
    save,
    states,
)
from lanemark.records.errors import LedgerError


def wave(*costs: float, at_once: int = 2, max_dollars: float = 100.0) -> Wave:
    entries = tuple(Entry(("training", f"--seed={n}"), cost) for n, cost in enumerate(costs))
    return Wave("test", entries, at_once, max_dollars)


def test_no_more_than_so_many_are_under_way_and_they_begin_in_order() -> None:
    new = wave(1, 1, 1)
    assert following(new).launch == (0, 1)
    begun = new.with_entry(0, stage="launched", run_id="a").with_entry(1, stage="launching", run_id="b")
    assert following(begun).launch == ()
    assert following(begun).collect == (0, 1)
    ended = begun.with_entry(0, stage="ended", outcome="ok", spent_dollars=0.5)
    assert following(ended).launch == (2,)


def test_the_cap_counts_what_running_ones_can_cost_and_what_ended_ones_did() -> None:
    new = wave(6, 6, 3, max_dollars=10, at_once=3)
    assert following(new).launch == (0, 2), "the second does not fit now, and holds nobody up"
    begun = new.with_entry(0, stage="launched").with_entry(2, stage="launched")
    assert following(begun) == replace(following(begun), launch=(), over=False)
    cheap = begun.with_entry(0, stage="ended", spent_dollars=0.5).with_entry(2, stage="ended", spent_dollars=0.5)
    assert following(cheap).launch == (1,)
    dear = begun.with_entry(0, stage="ended", spent_dollars=5.0).with_entry(2, stage="ended", spent_dollars=2.0)
    assert following(dear).launch == ()
    assert (following(dear).over, following(dear).capped) == (True, (1,))
    unknown = begun.with_entry(0, stage="ended").with_entry(2, stage="ended")
    assert unknown.dollars == 9, "what is not known counts as the most it can have been"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=8), st.integers(1, 4), st.floats(0, 40), st.lists(st.booleans()),
)  # fmt: skip
def test_a_wave_comes_to_an_end_and_never_passes_its_cap(
    costs: list[float], at_once: int, cap: float, order: list[bool]
) -> None:
    state = wave(*costs, at_once=at_once, max_dollars=cap)
    for turn in range(200):
        todo = following(state)
        if todo.over:
            break
        for number in todo.launch:
            assert state.entries[number].stage == "waiting"
            state = state.with_entry(number, stage="launched", run_id=str(number))
        assert state.dollars <= cap + 1e-9
        assert sum(entry.stage == "launched" for entry in state.entries) <= at_once
        under_way = following(state).collect
        if under_way and (turn >= len(order) or order[turn]):
            number = under_way[turn % len(under_way)]
            half = state.entries[number].at_most_dollars / 2
            state = state.with_entry(number, stage="ended", outcome="ok", spent_dollars=half)
    assert following(state).over
    assert all(entry.stage in ("ended", "waiting") for entry in state.entries)


def test_a_wave_is_resumed_as_it_was_left_with_the_limits_of_today(tmp_path: Path) -> None:
    path = tmp_path / "waves" / "w.json"
    new = wave(1, 2)
    assert load(path, new) == new
    left = replace(
        new.with_entry(0, stage="launching", run_id="r-1", earlier=("r-0",)), began_at="2026-01-01T00:00:00.000Z"
    )
    save(path, left)
    assert load(path, replace(new, max_dollars=5.0)) == replace(left, max_dollars=5.0)
    path.write_text("{}")
    with pytest.raises(LedgerError) as caught:
        load(path, new)
    assert caught.value.slug == "attempt-unreadable"


def test_an_edited_file_is_another_wave_and_other_limits_are_not() -> None:
    new = wave(1, 2)
    assert replace(new, max_dollars=1.0, at_once=9).key == new.key
    assert wave(1).key != new.key


def test_the_first_trustworthy_result_is_the_first_receipt_and_all_dollars_until_then_count() -> None:
    begun = wave(4, 4, 4, 4).with_entry(
        0, stage="ended", outcome="error", receipt=False, spent_dollars=1.0, ended_at="1"
    )
    begun = begun.with_entry(1, stage="ended", outcome="ok", receipt=True, spent_dollars=2.0, ended_at="2")
    begun = begun.with_entry(2, stage="launched")
    first = first_trustworthy(begun)
    assert first is not None
    assert first.spent_dollars == 2.0
    assert dollars_until(begun, "2") == 1.0 + 2.0 + 4.0
    assert first_trustworthy(wave(1)) is None
    assert dollars_until(begun.with_entry(1, spent_dollars=None), "2") is None
    assert states(begun.entries) == {"error": 1, "ok": 1, "launched": 1, "waiting": 1}
