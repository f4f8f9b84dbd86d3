"""`lanemark doctor RUN|DIR`: what is wrong with an attempt, how one can see it, and what to do next.

Works on an attempt that is running, on a sealed one, and on an attempt's directory copied from another host. It looks
and concludes; it starts nothing, unless it is asked to run the diagnostic preset.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

from lanemark.cli.parsing import advise, home, parser, print_json, unicode_output
from lanemark.collect.examining import attempt_of_record, read_attempt, sealed_findings
from lanemark.diagnose.examination import Attempt, Examination, conclude_diagnostic, diagnostic_command, examine
from lanemark.records.attempt import RUN_ID, Home
from lanemark.records.encoding import decode
from lanemark.records.errors import LanemarkError, LedgerError, UsageError
from lanemark.records.finding import Finding
from lanemark.records.observation import value_of

#: Reports go into tickets and reviews, where lines longer than this are broken anywhere.
_WIDTH: Final = 80


def main(args: list[str]) -> int:
    """Examine one attempt. Exit 0 when nothing is wrong, 1 when a failure was named or could not be decided."""
    verb = parser("doctor", "Say what is wrong with an attempt, how one can see it, and what to do next.")
    verb.add_argument("run", metavar="RUN|DIR", help="run id, record id, or the directory of an attempt")
    verb.add_argument(
        "--run-diagnostic", action="store_true",
        help="also run the `diagnostic` preset on the same ranks, which tells the model from the machine",
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print the examination as JSON")
    asked = verb.parse_args(args)
    place = home()
    attempt = find(asked.run, place)
    seen = examine(attempt)
    concluded = None
    if asked.run_diagnostic:
        concluded = run_diagnostic(attempt, seen, place)
    if asked.json:
        doc = seen.to_json()
        print_json(doc if concluded is None else {**doc, "conclusion": concluded.to_json()})
    else:
        width = max(60, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))
        text = rendered(seen, concluded, width=width)
        print(text if unicode_output() else text.encode("ascii", "replace").decode("ascii"))
    return 0 if seen.healthy and concluded is None else 1


def find(word: str, place: Home) -> Attempt:
    """The attempt that a run id, a record id or a directory names.

    Raises:
        LedgerError: `attempt-missing` when nothing is known under that name.
    """
    if os.path.isdir(word):
        root = Path(word).absolute()
        if not any((root / name).exists() for name in ("attempt.json", "case.json", "record.json", "ranks")):
            raise LedgerError(
                "attempt-missing", f"{word[:80]!r} is a directory, and holds no attempt",
                "name one that has attempt.json and ranks/ in it",
            )  # fmt: skip
        return read_attempt(root)
    if RUN_ID.fullmatch(word) and place.attempt(word).root.is_dir():
        return read_attempt(place.attempt(word).root)
    from lanemark.ledger.location import open_ledger

    try:
        view = open_ledger(place).get(word)
    except LanemarkError:
        raise LedgerError(
            "attempt-missing",
            f"{word[:80]!r} is no attempt, no record and no directory",
            "list attempts with `lanemark runs`, or give an attempt's directory",
        ) from None
    predicate: dict[str, Any] = view.doc["predicate"]
    run_id = str(predicate["run_id"])
    if RUN_ID.fullmatch(run_id) and place.attempt(run_id).root.is_dir():
        return read_attempt(place.attempt(run_id).root)
    return attempt_of_record(view.id, predicate)


def run_diagnostic(attempt: Attempt, seen: Examination, place: Home) -> Finding:
    """Run the diagnostic preset the way `lanemark run` does, and say what it shows about the attempt.

    Raises:
        UsageError: the attempt's case could not be read, or the attempt is still running.
        GateRefused: the run would not start, with the command that satisfies the gate.
    """
    from lanemark.cli.asked import add_arguments, understand
    from lanemark.cli.run import prepare_run, run

    if attempt.case is None:
        raise UsageError(
            "value-invalid", "the attempt's case cannot be read, so its ranks cannot be started again",
            "run `lanemark run training --preset diagnostic` with the arguments of the failed run",
        )  # fmt: skip
    if attempt.life == "running":
        raise UsageError(
            "value-invalid", "the attempt is still running, and two runs on one machine prove nothing",
            "wait for it with `lanemark collect --wait`, or end it",
        )  # fmt: skip
    command = diagnostic_command(attempt.case)
    advise(f"lanemark: {shlex.join(command)}")
    words = list(command[2:])
    asked = parser("run", "The diagnostic run.")
    add_arguments(asked)
    done = run(prepare_run(understand(asked.parse_args(words)), place, words), place, argv=list(command))
    predicate = decode(done.record.data)["predicate"]
    cause, _ = sealed_findings(predicate)
    ids = [f"diagnostic run: record {done.record.id}"]
    if seen.record_id is not None:
        ids.insert(0, f"examined run: record {seen.record_id}")
    devices = value_of(predicate["hardware"]["observed"]["device_uuids"])
    if devices:
        ids.append(f"devices: {', '.join(devices)}")
    return conclude_diagnostic(seen.finding, cause, tuple(ids))


def rendered(seen: Examination, concluded: Finding | None, *, width: int) -> str:
    """The examination as text, no line of ours longer than `width`; a command is never broken."""
    from lanemark.cli.doctor_page import page

    return page(seen, concluded, width=width)
