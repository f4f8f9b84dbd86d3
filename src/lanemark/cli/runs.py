"""`lanemark runs`: attempts and their states. Attempts whose supervisor was lost are sealed on the way."""

from __future__ import annotations

from typing import Any

from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width, unicode_output
from lanemark.collect.manifest import Manifest
from lanemark.collect.sweep import attempts, seal_lost


def entry(manifest: Manifest) -> dict[str, Any]:
    """One attempt as `runs --json` prints it."""
    doc: dict[str, Any] = {
        "run_id": manifest.run_id,
        "state": manifest.state.value,
        "lane": manifest.lane,
        "preset": manifest.preset,
        "surface": manifest.surface,
        "since": manifest.transitions[-1].at,
        "reason": manifest.transitions[-1].reason,
        "appended": manifest.appended,
    }
    if manifest.record_id is not None:
        doc["record_id"] = manifest.record_id
    return doc


def main(args: list[str]) -> int:
    """Print every attempt, newest first. Exit 0."""
    verb = parser("runs", "List attempts and their states, newest first.")
    verb.add_argument("--json", action="store_true", help="print them as JSON")
    asked = verb.parse_args(args)
    place = home()
    for sealed in seal_lost(place):
        advise(f"lanemark: {sealed.line}")
    known, problems = attempts(place)
    for problem in problems:
        advise(f"lanemark: {problem}")
    rows = [entry(manifest) for manifest in known]
    if asked.json:
        print_json({"runs": rows})
    elif not rows:
        print("no attempt yet; `lanemark run training` makes one")
    else:
        from lanemark.report.terminal import RUN_COLUMNS, table

        print(table(rows, RUN_COLUMNS, width=terminal_width(), unicode=unicode_output()))
    return 0
