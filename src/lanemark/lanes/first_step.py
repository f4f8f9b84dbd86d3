"""Where a rank's time went from its launch to the end of its first step. Pure.

The beacon's spans overlap on purpose: a compilation lies inside a warm-up, a collective inside a slow step. For
a split that sums, every instant belongs to one part: the innermost cause that is known for it. Pre-warming keeps its
own compilations, because they are what it is for; the second span of that phase is the wait for the ranks that still
compile, and counts as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from lanemark.lanes.reports import RankReport, Span
from lanemark.records.observation import Observation, observed, unavailable

#: Phase of the beacon to the part it counts for, the most telling first: where two overlap, the earlier one has it.
PARTS: Final[dict[str, str]] = {
    "prewarm": "prewarm_s",
    "compile": "compile_s",
    "collective": "first_collective_s",
    "import": "import_s",
    "init_process_group": "init_s",
    "build": "build_s",
    "shard": "shard_s",
}
REST: Final = "other_s"
_SOURCE: Final = "beacon.page and samples.bin"
_RANKED: Final = {phase: place for place, phase in enumerate(PARTS)}


def split(spans: Sequence[Span], begin_ns: int, end_ns: int) -> dict[str, float]:
    """Seconds by part between two instants; they sum to the whole, with `other_s` for what no span explains.

    Args:
        spans: of one rank, in any order; open ones last until `end_ns`.
        begin_ns: the launch, CLOCK_MONOTONIC.
        end_ns: the end of step 0.
    """
    known = []
    prewarmed = False
    for span in sorted(spans, key=lambda span: span.begin_ns):
        phase = "collective" if span.phase == "prewarm" and prewarmed else span.phase
        prewarmed |= phase == "prewarm"
        from_ns, until_ns = max(span.begin_ns, begin_ns), end_ns if span.end_ns is None else min(span.end_ns, end_ns)
        if phase in PARTS and from_ns < until_ns:
            known.append((_RANKED[phase], from_ns, until_ns, PARTS[phase]))
    known.sort()
    edges = sorted({begin_ns, end_ns, *(edge for _, begin, until, _ in known for edge in (begin, until))})
    parts = dict.fromkeys((*PARTS.values(), REST), 0)
    for left_ns, right_ns in pairwise(edges):
        part = next((name for _, begin, until, name in known if begin <= left_ns and right_ns <= until), REST)
        parts[part] += right_ns - left_ns
    return {name: value_ns / 1e9 for name, value_ns in parts.items()}


def first_step_of(report: RankReport, launched_ns: int | None) -> Observation[dict[str, float]]:
    """The split of one rank, or why there is none."""
    if report.beacon is None:
        return unavailable(_SOURCE, "no beacon page could be read")
    if launched_ns is None:
        return unavailable(_SOURCE, "the launch was not stamped")
    if report.samples is None or not report.samples.rows:
        return unavailable(_SOURCE, report.samples_problem or "the rank finished no step")
    end_ns = report.samples.rows[0].end_ns
    if end_ns <= launched_ns:
        return unavailable(_SOURCE, "the step ends before the launch, so the clocks are not one")
    if report.beacon.get("spans_truncated") and report.spans and max(s.begin_ns for s in report.spans) < end_ns:
        return unavailable(_SOURCE, "the page had no room for every phase before the end of step 0")
    return observed(split(report.spans, launched_ns, end_ns), _SOURCE)
