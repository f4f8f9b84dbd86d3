"""Figures that only a receipt makes quotable. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, Row, plain, row
from lanemark.report.headline import Receipt
from lanemark.report.quantities import throughput


def _global_throughput(tokens_per_s: float) -> str:
    return f"{throughput(tokens_per_s)}, global batch"


def quoted(
    label: str, observation: dict[str, Any], receipt: Receipt, form: Callable[[Any], str] = _global_throughput
) -> Row:
    """A row for a figure that only a receipt makes quotable."""
    if receipt.quotable or value_of(observation) is None:
        return row(label, observation, form)
    return Row(label, Cell(f"withheld: {receipt.reason}", "withheld", plain(observation["source"])))
