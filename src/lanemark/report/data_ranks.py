"""Each rank's data path, and the steps that waited for it, as a page shows them. Pure.

Records made before this was looked at have none of it: their pages have neither rows nor tables of it, and no blanks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, Row, row, shown
from lanemark.report.quantities import count, duration, percent, plural, size, visible
from lanemark.report.tables import TableView


def class_words(path_class: str) -> str:
    """A class as words: `local_disk` is `local disk`."""
    return visible(path_class).replace("_", " ")


def residency_words(seen: Mapping[str, Any]) -> str:
    """`92.1 % of 1.2 GiB`, and of how many files where not all were looked at."""
    if not seen["bytes"]:
        return "of no bytes"
    part = f"{percent(seen['resident_bytes'] / seen['bytes'])} of {size(seen['bytes'])}"
    sampled = seen["files"] < seen["files_open"]
    return part + (f", in {count(seen['files'])} of {plural(seen['files_open'], 'file')}" if sampled else "")


def stalls_words(seen: Mapping[str, Any]) -> str:
    """How many stalls there were, and the longest of them."""
    if not seen["count"]:
        return "none"
    longest = seen["longest"][0]
    where = f"in step {count(longest['step'])} of rank {longest['rank']}"
    waited = f"{plural(seen['count'], 'step')} waited {duration(seen['wait_s'])} in all"
    return f"{waited}, the longest {duration(longest['wait_s'])} {where}"


def windows_words(seen: Mapping[str, Any]) -> str:
    """Whether the ranks read the case's windows."""
    read, due = seen["read"]["count"], seen["expected"]["count"]
    if seen["as_expected"]:
        return f"exactly the case's {count(due)}, disjoint over the ranks"
    other = "other ones" if read == due else f"{count(read)}"
    return f"NOT the case's {count(due)}: {other}"


def more_rows(data: Mapping[str, Any]) -> tuple[Row, ...]:
    """Rows of the data path that only newer records have."""
    found = []
    if "path_class" in data["requested"]:
        found.append(Row("said to be", Cell(class_words(data["requested"]["path_class"]), "stated")))
    if "windows" in data:
        found.append(row("windows", data["windows"], windows_words))
    if "stalls" in data:
        found.append(row("stalls", data["stalls"], stalls_words))
    return tuple(found)


def by_rank(data: Mapping[str, Any]) -> TableView:
    """One line a rank: its class and the evidence for it."""

    def counters(seen: Mapping[str, Any]) -> str:
        return f"{size(seen['read_bytes'])} fetched, {size(seen['rchar'])} read"

    return TableView(
        "Data path by rank",
        ("rank", "path class", "files", "cached before", "cached after", "read in the window", "windows", "look took"),
        tuple(
            (
                Cell(count(each["rank"]), "stated"),
                shown(each["path_class"], class_words),
                Cell(count(each["files"]), "stated"),
                shown(each["resident_before"], residency_words),
                shown(each["resident_after"], residency_words),
                shown(each["io"], counters),
                shown(each["windows"], lambda value: count(value["count"])),
                shown(each["look_s"], duration),
            )
            for each in data.get("ranks") or ()
        ),
    )


def stalls(data: Mapping[str, Any]) -> TableView:
    """One line a stall, the longest first."""
    seen = value_of(data.get("stalls")) or {"count": 0, "longest": []}
    listed, all_of = len(seen["longest"]), seen["count"]
    title = "Steps that waited for their tokens" + (
        f", the longest {listed} of {count(all_of)}" if listed < all_of else ""
    )
    return TableView(
        title,
        ("rank", "step", "waited", "of a step of", "share"),
        tuple(
            (
                Cell(count(one["rank"]), "stated"),
                Cell(count(one["step"]), "stated"),
                Cell(duration(one["wait_s"]), "observed", "samples.bin"),
                Cell(duration(one["step_s"]), "observed", "samples.bin"),
                Cell(
                    percent(one["wait_s"] / one["step_s"]) if one["step_s"] else "all of it", "observed", "samples.bin"
                ),
            )
            for one in seen["longest"]
        ),
    )
