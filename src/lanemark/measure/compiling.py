"""Watching torch.compile: every compilation becomes a nested `compile` phase of the beacon.

The hooks live in a private module of torch (`torch._dynamo.callback`, present in 2.11 to 2.13), so their absence is an
observation and no failure. They fire on whichever thread compiles, the beginning and the end possibly on two, and
torch runs them inside the compilation: an exception here would fail the user's step, so none leaves.
"""

from __future__ import annotations

from typing import Any

from lanemark.measure.beacon import Beacon
from lanemark.records.observation import observed, unavailable

_SOURCE = "torch._dynamo.callback"


def watch_compilations(beacon: Beacon) -> dict[str, Any]:
    """Install the hooks. Call it before the first compiled call; it imports `torch._dynamo`.

    Returns:
        An observation in JSON form: `observed` true when compilations will be seen, else why they will not. Without
        hooks `compilations` and `compile_ns` stay 0 and mean nothing.
    """
    try:
        from torch._dynamo.callback import callback_handler

        register_start = callback_handler.register_start_callback
        register_end = callback_handler.register_end_callback
    except Exception as error:  # no torch, a torch without the module, or one that fails while importing it
        return unavailable(_SOURCE, f"{type(error).__name__}: {error}"[:300]).to_json()

    open_tokens: list[int] = []

    def started(args: Any) -> None:
        open_tokens.append(beacon.push("compile", label_of(args)))

    def ended(_args: Any) -> None:
        if open_tokens:
            beacon.pop(open_tokens.pop())

    register_start(started)
    register_end(ended)
    return observed(value=True, source=_SOURCE).to_json()


def label_of(args: Any) -> str:
    """`DYNAMO:0/0`: what triggered the compilation and its id (frame/recompilation). Never raises."""
    trigger = getattr(getattr(args, "callback_trigger", None), "name", "UNKNOWN")
    return f"{trigger}:{getattr(args, 'compile_id', None) or '?'}"
