"""`lanemark list`: records, newest first."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from typing import Any, Final

from lanemark.cli.asked import one_of, whole
from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width, unicode_output
from lanemark.ledger.ledger import Ledger
from lanemark.records.case import LANES

_FORMATS: Final = ("table", "json", "csv")


def main(args: list[str]) -> int:
    """Print the records that match. Exit 0, also when none does."""
    verb = parser("list", "List records, newest first.")
    verb.add_argument("--lane", default=None, metavar="L", help="only this lane")
    verb.add_argument("--gpu", default=None, metavar="CLASS", help="only this observed device class")
    verb.add_argument("--preset", default=None, metavar="P", help="only this preset")
    verb.add_argument(
        "--since", default=None, metavar="TIME", help="sealed at or after this time (2026-11-22, or RFC 3339)"
    )
    verb.add_argument("--limit", default="50", metavar="N", help="at most this many (default 50)")
    verb.add_argument("--format", default="table", metavar="F", help=f"{', '.join(_FORMATS)} (default table)")
    verb.add_argument("--json", action="store_true", help="the same as --format json")
    asked = verb.parse_args(args)
    form = "json" if asked.json else one_of(asked.format, "--format", _FORMATS)
    if asked.lane is not None:
        one_of(asked.lane, "--lane", LANES)
    limit = whole(asked.limit, "--limit", 1, 10_000_000)
    found = Ledger(home().ledger).list(
        lane=asked.lane, gpu=asked.gpu, preset=asked.preset, since=asked.since, limit=limit
    )
    for notice in found.notices:
        advise(f"lanemark: {notice}")
    for bad in found.bad:
        advise(f"lanemark: {bad.name} in the ledger {bad.reason}")
    rows = [asdict(row) for row in found.rows]
    if form == "json":
        print_json({"records": rows})
    elif form == "csv":
        _csv(rows)
    else:
        _table(rows)
    return 0


def _csv(rows: list[dict[str, Any]]) -> None:
    from lanemark.ledger.rows import IndexRow

    writer = csv.DictWriter(sys.stdout, fieldnames=list(IndexRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    from lanemark.report.terminal import table

    if not rows:
        print("no record matches; `lanemark run training` makes one")
        return
    print(table(rows, width=terminal_width(), unicode=unicode_output()))
