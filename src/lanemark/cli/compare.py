"""`lanemark compare A B`: may these be compared, why not, and only then what their figures say."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Final

from lanemark.cli.admitting import admitted, series_around
from lanemark.cli.parsing import home, parser, print_json, terminal_width
from lanemark.judge.admission import Admitted
from lanemark.judge.comparing import factors_of, may_vary
from lanemark.judge.effect import Effect
from lanemark.judge.metrics import METRICS, metric_of
from lanemark.judge.sets import Comparison, compare_sets
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import UsageError

NOT_COMPARABLE: Final = 3


def main(args: list[str]) -> int:
    """Print the verdict. Exit 0 when they may be compared, with whatever caveats, and 3 when not."""
    verb = parser("compare", "Say whether two records, or two sets of runs, may be compared, and why not.")
    verb.add_argument("ids", nargs="*", metavar="A B", help="record ids, beginnings of them, or run ids")
    verb.add_argument("--a", nargs="+", default=[], metavar="ID", help="the runs of side A, instead of one record")
    verb.add_argument("--b", nargs="+", default=[], metavar="ID", help="the runs of side B")
    verb.add_argument("--series", action="store_true", help="with each record take the other runs of its series")
    verb.add_argument("--metric", default=None, metavar="M", help="what is compared (default: the lane's first)")
    verb.add_argument(
        "--vary", action="append", default=[], metavar="FIELD",
        help="a factor that the question is about, or the path of a field; repeatable",
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print the verdict as one JSON document")
    asked = verb.parse_args(args)
    names_a, names_b = _sides(asked)
    ledger = open_ledger(home())
    side_a, side_b = ([admitted(ledger, name) for name in names] for names in (names_a, names_b))
    if asked.series:
        side_a = _with_series(side_a, [one for record in side_a for one in series_around(ledger, record, None)])
        side_b = _with_series(side_b, [one for record in side_b for one in series_around(ledger, record, None)])
    _check(asked, [*side_a, *side_b])
    taken = {record.id for record in (*side_a, *side_b)}
    history = [one for one in series_around(ledger, side_a[0], asked.metric) if one.id not in taken]
    comparison = compare_sets(side_a, side_b, asked.metric, asked.vary, history)
    if asked.json:
        ids = {"a": [record.id for record in side_a], "b": [record.id for record in side_b]}
        print_json({**ids, **comparison.to_json()})
    else:
        print(rendered(comparison, side_a, side_b, asked.vary, terminal_width() or 100))
    return 0 if comparison.verdict.comparable else NOT_COMPARABLE


def _sides(asked: argparse.Namespace) -> tuple[list[str], list[str]]:
    if asked.ids and not asked.a and not asked.b and len(asked.ids) == 2:
        return [asked.ids[0]], [asked.ids[1]]
    if not asked.ids and asked.a and asked.b:
        return asked.a, asked.b
    raise UsageError(
        "arguments-invalid",
        "lanemark compare: two sides are needed",
        "name two records, or give each side's runs: `lanemark compare --a ID… --b ID…`",
    )


def _with_series(side: list[Admitted], more: list[Admitted]) -> list[Admitted]:
    return list({record.id: record for record in (*side, *more)}.values())


def _check(asked: argparse.Namespace, records: Sequence[Admitted]) -> None:
    """Refuse a metric or a question that no record of this lane could answer."""
    lane = records[0].lane
    if not lane or any(record.lane != lane for record in records):
        return  # the verdict says so
    try:
        metric_of(lane, asked.metric)
    except KeyError:
        names = ", ".join(metric.name for metric in METRICS[lane])
        raise UsageError(
            "metric-unknown", f"the {lane} lane has no metric {asked.metric[:40]!r}", f"take one of {names}"
        ) from None
    for name in asked.vary:
        why = may_vary(lane, name, records)
        if why is not None:
            raise UsageError(
                "vary-invalid",
                f"--vary {name[:60]!r} {why}",
                f"name one of {', '.join(factors_of(lane))}, or the path of a field that may differ",
            )


def rendered(
    comparison: Comparison, a: Sequence[Admitted], b: Sequence[Admitted], vary: Sequence[str], width: int
) -> str:
    """The comparison as text no wider than `width`, the verdict first."""
    verdict = comparison.verdict
    about = f" ({verdict.metric})" if verdict.metric != "none" else ""
    lines = [verdict.word.replace("_", " ") + about]
    lines += [f"  {name}  {', '.join(record.id[:19] for record in side)}" for name, side in (("A", a), ("B", b))]
    if verdict.question:
        lines.append(f"  the question is about {', '.join(verdict.question)}")
    for severity, title in (("block", "refused because"), ("caveat", "to be said with it")):
        reasons = [reason for reason in verdict.reasons if reason.severity == severity]
        if reasons:
            lines += ["", title]
            lines += [wrapped(f"{reason.code}  {reason.text}", width) for reason in reasons]
    if verdict.comparable:
        lines += ["", *(wrapped(_sentence(found, label), width, "") for label, found in comparison.effects.items())]
    elif verdict.unblock:
        words = [*(f"--vary {name}" for name in sorted({*vary, *verdict.unblock}))]
        lines += ["", wrapped(f"it could be asked with {' '.join(words)}", width, "")]
    else:
        lines += ["", "no --vary would make these two comparable"]
    return "\n".join(lines)


def wrapped(text: str, width: int, first: str = "  - ") -> str:
    """A paragraph behind a bullet, its further lines under its first word."""
    rest = " " * len(first)
    return textwrap.fill(text, max(40, width), initial_indent=first, subsequent_indent=rest, break_long_words=False)


def _sentence(found: Effect, label: str) -> str:
    of = f"{label}: " if label else ""
    if found.verdict == "unreplicated":
        return f"{of}unreplicated: B is at {found.ratio:.3f} of A. {found.reason}."
    within = "" if found.interval is None else f", 95 % interval {found.interval[0]:.3f} to {found.interval[1]:.3f}"
    smallest = "" if found.minimum_detectable is None else f" (smallest detectable: {found.minimum_detectable:.1%})"
    said = "B and A are equivalent" if found.verdict == "equivalent" else f"B is {found.verdict}"
    said = "it is not known which is faster" if found.verdict == "inconclusive" else said
    return f"{of}{said}: {found.ratio:.3f} of A{within}{smallest}. {found.reason}."
