"""The way to the first step: geometry that sums, words that say which part to work on, and honest gaps."""

from __future__ import annotations

from typing import Any

import pytest

from lanemark.report.first_step import PARTS, slowest, split_chart, split_table

NONE = dict.fromkeys((name for name, _, _ in PARTS), 0.0)


def rank(number: int, **parts: float) -> dict[str, Any]:
    return {"rank": number, "first_step": {"status": "observed", "source": "x", "value": {**NONE, **parts}}}


BLIND = {"rank": 2, "first_step": {"status": "unavailable", "source": "x", "reason": "no page"}}


def test_segments_are_shares_of_the_longest_way_and_stand_end_to_end() -> None:
    chart = split_chart([rank(0, import_s=2.0, compile_s=6.0, other_s=2.0), rank(1, import_s=5.0)])
    assert chart is not None
    first, second = chart.bars
    assert [(part.slug, part.x, part.width) for part in first.segments] == [
        ("import", 0.0, 20.0), ("compile", 20.0, 60.0), ("other", 80.0, 20.0),
    ]  # fmt: skip
    assert [(part.x, part.width) for part in second.segments] == [(0.0, 50.0)]
    assert chart.legend == (("import", "imports"), ("compile", "compile"), ("other", "other"))
    assert "compile: 6.00 s" in first.segments[1].hint
    assert "rank 0: imports 2.00 s, compile 6.00 s" in chart.description


def test_a_segment_without_room_has_no_words_and_keeps_its_hint() -> None:
    chart = split_chart([rank(0, import_s=1.0, compile_s=99.0)])
    assert chart is not None
    assert [part.words for part in chart.bars[0].segments] == ["", "compile"]
    assert chart.bars[0].segments[0].hint == "imports: 1.00 s"


@pytest.mark.parametrize("ranks", [[], [BLIND], [{"rank": 0}], [rank(0)]])
def test_where_nothing_was_seen_nothing_is_drawn(ranks: list[dict[str, Any]]) -> None:
    assert split_chart(ranks) is None


def test_many_ranks_stand_closer() -> None:
    few, many = split_chart([rank(0, import_s=1.0)]), split_chart([rank(n, import_s=1.0) for n in range(64)])
    assert few is not None
    assert many is not None
    assert many.height / 64 < few.height


def test_the_rank_that_others_wait_for_is_told_without_its_small_parts() -> None:
    cell = slowest([rank(0, import_s=1.0), rank(1, import_s=1.0, compile_s=40.0, shard_s=0.1), BLIND])
    assert cell is not None
    assert cell.text == "compile 40.0 s (rank 1)"
    assert slowest([BLIND]) is None


def test_the_table_has_every_rank() -> None:
    table = split_table([BLIND, rank(0, import_s=2.0), {"rank": 3}])
    assert [line[0].text for line in table.rows] == ["0", "2", "3"]
    assert {len(line) for line in table.rows} == {len(table.columns)}
    assert table.rows[0][1].text == "2.00 s"
    assert (table.rows[1][1].status, "no page" in table.rows[1][1].text) == ("unavailable", True)
