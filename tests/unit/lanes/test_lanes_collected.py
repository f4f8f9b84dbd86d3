"""The collector part: what the looks say, and nothing that nobody saw."""

from __future__ import annotations

import pytest

from lanemark.lanes.collected import MAX_LOOKS, collector_part, thinned
from lanemark.records.schema_runtime import CollectorPart

AT = "2026-11-28T15:00:{:02d}.000Z"


def manifest(*states, **collector):
    steps = [{"state": state, "at": AT.format(number), "reason": "x"} for number, state in enumerate(states)]
    return {"transitions": steps, **({"collector": collector} if collector else {})}


def look(second, seen, **note):
    return {"at": AT.format(second), "seen": seen, **note}


def test_a_blocking_run_has_no_looks_and_says_why():
    part = collector_part(manifest("prepared", "running", "ok", completed_at=AT.format(9)))
    CollectorPart.model_validate(part)
    assert (part["lifecycle"], part["reattached"], part["looks"]) == ("blocking", False, [])
    assert part["last_polled_at"]["status"] == "absent"
    assert part["completed_at"]["value"] == AT.format(9)


def test_a_run_that_was_seen_unfinished_was_reattached_to_and_another_finished_by_itself():
    states = ("prepared", "detached", "running", "ok")
    attached = collector_part(manifest(*states, looks=[look(1, "running"), look(2, "finished")]))
    alone = collector_part(manifest(*states, looks=[look(2, "finished")]))
    unseen = collector_part(manifest(*states, looks=[]))
    for part in (attached, alone, unseen):
        CollectorPart.model_validate(part)
        assert part["lifecycle"] == "detached"
    assert (attached["reattached"], alone["reattached"], unseen["reattached"]) == (True, False, False)
    assert attached["last_polled_at"]["value"] == AT.format(2)
    assert unseen["last_polled_at"]["status"] == "absent"
    assert alone["completed_at"]["status"] == "absent"


def test_looks_that_saw_the_same_are_counted_and_the_last_one_stays():
    looks = [look(0, "queued"), *(look(n, "running") for n in range(1, 9)), look(9, "unreachable", note="no route")]
    assert thinned(looks) == [
        look(0, "queued"),
        look(1, "running", note="7 more looks saw the same"),
        look(9, "unreachable", note="no route"),
    ]
    again = [look(n, "running") for n in range(4)]
    assert thinned(again) == [look(0, "running", note="2 more looks saw the same"), look(3, "running")]
    assert thinned([]) == []


@pytest.mark.parametrize("count", [MAX_LOOKS, MAX_LOOKS + 1, 5000])
def test_a_record_holds_a_bounded_number_of_looks_and_the_last_is_the_last(count):
    looks = [look(n % 60, ("running", "unreachable")[n % 2]) for n in range(count)]
    kept = thinned(looks)
    assert len(kept) == min(count, MAX_LOOKS)
    assert kept[-1] == looks[-1]
    assert any("left out here" in entry.get("note", "") for entry in kept) == (count > MAX_LOOKS)
