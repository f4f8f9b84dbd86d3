"""`lanemark matrix FILE.toml`: a small grid of cases, run in turns, and how each cell compares with the first.

Turns (A B C A B C …), because whatever else the machine does then falls on all cells alike. Each run is a run like any
other, with a record of its own; what was made is kept below the home, so that an interrupted grid goes on where it was.
The table is drawn from the records alone, by the same judge as `lanemark compare`.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lanemark.cli.matrix_file import Cell, Grid, read_grid
from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.repeating import QUESTIONS, run_once
from lanemark.collect.signals import StopSignals
from lanemark.records.attempt import Home
from lanemark.records.errors import LanemarkError

#: What `--vary` may be asked of a cell, by what its points set.
_ADMITS = {
    "command": ("command",),
    "environment": ("environment",),
    "flags": (*sorted(set(QUESTIONS.values())), "argv"),
}


@dataclass
class Made:
    """The runs of one cell so far: record ids, in order; `failed` counts those that ended badly or left none."""

    cell: Cell
    records: list[str] = field(default_factory=list)
    failed: int = 0

    @property
    def count(self) -> int:
        return len(self.records) + self.failed


def main(args: list[str]) -> int:
    """Run what is left of a grid and print its table. Exit 0, or 1 when a run failed, or it was interrupted."""
    verb = parser("matrix", "Run a small grid of cases in turns, and say how each compares with the first.")
    verb.add_argument("file", metavar="FILE.toml", help="the grid: run, command, repeat, axes (docs/your-script.md)")
    verb.add_argument("--again", action="store_true", help="begin anew, whatever was made of this grid before")
    verb.add_argument("--plan", action="store_true", help="print the cells and what each would run; run nothing")
    verb.add_argument("--json", action="store_true", help="print the table as JSON")
    asked = verb.parse_args(args)
    grid = read_grid(Path(asked.file))
    place = home()
    if asked.plan:
        print_json([{"cell": c.name, "run": ["lanemark", "run", *c.words], "env": dict(c.env)} for c in grid.cells])
        return 0
    journal = place.root / "matrices" / f"{grid.key}.jsonl"
    if asked.again:
        journal.unlink(missing_ok=True)
    made = resumed(grid, journal)
    stopped = _run_all(grid, made, journal)
    rows = [row(made[0], each, place) for each in made]
    if asked.json:
        print_json({"cells": rows, "complete": not stopped})
    else:
        print("\n".join(table(rows)))
    return 1 if stopped or any(each.failed for each in made) else 0


def resumed(grid: Grid, journal: Path) -> list[Made]:
    """What was made of this grid before. A line that was cut short by a crash counts as not made."""
    made = {cell.name: Made(cell) for cell in grid.cells}
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
            cell = made[entry["cell"]]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(entry.get("record_id"), str):
            cell.records.append(entry["record_id"])
        else:
            cell.failed += 1
    return list(made.values())


def _run_all(grid: Grid, made: list[Made], journal: Path) -> bool:
    """Run what is missing, in turns. Returns whether it was interrupted."""
    with StopSignals() as stop:
        for number in range(1, grid.repeat + 1):
            for each in made:
                if each.count >= number:
                    continue
                advise(f"lanemark: run {number} of {grid.repeat} of {each.cell.name}")
                code, answer = run_once(list(each.cell.words), stop, dict(each.cell.env))
                if stop() is not None:
                    advise("lanemark: interrupted; the same command goes on from here")
                    return True
                good = code == 0 and answer is not None
                if good and answer is not None:
                    each.records.append(str(answer["record_id"]))
                else:
                    each.failed += 1
                _note(journal, each.cell, answer if good else None, code)
    return False


def _note(journal: Path, cell: Cell, answer: dict[str, Any] | None, code: int) -> None:
    """One line for one run, on disk before the next begins."""
    entry: dict[str, Any] = {"cell": cell.name, "exit": code}
    if answer is not None:
        entry |= {"record_id": answer["record_id"], "run_id": answer["run_id"]}
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def row(first: Made, each: Made, place: Home) -> dict[str, Any]:
    """One row of the table: the cell, its figure, and the judge's word on it against the first cell."""
    from lanemark.cli.admitting import admitted
    from lanemark.judge.metrics import metric_of
    from lanemark.judge.series import values_of
    from lanemark.judge.sets import compare_sets
    from lanemark.ledger.location import open_ledger

    doc: dict[str, Any] = {"cell": each.cell.name, "runs": len(each.records), "failed": each.failed}
    if not each.records or not first.records:
        return doc | {"verdict": "no record" if not each.records else "the first cell has no record"}
    ledger = open_ledger(place)
    try:
        a, b = ([admitted(ledger, name) for name in made.records] for made in (first, each))
    except LanemarkError as error:
        return doc | {"verdict": f"its records cannot be read: {error.what}"}
    lane = b[0].lane
    # A command that counts no tokens has steps alone; then both sides are judged by their steps.
    counted = all(values_of([one], metric_of(lane).name) for one in (*a, *b))
    metric = None if counted or lane != "training" else "step_mean_s"
    figures = [value for values in values_of(b, metric_of(lane, metric).name).values() for value in values]
    if figures:
        doc |= {"metric": metric_of(lane, metric).name, "median": statistics.median(figures)}
    if each is first:
        return doc | {"verdict": "what the others are compared with", "records": each.records}
    admits = {name for what in first.cell.varied | each.cell.varied for name in _ADMITS[what]}
    asked = compare_sets(a, b, metric)
    needed = set(asked.verdict.unblock or ())
    vary = tuple(sorted(needed & (admits | each.cell.declared)))
    found = compare_sets(a, b, metric, vary) if vary else asked
    doc |= {"verdict": found.verdict.word, "vary": list(vary), "records": each.records}
    if len(found.verdict.question) > 1:
        doc["together"] = list(found.verdict.question)
    if found.verdict.unblock:  # what the cell brought about without setting it: nobody has said that it is meant
        doc["undeclared"] = sorted(set(found.verdict.unblock) - set(found.verdict.question))
    effect = next(iter(found.effects.values()), None)
    if effect is not None:
        doc |= {"effect": effect.to_json()}
    else:
        doc |= {"refused": sorted({reason.code for reason in found.verdict.reasons if reason.severity == "block"})}
    return doc


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of text."""
    width = max(len("cell"), *(len(each["cell"]) for each in rows))
    lines = [f"{'cell':<{width}}  runs  {'figure':<26}  against the first"]
    for each in rows:
        figure = f"{each['median']:.6g} {each['metric']}" if "median" in each else "none"
        runs = f"{each['runs']}" + (f"+{each['failed']}" if each["failed"] else "")
        word = str(each["verdict"]).replace("_", " ")
        if "effect" in each:
            effect = each["effect"]
            word = f"{effect['verdict']}, ratio {effect['ratio']:.3f} ({word})"
        elif each.get("refused"):
            word += f": {', '.join(each['refused'])}"
        if each.get("undeclared"):
            word += f"; besides what the cell sets, {' and '.join(each['undeclared'])} differed"
        elif "together" in each:
            word += f"; one ratio for {' and '.join(each['together'])} together"
        lines.append(f"{each['cell']:<{width}}  {runs:<4}  {figure:<26}  {word}")
    undeclared = sorted({name for each in rows for name in each.get("undeclared", ())})
    if undeclared:
        lines.append(f"to compare such a cell as a whole, add to the file: vary = {json.dumps(undeclared)}")
    if any("SEEDING_PASS" in each.get("refused", ()) for each in rows):
        lines.append(
            "SEEDING_PASS: the first run of a cell filled its compile cache; with --again it starts from that one"
        )
    if any(each["failed"] for each in rows):
        lines.append("runs: those with a receipt, and behind + those without; `lanemark runs` lists them")
    return lines
