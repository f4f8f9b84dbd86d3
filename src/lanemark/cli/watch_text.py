"""What a watch found, as text for a terminal, as Markdown for a summary, and as JUnit XML for a CI server.

Suspected and confirmed are told apart in each. In JUnit a confirmed regression is a failure, a series that is too short
is skipped, and a suspicion is a passed case that says what is suspected; with `--strict` it fails as well.
"""

from __future__ import annotations

import textwrap
import xml.etree.ElementTree as ET
from typing import Final

from lanemark.judge.regression import FEWEST, TELLING, Change
from lanemark.judge.watching import Watch, Watched
from lanemark.records.reading import printable

_WORDS: Final = {
    "regressed": "regressed",
    "suspected": "suspected",
    "quiet": "no regression",
    "too_few": f"too few runs ({FEWEST} would do)",
}
_OUT: Final = {
    "refused": "refused on their own (`lanemark compare` says why)",
    "unknown": "without an observation that a series is named by",
    "no_figure": "without a figure",
}
#: So many differences are named at a change; the JSON has all.
_MOST_NAMED: Final = 4


def sentences(one: Watched) -> list[str]:
    """What a series says, the standing regressions first, the newest of them first."""
    found = sorted(one.trend.changes, key=lambda change: (not change.standing, -change.at))
    return [_change(one, change) for change in found]


def _change(one: Watched, change: Change) -> str:
    point = one.points[change.at]
    moved = f"{one.metric.name} {change.ratio - 1.0:+.1%}"
    if change.standing:
        kind = "confirmed regression" if change.certainty == "confirmed" else "suspected regression"
    else:
        kind = "earlier drop, recovered from" if change.worse else "improvement"
        kind += "" if change.certainty == "confirmed" else " (suspected)"
    count = len(one.points) - change.at
    since = f"since {point.id[7:19]} of {point.sealed_at}, {count} run{'' if count == 1 else 's'} ago"
    at = "" if point.commit is None else f", commit {point.commit[:12]}"
    return f"{kind}: {moved} {since}{at} (p = {change.p_value:.2g}). {_between(one, change)}"


def _between(one: Watched, change: Change) -> str:
    reasons = one.between.get(change.at, ())
    if not reasons:
        return "Nothing that a record has a field for changed there."
    named = [f"{reason.path} {reason.a or 'unknown'} → {reason.b or 'unknown'}" for reason in reasons[:_MOST_NAMED]]
    more = f" and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
    return f"What changed there, which need not be the cause: {'; '.join(named)}{more}."


def _count(one: Watched) -> str:
    return f"{len(one.points)} run{'' if len(one.points) == 1 else 's'}"


def _level(one: Watched) -> str:
    newest = one.points[-1]
    return f"newest {newest.value:,.6g} {one.metric.unit}"


def _detectable(one: Watched) -> str:
    share = one.trend.detectable
    return "" if share is None else f"{TELLING} runs of a new level would confirm a change of {share:.1%}"


def rendered(found: Watch, width: int) -> str:
    """For a terminal or a pipe, no wider than `width`."""
    width = max(60, width)
    lines = []
    for one in found.series:
        head = f"{_WORDS[one.trend.verdict]}: {one.label} ({_count(one)})"
        lines.append(textwrap.fill(printable(head), width, subsequent_indent="  ", break_long_words=False))
        facts = ", ".join(part for part in (_level(one), _detectable(one)) if part)
        lines.append(f"  {facts}")
        lines += [
            textwrap.fill(printable(text), width, initial_indent="  - ", subsequent_indent="    ")
            for text in sentences(one)
        ]
    if found.left_out:
        lines += ["", f"left out: {left_out(found)}"]
    return "\n".join(lines) if lines else "no series"


def left_out(found: Watch) -> str:
    """How many records are in no series, and why, in words; empty where all are in one."""
    return "; ".join(f"{count} {_OUT[why]}" for why, count in sorted(found.left_out.items()))


def as_markdown(found: Watch, *, strict: bool) -> str:
    """A summary as CI servers show it under a run."""
    failing = _failing(strict=strict)
    worst = next((one for one in found.series if one.trend.verdict in failing), None)
    lines = [f"## Lanemark watch: {'regressed' if worst is not None else 'no confirmed regression'}", ""]
    lines += ["| series | runs | newest | verdict |", "|---|---|---|---|"]
    for one in found.series:
        cells = (one.label, str(len(one.points)), _level(one).removeprefix("newest "), _WORDS[one.trend.verdict])
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    for one in found.series:
        said = sentences(one)
        if said:
            lines += ["", f"**{_cell(one.label)}**", "", *(f"- {_cell(text)}" for text in said)]
    if found.left_out:
        lines += ["", f"Left out: {left_out(found)}."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that is neither a column nor a tag nor a link in Markdown."""
    text = printable(text)
    for char in "\\|<>[]*_`":
        text = text.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return text


def _failing(*, strict: bool) -> frozenset[str]:
    return frozenset({"regressed", "suspected"}) if strict else frozenset({"regressed"})


def as_junit(found: Watch, *, strict: bool) -> str:
    """A JUnit XML report, one test case a series."""
    failing = _failing(strict=strict)
    failed = sum(one.trend.verdict in failing for one in found.series)
    skipped = sum(one.trend.verdict == "too_few" for one in found.series)
    counts = {"tests": str(len(found.series)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "lanemark.watch", **counts})
    for one in found.series:
        name = {"classname": f"lanemark.watch.{one.metric.name}", "name": printable(f"{one.label} ({one.name})")}
        case = ET.SubElement(suite, "testcase", name)
        text = printable(" ".join(sentences(one)))
        if one.trend.verdict in failing:
            ET.SubElement(case, "failure", {"type": one.trend.verdict, "message": text}).text = text
        elif one.trend.verdict == "too_few":
            ET.SubElement(case, "skipped", {"message": _WORDS["too_few"]})
        elif text:
            ET.SubElement(case, "system-out").text = text
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
