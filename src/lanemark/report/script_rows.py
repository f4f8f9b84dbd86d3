"""How a command of the user's own was measured, as rows; none for the reference stack. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lanemark.records.observation import value_of
from lanemark.report.cells import Row, row, stated_row
from lanemark.report.headline import Receipt
from lanemark.report.quantities import count, plural, throughput
from lanemark.report.quoting import quoted

_WAYS: Final = {
    "marks": "marks in the script", "callback": "a callback of its framework",
    "hooks": "optimizer steps, no line changed",
}  # fmt: skip


def step_tokens(training: Mapping[str, Any]) -> str:
    """Tokens of one step, in words: a command may have counted none, or not the same in every step."""
    tokens = training.get("tokens_per_step")
    if tokens is not None:
        return f"{count(tokens)} tokens each"
    counted = training["script"]["tokens"] == "counted"
    return "tokens counted, not the same in every step" if counted else f"tokens {training['script']['tokens']}"


def script_rows(training: Mapping[str, Any], receipt: Receipt) -> tuple[Row, ...]:
    """Steps a second, how they were counted, and what the script says of itself."""
    script = training.get("script")
    if script is None:
        return ()
    rows = [
        quoted("steps", script["steps_per_s"], receipt, lambda value: f"{value:.4g} steps/s"),
        row("measured by", script["measured_by"], lambda way: _WAYS.get(way, way)),
    ]
    if value_of(script["reported_tokens_per_s"]) is not None:
        rows.append(
            row("it reports", script["reported_tokens_per_s"], lambda value: f"{throughput(value)}, by its own count")
        )
    found = f"{plural(script['ranks_found'], 'rank')} found"
    if script["found_by"]:
        found += f" by {', '.join(way.replace('_', ' ') for way in script['found_by'])}"
    if script["restarts"]:
        found += f", started again {plural(script['restarts'], 'time')}"
    rows.append(stated_row("command", found))
    return tuple(rows)
