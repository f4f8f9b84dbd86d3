"""The environment snapshot: allow-listed variables only, each for a reason, none with a secret in it. Pure.

An allow-list, because a deny-list forgets. Names decide what is *considered*; the secret filter still looks at every
value, so that `TORCH_TOKEN` or a proxy URL with a password under an allowed prefix is listed by name and not by value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lanemark.observe.redaction import REDACTED, known_secrets, looks_secret, secret_shape
from lanemark.records.encoding import safe_text

#: Prefixes and why their variables bear on a number.
PREFIXES: Final[dict[str, str]] = {
    "CUDA_": "device visibility and order, launch behaviour",
    "CUBLAS_": "workspace size, hence determinism and speed",
    "CUDNN_": "library logging and paths",
    "NCCL_": "collective transport and algorithm",
    "NVIDIA_": "container runtime device selection, TF32 override",
    "NVTE_": "Transformer Engine backends",
    "TORCH": "torch, its distributed layer, inductor, elastic",
    "PYTORCH_": "allocator settings",
    "TRITON_": "kernel cache and compiler switches",
    "FLASH_ATTENTION_": "kernel build and selection",
    "GLOO_": "interface choice",
    "UCX_": "transport choice",
    "OMP_": "thread counts and placement",
    "GOMP_": "thread placement (GNU)",
    "KMP_": "thread placement (LLVM, Intel)",
    "MKL_": "BLAS threads and code paths",
    "OPENBLAS_": "BLAS threads and code paths",
    "BLIS_": "BLAS threads",
    "NUMEXPR_": "thread counts",
    "MALLOC_": "allocator behaviour (glibc)",
    "LANEMARK_": "our own settings",
}
#: Exact names and why.
NAMES: Final[dict[str, str]] = {
    "ATEN_CPU_CAPABILITY": "which vector kernels ATen dispatches to",
    "CC": "compiler that Triton and inductor call",
    "CXX": "compiler that inductor calls",
    "CI": "measured: changes torch's AOT cache key",
    "DNNL_MAX_CPU_ISA": "which vector kernels oneDNN uses",
    "ONEDNN_MAX_CPU_ISA": "which vector kernels oneDNN uses",
    "LD_LIBRARY_PATH": "which shared libraries are loaded",
    "LD_PRELOAD": "which libraries are forced in",
    "LOCAL_RANK": "rank placement",
    "LOCAL_WORLD_SIZE": "rank placement",
    "MASTER_ADDR": "rendezvous",
    "MASTER_PORT": "rendezvous",
    "RANK": "rank placement",
    "WORLD_SIZE": "rank placement",
    "MODAL_CLOUD_PROVIDER": "where the box was rented",
    "MODAL_ENVIRONMENT": "where the box was rented",
    "MODAL_IMAGE_ID": "which image it runs",
    "MODAL_IS_REMOTE": "whether this is the rented box",
    "MODAL_REGION": "where the box was rented",
    "MODAL_TASK_ID": "which container it was",
    "PYTHONHASHSEED": "hash order, which can reach cache keys",
    "PYTHONOPTIMIZE": "asserts off or on",
    "PYTHONMALLOC": "allocator behaviour",
    "TMPDIR": "where inductor keeps precompiled headers, outside its cache directory",
    "TOKENIZERS_PARALLELISM": "threads of the tokenizer",
}
#: A longer value is no setting; it is left out by size and said to be.
MAX_VALUE_CHARS: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def allowed(name: str) -> bool:
    """Whether a variable of this name is listed at all."""
    return _NAME.fullmatch(name) is not None and (name in NAMES or name.startswith(tuple(PREFIXES)))


def snapshot(environ: Mapping[str, str]) -> dict[str, str]:
    """Allow-listed variables, sorted by name. A value that looks like a secret is `[redacted]`; its name stays.

    The values of *every* secret-named variable in `environ`, listed or not, are looked for in what is kept.
    """
    known = known_secrets(environ)
    out: dict[str, str] = {}
    for name in sorted(environ):
        if not allowed(name) or secret_shape(name):
            continue
        value = environ[name]
        if looks_secret(name, value, known):
            out[name] = REDACTED
        elif len(value) > MAX_VALUE_CHARS:
            out[name] = f"[left out: {len(value)} characters]"
        else:
            out[name] = safe_text(value)
    return out
