"""The smallest parts of a view: a cell says its value or honestly says that there is none. Pure.

An observation has three statuses, and each must look different to a reader: `observed` prints its value, `absent`
prints the word, `unavailable` prints the word and the reason. No renderer ever receives an empty string or None, so no
renderer can print a blank where somebody failed to look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lanemark.report.quantities import visible

#: `stated` marks what was asked for or declared, which is never an observation.
CellStatus = Literal["observed", "absent", "unavailable", "stated", "withheld"]


@dataclass(frozen=True)
class Cell:
    """One value as a reader sees it.

    Attributes:
        text: never empty, always on one line.
        status: how the text came about.
        source: what was read, or an empty string for what was only stated.
    """

    text: str
    status: CellStatus
    source: str = ""


@dataclass(frozen=True)
class Row:
    """A labelled cell. `code` asks for a fixed-width face: digests, paths, argument lists."""

    label: str
    cell: Cell
    code: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    rows: tuple[Row, ...]


def group(title: str, *rows: Row) -> Group:
    """A group in which neighbours that have no value for one and the same reason share a line.

    Ten lines that say `absent: no driver` hide the one that says something else; every label is kept.
    """
    merged: list[Row] = []
    for item in rows:
        last = merged[-1] if merged else None
        if last and item.cell.status in ("absent", "unavailable") and (last.cell.text == item.cell.text):
            source = (
                last.cell.source
                if item.cell.source in last.cell.source.split(", ")
                else f"{last.cell.source}, {item.cell.source}"
            )
            merged[-1] = Row(f"{last.label} · {item.label}", Cell(item.cell.text, item.cell.status, source), item.code)
        else:
            merged.append(item)
    return Group(title, tuple(merged))


def plain(value: object) -> str:
    """Any JSON value as visible text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return listed(value)
    return visible(str(value)) or "(empty text)"


def listed(values: Sequence[object]) -> str:
    """A list as text; equal neighbours are counted (`8 × NVIDIA H200`)."""
    if not values:
        return "none"
    runs: list[tuple[str, int]] = []
    for value in values:
        text = plain(value)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    return ", ".join(text if times == 1 else f"{times} × {text}" for text, times in runs)


def stated(value: object) -> Cell:
    """A cell for what was asked for, declared, or written by the sealing code itself."""
    return Cell(plain(value), "stated")


def shown(observation: Mapping[str, Any], form: Callable[[Any], str] = plain) -> Cell:
    """A cell for an observation's JSON form. `form` turns an observed value into text."""
    status, source = observation["status"], plain(observation["source"])
    if status == "observed":
        return Cell(form(observation["value"]), "observed", source)
    reason = observation.get("reason")
    if status == "absent":
        return Cell(f"absent: {visible(reason)}" if reason else "absent", "absent", source)
    if status == "unavailable":
        return Cell(
            f"unavailable: {visible(reason)}" if reason else "unavailable: no reason kept", "unavailable", source
        )
    raise ValueError(f"an observation cannot be {status!r}")


def row(label: str, observation: Mapping[str, Any], form: Callable[[Any], str] = plain, *, code: bool = False) -> Row:
    """A labelled observation."""
    return Row(label, shown(observation, form), code)


def stated_row(label: str, value: object, *, code: bool = False) -> Row:
    """A labelled statement."""
    return Row(label, stated(value), code)
