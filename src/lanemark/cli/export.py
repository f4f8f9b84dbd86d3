"""`lanemark export --format jsonl|csv|parquet [-o FILE]`: records for other programs, written while they are read."""

from __future__ import annotations

import contextlib
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

_FORMATS: Final = ("jsonl", "csv", "parquet")


def main(args: list[str]) -> int:
    """Export records. Exit 0, or 1 when a record could not be read or the file not be written."""
    verb = parser(
        "export", "Write records for other programs: whole ones (jsonl), or the index columns (csv, parquet)."
    )
    verb.add_argument("--format", default="jsonl", metavar="F", help=f"{', '.join(_FORMATS)} (default jsonl)")
    verb.add_argument("-o", "--output", default=None, metavar="FILE", help="the file to write (default: stdout)")
    add_filters(verb)
    verb.add_argument("--limit", default=None, metavar="N", help="at most this many of the newest (default: all)")
    asked = verb.parse_args(args)
    from lanemark.ledger import export

    form = one_of(asked.format, "--format", _FORMATS)
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
