"""`lanemark watch`: did a series of runs get slower, since when, and what changed there? With an exit code for CI."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from lanemark.cli.asked import one_of, whole
from lanemark.cli.filtering import add_filters, filters
from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width
from lanemark.cli.watch_text import as_junit, as_markdown, left_out, rendered
from lanemark.judge.admission import Admitted, admit
from lanemark.judge.metrics import METRICS
from lanemark.judge.regression import FEWEST, MOST_RUNS
from lanemark.judge.watching import Watch, watch
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.rows import Filters
from lanemark.records.errors import LanemarkError, LedgerError, UsageError

#: Lanes whose records have figures.
_LANES: Final = tuple(lane for lane, metrics in METRICS.items() if metrics[0].unit)
#: Runs of each series that are looked at where nothing else is asked: the false alarm rate was measured with as many.
_RUNS: Final = 60


def main(args: list[str]) -> int:
    """Print what each series says. Exit 1 for a confirmed regression, with --strict for a suspected one too, else 0."""
    verb = parser("watch", "Say whether series of runs got slower, since which run, and what changed there.")
    add_filters(verb)
    verb.add_argument("--metric", default=None, metavar="M", help="what is watched (default: the lane's first)")
    verb.add_argument(
        "--runs", default=str(_RUNS), metavar="N", help=f"of each series the N newest runs (default {_RUNS})"
    )
    verb.add_argument("--strict", action="store_true", help="exit 1 for a suspected regression too")
    verb.add_argument("--junit", default=None, metavar="FILE", help="write a JUnit XML report: one test case a series")
    verb.add_argument("--markdown", default=None, metavar="FILE", help="write a summary in Markdown")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    asked = verb.parse_args(args)
    runs = whole(asked.runs, "--runs", FEWEST, MOST_RUNS)
    wanted = _wanted(asked)
    found = watch(_admitted(open_ledger(home()), wanted), asked.metric, runs)
    if not found.series:  # a watch that looks at nothing must not look green
        why = f" ({left_out(found)})" if found.left_out else ""
        raise UsageError(
            "watch-empty",
            f"no record of a run that ended well makes a series{why}, so that nothing is watched",
            "widen the filters; `lanemark list` takes the same ones",
        )
    for path, text in ((asked.junit, as_junit), (asked.markdown, as_markdown)):
        if path is not None:
            _write(Path(path), text(found, strict=asked.strict))
    code = exit_code(found, strict=asked.strict)
    if asked.json:
        series = [one.to_json() for one in found.series]
        print_json({"exit_code": code, "series": series, "left_out": found.left_out})
    else:
        print(rendered(found, terminal_width() or 100))
    return code


def exit_code(found: Watch, *, strict: bool) -> int:
    """1 where a series is failing, else 0."""
    failing = {"regressed", "suspected"} if strict else {"regressed"}
    return int(any(one.trend.verdict in failing for one in found.series))


def _wanted(asked: argparse.Namespace) -> Filters:
    """The filters, with only runs that ended well: others have no figure."""
    if asked.lane is not None:
        one_of(asked.lane, "--lane", _LANES)
    if asked.metric is not None:
        asked.lane = asked.lane or _lane_of(asked.metric)
        names = [metric.name for metric in METRICS[asked.lane]]
        if asked.metric not in names:
            raise UsageError(
                "metric-unknown",
                f"the {asked.lane} lane has no metric {asked.metric[:40]!r}",
                f"take one of {', '.join(names)}",
            )
    asked.outcome = asked.outcome or "ok"
    return filters(asked, None)


def _lane_of(metric: str) -> str:
    return next((lane for lane in _LANES if any(each.name == metric for each in METRICS[lane])), _LANES[0])


def _admitted(ledger: Ledger, wanted: Filters) -> list[Admitted]:
    """The newest records of each question and kind of machine, their bytes held against their names.

    A row of the index says roughly which series a record is in; the record itself says it exactly. One that cannot be
    read is passed over and said: a watch must not fail for a file that somebody damaged, nor forget it.
    """
    found = ledger.stream(wanted)
    for notice in found.notices:
        advise(f"lanemark: {notice}")
    taken: dict[tuple[object, ...], int] = {}
    records, unread = [], []
    for row in found.rows:
        if row.lane not in _LANES:
            continue
        place = (row.lane, row.preset, row.device_class, row.world_size, row.mode, row.compile, row.dtype, row.surface)
        taken[place] = taken.get(place, 0) + 1
        if taken[place] > MOST_RUNS:
            continue
        try:
            records.append(admit(row.id, ledger.find(row.id).read_bytes()))
        except (LanemarkError, OSError) as error:
            unread.append(f"{row.id[:19]} cannot be read ({error})")
    if unread:
        more = f", and {len(unread) - 1} more" if len(unread) > 1 else ""
        advise(f"lanemark: {unread[0]}{more}: not in any series")
    return records


def _write(path: Path, text: str) -> None:
    try:
        temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise LedgerError(
            "output-unwritable",
            f"{str(path)!r} cannot be written ({error.strerror})",
            "name a file that can be",
        ) from None
