"""The tables of the page on comparing, as Markdown, from the tables that the judge itself reads. Pure.

A page between whose marks the code writes cannot say another thing than the code does; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lanemark.judge.claims import RULES
from lanemark.judge.metrics import METRICS
from lanemark.judge.routing import ROUTES
from lanemark.judge.table import rows_of
from lanemark.lanes.shared_roles import NOISE_VARIABLES, SHARED_ROLES, Role


def table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table. Cells may hold Markdown, but for the bar."""
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


def _role(row: Role) -> str:
    named = {"cpu": "on a processor"}
    instead = [f"{role} {named.get(on, f'for `{on}`')}" for on, role in row.instead]
    return "; ".join([row.role, *instead])


def roles(lane: str) -> str:
    """The rows of one lane that are its own, or, for `shared`, those of all lanes."""
    rows = SHARED_ROLES if lane == "shared" else tuple(row for row in rows_of(lane) if row not in SHARED_ROLES)
    cells = [(f"`{row.path}`", _role(row), f"`{row.factor}`" if row.factor else "", row.why) for row in rows]
    return table(("field", "role", "factor", "why"), cells)


def metrics() -> str:
    """The metrics of every lane."""
    cells = [
        (lane, f"`{metric.name}`", metric.unit or "none", "more" if metric.higher_is_better else "less")
        for lane, found in METRICS.items()
        for metric in found
        if metric.name != "none"
    ]
    return table(("lane", "metric", "unit", "better"), cells)


def claim_rules() -> str:
    """The rules of `cite --check`."""
    return table(("rule", "what would be believed wrongly"), [(f"`{rule.name}`", rule.why) for rule in RULES])


def routes() -> str:
    """The decision list of `route`."""
    rows = [(row.example, row.lane or "all", "<br>".join(f"`{c}`" for c in row.commands), row.not_by) for row in ROUTES]
    return table(("a question like", "lane", "what to run", "not answered by"), rows)


def variables() -> str:
    """Environment variables that a comparison ignores."""
    return table(("variable", "why"), [(f"`{name}`", why) for name, why in NOISE_VARIABLES.items()])


def filled(page: str, more: Mapping[str, str]) -> str:
    """The page with every marked part written anew: `<!-- NAME -->` … `<!-- end NAME -->`.

    Args:
        page: the page as it is.
        more: parts that are not the judge's to write, by name.

    Raises:
        ValueError: a part of `more` has no mark in the page, or a mark has a name that nobody writes.
    """
    missing = [name for name in more if f"<!-- {name} -->" not in page]
    if missing:
        raise ValueError(f"the page has no mark for {', '.join(missing)}")

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        kind, _, lane = name.partition(" ")
        if name in more:
            text = more[name]
        elif kind == "roles":
            text = roles(lane)
        elif name in _PARTS:
            text = _PARTS[name]()
        else:
            raise ValueError(f"the page has a mark {name[:40]!r} that nobody writes")
        return f"<!-- {name} -->\n{text}\n<!-- end {name} -->"

    return re.sub(r"<!-- (?P<name>[a-z][a-z ]*) -->\n.*?<!-- end (?P=name) -->", part, page, flags=re.DOTALL)


_PARTS = {"metrics": metrics, "claims": claim_rules, "routes": routes, "variables": variables}
