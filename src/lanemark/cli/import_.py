"""`lanemark import DIR|FILE…`: take records of another ledger in, each verified first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.ledger.location import open_ledger

_Status = Literal["imported", "present", "refused"]


def main(args: list[str]) -> int:
    """Import records. Exit 0 when every file was taken or was here already, 1 when one was refused."""
    verb = parser("import", "Take in records of another ledger: verified, none twice, none that contradicts one here.")
    verb.add_argument(
        "sources", nargs="+", metavar="DIR|FILE", help="a ledger's directory, or object files named by their digest"
    )
    verb.add_argument("--json", action="store_true", help="print what became of each file as JSON")
    asked = verb.parse_args(args)
    from lanemark.ledger.importing import import_records

    outcomes = import_records(open_ledger(home()), [Path(source) for source in asked.sources])
    counts, signatures = (
        Counter(outcome.status for outcome in outcomes if outcome.kind == kind) for kind in ("record", "signature")
    )
    if asked.json:
        files = [{key: value for key, value in asdict(outcome).items() if value is not None} for outcome in outcomes]
        print_json(_counted(counts) | {"signatures": _counted(signatures), "files": files})
    else:
        print(f"imported: {counts['imported']}\nhere already: {counts['present']}\nrefused: {counts['refused']}")
        if signatures:
            print(
                f"signatures: {signatures['imported']} imported, {signatures['present']} here already, "
                f"{signatures['refused']} refused"
            )
    for outcome in outcomes:
        if outcome.status == "refused":
            advise(f"lanemark: {outcome.file} was refused: {outcome.reason} [{outcome.slug}]")
        elif outcome.reason is not None:
            advise(f"lanemark: {outcome.file}: {outcome.reason}")
    return 1 if counts["refused"] or signatures["refused"] else 0


def _counted(counts: Mapping[_Status, int]) -> dict[str, int]:
    return {status: counts.get(status, 0) for status in get_args(_Status)}
