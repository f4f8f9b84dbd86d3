"""Is this process a rank of a launched command? Asked at the start of each of its Pythons, and again when torch comes.

    RANK and WORLD_SIZE are set        a rank, at once: torchrun, accelerate, deepspeed and most others set them
    torch is imported, one rank asked  the rank, unless another live process is it already
    a process group was formed         whatever rank the group says: launchers that spawn by function set nothing else
    a step was taken                   the rank that took it, from whoever held the place without taking any

A rank's children inherit its variables. So a place is held by the first live process that took it, and a child, which
finds its own ancestor there, is none; only one that takes steps where the holder took none has the better claim
(`lanemark.measure.claim`).

Light on purpose: a compile worker or a data loader pays for what stands at the top of this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

_TORCH: Final = "torch"


def start() -> None:
    """Called once a process, before its script. Raises what goes wrong; the caller lets the command run anyway."""
    if _number("RANK") is not None and _number("WORLD_SIZE") is not None:
        from lanemark.measure.script import script

        script().claim("environment")
    if _TORCH in sys.modules:
        _torch_is_here()
    else:
        sys.meta_path.insert(0, _ImportWatch(_TORCH, _torch_begins, _torch_is_here))


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _torch_begins() -> None:
    from lanemark.measure.script import script

    script().enter("import")


def _torch_is_here() -> None:
    from lanemark.measure.script import script
    from lanemark.measure.torch_hooks import install

    install(script())


class _ImportWatch:
    """Told when one module is imported: it stands in front of the finders until then (source: importlib, finders)."""

    def __init__(self, name: str, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._name, self._before, self._after = name, before, after

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002 - a finder's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The module's own spec with a loader that calls back; for every other module, nothing."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)  # a finder needs find_spec and nothing else
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        _quietly(self._before)
        spec.loader = _Loader(spec.loader, self._after)  # type: ignore[assignment]  # passes everything else through
        return spec


class _Loader:
    """A loader that calls back when its module is whole."""

    def __init__(self, loader: Any, after: Callable[[], None]) -> None:
        self._loader, self._after = loader, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _quietly(self._after)


def _quietly(call: Callable[[], None]) -> None:
    """Importing torch must not fail for us."""
    try:
        call()
    except Exception as error:
        if os.environ.get("LANEMARK_DEBUG"):
            sys.stderr.write(f"lanemark: this process is not watched ({type(error).__name__}: {error})\n")
