"""A record as text: what a person pastes into a review. Pure.

The order is the order of doubt: what ran, what was asked and what was seen, where it started, through which path it
read, then the figures, then everything that speaks against them. No line is wider than asked, colour is a help and
never the only carrier of a meaning, and with `unicode=False` nothing but ASCII is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.lanes.figures import percentile
from lanemark.report.asked import Asked
from lanemark.report.cells import Group, plain
from lanemark.report.columns import cells, column_widths, cut, pad, to_ascii
from lanemark.report.page import INDENT, Page
from lanemark.report.quantities import count, duration, plural, short_digest
from lanemark.report.series import Step, StepSeries
from lanemark.report.view import RecordView

_LABELS: Final = 10
#: A group whose labels are names (of backends) has a wider column, up to here.
_WIDEST_LABEL: Final = 16
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS: Final = "_.-=+*%#"
_SEVERITY_STYLE: Final = {"failure": "bad", "caveat": "warn", "note": "dim"}


def render(view: RecordView, width: int = 80, *, color: bool = False, unicode: bool = True) -> str:
    """The record as lines of at most `width` cells (at least 40), without a final newline.

    Args:
        view: what to show.
        width: of the terminal, in cells.
        color: whether ANSI attributes may be used.
        unicode: whether anything beyond ASCII may be printed.
    """
    page = Page(width, color=color, unicode=unicode)
    *groups, origin = view.brief
    _head(page, view)
    page.heading("Asked → observed")
    _asked(page, view.asked)
    for group in groups:
        _group(page, group)
    if view.steps is not None:
        _steps(page, view.steps)
    if view.state != "ok":
        _ranks(page, view)
    page.heading("Findings")
    _findings(page, view)
    page.heading("What this does not prove")
    for sentence in view.does_not_prove:
        page.text(sentence, lead="- ")
    _group(page, origin)
    kept = f"{plural(len(view.evidence.rows), 'file')} by digest" if view.evidence.rows else "none was kept"
    page.labelled("evidence", kept, column=_LABELS)
    page.labelled("verify", f"lanemark verify {view.short_id}", column=_LABELS)
    page.text(f"record {view.record_id}", indent="")
    return page.finish()


def _head(page: Page, view: RecordView) -> None:
    receipt = view.headline.receipt
    page.text(view.headline.claim, indent="", style="good" if receipt.quotable else "bad")
    page.text(view.headline.subject, indent="")
    page.text(f"{view.lane} lane · surface {view.surface} · outcome {view.state}", indent="", style="dim")


def _asked(page: Page, asked: Sequence[Asked]) -> None:
    for line in asked:
        same = line.requested.text == line.observed.text and line.agreement == "same"
        shown = line.observed.text if same else f"{line.requested.text} → {line.observed.text}"
        silent = line.agreement == "unknown" and line.observed.status != "observed"
        words = "" if silent or line.agreement == "unconstrained" else f" ({line.words})"
        page.labelled(line.label, shown + words, column=_LABELS, style="warn" if line.agreement == "differs" else "")


def _group(page: Page, group: Group) -> None:
    page.heading(group.title)
    column = max([_LABELS, *(cells(row.label) for row in group.rows if cells(row.label) <= _WIDEST_LABEL)])
    for row in group.rows:
        style = "" if row.cell.status in ("observed", "stated") else "dim"
        page.labelled(row.label, row.cell.text, column=column, style=style)


def spark(steps: Sequence[Step], top_s: float, width: int, *, unicode: bool = True) -> str:
    """Step times as one line of blocks from 0 to `top_s`; the slowest step of each group stands for it.

    Steps above the axis are drawn as `^`: a full block would claim to be to scale.
    """
    blocks = _BLOCKS if unicode else _PLAIN_BLOCKS
    room = max(1, min(width, len(steps)))
    out = []
    for index in range(room):
        some = steps[index * len(steps) // room : (index + 1) * len(steps) // room]
        slowest = max(step.seconds for step in some)
        level = min(len(blocks) - 1, int(slowest / top_s * len(blocks)))
        out.append("^" if slowest > top_s else blocks[level])
    return "".join(out)


def _steps(page: Page, series: StepSeries) -> None:
    """The run as one line, and what its ends and marks mean."""
    if not series.steps or series.top_s <= 0:
        page.labelled("steps", "none was recorded", column=_LABELS)
        return
    warmup, measured = series.part("warmup"), series.part("measured")
    room = page.width - len(INDENT) - _LABELS - 2 - 3
    share = min(len(warmup), max(1, room * len(warmup) // len(series.steps)))
    parts = [
        spark(part, series.top_s, columns, unicode=page.unicode)
        for part, columns in ((warmup, share), (measured, room - share))
        if part
    ]
    page.line(f"{pad('steps', _LABELS)}  {' | '.join(parts)}")
    notes = [f"0 to {duration(series.top_s)}"]
    if warmup:
        notes.append("warm-up | measured" if measured else "warm-up only")
    if series.clipped:
        slowest = series.clipped[0]
        notes.append(f"^ beyond, up to {duration(slowest.seconds)} at step {slowest.number:,}")
    if measured and series.median_s is None:
        median = percentile([step.seconds for step in measured], 0.5)
        notes.append(f"median of the {len(measured):,} recorded {duration(median, 4)}, no receipt")
    page.labelled("", "; ".join(notes), column=_LABELS, style="dim")


def _ranks(page: Page, view: RecordView) -> None:
    """How each rank ended and what it said: only a run that went wrong needs it on the short page."""
    page.heading("Ranks")
    said = view.ranks.columns.index("exception") if "exception" in view.ranks.columns else None
    for line in view.ranks.rows:
        page.labelled(f"rank {line[0].text}", line[1].text, column=_LABELS)
        if said is not None and line[said].status == "observed":
            page.labelled("", line[said].text, column=_LABELS, style="dim")


def _findings(page: Page, view: RecordView) -> None:
    if not view.findings:
        page.text("none")
    for finding in view.findings:
        style = _SEVERITY_STYLE.get(finding.severity, "")
        page.labelled(finding.severity, f"{finding.summary} ({finding.kind})", column=_LABELS, style=style)
        for line in finding.evidence:
            page.labelled("", line, column=_LABELS, style="dim")


@dataclass(frozen=True)
class Column:
    """One column of a listing: its heading, how a row gives its text, and whether it lines up on the right."""

    heading: str
    text: Callable[[Mapping[str, Any]], str]
    right: bool = False


def _field(key: str) -> Callable[[Mapping[str, Any]], str]:
    """The text of a row's field; `-` where it has none."""
    return lambda row: "-" if row.get(key) is None else plain(row[key])


def _moment(key: str) -> Callable[[Mapping[str, Any]], str]:
    """A time stamp to the second, which is what a listing has room for."""
    return lambda row: _field(key)(row).replace("T", " ")[:19]


def _age(row: Mapping[str, Any]) -> str:
    """How long an attempt has been in its state; tenths of seconds would only flicker."""
    age_s = row.get("age_s")
    if age_s is None:
        return "-"
    return f"{age_s:.0f} s" if age_s < 300 else duration(round(age_s))


def _digest(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: "-" if row.get(key) is None else short_digest(str(row[key]))


def _tokens_per_s(row: Mapping[str, Any]) -> str:
    """A throughput only where it may be quoted: see `lanemark.report.headline.receipt_of`."""
    if row.get("lane", "training") != "training":
        return "-"  # only the training lane has one
    figure = row.get("tokens_per_s")
    if not row.get("receipt") or figure is None or row.get("outcome") != "ok":
        return "no receipt"
    return count(figure)


#: What `lanemark list` shows of an index row (`lanemark.ledger.rows.IndexRow`).
RECORD_COLUMNS: Final = (
    Column("record", _digest("id")),
    Column("sealed", _moment("created")),
    Column("preset", _field("preset")),
    Column("device", _field("device_class")),
    Column("ranks", _field("world_size"), right=True),
    Column("mode", _field("mode")),
    Column("compile", _field("compile")),
    Column("data", _field("path_class")),
    Column("tok/s", _tokens_per_s, right=True),
    Column("outcome", _field("outcome")),
)
#: What `lanemark runs` shows of an attempt.
RUN_COLUMNS: Final = (
    Column("run", _field("run_id")),
    Column("state", _field("state")),
    Column("preset", _field("preset")),
    Column("age", _age, right=True),
    Column("where", _field("where")),
    Column("looked", _moment("last_polled_at")),
    Column("record", _digest("record_id")),
    Column("reason", _field("reason")),
)


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column] = RECORD_COLUMNS,
    *,
    width: int | None = None,
    unicode: bool = True,
) -> str:
    """Rows as an aligned table that reads well and pipes well: one line a row, two spaces between columns.

    Args:
        rows: one mapping a line.
        columns: what to show of each row, in order.
        width: cells available; the widest columns are cut with `…` to fit. None never cuts: for output that is piped.
        unicode: whether anything beyond ASCII may be printed.

    Returns:
        The table without a final newline; a heading and nothing else when there are no rows.
    """
    lines = [[column.heading for column in columns], *([column.text(row) for column in columns] for row in rows)]
    if not unicode:
        lines = [[to_ascii(text) for text in line] for line in lines]
    widths = column_widths(lines, width)
    dots = "…" if unicode else "~"
    return "\n".join(
        "  ".join(
            pad(cut(text, room, dots), room, right=column.right)
            for text, room, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )
