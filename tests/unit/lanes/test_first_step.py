"""Where a rank's time went up to its first step: every instant belongs to one part, and the parts sum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.lanes.first_step import PARTS, REST, first_step_of, split
from lanemark.lanes.reports import RankReport, Span

S = 1_000_000_000
NONE = dict.fromkeys((*PARTS.values(), REST), 0.0)


def span(phase: str, begin_s: float, end_s: float | None) -> Span:
    return Span(phase, int(begin_s * S), None if end_s is None else int(end_s * S), 0)


def test_top_level_phases_fill_their_parts_and_the_rest_is_other() -> None:
    spans = [
        span("start", 0.5, 1), span("import", 1, 4), span("init_process_group", 4, 4.5), span("build", 4.5, 5),
        span("shard", 5, 5.25), span("load", 5.25, 5.5), span("warmup", 5.5, None),
    ]  # fmt: skip
    assert split(spans, 0, 8 * S) == {
        **NONE, "import_s": 3.0, "init_s": 0.5, "build_s": 0.5, "shard_s": 0.25, "other_s": 3.75,
    }  # fmt: skip


def test_what_is_nested_belongs_to_its_innermost_cause() -> None:
    spans = [
        span("warmup", 0, 10), span("compile", 1, 4), span("compile", 2, 3), span("collective", 3, 6), span("shard", 9, 10),
    ]  # fmt: skip
    parts = split(spans, 0, 10 * S)
    assert (parts["compile_s"], parts["first_collective_s"], parts["shard_s"], parts["other_s"]) == (3.0, 2.0, 1.0, 4.0)


def test_prewarming_keeps_its_compilations_and_the_wait_after_it_is_a_collective() -> None:
    spans = [span("prewarm", 1, 6), span("compile", 2, 5), span("prewarm", 6, 8), span("compile", 9, 10)]
    parts = split(spans, 0, 10 * S)
    assert (parts["prewarm_s"], parts["first_collective_s"], parts["compile_s"]) == (5.0, 2.0, 1.0)


def test_only_what_lies_between_the_two_instants_counts() -> None:
    spans = [span("import", -2, 1), span("compile", 3, None), span("build", 20, 30), span("window", 1, 2)]
    parts = split(spans, 0, 4 * S)
    assert (parts["import_s"], parts["compile_s"], parts["build_s"], parts["other_s"]) == (1.0, 1.0, 0.0, 2.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*PARTS, "warmup", "load"]), st.integers(-50, 250), st.none() | st.integers(-50, 250)
        ),
        max_size=30,
    )
)
def test_the_parts_sum_to_the_whole_whatever_the_spans_are(drawn: list[tuple[str, int, int | None]]) -> None:
    spans = [Span(phase, begin, end, 0) for phase, begin, end in drawn]
    parts = split(spans, 0, 200)
    assert all(value >= 0 for value in parts.values())
    assert math.fsum(parts.values()) == pytest.approx(200e-9, rel=1e-12)


@dataclass
class _Row:
    end_ns: int


@dataclass
class _Samples:
    rows: list[_Row] = field(default_factory=list)


def report(end_s: float | None = 5.0, **changes: Any) -> RankReport:
    samples: Any = _Samples([_Row(int(end_s * S))] if end_s is not None else [])
    fields: dict[str, Any] = {"samples": samples, "beacon": {}, "spans": (span("import", 1, 2),)}
    return RankReport(0, **{**fields, **changes})


def test_a_rank_that_was_seen_has_a_split() -> None:
    seen = first_step_of(report(), 0)
    assert seen.value is not None
    assert (seen.value["import_s"], seen.value["other_s"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("rank", "launched_ns", "why"),
    [
        (report(beacon=None), 0, "no beacon page"),
        (report(), None, "not stamped"),
        (report(None), 0, "finished no step"),
        (report(samples=None, samples_problem="it cannot be believed"), 0, "it cannot be believed"),
        (report(), 9 * S, "before the launch"),
        (report(beacon={"spans_truncated": True}), 0, "no room"),
    ],
)
def test_where_something_was_not_seen_there_is_no_split_and_a_reason(
    rank: RankReport, launched_ns: int | None, why: str
) -> None:
    seen = first_step_of(rank, launched_ns)
    assert seen.status == "unavailable"
    assert why in (seen.reason or "")


def test_a_page_that_ran_out_of_rows_after_the_first_step_is_good_enough() -> None:
    spans = (span("import", 1, 2), span("window", 6, None))
    assert first_step_of(report(beacon={"spans_truncated": True}, spans=spans), 0).status == "observed"
