"""`lanemark frontier`: what is known to work on which device, from this ledger's records, and how old that is."""

from __future__ import annotations

from typing import Final

from lanemark.cli.asked import one_of
from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width
from lanemark.judge.frontier import STATES, Cell, Frontier, gather, settle, stack_of
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.rows import Filters
from lanemark.records.case import LANES
from lanemark.records.encoding import decode
from lanemark.records.errors import LanemarkError
from lanemark.records.reading import printable

_TITLES: Final = ("lane", "device", "mode", "compile", "state", "newest", "record", "runs")
#: Widest a column may be, in the order of `_TITLES`: together with two spaces between them they fit 80 columns.
_WIDTHS: Final = (9, 14, 7, 8, 8, 10, 12, 4)


def main(args: list[str]) -> int:
    """Print the grid. Exit 0, whatever is in it."""
    verb = parser("frontier", "Show what is known to work: lane, mode, compile posture and device class, and its age.")
    verb.add_argument("--lane", default=None, metavar="L", help=f"{', '.join(LANES)}")
    verb.add_argument("--gpu", default=None, metavar="CLASS", help="observed device class")
    verb.add_argument("--state", default=None, metavar="S", help=f"only cells that are {', '.join(STATES)}")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    asked = verb.parse_args(args)
    if asked.lane is not None:
        one_of(asked.lane, "--lane", LANES)
    if asked.state is not None:
        one_of(asked.state, "--state", STATES)
    found = frontier_of(open_ledger(home()), Filters(lane=asked.lane, gpu=asked.gpu))
    cells = [cell for cell in found.cells if asked.state in (None, cell.state)]
    if asked.json:
        print_json({"cells": [cell.to_json() for cell in cells], "unplaced": found.unplaced})
    else:
        print(rendered(cells, found.unplaced, terminal_width() or 80))
    return 0


def frontier_of(ledger: Ledger, wanted: Filters) -> Frontier:
    """The frontier over a ledger's records. Of bodies, only the newest of each cell and device are read.

    The current stack of a device is drawn from all of its records, whatever lane was asked for.
    """
    found = ledger.stream(Filters(gpu=wanted.gpu))
    for notice in found.notices:
        advise(f"lanemark: {notice}")
    gathered = gather(found.rows)
    if wanted.lane is not None:
        kept = {place: rows for place, rows in gathered.cells.items() if place.lane == wanted.lane}
        gathered = gathered._replace(cells=kept)
    needed = {rows[0].id for _, rows in gathered.cells.values()} | {row.id for row in gathered.latest.values()}
    stacks, unread = {}, []
    for record_id in sorted(needed):
        try:
            stacks[record_id] = stack_of(decode(ledger.find(record_id).read_bytes())["predicate"])
        except (LanemarkError, OSError, ValueError, KeyError, TypeError) as error:
            unread.append(f"{record_id[:19]} cannot be read ({error})")
    if unread:
        more = f", and {len(unread) - 1} more" if len(unread) > 1 else ""
        advise(f"lanemark: {unread[0]}{more}: their cells are unknown")
    return settle(gathered, stacks)


def rendered(cells: list[Cell], unplaced: int, width: int) -> str:
    """The grid as a table of at most 80 columns, the reasons of what is not alive below it."""
    if not cells:
        return "no record says anything of this; `lanemark run training` makes one"
    lines = [_line(_TITLES)]
    for cell in cells:
        place = cell.place
        known = (cell.created or "")[:10], (cell.newest or "")[7:19]
        lines.append(_line((place.lane, place.device, place.mode, place.compile, cell.state, *known, str(cell.runs))))
    notes = [
        f"{' '.join(cell.place)}: {cell.state}, {cell.reason}" for cell in cells if cell.state != "alive" and cell.runs
    ]
    if notes:
        from lanemark.cli.compare import wrapped

        lines += ["", *(wrapped(printable(note), min(width, 80)) for note in notes)]
    if unplaced:
        lines += ["", f"{unplaced} records did not see their device or mode, and are evidence for no cell"]
    return "\n".join(lines)


def _line(values: tuple[str, ...]) -> str:
    cut = [
        (text if len(text) <= room else text[: room - 1] + "…").ljust(room)
        for text, room in zip(map(printable, values), _WIDTHS, strict=True)
    ]
    return " ".join(cut).rstrip()
