"""GPU specifications for Modal: which ones name one class of device, and how they are written there. Pure.

The SDK does not check them and the service checks them late, so they are parsed by us. Three of them may be served by
another class than they name (modal.com/docs/guide/gpu, seen 2026-08), and a benchmark of "H100 or maybe H200" is a
benchmark of nothing:

    H100    may be an H200; `H100!` is an H100
    A100    may be of 40 or of 80 GB; `A100-40GB` and `A100-80GB` say which
    B200+   may be a B300; `B200` is a B200

They are refused unless `--allow-substitute` accepts whatever is served. `!` admits no substitute, on every surface.
Modal knows the mark for H100 alone; the other classes have no substitute there, so that for them it is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lanemark.records.case import GpuSpec, parse_gpu
from lanemark.records.errors import UsageError

#: Class → what to write instead, where the bare name is served loosely.
_LOOSE: Final = {"H100": "H100!", "A100": "A100-40GB or A100-80GB"}
#: The one class with a `+` (same page).
_OR_BETTER: Final = ("B200",)
#: More classes than this in a list of fallbacks are a mistake: each is another question.
MAX_FALLBACKS: Final = 4


def _refuse(text: str, why: str, remedy: str) -> UsageError:
    return UsageError("gpu-spec-invalid", f"--gpu {text} {why}", remedy)


def on_modal(spec: GpuSpec, *, allow_substitute: bool) -> str | None:
    """The specification as Modal's `gpu=` takes it; None for `cpu`, which rents no device.

    Raises:
        UsageError: `gpu-spec-invalid`: the class is open, or may be served by another without leave.
    """
    count = spec.count or 1
    if spec.name == "any":
        raise _refuse("any", "names no device to rent", "name one, for instance --gpu H100!:8, or --gpu cpu for none")
    if spec.name == "cpu":
        return None
    if spec.or_better and spec.name not in _OR_BETTER:
        raise _refuse(str(spec), "has a `+`, which Modal knows for B200 alone", "name the class you want")
    loose = spec.or_better or (spec.name in _LOOSE and not spec.pinned)
    if loose and not allow_substitute:
        instead = "B200" if spec.or_better else _LOOSE[spec.name]
        raise _refuse(
            str(spec), "may be served by another class of device",
            f"write {instead}, or add --allow-substitute to take what comes",
        )  # fmt: skip
    if spec.pinned and spec.name == "A100":
        raise _refuse(str(spec), "does not say which A100", "write A100-40GB or A100-80GB")
    mark = "!" if spec.pinned and spec.name == "H100" else "+" if spec.or_better else ""
    return f"{spec.name}{mark}:{count}"


def in_order(first: str, fallbacks: Sequence[str], *, allow_substitute: bool) -> tuple[str, ...]:
    """The list of devices to rent, best first, as Modal's `gpu=` takes it; empty for `cpu`.

    Args:
        first: the case's specification.
        fallbacks: further ones, in order; a pinned class has none.
        allow_substitute: whether loosely served classes are accepted.

    Raises:
        UsageError: `gpu-spec-invalid`.
    """
    specs = [parse_gpu(text) for text in (first, *fallbacks)]
    if fallbacks and specs[0].pinned:
        raise _refuse(first, "admits no substitute, and --gpu-fallback names one", "leave one of the two out")
    if len(fallbacks) > MAX_FALLBACKS:
        raise _refuse(first, f"has {len(fallbacks)} fallbacks", f"name at most {MAX_FALLBACKS}")
    counts = {spec.count or 1 for spec in specs}
    if len(counts) > 1:
        raise _refuse(first, "and its fallbacks differ in the number of devices", "give all of them the same count")
    # A list is itself leave to substitute: a loosely served class in it loses nothing.
    written = [on_modal(spec, allow_substitute=allow_substitute or bool(fallbacks)) for spec in specs]
    if fallbacks and None in written:
        raise _refuse(first, "cannot be mixed with cpu", "name GPU classes alone")
    return tuple(text for text in written if text is not None)
