"""`lanemark index sync`: make the disposable index say what the ledger's files say."""

from __future__ import annotations

from lanemark.cli.asked import one_of
from lanemark.cli.parsing import home, parser, print_json
from lanemark.ledger.location import open_ledger


def main(args: list[str]) -> int:
    """Rebuild the index. Exit 0, or 1 when a file in the ledger is not what its name says."""
    verb = parser("index", "Make the ledger's index say what its files say; the index may be deleted at any time.")
    verb.add_argument("action", metavar="sync", help="the one action there is")
    verb.add_argument("--json", action="store_true", help="print the counts as JSON")
    asked = verb.parse_args(args)
    one_of(asked.action, "the action", ("sync",))
    report = open_ledger(home()).sync()
    if asked.json:
        print_json({**report._asdict(), "bad": [bad._asdict() for bad in report.bad]})
    else:
        for name, value in report._asdict().items():
            if isinstance(value, int):
                print(f"{name}: {value}")
        for bad in report.bad:
            print(f"not a record: {bad.name} {bad.reason}")
    return 1 if report.bad else 0
