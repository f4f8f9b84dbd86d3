"""The doctor's answer as text: lane, stage, class, evidence, what to do. Pure."""

from __future__ import annotations

import shlex
import textwrap

from lanemark.diagnose.examination import Examination
from lanemark.records.finding import FINDINGS, Finding


def page(seen: Examination, concluded: Finding | None, *, width: int) -> str:
    """The text, in the order in which a person would work. Commands stand on lines of their own."""
    blocks = [_head(seen, width)]
    if seen.finding is not None:
        blocks.append(_filled(seen.finding.summary, "", width))
        blocks.append(_section("evidence", seen.finding.evidence, width))
    elif seen.life == "running":
        blocks.append(_filled("nothing is wrong so far", "", width))
    else:
        blocks.append(_filled("nothing is wrong", "", width))
    if seen.finding is None or not seen.finding.evidence:
        blocks.append(_section("ranks", seen.ranks, width))
    blocks.append(_section("caveats", [f"{one.kind}: {one.summary}" for one in seen.caveats], width))
    blocks.append(_section("what to do", seen.steps, width, numbered=True))
    blocks.append(_section("not a fix", seen.not_fixes, width))
    if seen.diagnostic is not None and concluded is None:
        command = _command(seen.diagnostic, width)
        judged = _command(("lanemark", "doctor", seen.run_id, "--run-diagnostic"), width)
        blocks.append(f"model or infrastructure?\n{command}\nor let it be run and judged\n{judged}")
    if concluded is not None:
        blocks.append(_filled(f"concluded: {concluded.summary}", "", width))
        blocks.append(_section("evidence of the diagnostic run", concluded.evidence, width))
    blocks.append(_section("notes", seen.notes, width))
    return "\n\n".join(block for block in blocks if block)


def _plain(text: str) -> str:
    """Evidence may come from anywhere: what would move a terminal's cursor is shown as a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.replace("\t", " "))


def _head(seen: Examination, width: int) -> str:
    sealed = f", sealed as {seen.record_id[:19]}" if seen.record_id else ""
    state = seen.state or "not known"
    if seen.life == "unknown":
        state += " (nothing here says whether it is still running)"
    rows = [
        ("run", seen.run_id),
        ("lane", (seen.lane or "not known") + (f": {seen.asked}" if seen.asked else "")),
        ("state", f"{state}{sealed}"),
        ("stage", seen.stage),
    ]
    if seen.finding is not None:
        rank = f", rank {seen.finding.rank}" if seen.finding.rank is not None else ""
        rows.append(("class", f"{seen.finding.kind}{rank}: {FINDINGS[seen.finding.kind]}"))
    return "\n".join(_fill(text, width, f"{name:<7}", " " * 7) for name, text in rows)


def _fill(text: str, width: int, first: str, later: str) -> str:
    """One paragraph. A path is broken only where it would not fit on a line of its own."""
    plain = _plain(text)
    longest = max(map(len, plain.split()), default=0)
    return textwrap.fill(
        plain, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False,
        break_long_words=longest > width - max(len(first), len(later)),
    )  # fmt: skip


def _filled(text: str, indent: str, width: int) -> str:
    return _fill(text, width, indent, indent)


def _section(title: str, lines: tuple[str, ...] | list[str], width: int, *, numbered: bool = False) -> str:
    if not lines:
        return ""
    shown = []
    for number, line in enumerate(lines, 1):
        mark = f"  {number}. " if numbered else "  "
        after = " " * (len(mark) + (0 if numbered else 2))
        shown.append(_fill(line, width, mark, after) or mark)
    return "\n".join([title, *shown])


def _command(words: tuple[str, ...], width: int) -> str:
    """A shell command over several lines, each but the last ended by a backslash."""
    lines = ["  "]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += "\\"
            lines.append("    ")
        lines[-1] += f"{word} "
    return "\n".join(line.rstrip() for line in lines)
