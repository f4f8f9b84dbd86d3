"""Text in columns of a fixed width: measuring, wrapping, cutting, and falling back to ASCII. Pure.

A terminal counts cells and not characters: an ideograph takes two, a combining mark none. Everything here measures in
cells, so that a foreign file name can make a line shorter but never longer than the width that was asked for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

#: A space that `wrap` never breaks at; `lanemark.report.page` prints it as an ordinary one.
HARD_SPACE: Final = "\u00a0"
#: What our own text uses beyond ASCII. Anything else that is not ASCII came from outside and is escaped.
_PLAIN: Final = {
    "→": "->", "·": "|", "×": "x", "µ": "u", "–": "-", "…": "...", "’": "'", "●": "*", "✕": "x", "\u00a0": " ",
}  # fmt: skip


def cells(text: str) -> int:
    """How many terminal cells the text takes (source: UAX #11; combining marks take none)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def to_ascii(text: str) -> str:
    """The text in ASCII only: our own signs in their plain form, foreign characters as escapes."""
    if text.isascii():
        return text
    return "".join(_PLAIN.get(char, char) for char in text).encode("ascii", "backslashreplace").decode("ascii")


def cut(text: str, width: int, dots: str = "…") -> str:
    """At most `width` cells of the text, with `dots` (one cell) in place of what was left out."""
    if cells(text) <= width:
        return text
    out, used = [], 0
    for char in text:
        used += cells(char)
        if used > width - 1:
            break
        out.append(char)
    return "".join(out) + dots


def _pieces(word: str, width: int) -> list[str]:
    """A word longer than a line, broken where the line ends."""
    out, piece, used = [], "", 0
    for char in word:
        size = cells(char)
        if piece and used + size > width:
            out.append(piece)
            piece, used = "", 0
        piece, used = piece + char, used + size
    return [*out, piece] if piece else out


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells; never an empty list. `width` must be at least 2."""
    lines: list[str] = []
    line, used = "", 0
    for word in text.split(" "):
        for index, piece in enumerate(_pieces(word, width) or [""]):
            size = cells(piece)
            if index == 0 and line and used + 1 + size <= width:
                line, used = f"{line} {piece}", used + 1 + size
            else:
                if line:
                    lines.append(line)
                line, used = piece, size
    return [*lines, line] if line or not lines else lines


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text filled up with spaces to `width` cells, at its left for numbers (`right`)."""
    gap = " " * max(0, width - cells(text))
    return gap + text if right else text + gap


def column_widths(rows: Sequence[Sequence[str]], limit: int | None) -> list[int]:
    """The natural width of each column, the widest ones narrowed until two-space gaps and all fit into `limit`."""
    widths = [max(cells(row[index]) for row in rows) for index in range(len(rows[0]))]
    if limit is None:
        return widths
    while sum(widths) + 2 * (len(widths) - 1) > limit and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1
    return widths
