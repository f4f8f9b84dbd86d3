"""`lanemark report [ID…] -o FILE.html`: one self-contained HTML file from records."""

from __future__ import annotations

import os
from pathlib import Path

from lanemark.cli.parsing import home, parser, print_json
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import LedgerError, UsageError


def main(args: list[str]) -> int:
    """Write the report. Exit 0, or 1 when a record is missing or the file cannot be written."""
    verb = parser("report", "Write one self-contained HTML file; without ids, of the newest record.")
    verb.add_argument("ids", nargs="*", metavar="ID", help="record ids, beginnings of them, or run ids")
    verb.add_argument("-o", "--output", required=True, metavar="FILE.html", help="the file to write")
    verb.add_argument("--json", action="store_true", help="print the path and the record ids as JSON")
    asked = verb.parse_args(args)
    ledger = open_ledger(home())
    ids = asked.ids or [row.id for row in ledger.list(limit=1).rows]
    if not ids:
        raise UsageError("value-invalid", "there is no record to report on", "make one with `lanemark run training`")
    from lanemark.report.html import render_html
    from lanemark.report.view import record_view

    found = [ledger.get(name) for name in ids]
    page = render_html([record_view(record.id, record.doc["predicate"]) for record in found])
    target = Path(asked.output)
    try:
        temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}")
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise LedgerError(
            "output-unwritable",
            f"the report {str(target)!r} cannot be written ({error.strerror})",
            "name a file that can be",
        ) from None
    if asked.json:
        print_json({"path": str(target.absolute()), "records": [record.id for record in found]})
    else:
        print(target)
    return 0
