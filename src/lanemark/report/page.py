"""`Page`: lines of one width, the only place that knows about colour and the ASCII fallback. Pure."""

from __future__ import annotations

from typing import Final

from lanemark.report.columns import HARD_SPACE, cells, cut, pad, to_ascii, wrap

#: Narrower than this no column layout is left to speak of; a smaller width is raised to it.
MIN_WIDTH: Final = 40
INDENT: Final = "  "
#: Foreign text longer than this is cut on a terminal; the record and the HTML report keep it whole.
_LONGEST: Final = 600
#: Select Graphic Rendition parameters (ECMA-48, 8.3.117): only attributes and base colours, which every terminal
#: theme maps to something readable.
_STYLES: Final = {"bold": "1", "dim": "2", "bad": "31", "warn": "33", "good": "32"}


class Page:
    """Collects lines; none is ever wider than `width`."""

    def __init__(self, width: int, *, color: bool, unicode: bool) -> None:
        self.width = max(MIN_WIDTH, width)
        self.color = color
        self.unicode = unicode
        self._lines: list[str] = []

    def _plain(self, text: str) -> str:
        return text if self.unicode else to_ascii(text)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.color and style and text else text

    def heading(self, text: str) -> None:
        """A heading with a blank line above it."""
        self._lines += ["", self._styled(self._plain(text), "bold")]

    def line(self, text: str) -> None:
        """One line that the caller keeps short enough."""
        self._lines.append(f"{INDENT}{text}")

    def text(self, text: str, *, lead: str = "", style: str = "", indent: str = INDENT) -> None:
        """Wrapped text; `lead` opens the first line and the following ones hang below its end."""
        lead = self._plain(lead)
        room = self.width - cells(indent) - cells(lead)
        for index, line in enumerate(wrap(self._plain(cut(text, _LONGEST)), room)):
            start = " " * cells(lead) if index else lead
            self._lines.append(f"{indent}{start}{self._styled(line, style)}".rstrip())

    def labelled(self, label: str, text: str, *, column: int, style: str = "") -> None:
        """A label, and its text in a column of its own. A label too long for its column stands on lines of its own."""
        label = self._plain(label)
        if cells(label) > column:
            self.text(label)
            label = ""
        room = self.width - len(INDENT) - column - 2
        for index, line in enumerate(wrap(self._plain(cut(text, _LONGEST)), room)):
            start = pad("" if index else label, column)
            self._lines.append(f"{INDENT}{start}  {self._styled(line, style)}".rstrip())

    def finish(self) -> str:
        """The page as one text, without a final newline."""
        return "\n".join(self._lines).replace(HARD_SPACE, " ")
