"""A wave as one self-contained HTML page: no script, nothing fetched, light and dark, readable on a telephone."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from lanemark.records.terms import RUNGS
from lanemark.report.html import environment
from lanemark.report.wave import MARK_WORDS, MARKS, WaveView

#: Rungs as column heads, where their names would make the matrix wider than a page.
_HEADS: Final = {"dispatch_confirmed": "dispatch", "fwd_parity": "forward", "bwd_parity": "backward"}


def render_wave_html(view: WaveView) -> str:
    """The whole page as text."""
    jinja = environment()
    style = jinja.get_template("report.css").render() + "\n" + jinja.get_template("wave.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rungs = [_HEADS.get(rung, rung) for rung in RUNGS]
    page = jinja.get_template("wave.html.j2")
    return page.render(view=view, rungs=rungs, marks=MARKS, words=MARK_WORDS, style=style, style_digest=digest) + "\n"
