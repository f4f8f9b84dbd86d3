"""A citation as a badge: a small SVG of our own, or the JSON that shields-like services draw one from. Pure.

A badge has room for a figure and little else, so that it names the lane, the observed hardware and the record's digest,
and its title, which a pointer or a screen reader reaches, is the whole sentence.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

from lanemark.judge.citing import Citation
from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of
from lanemark.records.reading import printable

#: Width of a character of 11-pixel sans-serif text, pixels: an average, with some room.
_CHARACTER: Final = 6.7
_HEIGHT: Final = 20
_MOST: Final = 60


def label_of(citation: Citation, doc: Doc) -> str:
    """The badge's left half: lane and observed hardware."""
    seen = doc["hardware"]["observed"]
    kind, number = value_of(seen["device_class"]), value_of(seen["device_count"])
    device = "cpu" if kind == "cpu" else f"{number} × {kind}"
    return _short(f"{citation.lane} · {device}")


def message_of(citation: Citation) -> str:
    """The badge's right half: the figure and enough of the digest to find the record."""
    caveats = " with caveats" if citation.caveats else ""
    return _short(citation.figure.partition(", state")[0]) + f"{caveats} · {citation.record_id[7:15]}"


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _MOST else shown[: _MOST - 1] + "…"


def shields(citation: Citation, doc: Doc) -> dict[str, Any]:
    """The endpoint schema, version 1, of shields.io and of services like it."""
    return {
        "schemaVersion": 1,
        "label": label_of(citation, doc),
        "message": message_of(citation),
        "color": "lightgrey" if citation.caveats else "informational",
    }


def svg(citation: Citation, doc: Doc) -> str:
    """The badge as a self-contained SVG: no script, no external font, nothing from the record as markup."""
    left, right = label_of(citation, doc), message_of(citation)
    widths = [round(len(text) * _CHARACTER) + 12 for text in (left, right)]
    total, title = sum(widths), escape(citation.sentence)
    fill = "#6a6f76" if citation.caveats else "#1f6feb"
    style = 'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" fill="#fff" text-anchor="middle"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{_HEIGHT}" role="img" '
        f'aria-label="{title}"><title>{title}</title>'
        f'<rect width="{widths[0]}" height="{_HEIGHT}" fill="#333"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="{_HEIGHT}" fill="{fill}"/>'
        f'<g {style}><text x="{widths[0] / 2:g}" y="14">{escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2:g}" y="14">{escape(right)}</text></g></svg>\n'
    )
