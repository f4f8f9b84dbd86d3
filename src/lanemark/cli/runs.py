"""`lanemark runs`: attempts and their states. Attempts whose supervisor was lost are sealed on the way."""

from __future__ import annotations

from typing import Any

from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width, unicode_output
from lanemark.collect.collecting import age_s
from lanemark.collect.gathering import read_json, read_page
from lanemark.collect.manifest import Manifest
from lanemark.collect.polls import last_poll
from lanemark.collect.sweep import attempts, seal_lost
from lanemark.records.attempt import AttemptPaths


def entry(manifest: Manifest, paths: AttemptPaths) -> dict[str, Any]:
    """One attempt as `runs --json` and `collect --json` print it."""
    last = manifest.transitions[-1]
    doc: dict[str, Any] = {
        "run_id": manifest.run_id,
        "state": manifest.state.value,
        "lane": manifest.lane,
        "preset": manifest.preset,
        "surface": manifest.surface,
        "since": last.at,
        "reason": last.reason,
        "appended": manifest.appended,
        "detached": manifest.detached,
    }
    poll = last_poll(paths)
    age = age_s(last.at)
    optional = {
        # A clock that was set back makes no attempt younger than nothing.
        "age_s": None if age is None else round(max(0.0, age), 1),
        "where": None if manifest.state.final else where(paths),
        "last_polled_at": None if poll is None else poll.at,
        "last_seen": None if poll is None else poll.seen,
        "ids": manifest.ids or None,
        "recovered": manifest.recovered,
        "record_id": manifest.record_id,
    }
    return doc | {name: value for name, value in optional.items() if value is not None}


def where(paths: AttemptPaths) -> str | None:
    """The phase and step of the rank that is behind all others, from the beacons; None where there is none."""
    case = read_json(paths.case) or {}
    num_ranks, total = case.get("nproc"), case.get("steps")
    if not isinstance(num_ranks, int) or not isinstance(total, int):
        return None
    pages = [page for rank in range(min(num_ranks, 1024)) if (page := read_page(paths.rank(rank))) is not None]
    if not pages:
        return None
    behind = min(pages, key=lambda page: (page.step, page.sequence))
    phase = behind.phase.replace("_", " ")
    return f"{phase}, step {min(behind.step, total)} of {total}" if behind.step >= 0 else phase


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
    rows = [entry(manifest, place.attempt(manifest.run_id)) for manifest in known]
    if asked.json:
        print_json({"runs": rows})
    elif not rows:
        print("no attempt yet; `lanemark run training` makes one")
    else:
        from lanemark.report.terminal import RUN_COLUMNS, table

        print(table(rows, RUN_COLUMNS, width=terminal_width(), unicode=unicode_output()))
    return 0
