"""Lanemark: benchmark records that still mean something a week later.

Importing this package costs nothing but this file: every room below is imported by the verb that needs it. A training
script may import it for three names, which do nothing outside a run (`lanemark.measure.marks`):

    for batch in lanemark.steps(loader, tokens=8192): ...
    with lanemark.step(tokens=8192): ...
    lanemark.report(loss=2.31, tokens_per_s=51_000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lanemark.measure.marks import report as report
    from lanemark.measure.marks import step as step
    from lanemark.measure.marks import steps as steps

__version__ = "0.1.0"
_MARKS = ("report", "step", "steps")


def __getattr__(name: str) -> Any:
    if name not in _MARKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lanemark.measure import marks

    found = getattr(marks, name)
    globals()[name] = found
    return found
