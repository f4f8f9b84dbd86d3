"""Watching torch.compile: every compilation becomes a nested `compile` phase of the beacon.

The hooks live in a private module of torch (`torch._dynamo.callback`, present in 2.11 to 2.13), so their absence is an
observation and no failure. They fire on whichever thread compiles, the beginning and the end possibly on two, and
torch runs them inside the compilation: an exception here would fail the user's step, so none leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

from lanemark.measure.beacon import Beacon
from lanemark.records.observation import observed, unavailable

_SOURCE = "torch._dynamo.callback"

Hook = Callable[[Any], None]
#: The pair of hooks of each page, so that installing them again never counts a compilation twice.
_HOOKS: WeakKeyDictionary[Beacon, tuple[Hook, Hook]] = WeakKeyDictionary()


def watch_compilations(beacon: Beacon) -> dict[str, Any]:
    """Install the hooks. Call it before the first compiled call, and again after `torch.compiler.reset()`.

    It imports `torch._dynamo`. Resetting the compiler takes every hook away; where some release does not, the hooks
    that are there already are replaced, not doubled.

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

    started, ended = _HOOKS.get(beacon) or _HOOKS.setdefault(beacon, _hooks(beacon))
    with contextlib.suppress(ValueError, AttributeError):  # they are not there, or cannot be removed at all
        callback_handler.remove_start_callback(started)
    with contextlib.suppress(ValueError, AttributeError):
        callback_handler.remove_end_callback(ended)
    register_start(started)
    register_end(ended)
    return observed(value=True, source=_SOURCE).to_json()


def _hooks(beacon: Beacon) -> tuple[Hook, Hook]:
    page = ref(beacon)  # the pair is kept by its page and must not keep the page in turn
    open_tokens: list[int] = []

    def started(args: Any) -> None:
        writer = page()
        if writer is not None:
            open_tokens.append(writer.push("compile", label_of(args)))

    def ended(_args: Any) -> None:
        writer = page()
        if writer is not None and open_tokens:
            writer.pop(open_tokens.pop())

    return started, ended


def label_of(args: Any) -> str:
    """`DYNAMO:0/0`: what triggered the compilation and its id (frame/recompilation). Never raises."""
    trigger = getattr(getattr(args, "callback_trigger", None), "name", "UNKNOWN")
    return f"{trigger}:{getattr(args, 'compile_id', None) or '?'}"
