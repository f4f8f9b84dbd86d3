"""`lanemark list`: records, newest first. Everything but the table is written while it is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Final

from lanemark.cli.asked import one_of, whole
from lanemark.cli.filtering import add_filters, filters
from lanemark.cli.parsing import advise, home, parser, terminal_width, unicode_output
from lanemark.ledger.ledger import Listing, Streaming
from lanemark.ledger.location import open_ledger
from lanemark.ledger.rows import IndexRow

_FORMATS: Final = ("table", "json", "jsonl", "csv")


def main(args: list[str]) -> int:
    """Print the records that match. Exit 0, also when none does."""
    verb = parser("list", "List records, newest first.")
    add_filters(verb)
    verb.add_argument("--limit", default="50", metavar="N", help="at most this many, or `all` (default 50)")
    verb.add_argument(
        "--latest", action="store_true",
        help="only the newest of each series: one lane, preset, device class, world size, mode and compile posture",
    )  # fmt: skip
    verb.add_argument("--format", default="table", metavar="F", help=f"{', '.join(_FORMATS)} (default table)")
    verb.add_argument("--json", action="store_true", help="the same as --format json")
    asked = verb.parse_args(args)
    form = "json" if asked.json else one_of(asked.format, "--format", _FORMATS)
    limit = None if asked.limit == "all" else whole(asked.limit, "--limit", 1, 10_000_000)
    wanted = filters(asked, limit)
    ledger = open_ledger(home())
    found: Listing | Streaming = ledger.list(**wanted._asdict(), latest=True) if asked.latest else ledger.stream(wanted)
    for notice in found.notices:
        advise(f"lanemark: {notice}")
    for bad in found.bad:
        advise(f"lanemark: {bad.name} in the ledger {bad.reason}")
    _WRITERS[form](found.rows)
    return 0


def _json(rows: Iterable[IndexRow]) -> None:
    """One document, `{"records": […]}`, a record a line."""
    sys.stdout.write('{"records": [')
    between = "\n"
    for row in rows:
        sys.stdout.write(between + json.dumps(row._asdict(), ensure_ascii=False, allow_nan=False))
        between = ",\n"
    sys.stdout.write("\n]}\n")


def _jsonl(rows: Iterable[IndexRow]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(row._asdict(), ensure_ascii=False, allow_nan=False) + "\n")


def _csv(rows: Iterable[IndexRow]) -> None:
    from lanemark.ledger.export import write_csv

    write_csv(rows, sys.stdout)


def _table(rows: Iterable[IndexRow]) -> None:
    """Columns as wide as their widest cell, so every row is needed before the first line."""
    from lanemark.report.terminal import table

    shown = [row._asdict() for row in rows]
    if not shown:
        print("no record matches; `lanemark run training` makes one")
        return
    print(table(shown, width=terminal_width(), unicode=unicode_output()))


_WRITERS: Final = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}
