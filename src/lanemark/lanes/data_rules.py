"""Rules on what a record says of its data path: the evidence and the conclusion may not part. Pure.

Records made before the evidence was kept have nothing to hold the conclusion to, and keep these rules.
"""

from __future__ import annotations

from typing import Final

from lanemark.lanes.rule import Doc, Rule
from lanemark.lanes.windows import added
from lanemark.observe.path_class import combine, contradicts, who_answered
from lanemark.records.observation import observed, value_of


def _class_is_the_ranks(doc: Doc) -> str | None:
    rows, stated = doc["data"].get("ranks"), value_of(doc["data"]["path_class"])
    if not rows or stated is None:
        return None
    seen = [value_of(row["path_class"]) for row in rows]
    if None in seen:
        return f"the data path is called {stated} and that of rank {rows[seen.index(None)]['rank']} was not told"
    combined = combine(seen).value
    return None if combined == stated else f"the data path is called {stated} and the ranks' make it {combined}"


def _cached_needs_evidence(doc: Doc) -> str | None:
    for row in doc["data"].get("ranks") or ():
        if value_of(row["path_class"]) != "page_cache":
            continue
        answered = who_answered(
            observed("local_disk", "mounts"), row["resident_before"], row["resident_after"], row["io"]
        )
        if answered.value != "page_cache":
            return f"rank {row['rank']} is said to have read from the page cache, and its evidence does not say so"
    return None


def _windows_add_up(doc: Doc) -> str | None:
    seen = value_of(doc["data"].get("windows"))
    if seen is None:
        return None
    told = [value_of(row["windows"]) for row in doc["data"].get("ranks") or ()]
    if len(told) != doc["case"]["nproc"] or None in told:
        return "the windows of all ranks are added up and not every rank has told its own"
    total = {"count": sum(each["count"] for each in told), "sum": added(each["sum"] for each in told)}
    if total != seen["read"]:
        return "the windows that the ranks read do not add up to those that are said to be read"
    if seen["as_expected"] != (seen["read"] == seen["expected"]):
        return f"windows.as_expected is {seen['as_expected']}, and what was read and expected says otherwise"
    if not seen["as_expected"] and value_of(doc["data"]["token_parity"]) is True:
        return "token parity is stated over other windows than the case's"
    return None


def _contradiction_is_said(doc: Doc) -> str | None:
    asked, seen = doc["data"]["requested"].get("path_class"), value_of(doc["data"]["path_class"])
    if asked is None or not contradicts(asked, seen):
        return None
    if any(finding["kind"] == "data_class_contradicted" for finding in doc["findings"]):
        return None
    return f"the data path was said to be {asked} and was {seen}, and no finding says so"


#: What holds a data path's class, and its tokens, to their evidence.
DATA_RULES: Final[tuple[Rule, ...]] = (
    Rule("class-is-the-ranks", "One rank on a slow path is the run's path.", _class_is_the_ranks),
    Rule("cached-needs-evidence", "What was in memory is what a benchmark would like.", _cached_needs_evidence),
    Rule("windows-add-up", "Ranks that read the same tokens twice train on half of them.", _windows_add_up),
    Rule("class-contradiction-is-said", "What was declared is held to what was seen.", _contradiction_is_said),
)
