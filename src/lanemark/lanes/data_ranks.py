"""Each rank's own data path: its class with the evidence, the windows it read, the steps in which it waited. Pure.

A *data stall* is a measured step in which a rank waited for its tokens for longer than a tenth of what a step of its
usually takes without waiting. Short waits are there in every loop; a tenth of a step is seen in the 95th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lanemark.lanes.figures import percentile, rank_split
from lanemark.lanes.reports import RankReport, looked_up
from lanemark.lanes.windows import added, expected
from lanemark.observe.path_class import combine, who_answered
from lanemark.records.case import Case
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, observed, unavailable

#: A loop that waits for its data longer than this share of the window is measuring storage too (facts: field notes).
DATA_WAIT_SHARE: Final = 0.01
#: See the module's docstring.
STALL_SHARE: Final = 0.1
#: A wait shorter than this is the scheduler's, however short the step: the diagnostic preset's takes 3 ms.
STALL_LEAST_S: Final = 0.001
#: The longest stalls are listed, and all are counted.
MAX_STALLS: Final = 32
_SAMPLES: Final = "samples.bin of every rank"
_WINDOWS: Final = "the ranks' loaders (end.json)"


def rank_rows(ranks: Sequence[RankReport]) -> list[dict[str, Any]]:
    """`data.ranks`: one row a rank that told of its data path."""
    return [_row(report) for report in ranks if report.observed is not None]


def _row(report: RankReport) -> dict[str, Any]:
    seen, end = report.observed or {}, (report.end or {})
    classes = [entry["path_class"] for entry in seen.get("data_files", [])]
    before, after = seen.get("data_path") or {}, end.get("data_path") or {}
    none = "the rank left no end marker" if report.end is None else "the rank's program did not look"
    residency = (before.get("resident_before"), after.get("resident_after"))
    answered = who_answered(combine(classes), *residency, after.get("io"))

    def told(doc: dict[str, Any], key: str, source: str) -> dict[str, Any]:
        return looked_up(doc, key, source) if key in doc else unavailable(source, none).to_json()

    look_s = after.get("look_s")
    return {
        "rank": report.rank,
        "path_class": answered.to_json(),
        "files": len(classes),
        "resident_before": told(before, "resident_before", "observed.json"),
        "resident_after": told(after, "resident_after", "end.json"),
        "io": told(after, "io", "/proc/self/io"),
        "windows": observed(windows, _WINDOWS).to_json()
        if (windows := end.get("windows")) is not None
        else unavailable(_WINDOWS, none).to_json(),
        "look_s": observed(look_s, "CLOCK_MONOTONIC").to_json()
        if look_s is not None
        else unavailable("CLOCK_MONOTONIC", none).to_json(),
    }


def windows_part(case: Case, ranks: Sequence[RankReport]) -> Observation[dict[str, Any]]:
    """`data.windows`: what all ranks read together, against what the case has them read (`lanemark.lanes.windows`)."""
    if case.data.kind == "synthetic":
        return unavailable(_WINDOWS, "made-up tokens are no part of a data set")
    told = [(report.end or {}).get("windows") for report in ranks]
    known = [windows for windows in told if isinstance(windows, dict)]
    if len(known) < len(ranks):
        return unavailable(_WINDOWS, "not every rank told which windows it read")
    sequences = {windows["sequences"] for windows in known}
    if len(sequences) > 1:
        return unavailable(_WINDOWS, f"the ranks count {sorted(sequences)[:4]} sequences in the same shards")
    try:
        due = expected(case, next(iter(sequences)))
    except ValueError as error:
        return unavailable(_WINDOWS, str(error))
    read = {"count": sum(windows["count"] for windows in known), "sum": added(windows["sum"] for windows in known)}
    source = f"{_WINDOWS}; the order of the seed, walked again at sealing"
    value = {"sequences": next(iter(sequences)), "read": read, "expected": due, "as_expected": read == due}
    return observed(value, source)


def windows_problem(case: Case, ranks: Sequence[RankReport]) -> str | None:
    """Why the ranks did not read the case's windows; None when they did, or when nobody can tell."""
    seen = windows_part(case, ranks).value
    if seen is None or seen["as_expected"]:
        return None
    read, due = seen["read"], seen["expected"]
    if read["count"] != due["count"]:
        return f"the ranks read {read['count']} windows of tokens where the case has {due['count']}"
    return "the ranks read other windows of tokens than the case has: one is missing, foreign or read twice"


def _stalls(report: RankReport) -> list[dict[str, Any]]:
    """A rank's stalls, in the order of its steps."""
    if report.samples is None:
        return []
    rows = report.samples.rows[report.samples.warmup :]
    waits = [max(0, row.data_ready_ns - row.begin_ns) / 1e9 for row in rows]
    if not waits:
        return []
    takes = [(row.end_ns - row.begin_ns) / 1e9 for row in rows]
    usual = percentile([whole - wait for whole, wait in zip(takes, waits, strict=True)], 0.5)
    limit = max(STALL_SHARE * usual, STALL_LEAST_S)
    return [
        {"rank": report.rank, "step": report.samples.warmup + index, "wait_s": wait, "step_s": takes[index]}
        for index, wait in enumerate(waits)
        if wait > limit
    ]


def stalls_part(ranks: Sequence[RankReport]) -> Observation[dict[str, Any]]:
    """`data.stalls`: how many, and the longest of them, longest first."""
    if any(report.samples is None for report in ranks):
        return unavailable(_SAMPLES, "not every rank's steps could be read")
    found = sorted((one for report in ranks for one in _stalls(report)), key=lambda one: -one["wait_s"])
    waited = sum(one["wait_s"] for one in found)
    return observed({"count": len(found), "wait_s": waited, "longest": found[:MAX_STALLS]}, _SAMPLES)


def wait_finding(ranks: Sequence[RankReport]) -> Finding | None:
    """The finding of a loop that waited for its data, with the longest waits as its evidence."""
    worst, share = None, DATA_WAIT_SHARE
    for report in ranks:
        split = rank_split(report.samples) if report.samples is not None else None
        if split is not None and split.window_s and split.data_wait_s / split.window_s > share:
            worst, share = report, split.data_wait_s / split.window_s
    if worst is None:
        return None
    longest = sorted((one for report in ranks for one in _stalls(report)), key=lambda one: -one["wait_s"])
    evidence = tuple(
        f"rank {one['rank']}, step {one['step']}: waited {one['wait_s']:.4f} s of {one['step_s']:.4f} s"
        for one in longest[:8]
    )
    summary = f"rank {worst.rank}, which waited longest, waited for data for {100 * share:.1f} % of the window"
    return Finding("data_wait", "caveat", summary, evidence)
