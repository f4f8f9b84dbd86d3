"""Lanemark: benchmark records that still mean something a week later.

Importing this package costs nothing but this file: every room below is imported by the verb that needs it. A training
script may import it for a few names, which do nothing outside a run (`lanemark.measure.marks`, `.callbacks`):

    for batch in lanemark.steps(loader, tokens=8192): ...
    with lanemark.step(tokens=8192): ...
    lanemark.note(loss=2.31, tokens_per_s=51_000)
    hf_callback, lightning_callback, accelerate_steps
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lanemark.measure.callbacks import accelerate_steps as accelerate_steps
    from lanemark.measure.callbacks import hf_callback as hf_callback
    from lanemark.measure.callbacks import lightning_callback as lightning_callback
    from lanemark.measure.marks import note as note
    from lanemark.measure.marks import step as step
    from lanemark.measure.marks import steps as steps

__version__ = "0.1.0"
_MARKS = {
    "note": "marks", "step": "marks", "steps": "marks",
    "accelerate_steps": "callbacks", "hf_callback": "callbacks", "lightning_callback": "callbacks",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MARKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"lanemark.measure.{_MARKS[name]}"), name)
    globals()[name] = found
    return found
