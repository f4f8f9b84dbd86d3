"""The surfaces a run may be left at, by name: one literal table. What a surface needs is imported when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lanemark.launch.detached import DetachedSurface
from lanemark.launch.local_detached import LocalDetached
from lanemark.launch.modal import ModalSurface
from lanemark.records.errors import UsageError

#: Surface → what makes it.
PLACES: Final[dict[str, Callable[[], DetachedSurface]]] = {"local": LocalDetached, "modal": ModalSurface}


def place_named(name: str) -> DetachedSurface:
    """The surface that `--surface` names. Raises UsageError `surface-unavailable`."""
    if name not in PLACES:
        raise UsageError(
            "surface-unavailable", f"no run can be left at the surface {name[:40]!r} by this version", "use local"
        )
    return PLACES[name]()


def places() -> dict[str, DetachedSurface]:
    """Every surface that can be asked from here, for a collector."""
    return {name: place_named(name) for name in PLACES}
