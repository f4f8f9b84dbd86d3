"""What a lane without steps adds to the parts of a view that records of all lanes share."""

from __future__ import annotations

from dataclasses import dataclass

from lanemark.report.cells import Group
from lanemark.report.headline import Headline
from lanemark.report.tables import TableView


@dataclass(frozen=True)
class LaneSections:
    """What a lane without steps adds to the common parts of a view.

    Attributes:
        headline: the sentence, and whether the lane's result may be quoted.
        groups: rows of a short page, after the start-up and before the provenance.
        figures: rows of the whole page.
        results: the lane's tables.
    """

    headline: Headline
    groups: tuple[Group, ...]
    figures: tuple[Group, ...]
    results: tuple[TableView, ...]
