"""`lanemark export [ID…] --format F [-o FILE]`: records for other programs.

Whole records (jsonl) and tables (csv, parquet) are written while they are read; the other forms show records where
people already look (`lanemark.ledger.exchange`, `lanemark.ledger.trackers`), and are never evidence.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from lanemark.cli.asked import one_of, whole
from lanemark.cli.filtering import add_filters, filters
from lanemark.cli.parsing import advise, home, parser
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import LedgerError, UsageError

_TABLES: Final = ("jsonl", "csv", "parquet")
_SHOWN: Final = ("trace", "mllog", "openmetrics", "mlflow", "wandb")
_FORMATS: Final = (*_TABLES, *_SHOWN)


def main(args: list[str]) -> int:
    """Export records. Exit 0, or 1 when a record could not be read or the file not be written."""
    verb = parser(
        "export",
        "Write records for other programs: whole ones (jsonl), index columns (csv, parquet), a trace for Perfetto, "
        "MLCommons' log lines, OpenMetrics, or runs of MLflow or W&B (offline).",
    )
    verb.add_argument("ids", nargs="*", metavar="ID", help="for the forms that show some records (default: the newest)")
    verb.add_argument("--format", default="jsonl", metavar="F", help=f"{', '.join(_FORMATS)} (default jsonl)")
    verb.add_argument(
        "-o", "--output", default=None, metavar="FILE",
        help="the file to write (default: stdout); mlflow: a tracking URI; wandb: a directory",
    )  # fmt: skip
    add_filters(verb)
    verb.add_argument("--limit", default=None, metavar="N", help="at most this many of the newest (default: all)")
    asked = verb.parse_args(args)
    from lanemark.ledger import export

    form = one_of(asked.format, "--format", _FORMATS)
    if form in _SHOWN:
        return _show(form, asked.ids, asked.output)
    if asked.ids:
        raise UsageError("value-invalid", f"--format {form} takes no ids", "choose records with the filters")
    limit = None if asked.limit is None else whole(asked.limit, "--limit", 1, 10_000_000)
    wanted = filters(asked, limit)
    if form == "parquet":
        if asked.output is None:
            raise UsageError("value-invalid", "Parquet is not written to a terminal or a pipe", "name a file with -o")
        export.check_parquet()
    ledger = open_ledger(home())
    found = ledger.stream(wanted)
    for notice in found.notices:
        advise(f"lanemark: {notice}")
    failures = [f"{bad.name} in the ledger {bad.reason}" for bad in found.bad]
    with _output(asked.output) as file:
        if form == "jsonl":
            count = export.write_jsonl(
                ledger, found.rows, file, lambda record_id, why: failures.append(f"{record_id} was left out: {why}")
            )
        elif form == "csv":
            text = export.text_over(file)
            try:
                count = export.write_csv(found.rows, text)
            finally:
                text.detach()
        else:
            count = export.write_parquet(found.rows, file)
    for failure in failures:
        advise(f"lanemark: {failure}")
    advise(f"{count} records" + (f" to {asked.output}" if asked.output is not None else ""))
    return 1 if failures else 0


def _show(form: str, names: list[str], output: str | None) -> int:
    """The records named, or the newest, in a form that shows records."""
    from lanemark.ledger import exchange, trackers

    if form in ("mlflow", "wandb"):
        trackers.check(form)
        if output is None:
            what = "a tracking URI, such as sqlite:///mlflow.db" if form == "mlflow" else "a directory"
            raise UsageError("value-invalid", f"--format {form} needs a place to put runs", f"name {what} with -o")
    ledger = open_ledger(home())
    ids = names or [row.id for row in ledger.list(limit=1).rows]
    if not ids:
        raise UsageError("value-invalid", "there is no record to export", "make one with `lanemark run training`")
    found = [(record.id, record.doc["predicate"]) for record in (ledger.get(name) for name in ids)]
    if form in ("mlflow", "wandb"):
        assert output is not None
        for record_id, predicate in found:
            made = (
                trackers.to_mlflow(record_id, predicate, output)
                if form == "mlflow"
                else trackers.to_wandb(record_id, predicate, Path(output))
            )
            print(f"{record_id[:19]} {made}")
        trackers.finish(form)
        return 0
    with _output(output) as file:
        if form == "trace":
            if len(found) > 1:
                raise UsageError("value-invalid", "a trace is of one record", "name one ID")
            file.write(json.dumps(exchange.trace(*found[0])).encode() + b"\n")
        elif form == "mllog":
            for record_id, predicate in found:
                file.writelines(line.encode() + b"\n" for line in exchange.mllog_lines(record_id, predicate))
        else:
            file.writelines(line.encode() for line in exchange.openmetrics(found))
    return 0


@contextlib.contextmanager
def _output(name: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name when it is whole. Raises LedgerError."""
    if name is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(name)
    draft = target.with_name(f".{target.name[:100]}.{os.getpid()}")
    try:
        with draft.open("xb") as file:
            yield file
        os.replace(draft, target)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise LedgerError(
            "output-unwritable",
            f"the export {str(target)!r} cannot be written ({error.strerror or type(error).__name__})",
            "name a file that can be",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
