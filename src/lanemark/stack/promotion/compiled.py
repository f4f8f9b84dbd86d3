"""The `compiled` rung: is there machine code of the candidate at all. It needs no device and proves no execution.

What stands for it differs: a registered operator of torch's build, a package's shared libraries, a source that Python
can compile, or, for FA4, a cross-compilation for sm_90 under fake tensors, which a host without a GPU can do.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from lanemark.observe.child import importable, run_child

Doc = dict[str, Any]
#: What FA4 is cross-compiled for, and how it is told (flash-attn-4 4.0.0b36: `flash_attn/cute/interface.py`).
CROSS: Final = {
    "FLASH_ATTENTION_ARCH": "sm_90", "CUTE_DSL_ARCH": "sm_90a", "FLASH_ATTENTION_NUM_SMS": "132",
}  # fmt: skip
#: Forward and backward of one shape take 6 to 12 s each on two cores (measured).
CROSS_TIMEOUT_S: Final = 180.0
#: torch's operators have another name on a CPU where the kernel is another one.
_ON_CPU: Final = {"aten::_scaled_dot_product_flash_attention": "aten::_scaled_dot_product_flash_attention_for_cpu"}


def compiled_proof(name: str, compiled: str | None, *, device: torch.device, call: Callable[[], Any] | None) -> Doc:
    """Whether compiled code of the candidate is there: `done`, `words`, and what was looked at.

    Args:
        name: the candidate.
        compiled: `Kernel.compiled`.
        device: where it is to run.
        call: runs the candidate once; for one that is compiled when it is first called.
    """
    if compiled is not None and compiled.startswith("aten::"):
        return _operator(compiled, device)
    if compiled is not None and compiled.endswith(".py"):
        code = compile(Path(compiled).read_bytes(), compiled, "exec")
        return {"done": True, "words": f"{Path(compiled).name} compiles to {len(code.co_code)} bytes of Python code"}
    if name == "fa4":
        return cross_compile_fa4(os.environ)
    if compiled is not None:
        return _libraries(compiled)
    return _at_first_call(call)


def _operator(operator: str, device: torch.device) -> Doc:
    name = _ON_CPU.get(operator, operator) if device.type == "cpu" else operator
    key = "CPU" if device.type == "cpu" else "CUDA"
    for each in (key, "CompositeImplicitAutograd", "CompositeExplicitAutograd"):
        # The dispatcher tells its table nowhere else.
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, each):  # noqa: SLF001
            return {"done": True, "words": f"{name} is registered for {each} in this build of torch", "operator": name}
    return {"done": False, "words": f"{name} has no kernel for {key} in this build of torch", "operator": name}


def _libraries(package: str) -> Doc:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return {"done": False, "words": f"{package} is not installed"}
    libraries = sorted(str(file) for file in files if str(file).endswith(".so"))
    if not libraries:
        return {"done": False, "words": f"{package} holds no shared library"}
    return {"done": True, "words": f"{package} holds {len(libraries)} shared libraries", "libraries": libraries[:20]}


def _at_first_call(call: Callable[[], Any] | None) -> Doc:
    from torch._dynamo.utils import counters

    if call is None:
        return {"done": False, "words": "it is compiled when it is first called, and there was no call"}
    before = int(counters["stats"]["unique_graphs"])
    try:
        call()
    except Exception as error:  # what the compiler raises is the answer
        return {"done": False, "words": f"compiling failed: {type(error).__name__}: {error}"[:300]}
    made = int(counters["stats"]["unique_graphs"]) - before
    return {"done": made > 0, "words": f"{made} graphs were compiled at the first call"}


_CROSS_PROGRAM: Final = """
import json, sys, time
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd
out = {"torch": torch.__version__, "kernels": []}
with FakeTensorMode():
    q, k, v = (torch.empty(1, 128, 8, 64, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    began = time.monotonic()
    o, lse = _flash_attn_fwd(q, k, v, causal=True, return_lse=True)[:2]
    out["kernels"].append({"name": "forward", "seconds": round(time.monotonic() - began, 1), "shape": list(o.shape)})
    began = time.monotonic()
    dq = _flash_attn_bwd(q, k, v, o, torch.empty_like(o), lse, None, True, 0.0)[0]
    out["kernels"].append({"name": "backward", "seconds": round(time.monotonic() - began, 1), "shape": list(dq.shape)})
print("LANEMARK " + json.dumps(out))
"""


def cross_compile_fa4(environ: dict[str, str] | os._Environ[str]) -> Doc:
    """Compile FA4's forward and backward for sm_90 in a process of its own, on no device at all."""
    env = {**importable(environ), **CROSS}
    result = run_child([sys.executable, "-c", _CROSS_PROGRAM], timeout_s=CROSS_TIMEOUT_S, env=env)
    line = next((text for text in reversed(result.stdout.splitlines()) if text.startswith("LANEMARK ")), None)
    if line is not None:
        seen = json.loads(line.removeprefix("LANEMARK "))
        made = ", ".join(f"{each['name']} in {each['seconds']} s" for each in seen["kernels"])
        return {"done": True, "words": f"cross-compiled for {CROSS['CUTE_DSL_ARCH']} without a device: {made}", **seen}
    if result.timed_out:
        return {"done": False, "words": f"cross-compiling did not end within {CROSS_TIMEOUT_S:g} s"}
    last = (result.stderr.strip().splitlines() or ["no word"])[-1]
    return {"done": False, "words": f"cross-compiling failed: {last}"[:300]}
