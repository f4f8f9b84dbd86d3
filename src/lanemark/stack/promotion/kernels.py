"""The candidates as callables of one signature: from a case's inputs to output and log-sum-exp.

An adapter says what is to be computed in its kernel's own words and nothing else: it never repairs an answer. Opening a
candidate imports what it needs; whether what it needs is there was asked before, in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lanemark.lanes.promotion_claims import CANDIDATES, SPARSE_CANDIDATES, Applicability, Claims, declared
from lanemark.observe.packages import installed
from lanemark.records.encoding import digest
from lanemark.records.observation import Observation, observed, unavailable
from lanemark.stack.promotion.inputs import Inputs
from lanemark.stack.promotion.parity import Attend

_SDPA: Final = {
    "sdpa_math": SDPBackend.MATH,
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True)
class Kernel:
    """An opened candidate.

    Attributes:
        name: the case's candidate.
        claims: what it says it covers.
        attend: the callable.
        source: digest of what it was built from, as far as that can be seen.
        compiled: what stands for its compiled form: an operator's name, or a source file; None where nothing does.
    """

    name: str
    claims: Claims
    attend: Attend
    source: Observation[str]
    compiled: str | None = None


def open_kernel(name: str) -> Kernel | Applicability:
    """Import a candidate and make it callable, or say why there is nothing to call.

    Raises:
        ImportError, AttributeError: a package or a user's module does not hold what it should.
    """
    if ":" in name:
        return _own(name)
    claims = CANDIDATES[name]
    if name in SPARSE_CANDIDATES:
        return _sparse(name, claims)
    if name in _SDPA:
        operator = _OPERATORS[name]
        build = f"torch {torch.__version__} git {torch.version.git_version}"
        return Kernel(name, claims, _sdpa(_SDPA[name]), observed(digest(build.encode()), "torch.version"), operator)
    if name == "flex":
        from lanemark.stack.promotion.flex import compiled_flex

        build = f"torch {torch.__version__} git {torch.version.git_version}"
        return Kernel(name, claims, compiled_flex(), observed(digest(build.encode()), "torch.version"))
    from lanemark.stack.promotion.flash_packages import OPENERS

    version, record = installed(claims.packages[1])
    source = record if record.status == "observed" else unavailable(record.source, "no digest of its installed files")
    return Kernel(name, claims, OPENERS[name](), source, claims.packages[1] if version.value else None)


#: The operator whose registration shows that a build of torch holds the kernel (torch native_functions.yaml).
_OPERATORS: Final = {
    "sdpa_math": "aten::_scaled_dot_product_attention_math",
    "sdpa_flash": "aten::_scaled_dot_product_flash_attention",
    "sdpa_efficient": "aten::_scaled_dot_product_efficient_attention",
    "sdpa_cudnn": "aten::_scaled_dot_product_cudnn_attention",
}


def _sdpa(backend: SDPBackend) -> Attend:
    """Torch's `scaled_dot_product_attention` held to one backend. What it cannot express plainly it gets as a mask."""

    def attend(inputs: Inputs) -> Tensor:
        problem, mask, causal = inputs.problem, None, False
        if problem.masking == "causal" and problem.queries == problem.keys:
            causal = True
        elif problem.masking != "full":
            mask = inputs.visible_BQK[:, None]
            if problem.masking == "causal" and inputs.q_BHQD.is_cuda:
                from torch.nn.attention.bias import causal_lower_right

                mask = causal_lower_right(problem.queries, problem.keys)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, attn_mask=mask, is_causal=causal, scale=inputs.scale,
                enable_gqa=problem.heads != problem.kv_heads,
            )  # fmt: skip

    return attend


def _sparse(name: str, claims: Claims) -> Kernel | Applicability:
    """A backend of the sparse lane, called as that lane calls it."""
    from lanemark.stack.sparse.backends import BACKENDS

    if name not in BACKENDS:
        return Applicability(applies=False, reason="module_missing", words=f"no backend {name} in this version")
    backend = BACKENDS[name]

    def attend(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        assert inputs.indices_BQT is not None
        return backend(inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, inputs.indices_BQT)

    path = inspect.getsourcefile(backend)
    assert path is not None
    seen = observed(
        "sha256:" + hashlib.sha256(Path(path).read_bytes()).hexdigest(), f"source file of {backend.__module__}"
    )
    return Kernel(name, claims, attend, seen, path)


def own_arguments(inputs: Inputs) -> dict[str, Any]:
    """What a user's function is given beside queries, keys and values; only what its case has."""
    problem = inputs.problem
    words: dict[str, Any] = {"scale": inputs.scale}
    if problem.masking != "sparse":
        words["causal"] = problem.masking != "full"
    if problem.window is not None:
        words["window"] = problem.window
    if inputs.lengths_q_B is not None:
        words |= {"lengths_q": inputs.lengths_q_B, "lengths_k": inputs.lengths_k_B}
    if inputs.indices_BQT is not None:
        words["indices"] = inputs.indices_BQT
    return words


def attend_with(function: Callable[..., Any]) -> Attend:
    """A user's `function(q, k, v, *, scale, causal, …)` under the engine's signature."""

    def attend(inputs: Inputs) -> Any:
        return function(inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV, **own_arguments(inputs))

    return attend


def _own(name: str) -> Kernel | Applicability:
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name)
    claims = declared(getattr(module, "LANEMARK_CLAIMS", {}).get(function_name), name)
    if isinstance(claims, Applicability):
        return claims
    path = inspect.getsourcefile(module)
    if path is None:
        source: Observation[str] = unavailable(f"source of {module_name}", "it has no source file")
        return Kernel(name, claims, attend_with(function), source)
    data = Path(path).read_bytes()
    seen = observed("sha256:" + hashlib.sha256(data).hexdigest(), f"source file of {module_name}")
    return Kernel(name, claims, attend_with(function), seen, path)
