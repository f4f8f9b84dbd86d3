"""One self-contained HTML page for one record or several. Reads its own templates, writes nothing.

The page must survive being mailed, archived and opened years later: no script, no font, no image, no address that a
browser would fetch. A Content-Security-Policy says so to the browser as well: nothing may load, and the one style
sheet is named by its digest, so that text which slipped through as markup could still neither run nor dress itself up.

Several records share a page in the order given. Nothing is computed between them: whether two records may be compared
is a question with its own verdict, and a page that printed a ratio would have answered it in passing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from lanemark.report.charts import step_chart
from lanemark.report.phase_chart import timeline_chart
from lanemark.report.quantities import duration
from lanemark.report.timeline import Timeline, phase_words
from lanemark.report.view import RecordView

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> Environment:
    """Jinja set up so that forgetting to escape is impossible and a misspelt name is an error, not a blank."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lanemark.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["phase_words"] = phase_words
    environment.globals["step_chart"] = step_chart
    environment.globals["timeline_chart"] = timeline_chart
    environment.globals["phase_rows"] = phase_rows
    return environment


def phase_rows(timeline: Timeline) -> list[list[str]]:
    """The timeline as a table for those who cannot see the picture: one row a rank, one column a phase."""
    rows = []
    for rank in timeline.ranks:
        totals = [rank.total_s(phase) for phase in timeline.phases]
        rows.append([str(rank.rank), *("not reported" if total is None else duration(total) for total in totals)])
    return rows


def render_html(views: Sequence[RecordView]) -> str:
    """The whole page as text.

    Args:
        views: records in the order they are to stand; an empty page says that it is empty.
    """
    jinja = environment()
    style = jinja.get_template("report.css").render()
    style_digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return jinja.get_template("report.html.j2").render(views=list(views), style_digest=style_digest) + "\n"
