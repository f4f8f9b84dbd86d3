"""`lanemark collect`: seal attempts that ended without a record, and append records that the ledger did not take."""

from __future__ import annotations

import time

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.runs import entry
from lanemark.collect.manifest import load
from lanemark.collect.sweep import attempts, seal_lost
from lanemark.records.attempt import RUN_ID
from lanemark.records.errors import LedgerError

_POLL_S = 0.5


def main(args: list[str]) -> int:
    """Collect attempts. Exit 0 when every one named ended well, 1 otherwise."""
    verb = parser("collect", "Seal attempts whose supervisor was lost; with --wait, wait for those still running.")
    verb.add_argument("runs", nargs="*", metavar="RUN", help="run ids (default: all)")
    verb.add_argument("--all", action="store_true", help="all attempts, the default")
    verb.add_argument("--wait", action="store_true", help="wait until every attempt named has ended")
    verb.add_argument("--json", action="store_true", help="print the attempts as JSON")
    asked = verb.parse_args(args)
    place = home()
    for run_id in asked.runs:
        if not RUN_ID.fullmatch(run_id):
            raise LedgerError(
                "attempt-missing", f"no attempt {run_id[:60]!r} is known here", "list them with `lanemark runs`"
            )
        load(place.attempt(run_id))
    while True:
        for sealed in seal_lost(place, asked.runs or None):
            advise(f"lanemark: {sealed.line}")
        known, problems = attempts(place)
        named = [m for m in known if not asked.runs or m.run_id in asked.runs]
        if not asked.wait or all(manifest.state.final for manifest in named):
            break
        time.sleep(_POLL_S)
    for problem in problems:
        advise(f"lanemark: {problem}")
    if asked.json:
        print_json({"runs": [entry(manifest) for manifest in named]})
    else:
        for manifest in named:
            print(f"{manifest.run_id}  {manifest.state.value}  {manifest.transitions[-1].reason}")
    return 0 if all(manifest.state.value == "ok" for manifest in named if manifest.state.final) else 1
