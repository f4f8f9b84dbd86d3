"""`lanemark route QUESTION`: the lane, the command, and the records of this ledger that already answer it."""

from __future__ import annotations

import textwrap
from typing import Any, Final

from lanemark.cli.admitting import admitted
from lanemark.cli.compare import wrapped
from lanemark.cli.parsing import home, parser, print_json, terminal_width
from lanemark.judge.comparing import compare
from lanemark.judge.routing import ROUTES, Route, route, to_json
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.rows import IndexRow
from lanemark.records.errors import UsageError

#: So many of the newest records are shown for each side of an answer.
_SHOWN: Final = 3


def main(args: list[str]) -> int:
    """Print where a question is answered; without one, what can be asked. Exit 2 for a question that fits nothing."""
    verb = parser("route", "From a question to the lane, the command to run, and the records that already answer it.")
    verb.add_argument("question", nargs="*", metavar="QUESTION", help="in words; without one, what can be asked")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    asked = verb.parse_args(args)
    width = terminal_width() or 100
    question = " ".join(asked.question).strip()
    if not question:
        if asked.json:
            print_json({"routes": [{"example": row.example, **to_json(row)} for row in ROUTES]})
        else:
            print(_examples(width))
        return 0
    found = route(question)
    if found is None:
        raise UsageError(
            "question-unknown",
            f"no lane answers {question[:80]!r} as far as its words tell",
            "ask for instance: " + " · ".join(row.example for row in ROUTES),
        )
    ledger = open_ledger(home())
    answers = _records(ledger, found)
    if asked.json:
        records = [[row.to_json() for row in side] for side in answers]
        print_json({"question": question, **to_json(found), "records": records})
    else:
        print(_rendered(ledger, found, answers, width))
    return 0


def _records(ledger: Ledger, found: Route) -> list[tuple[IndexRow, ...]]:
    """The newest records of each side, those with a receipt alone."""
    sides = []
    for wanted in found.answered_by:
        if not found.lane:
            continue
        filters: dict[str, Any] = dict(wanted)
        rows = ledger.list(**filters, limit=50).rows
        sides.append(tuple(row for row in rows if row.receipt)[:_SHOWN])
    return sides


def _examples(width: int) -> str:
    rows = [wrapped(f"{row.example}  ({row.lane or 'all lanes'})", width) for row in ROUTES]
    return "\n".join(["what can be asked:", *rows])


def _rendered(ledger: Ledger, found: Route, answers: list[tuple[IndexRow, ...]], width: int) -> str:
    lines = [f"{found.lane} lane" if found.lane else "all lanes", textwrap.fill(found.why, width)]
    lines += [wrapped(f"not answered by {found.not_by}", width, "")]
    lines += ["", "run", *(f"  {command}" for command in found.commands)]
    if not found.lane:
        return "\n".join(lines)
    lines += ["", "records that answer it"]
    known = [row for side in answers for row in side]
    if not known:
        return "\n".join([*lines, "  none yet"])
    for wanted, side in zip(found.answered_by, answers, strict=True):
        extra = ", ".join(f"{name} {value}" for name, value in wanted.items() if name not in ("lane", "outcome"))
        if len(answers) > 1:
            lines.append(f"  {extra}")
        shown = [f"  {row.id[:19]}  {row.created[:10]}  {row.preset}, {_where(row)}" for row in side]
        lines += shown or ["  none yet"]
    if found.vary and len(answers) > 1:
        lines += ["", *_pair(ledger, found, answers, width)]
    return "\n".join(lines)


def _pair(ledger: Ledger, found: Route, answers: list[tuple[IndexRow, ...]], width: int) -> list[str]:
    """The newest record of one side with the newest of the other that it may be compared with."""
    vary = " ".join(f"--vary {name}" for name in found.vary)
    for one in answers[0]:
        for other in answers[1]:
            verdict = compare(admitted(ledger, one.id), admitted(ledger, other.id), None, found.vary)
            if verdict.comparable:
                command = f"lanemark compare {one.id[:19]} {other.id[:19]} {vary} --series"
                return [f"these two are {verdict.word.replace('_', ' ')}:", f"  {command}"]
    return [wrapped("no two of these may be compared; run both sides under one controlled launch", width, "")]


def _where(row: IndexRow) -> str:
    parts = [row.device_class, None if row.world_size is None else f"{row.world_size} ranks", row.mode, row.compile]
    return ", ".join(part for part in parts if part)
