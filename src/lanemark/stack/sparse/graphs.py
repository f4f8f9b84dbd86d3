"""From the name of a compiled graph, as a profiler shows it, to the kernels that the graph is made of.

A profiler sees `## Call CompiledFxGraph f75f4y… ##` and, on a CPU, nothing inside it: they all look alike. But the
name is the key under which the compiler keeps the graph's generated code, and the code names its kernels
(`cpp_fused_flex_attention_0 = async_compile…`). The file is searched as bytes and never unpickled. Where it cannot be
found, as with caching switched off, the graph stays a hash that says nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_GRAPH: Final = re.compile(r"CompiledFxGraph (f[a-z0-9]{20,64})\b")
#: How generated code defines a kernel (torch/_inductor/codegen/wrapper.py, seen alike from 2.11 to 2.13).
_KERNEL: Final = re.compile(rb"\b((?:cpp|triton)_\w{1,120}) = async_compile\b")
#: A graph of one kernel is 150 kB with its guards; anything far larger is not searched.
_MOST_BYTES: Final = 32 * 1024 * 1024


def with_kernels(name: str, cache: Path | None) -> list[str]:
    """The name, and after it one name for each kernel of the graph that it names; the name alone for anything else.

    Args:
        name: of an event.
        cache: the compiler's cache directory, or None where there is none.
    """
    found = _GRAPH.search(name)
    if found is None or cache is None:
        return [name]
    kernels = kernels_of(found[1], cache)
    return [name, *(f"CompiledFxGraph {found[1][:16]}: {kernel}" for kernel in kernels)]


def kernels_of(key: str, cache: Path) -> list[str]:
    """The kernels in the stored code of a graph, each once and in order."""
    kernels: dict[str, None] = {}
    for path in sorted((cache / "fxgraph" / key[1:3] / key).glob("*")):
        try:
            with path.open("rb") as file:
                code = file.read(_MOST_BYTES)
        except OSError:
            continue
        for match in _KERNEL.finditer(code):
            kernels[match[1].decode()] = None
    return list(kernels)


def cache_directory() -> Path | None:
    """Where this process's compiler keeps its graphs, or None where this torch does not say."""
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir
    except ImportError:
        return None
    return Path(cache_dir())
