"""A wave as a matrix: which candidate holds which rung, and how each fared on each case. Pure, terminal included.

Two matrices over the same rows. Words stand where a mark could be misread, and no mark relies on its colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.lanes.wave import parity_mark, rung_marks, summary
from lanemark.records.terms import RUNGS
from lanemark.report.columns import cut, pad, to_ascii
from lanemark.report.page import Page
from lanemark.report.quantities import plural, short_digest, visible

#: Rungs as column heads: the full names would make the matrix wider than a terminal.
_RUNG_HEADS: Final = {
    "planned": "plan", "compiled": "comp", "imported": "impt", "executed": "exec", "dispatch_confirmed": "disp",
    "fwd_parity": "fwd", "bwd_parity": "bwd",
}  # fmt: skip
#: What a mark is called, and how it stands in a terminal cell.
MARKS: Final = {
    "held": "●", "missing": "·", "not_asked": "–", "pass": "✓", "fail": "✗", "no_power": "?", "not_run": "·",
}  # fmt: skip
_ASCII: Final = {
    "held": "#",
    "missing": ".",
    "not_asked": "-",
    "pass": "+",
    "fail": "X",
    "no_power": "?",
    "not_run": ".",
}
MARK_WORDS: Final = {
    "held": "held", "missing": "not held", "not_asked": "not asked", "pass": "passed", "fail": "failed",
    "no_power": "no power", "not_run": "not run",
}  # fmt: skip


@dataclass(frozen=True)
class WaveRow:
    """One record of a wave. `rungs` and `cases` are marks in the order of the wave's columns."""

    candidate: str
    scope: str
    state: str
    reason: str
    ready: bool
    record: str
    lifecycle: str
    rungs: tuple[str, ...]
    cases: tuple[str, ...]


@dataclass(frozen=True)
class CaseMatrix:
    """The rows that share a set of cases: dense candidates and sparse ones are never asked the same."""

    title: str
    cases: tuple[str, ...]
    rows: tuple[WaveRow, ...]


@dataclass(frozen=True)
class WaveView:
    """A manifest as it is shown.

    Attributes:
        title, claim, states: the wave's name, how many of its records are ready, and how many stand where.
        created_at, digest: of the manifest.
        rows: every record, in the order in which they ran.
        matrices: cases by family.
        left_out: what was not asked, one line a reason.
        contradicted: rows that are not what their records say.
    """

    title: str
    claim: str
    states: str
    created_at: str
    digest: str
    rows: tuple[WaveRow, ...]
    matrices: tuple[CaseMatrix, ...]
    left_out: tuple[str, ...]
    contradicted: tuple[str, ...]


def wave_view(manifest: Mapping[str, Any], digest: str, contradicted: Sequence[str] = ()) -> WaveView:
    """The view of a manifest (`lanemark.lanes.wave`)."""
    records = manifest["records"]
    matrices = []
    for mode, title in (("dense_attention", "Dense attention"), ("sparse_validation", "Sparse attention")):
        some = [row for row in records if row["mode"] == mode]
        names = tuple(dict.fromkeys(case["name"] for row in some for case in row["parity"]))
        if names:
            matrices.append(CaseMatrix(title, tuple(map(visible, names)), tuple(_row(row, names) for row in some)))
    found = summary(records)  # made again, so that a summary cannot say more than its rows
    states = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in found["states"].items())
    far = [] if manifest["whole"] else ["not every case of the wave has a record"]
    far += [_lived(found)] if found["detached"] else []
    states = "; ".join([*([states] if states else []), *far])
    claim = f"{found['ready']} of {plural(found['records'], 'record')} ready"
    return WaveView(
        title=visible(manifest["wave"]), claim=claim, states=visible(states),
        created_at=visible(manifest["created_at"]),
        digest=visible(digest),
        rows=tuple(_row(row, ()) for row in records), matrices=tuple(matrices),
        left_out=_left_out(manifest["left_out"]), contradicted=tuple(map(visible, contradicted)),
    )  # fmt: skip


def _lived(found: Mapping[str, Any]) -> str:
    """How the runs lived, where not all of them were waited for."""
    left, total = found["detached"], found["records"]
    return "left detached" if left == total else f"{left} of {total} left detached"


def _row(row: Mapping[str, Any], names: Sequence[str]) -> WaveRow:
    marks = rung_marks(row)
    return WaveRow(
        candidate=visible(row["candidate"]),
        scope=visible(f"{row['dtype']} {row['direction']}, {row['arch']}"),
        state=visible(row["state"]),
        reason=visible(row["reason"]),
        ready=row["ready"] is True,
        record=short_digest(row["record_id"]),
        lifecycle=visible(row["lifecycle"]),
        rungs=tuple(marks[rung] for rung in RUNGS),
        cases=tuple(parity_mark(row, name) for name in names),
    )


def _left_out(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in entries:
        what = each.get("case") or f"{each['dtype']} {each['direction']}".strip() or "all"
        grouped.setdefault((each["candidate"], each["reason"]), []).append(what)
    return tuple(
        visible(f"{name}: {', '.join(dict.fromkeys(what))} ({reason.replace('_', ' ')})")
        for (name, reason), what in grouped.items()
    )


def render_wave(view: WaveView, *, width: int = 100, unicode: bool = True) -> str:
    """The wave as lines of at most `width` cells."""
    page = Page(width, color=False, unicode=unicode)
    marks = MARKS if unicode else _ASCII
    page.text(f"wave {view.title}: {view.claim} ({view.states})", indent="")
    page.text(f"{view.created_at}, manifest {view.digest}", indent="")
    page.heading("Rungs")
    room = max([9, *(len(row.candidate) for row in view.rows)])
    room = min(room, 28)
    scope = min(max([5, *(len(row.scope) for row in view.rows)]), 26)
    heads = " ".join(pad(_RUNG_HEADS[rung], 4) for rung in RUNGS)
    page.line(f"{pad('candidate', room)}  {pad('scope', scope)}  {heads}  state".rstrip())
    for row in view.rows:
        cells = " ".join(pad(marks[mark], 4) for mark in row.rungs)
        state = row.state.replace("_", " ")
        names = f"{pad(_cut(row.candidate, room, unicode), room)}  {pad(_cut(row.scope, scope, unicode), scope)}"
        page.line(f"{names}  {cells}  {state}".rstrip())
    page.text(_legend(("held", "missing", "not_asked"), marks), style="dim")
    for matrix in view.matrices:
        page.heading(f"{matrix.title}: parity by case")
        for number, name in enumerate(matrix.cases, 1):
            page.line(f"{number:>2}  {name}")
        page.line(
            f"{pad('candidate', room)}  {pad('scope', scope)}  "
            + "".join(f"{n:>3}" for n in range(1, len(matrix.cases) + 1))
        )
        for row in matrix.rows:
            names = f"{pad(_cut(row.candidate, room, unicode), room)}  {pad(_cut(row.scope, scope, unicode), scope)}"
            page.line(f"{names}  " + "".join(f"  {marks[mark]}" for mark in row.cases))
        page.text(_legend(("pass", "fail", "no_power", "not_run"), marks), style="dim")
    page.heading("Why")
    for row in view.rows:
        page.text(f"{row.record}  {row.candidate} {row.scope}: {row.reason}", lead="- ")
    for heading, lines in (("Not asked", view.left_out), ("NOT what the records say", view.contradicted)):
        if lines:
            page.heading(heading)
            for line in lines:
                page.text(line, lead="- ")
    return page.finish()


def _cut(text: str, room: int, unicode: bool) -> str:  # noqa: FBT001 - as the renderer was told
    return cut(text if unicode else to_ascii(text), room, "…" if unicode else "~")


def _legend(kinds: Sequence[str], marks: Mapping[str, str]) -> str:
    return "   ".join(f"{marks[kind]} {MARK_WORDS[kind]}" for kind in kinds)
