"""A wave as a matrix: which candidate holds which rung, and how each fared on each case. Pure, terminal included.

Two matrices over the same rows. Words stand where a mark could be misread, and no mark relies on its colour.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.lanes.wave import NO_KERNELS, is_as_far_as_a_cpu_goes, parity_mark, rung_marks, summary
from lanemark.records.terms import RUNGS
from lanemark.report.columns import cut, pad, to_ascii
from lanemark.report.page import INDENT, Page
from lanemark.report.quantities import plural, short_digest, visible

#: Rungs as column heads: the full names would make the matrix wider than a terminal.
_RUNG_HEADS: Final = {
    "planned": "plan", "compiled": "comp", "imported": "impt", "executed": "exec", "dispatch_confirmed": "disp",
    "fwd_parity": "fwd", "bwd_parity": "bwd",
}  # fmt: skip
#: What a mark is called, and how it stands in a terminal cell.
MARKS: Final = {
    "held": "●", "shown": "○", "missing": "·", "not_asked": "–", "pass": "✓", "fail": "✗", "no_power": "?",
    "not_run": "·",
}  # fmt: skip
_ASCII: Final = {
    "held": "#",
    "shown": "o",
    "missing": ".",
    "not_asked": "-",
    "pass": "+",
    "fail": "X",
    "no_power": "?",
    "not_run": ".",
}
MARK_WORDS: Final = {
    "held": "held", "shown": "passed, over one not held", "missing": "not held", "not_asked": "not asked",
    "pass": "passed", "fail": "failed", "no_power": "no power", "not_run": "not run",
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
class Why:
    """A reason, and the records of one candidate that it is given for: (record, scope) each."""

    candidate: str
    records: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True)
class WaveView:
    """A manifest as it is shown.

    Attributes:
        title, claim, states: the wave's name, how many of its records are ready, and how many stand where.
        where: the architecture, where all records are of one; else each row's scope says it.
        created_at, digest: of the manifest.
        rows: every record, in the order in which they ran.
        matrices: cases by family.
        note: what holds of all records of a host without a device, or nothing.
        why: why records stand where they stand, those of one candidate and reason together.
        left_out: what was not asked, one line for each reason and what it was given for.
        contradicted: rows that are not what their records say.
    """

    title: str
    claim: str
    states: str
    where: str
    created_at: str
    digest: str
    rows: tuple[WaveRow, ...]
    matrices: tuple[CaseMatrix, ...]
    note: str
    why: tuple[Why, ...]
    left_out: tuple[str, ...]
    contradicted: tuple[str, ...]


def wave_view(manifest: Mapping[str, Any], digest: str, contradicted: Sequence[str] = ()) -> WaveView:
    """The view of a manifest (`lanemark.lanes.wave`)."""
    records, left = manifest["records"], manifest["left_out"]
    archs = {row["arch"] for row in records}
    where = archs.pop() if len(archs) == 1 else ""
    unasked = {(each["candidate"], each["dtype"], each["direction"], each.get("case")) for each in left}
    matrices = []
    for mode, title in (("dense_attention", "Dense attention"), ("sparse_validation", "Sparse attention")):
        some = [row for row in records if row["mode"] == mode]
        names = tuple(dict.fromkeys(case["name"] for row in some for case in row["parity"]))
        if names:
            marked = tuple(_row(row, where, names, unasked) for row in some)
            matrices.append(CaseMatrix(title, tuple(map(visible, names)), marked))
    found = summary(records)  # made again, so that a summary cannot say more than its rows
    states = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in found["states"].items())
    far = [] if manifest["whole"] else ["not every case of the wave has a record"]
    far += [_lived(found)] if found["detached"] else []
    rows = tuple(_row(row, where) for row in records)
    return WaveView(
        title=visible(manifest["wave"]), claim=f"{found['ready']} of {plural(found['records'], 'record')} ready",
        states=visible("; ".join([*([states] if states else []), *far])), where=visible(where),
        created_at=visible(manifest["created_at"]), digest=visible(digest),
        rows=rows, matrices=tuple(matrices), why=_why(rows),
        note=NO_KERNELS if any(is_as_far_as_a_cpu_goes(r["arch"], r["state"], r["reason"]) for r in records) else "",
        left_out=_left_out(left), contradicted=tuple(map(visible, contradicted)),
    )  # fmt: skip


def _lived(found: Mapping[str, Any]) -> str:
    """How the runs lived, where not all of them were waited for."""
    left, total = found["detached"], found["records"]
    return "left detached" if left == total else f"{left} of {total} left detached"


def _row(
    row: Mapping[str, Any], where: str, names: Sequence[str] = (), unasked: Collection[tuple[Any, ...]] = ()
) -> WaveRow:
    marks = rung_marks(row)
    scope = f"{row['dtype']} {row['direction']}"
    about = (row["candidate"], row["dtype"], row["direction"])
    cases = [(name, parity_mark(row, name)) for name in names]
    return WaveRow(
        candidate=visible(row["candidate"]),
        scope=visible(scope if where else f"{scope}, {row['arch']}"),
        state=visible(row["state"]),
        reason=visible(row["reason"]),
        ready=row["ready"] is True,
        record=short_digest(row["record_id"]),
        lifecycle=visible(row["lifecycle"]),
        rungs=tuple(marks[rung] for rung in RUNGS),
        cases=tuple("not_asked" if mark == "not_run" and (*about, name) in unasked else mark for name, mark in cases),
    )


def _why(rows: Sequence[WaveRow]) -> tuple[Why, ...]:
    grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        grouped.setdefault((row.candidate, row.reason), []).append((row.record, row.scope))
    return tuple(Why(candidate, tuple(records), reason) for (candidate, reason), records in grouped.items())


def _left_out(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """One line a reason; candidates that lack the same for the same reason stand in one."""
    cases: dict[tuple[str, str], list[str]] = {}
    for each in entries:
        what = each.get("case") or f"{each['dtype']} {each['direction']}".strip() or "all"
        cases.setdefault((each["candidate"], each["reason"]), []).append(what)
    alike: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (name, reason), what in cases.items():
        alike.setdefault((tuple(dict.fromkeys(what)), reason), []).append(name)
    return tuple(
        visible(f"{', '.join(names)}: {', '.join(what)} ({reason.replace('_', ' ')})")
        for (what, reason), names in alike.items()
    )


def render_wave(view: WaveView, *, width: int = 100, unicode: bool = True) -> str:
    """The wave as lines of at most `width` cells."""
    page = Page(width, color=False, unicode=unicode)
    marks = MARKS if unicode else _ASCII
    page.text(f"wave {view.title}: {view.claim} ({view.states})", indent="")
    on = f" on {view.where}" if view.where else ""
    page.text(f"{view.created_at}{on}, manifest {view.digest}", indent="")
    # Where the widest line of the rungs does not fit, their heads give way first and then the candidates' names.
    state = max([5, *(len(row.state) for row in view.rows)])
    scope = min(max([5, *(len(row.scope) for row in view.rows)]), 26)
    names = max([9, *(len(row.candidate) for row in view.rows)])
    beside = len(INDENT) + scope + state + 6
    cell = 4 if beside + min(names, 28) + 5 * len(RUNGS) - 1 <= page.width else 2
    heads = " ".join(pad(_RUNG_HEADS[rung][:cell], cell) for rung in RUNGS)
    names = min(names, 28, max(9, page.width - beside - len(heads)))

    def opening(row: WaveRow) -> str:
        return f"{pad(_cut(row.candidate, names, unicode), names)}  {pad(_cut(row.scope, scope, unicode), scope)}"

    page.heading("Rungs")
    page.line(f"{pad('candidate', names)}  {pad('scope', scope)}  {heads}  state".rstrip())
    for row in view.rows:
        cells = " ".join(pad(marks[mark], cell) for mark in row.rungs)
        page.line(f"{opening(row)}  {cells}  {row.state.replace('_', ' ')}".rstrip())
    page.text(_legend(("held", "shown", "missing", "not_asked"), marks), style="dim")
    if view.note:
        page.text(view.note, style="dim")
    for matrix in view.matrices:
        page.heading(f"{matrix.title}: parity by case")
        _case_names(page, matrix.cases)
        room = page.width - len(INDENT) - names - scope - 3
        for first, last, each in blocks(len(matrix.cases), room):
            numbers = range(first + 1, last + 1)
            blank = f"{pad('', names)}  {pad('', scope)} "
            if (
                cell == 2 and last > 9
            ):  # two digits do not fit in two cells with a gap between them: one above the other
                page.line((blank + "".join(f"{n // 10 or '':>2}" for n in numbers)).rstrip())
            shown = "".join(f"{n % 10 if each == 2 else n:>{each}}" for n in numbers)
            page.line(f"{pad('candidate', names)}  {pad('scope', scope)} {shown}")
            for row in matrix.rows:
                page.line(f"{opening(row)} " + "".join(f"{marks[mark]:>{each}}" for mark in row.cases[first:last]))
        page.text(_legend(("pass", "fail", "no_power", "not_run", "not_asked"), marks), style="dim")
    page.heading("Why")
    for why in view.why:
        records = ", ".join(f"{scope} ({record})" for record, scope in why.records)
        page.text(f"{why.candidate}, {records}: {why.reason}", lead="- ")
    for heading, lines in (("Not asked", view.left_out), ("NOT what the records say", view.contradicted)):
        if lines:
            page.heading(heading)
            for line in lines:
                page.text(line, lead="- ")
    return page.finish()


def blocks(num_cases: int, room: int) -> list[tuple[int, int, int]]:
    """How the columns of cases are laid out in `room` cells: (first, last + 1, cells a case), one block or more.

    Three cells a case where they all fit, two where only that does, and else several blocks below one another.
    """
    for cell in (3, 2):
        if num_cases * cell <= room:
            return [(0, num_cases, cell)]
    each = max(1, room // 2)
    return [(first, min(first + each, num_cases), 2) for first in range(0, num_cases, each)]


def _case_names(page: Page, names: Sequence[str]) -> None:
    """The cases by number, in two columns where both fit."""
    rows = (len(names) + 1) // 2
    lines = [f"{number:>2}  {name}" for number, name in enumerate(names, 1)]
    room = max(map(len, lines[:rows]), default=0)
    if len(names) > 6 and len(INDENT) + room + 2 + max(map(len, lines)) <= page.width:
        for place in range(rows):
            second = lines[rows + place] if rows + place < len(lines) else ""
            page.line(f"{pad(lines[place], room)}  {second}".rstrip())
        return
    for line in lines:
        page.line(line)


def _cut(text: str, room: int, unicode: bool) -> str:  # noqa: FBT001 - as the renderer was told
    return cut(text if unicode else to_ascii(text), room, "…" if unicode else "~")


def _legend(kinds: Sequence[str], marks: Mapping[str, str]) -> str:
    return "   ".join(f"{marks[kind]} {MARK_WORDS[kind]}" for kind in kinds)
