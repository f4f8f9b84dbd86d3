"""What each candidate claims to cover, and whether a case lies within it. One literal table, pure, failing closed.

A claim is what a kernel's own sources and guards say it takes; it is no evidence that it works. It decides only what is
asked: a case outside a claim is not run and not held against the kernel, and an acceptance does not reach it. What is
not known (an architecture that could not be looked at, a candidate that declares nothing) applies to nothing.

Every refusal has a reason from a closed list, so that a program can sort them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from lanemark.lanes.promotion_matrix import Problem
from lanemark.records.errors import UsageError

Mode = Literal["dense_attention", "sparse_validation"]
#: Why a candidate does not apply, in the order in which it is asked.
Inapplicable = Literal[
    "arch_unknown", "arch_unsupported", "mode_unsupported", "direction_unsupported", "dtype_unsupported",
    "head_dim_unsupported", "value_dim_unsupported", "masking_unsupported", "grouping_unsupported",
    "unequal_lengths_unsupported", "declaration_missing", "declaration_invalid", "module_missing",
]  # fmt: skip
INAPPLICABLE: Final[tuple[str, ...]] = get_args(Inapplicable)
_MASKINGS: Final = ("full", "causal", "window", "varlen")


class Applicability(NamedTuple):
    """Whether a candidate covers something. `reason` is `covered` or one of `INAPPLICABLE`; `words` say it."""

    applies: bool
    reason: str
    words: str


@dataclass(frozen=True)
class Claims:
    """What one candidate says it takes.

    Attributes:
        mode: its family.
        archs: architectures by prefix: `cpu`, `sm_90`; `sm_` is every CUDA device.
        dtypes: element types.
        backward_archs: architectures by prefix on which gradients are covered; empty: forward only.
        maskings: which scores may be left out.
        max_head_dim: largest head dimension; also a multiple of 8 on a GPU.
        value_dims: pairs of head dimensions that may differ; equal ones are always covered.
        grouped: whether query heads may share key heads.
        unequal: whether queries and keys may be of different numbers.
        names: what a profiler shows when it ran, as regular expressions over names of operators or kernels.
        backward_names: the same of its backward.
        runtime_modes: what it admits to computing, for sparse attention: the canary must say one of them.
        modules: what has to be importable.
        packages: distributions whose versions the evidence rests on.
        source: where the claim is from.
    """

    mode: Mode
    archs: tuple[str, ...]
    dtypes: tuple[str, ...]
    backward_archs: tuple[str, ...] = ()
    maskings: tuple[str, ...] = _MASKINGS
    max_head_dim: int = 256
    value_dims: tuple[tuple[int, int], ...] = ()
    grouped: bool = True
    unequal: bool = True
    names: tuple[str, ...] = ()
    backward_names: tuple[str, ...] = ()
    runtime_modes: tuple[str, ...] = ("exact_token", "block_superset")
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    source: str = "declared by its author"


_ALL: Final = ("fp32", "bf16", "fp16")
_HALF: Final = ("bf16", "fp16")
_AMPERE_ON: Final = ("sm_8", "sm_9", "sm_10", "sm_11", "sm_12")

#: Known candidates. `sdpa_*` are torch's own; `fa2`, `fa3` and `fa4` are packages.
DENSE_CANDIDATES: Final[dict[str, Claims]] = {
    "sdpa_math": Claims(
        "dense_attention", ("cpu", "sm_"), _ALL, ("cpu", "sm_"), max_head_dim=1024, value_dims=((192, 128),),
        names=(r"^aten::_scaled_dot_product_attention_math(_for_mps)?$",), packages=("torch",),
        source="torch.nn.functional.scaled_dot_product_attention",
    ),
    "sdpa_flash": Claims(
        "dense_attention", ("cpu", *_AMPERE_ON), _ALL, ("cpu", *_AMPERE_ON),
        names=(r"^aten::_scaled_dot_product_flash_attention_for_cpu$", r"pytorch_flash::flash_fwd"),
        backward_names=(r"^aten::_scaled_dot_product_flash_attention_for_cpu_backward$", r"pytorch_flash::flash_bwd"),
        packages=("torch",), source="torch/aten/src/ATen/native/transformers/sdp_utils_cpp.cpp",
    ),
    "sdpa_efficient": Claims(
        "dense_attention", ("sm_",), _ALL, ("sm_",), max_head_dim=1024, value_dims=((192, 128),), grouped=False,
        names=(r"fmha_cutlassF", r"AttentionKernel<"), backward_names=(r"fmha_cutlassB", r"AttentionBackwardKernel<"),
        packages=("torch",), source="torch/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp",
    ),
    "sdpa_cudnn": Claims(
        "dense_attention", _AMPERE_ON, _HALF, _AMPERE_ON, maskings=("full", "causal"), max_head_dim=128,
        value_dims=((192, 128),), unequal=False, names=(r"cudnn.*(sdpa|flash|fort_native)",),
        backward_names=(r"cudnn.*(sdpa|flash|fort_native).*(bprop|bwd|backward)",), packages=("torch",),
        source="torch/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp",
    ),
    "fa2": Claims(
        "dense_attention", _AMPERE_ON, _HALF, _AMPERE_ON, names=(r"(?<!pytorch_)flash::flash_fwd", r"^flash_fwd"),
        backward_names=(r"(?<!pytorch_)flash::flash_bwd", r"^flash_bwd"), modules=("flash_attn",),
        packages=("torch", "flash-attn"), source="flash-attn 2, README",
    ),
    "fa3": Claims(
        "dense_attention", ("sm_90",), _HALF, ("sm_90",), value_dims=((192, 128),),
        names=(r"cutlass::device_kernel<flash::.*Fwd.*Sm90", r"FlashAttnFwdSm90"),
        backward_names=(r"cutlass::device_kernel<flash::.*Bwd", r"FlashAttnBwdSm90"), modules=("flash_attn_interface",),
        packages=("torch", "flash-attn-3"), source="flash-attention, hopper/README",
    ),
    "fa4": Claims(
        "dense_attention", _AMPERE_ON, _HALF, ("sm_9", "sm_10", "sm_11", "sm_12"), value_dims=((192, 128),),
        names=(r"kernel_cutlass_.*flash_?attn_?cute.*fwd", r"flash_attncuteflash_fwd", r"FlashAttentionForwardSm"),
        backward_names=(r"flash_?attn_?cute.*bwd", r"FlashAttentionBackwardSm"), modules=("flash_attn.cute",),
        packages=("torch", "flash-attn-4", "nvidia-cutlass-dsl"),
        source="flash-attn-4 4.0.0b36, flash_attn/cute/interface.py",
    ),
    "flex": Claims(
        "dense_attention", ("cpu", "sm_"), _ALL, ("sm_8", "sm_9", "sm_10", "sm_12"),
        names=(r"triton_tem_.*flex_attention", r"triton_.*flex_attention"),
        backward_names=(r"triton_.*flex_attention_backward",), packages=("torch",),
        source="torch.nn.attention.flex_attention; its backward is not implemented on a CPU",
    ),
}  # fmt: skip

#: The sparse lane's backends that can be promoted, forward only, by the names that they have there. The names that show
#: them are in `lanemark.lanes.sparse_identity.SIGNATURES`.
SPARSE_CANDIDATES: Final[dict[str, Claims]] = {
    "gather": Claims(
        "sparse_validation", ("cpu", "sm_"), _ALL, max_head_dim=1024, value_dims=((192, 128),),
        runtime_modes=("exact_token",), packages=("torch",), source="lanemark.stack.sparse.gather",
    ),
    "union": Claims(
        "sparse_validation", ("cpu", "sm_"), _ALL, runtime_modes=("block_superset",), packages=("torch",),
        source="lanemark.stack.sparse.union",
    ),
    "sdpa_masked": Claims(
        "sparse_validation", ("cpu", "sm_"), _ALL, runtime_modes=("dense_masked",), packages=("torch",),
        source="lanemark.stack.sparse.sdpa",
    ),
    "triton": Claims(
        "sparse_validation", _AMPERE_ON, _HALF, runtime_modes=("exact_token",), modules=("triton",),
        packages=("torch", "triton"), source="lanemark.stack.sparse.triton_kernel",
    ),
}  # fmt: skip
CANDIDATES: Final[dict[str, Claims]] = {**DENSE_CANDIDATES, **SPARSE_CANDIDATES}
#: Architecture of each GPU class (developer.nvidia.com/cuda-gpus), for planning only: what it is, the worker sees.
ARCH_OF_CLASS: Final[dict[str, str]] = {
    "cpu": "cpu", "T4": "sm_75", "L4": "sm_89", "A10": "sm_86", "L40S": "sm_89", "A100": "sm_80", "A100-40GB": "sm_80",
    "A100-80GB": "sm_80", "RTX-PRO-6000": "sm_120", "H100": "sm_90", "H200": "sm_90", "B200": "sm_100",
    "B300": "sm_103",
}  # fmt: skip


def scope_applies(claims: Claims, mode: str, arch: str | None, dtype: str, direction: str) -> Applicability:
    """Whether a candidate covers a device, an element type and a direction at all.

    Args:
        claims: what it says.
        mode: the family that is asked.
        arch: `cpu` or `sm_90`, as it was seen; None where it was not.
        dtype: `fp32`, `bf16` or `fp16`.
        direction: `forward` or `backward`.
    """

    def no(reason: Inapplicable, words: str) -> Applicability:
        return Applicability(applies=False, reason=reason, words=words)

    if arch is None:
        return no("arch_unknown", "the device's architecture was not seen")
    if not arch.startswith(claims.archs):
        return no("arch_unsupported", f"it covers {', '.join(claims.archs)} and this is {arch}")
    if mode != claims.mode:
        return no("mode_unsupported", f"it belongs to {claims.mode} and {mode} is asked")
    if direction == "backward" and not (claims.backward_archs and arch.startswith(claims.backward_archs)):
        return no("direction_unsupported", f"it has no backward on {arch}")
    if dtype not in claims.dtypes or (dtype == "fp32" and arch != "cpu" and claims.names[:1] and _half_only(claims)):
        return no("dtype_unsupported", f"it covers {', '.join(claims.dtypes)} and {dtype} is asked")
    return Applicability(applies=True, reason="covered", words=f"{arch}, {dtype}, {direction}")


def _half_only(claims: Claims) -> bool:
    """Torch's flash kernels take float32 on a CPU only (source: sdp_utils.cpp, `check_tensor_dtype`)."""
    return any("pytorch_flash" in name for name in claims.names)


def case_applies(claims: Claims, problem: Problem, arch: str) -> Applicability:
    """Whether a candidate that covers the scope covers one case of the matrix."""

    def no(reason: Inapplicable, words: str) -> Applicability:
        return Applicability(applies=False, reason=reason, words=words)

    p = problem
    if p.head_dim > claims.max_head_dim or (arch != "cpu" and p.head_dim % 8):
        return no(
            "head_dim_unsupported", f"head dimension {p.head_dim} is over {claims.max_head_dim} or no multiple of 8"
        )
    if p.head_dim_v != p.head_dim and (p.head_dim, p.head_dim_v) not in claims.value_dims:
        return no("value_dim_unsupported", f"head dimensions {p.head_dim} and {p.head_dim_v} differ")
    if p.masking not in claims.maskings and p.masking != "sparse":
        return no("masking_unsupported", f"it covers {', '.join(claims.maskings)} and not {p.masking}")
    if (p.masking == "sparse") != (claims.mode == "sparse_validation"):
        return no("masking_unsupported", f"a {p.masking} case is no case of {claims.mode}")
    if p.kv_heads != p.heads and not claims.grouped:
        return no("grouping_unsupported", "its query heads cannot share key heads")
    if p.queries != p.keys and not claims.unequal:
        return no("unequal_lengths_unsupported", "it wants as many keys as queries")
    if arch != "cpu" and _half_only(claims) and (p.masking not in ("full", "causal")):
        return no("masking_unsupported", f"torch's flash kernels take no mask on {arch}")
    return Applicability(applies=True, reason="covered", words="covered")


def declared(doc: Any, candidate: str) -> Claims | Applicability:
    """A user's own declaration as claims, or why it is none.

    Args:
        doc: `LANEMARK_CLAIMS["function"]` of the user's module: a mapping with `mode`, `archs`, `dtypes` and whatever
            else of `Claims` differs from the defaults; `names` may be left out where no operator can show it.
        candidate: `module:function`, for the sentence.
    """
    if doc is None:
        return Applicability(
            applies=False, reason="declaration_missing",
            words=f"{candidate} has no entry in LANEMARK_CLAIMS of its module",
        )  # fmt: skip
    known = set(Claims.__dataclass_fields__) - {"source"}
    problem = None
    if not isinstance(doc, Mapping) or not all(isinstance(key, str) for key in doc):
        problem = "it is no mapping of names"
    elif not set(doc) <= known:
        problem = f"it has the unknown key {min(set(doc) - known)!r}"
    elif doc.get("mode") not in get_args(Mode):
        problem = f"its mode is none of {', '.join(get_args(Mode))}"
    elif not all(
        _strings(doc.get(key, ()))
        for key in (
            "archs",
            "dtypes",
            "backward_archs",
            "maskings",
            "names",
            "backward_names",
            "runtime_modes",
            "modules",
            "packages",
        )
    ):
        problem = "one of its lists is no list of text"
    elif not all(isinstance(doc.get(key, True), bool) for key in ("grouped", "unequal")):
        problem = "grouped and unequal are true or false"
    elif type(doc.get("max_head_dim", 0)) is not int or not _pairs(doc.get("value_dims", ())):
        problem = "max_head_dim is a whole number and value_dims are pairs of them"
    elif not doc.get("archs") or not doc.get("dtypes"):
        problem = "it names no architecture or no element type"
    if problem is not None:
        return Applicability(
            applies=False,
            reason="declaration_invalid",
            words=f"{candidate} is declared in LANEMARK_CLAIMS and {problem}",
        )
    fields: dict[str, Any] = {
        key: tuple(map(tuple, value)) if key == "value_dims" else tuple(value) if _listed(value) else value
        for key, value in doc.items()
    }
    return Claims(**fields)


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _pairs(value: Any) -> bool:
    return _listed(value) and all(
        _listed(pair) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in value
    )


def _strings(value: Any) -> bool:
    return _listed(value) and all(isinstance(item, str) and item for item in value)


def check_candidate(name: str, known: Mapping[str, Claims]) -> None:
    """A candidate must be known, or read `module:function`. Raises UsageError `candidate-unknown`."""
    module, colon, function = name.partition(":")
    own = bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))
    if name not in known and not (own and len(name) <= 120):
        raise UsageError(
            "candidate-unknown",
            f"there is no candidate {name[:80]!r}",
            f"name one of {', '.join(known)}, or your own as module:function",
        )
