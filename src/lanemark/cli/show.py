"""`lanemark show ID`: one record, the way a person would paste it into a review."""

from __future__ import annotations

import shutil
import sys

from lanemark.cli.parsing import home, parser, print_json, unicode_output
from lanemark.ledger.location import open_ledger


def main(args: list[str]) -> int:
    """Print one record. Exit 0, or 1 when it is missing, ambiguous or damaged."""
    verb = parser("show", "Show one record: requested and observed, figures, findings, and what it does not prove.")
    verb.add_argument("id", help="record id, the beginning of one, or a run id")
    verb.add_argument("--json", action="store_true", help="print the record's own JSON instead")
    asked = verb.parse_args(args)
    view = open_ledger(home()).get(asked.id)
    if asked.json:
        print_json({"record_id": view.id, "statement": view.doc})
        return 0
    print(rendered(view.id, view.doc["predicate"]))
    return 0


def rendered(record_id: str, predicate: dict[str, object]) -> str:
    """The record as terminal text, as wide as the terminal allows and never wider than 100 columns."""
    from lanemark.report.terminal import render
    from lanemark.report.view import record_view

    width = max(60, min(100, shutil.get_terminal_size((80, 24)).columns))
    view = record_view(record_id, predicate)
    return render(view, width=width, color=sys.stdout.isatty(), unicode=unicode_output())
