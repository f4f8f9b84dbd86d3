"""What this rank really used of the compile cache: keys it looked up, machine code that is mapped into it.

torch's counters say how many lookups hit, and lie: with the compiled libraries deleted they still report hits while
everything is built again. So three things are told apart, and coverage is judged from the first two only:

- **keys**, from `torch.compiler.save_cache_artifacts`, which lists what a process stored *and* what it found;
- **binaries**, the files below the rank's cache that the kernel has mapped into this process (`/proc/self/maps`): a
  library that is mapped was loaded, whatever any counter says. Code for a GPU is loaded by its driver and never mapped;
- **counts** of hits, misses and bypasses, for people.

Looking costs milliseconds and a copy of the cached graphs in memory, so it is done outside the measured window.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.observe.compile_cache import is_binary
from lanemark.records.observation import Observation, absent, observed, unavailable

_SOURCE: Final = "torch.compiler.save_cache_artifacts, /proc/self/maps"
#: torch's names for the kinds of keys we keep (torch/_inductor/codecache.py and torch/_functorch, `type()`).
_KINDS: Final = {"fx": "inductor", "aot": "aot_autograd"}
#: Counter group and prefix of each kind in `torch._dynamo.utils.counters`.
_COUNTERS: Final = {"fx": ("inductor", "fxgraph_cache_"), "aot": ("aot_autograd", "autograd_cache_")}
_DELETED: Final = " (deleted)"


def cache_use(environ: Mapping[str, str], *, compiled: bool) -> dict[str, Any]:
    """The rank's word, as an observation in JSON form. Never raises.

    Args:
        environ: `LANEMARK_CACHE_DIR` is the root of this rank's cache and `TORCHINDUCTOR_CACHE_DIR` where its compiler
            was led; binaries are named relative to the root.
        compiled: whether the run compiles at all.

    Returns:
        `{"fx", "aot", "binaries", "hits", "misses", "bypasses"}`; absent where nothing is compiled; unavailable, with
        the reason, where a part could not be seen: keys without binaries would pass for coverage and be none.
    """
    try:
        return _look(environ, compiled=compiled).to_json()
    except Exception as error:  # a private part of torch that changed: the run goes on, and says that it could not look
        return unavailable(_SOURCE, f"{type(error).__name__}: {error}"[:300]).to_json()


def _look(environ: Mapping[str, str], *, compiled: bool) -> Observation[dict[str, Any]]:
    if not compiled:
        return absent(_SOURCE, "nothing is compiled")
    led = environ.get("TORCHINDUCTOR_CACHE_DIR")
    root = environ.get("LANEMARK_CACHE_DIR") or led
    if not root:
        return unavailable(_SOURCE, "no variable says where this rank's cache is")
    if led and not _below(Path(led), Path(root)):
        return unavailable(_SOURCE, "TORCHINDUCTOR_CACHE_DIR leads away from this rank's cache")
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        binaries = mapped_below(maps.read(), os.path.realpath(root))
    return observed({**keys_used(), "binaries": binaries, **lookups()}, _SOURCE)


def _below(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def keys_used() -> dict[str, list[str]]:
    """Keys this process stored or found, sorted, by kind. It serialises what was found, which drops nothing."""
    import torch

    saved = torch.compiler.save_cache_artifacts()
    kept: Mapping[str, list[str]] = {} if saved is None else saved[1].artifacts
    return {kind: sorted(set(kept.get(name, ()))) for kind, name in _KINDS.items()}


def lookups() -> dict[str, dict[str, int]]:
    """Hits, misses and bypasses so far, by kind. Recorded, never trusted alone: see this module's docstring."""
    from torch._dynamo.utils import counters

    return {
        f"{what}{'es' if what.endswith('s') else 's'}": {
            kind: int(counters[group].get(f"{prefix}{what}", 0)) for kind, (group, prefix) in _COUNTERS.items()
        }
        for what in ("hit", "miss", "bypass")
    }


def mapped_below(maps: str, root: str) -> list[str]:
    """Machine code below `root` that is mapped, relative to it, sorted. Pure.

    Args:
        maps: the text of `/proc/PID/maps` (proc(5)); a file deleted since is named as it was.
        root: an absolute path without links.
    """
    found = set()
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith(root.rstrip("/") + "/"):
            path = fields[5].removesuffix(_DELETED)
            if is_binary(Path(path)):
                found.add(os.path.relpath(path, root))
    return sorted(found)
