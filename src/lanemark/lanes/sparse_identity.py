"""Which sparse-attention backend really ran: concluded from names and a canary, never from what was asked for. Pure.

Two witnesses, neither of which knows the request:

* **names** of operators and kernels from one profiled call. `SIGNATURES` says which names each backend needs and which
  it excludes; one signature that fits is an observation, several are ambiguous, none says nothing.
* **the canary**: key and value rows that a query did not choose are poisoned with NaN, and the output of that query is
  compared bit by bit. It tells what was *computed*, whatever the names say, and no name can fool it.

Where the two contradict each other, nothing is called observed: names that fit an exact backend over an output that
every row reached are a disguise, or a defect of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from lanemark.records.observation import Observation, absent, observed, unavailable, value_of
from lanemark.records.questions import AttentionCase
from lanemark.records.terms import FallbackReason

#: The baseline of every comparison in this lane. It has no index set, so that no mode of reading one can be witnessed.
BASELINE: Final = "dense"
#: Backends that read exactly the rows that were chosen; any other canary contradicts them.
EXACT: Final = frozenset({"gather", "triton"})
#: Where fewer of the rows stayed clean than this, all rows were read. Only for sequences so short that no whole block
#: can be left unchosen: the first few queries are causal and see no poisoned row even in dense attention.
_NEARLY_ALL: Final = 0.8

PROFILER: Final = "torch.profiler over one call outside the timed ones"
CANARY: Final = "output after NaN in key and value rows that a query did not choose"
DISPATCH_LOG: Final = "worker's dispatch log"


class Signature(NamedTuple):
    """The names by which one backend is known.

    Attributes:
        backend: its name in a record.
        needs: patterns that must all be found among the names.
        excludes: patterns of which none may be.
    """

    backend: str
    needs: tuple[str, ...]
    excludes: tuple[str, ...]


#: Fused attention as torch dispatches it, on CPU and CUDA (torch 2.11 to 2.13, ATen/native/transformers).
_FUSED: Final = (
    r"aten::_scaled_dot_product_"
    r"(?:flash_attention_for_cpu|flash_attention|efficient_attention|cudnn_attention|fused_attention_overrideable)$"
)
#: The unfused path, which is taken without a word: for dropout, for d_v that differs from d_qk, for a mask with grad.
_MATH: Final = r"aten::_scaled_dot_product_attention_math$"
_SELECT: Final = r"aten::index_select$"
_SCATTER: Final = r"aten::scatter_?$"
_UNIQUE: Final = r"aten::_unique2$"
_BMM: Final = r"aten::bmm$"
_SOFTMAX: Final = r"aten::_softmax$"
#: Compiled flex attention: a kernel of its Triton template on CUDA; on a CPU the graph that was called, by the kernels
#: in its stored code (torch/_inductor/kernel/flex; `lanemark.stack.sparse.graphs`).
_FLEX: Final = r"(?:triton_tem_fused_\w*|^CompiledFxGraph \w+: cpp_fused_\w*)flex_(?:attention|decoding)"
#: flex over FA4's kernels, on CUDA only; the name of the class that CUTLASS mangles into its kernels.
_FLEX_FLASH: Final = r"kernel_cutlass_\w*flash_?attn|FlashAttentionForwardSm"
#: This lane's own Triton kernel (lanemark.stack.sparse.triton_kernel).
_TRITON: Final = r"gather_attention_kernel"
_ATTENTION: Final = (_FUSED, _MATH, _FLEX, _FLEX_FLASH, _TRITON)


def _but(*kept: str) -> tuple[str, ...]:
    return tuple(pattern for pattern in _ATTENTION if pattern not in kept)


#: Every backend that can be told by its names. A backend outside this table is never called observed.
SIGNATURES: Final[tuple[Signature, ...]] = (
    Signature("gather", (_SELECT, _BMM, _SOFTMAX), (*_but(), _UNIQUE)),
    Signature("sdpa_masked", (_FUSED, _SCATTER), (*_but(_FUSED), _UNIQUE, _SELECT)),
    Signature("sdpa_masked_math", (_MATH, _SCATTER), (*_but(_MATH), _UNIQUE, _SELECT)),
    Signature("union", (_FUSED, _UNIQUE, _SELECT), _but(_FUSED)),
    Signature("union_math", (_MATH, _UNIQUE, _SELECT), _but(_MATH)),
    Signature("flex", (_FLEX,), _but(_FLEX)),
    Signature("flex_flash", (_FLEX_FLASH,), _but(_FLEX_FLASH)),
    Signature("triton", (_TRITON,), _but(_TRITON)),
    Signature("dense", (_FUSED,), (*_but(_FUSED), _SCATTER, _UNIQUE, _SELECT)),
    Signature("dense_math", (_MATH,), (*_but(_MATH), _SCATTER, _UNIQUE, _SELECT)),
)


def identity(
    case: AttentionCase, requested: str, telemetry: Mapping[str, Any], *, parity_passed: bool | None
) -> dict[str, Any]:
    """Which backend ran (`lanemark.records.schema_runtime.IdentityPart`).

    Args:
        case: the problem; only its shape is used, to name a reason.
        requested: copied to the field of that name and used for nothing but naming a fallback.
        telemetry: `profile`, `canary` and `rerouted` as the worker saw them.
        parity_passed: whether the output agrees with the reference over the chosen rows; None where it was not held.

    Raises:
        KeyError, TypeError, ValueError: the telemetry has another shape.
    """
    names, ran = names_part(telemetry["profile"])
    canary = canary_part(telemetry["canary"])
    mode = runtime_mode(requested, ran, canary, parity_passed=parity_passed)
    contradicted = contradiction(ran.value, mode.value)
    if contradicted is not None:
        ran = unavailable(PROFILER, contradicted)
    return {
        "requested": requested,
        "actual": ran.to_json(),
        "runtime_mode": mode.to_json(),
        "fallback_reason": fallback(case, requested, ran, mode, telemetry.get("rerouted")).to_json(),
        "names": names,
        "canary": canary.to_json(),
    }


def names_part(profile: Mapping[str, Any]) -> tuple[dict[str, Any], Observation[str]]:
    """The `names` of an identity, and the one backend that they fit.

    Args:
        profile: the worker's observation of `[{"name", "kind"}]`, in order of appearance.
    """
    seen: Observation[list[dict[str, str]]] = Observation.from_json(dict(profile))
    none = {"level": "op", "state": "unobserved", "names": [], "source": PROFILER}
    if seen.value is None:
        return none, unavailable(PROFILER, seen.reason or "no profiler looked at it")
    kinds = {str(event["name"]): str(event["kind"]) for event in seen.value}
    fitting = [each for each in SIGNATURES if fits(each, kinds)]
    if not fitting:
        return none, unavailable(PROFILER, "no name was seen that tells one backend from another")
    patterns = {pattern for each in fitting for pattern in each.needs}
    telling = [name for name in kinds if any(re.search(pattern, name) for pattern in patterns)]
    level = "kernel" if any(kinds[name] == "kernel" for name in telling) else "op"
    state = "observed" if len(fitting) == 1 else "ambiguous"
    part = {"level": level, "state": state, "names": telling, "source": PROFILER}
    if len(fitting) > 1:
        fit = ", ".join(each.backend for each in fitting)
        return part, unavailable(PROFILER, f"the names fit several backends: {fit}")
    return part, observed(fitting[0].backend, PROFILER)


def fits(signature: Signature, names: Iterable[str]) -> bool:
    """Whether the names have all that a signature needs and nothing that it excludes."""
    held = tuple(names)

    def found(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in held)

    return all(found(pattern) for pattern in signature.needs) and not any(map(found, signature.excludes))


def canary_part(passes: Mapping[str, Any]) -> Observation[dict[str, Any]]:
    """The canary's verdict from its passes.

    Args:
        passes: the worker's observation of a list of passes: `kind`, `poisoned_rows`, `looked_rows` (queries that chose
            none of them), `nan_rows` and `changed_rows` among those. Kinds: `scattered`, single rows that nobody chose;
            `stretch`, a whole block that nobody chose; `neighbours`, rows that others of the block chose.
    """
    seen: Observation[list[dict[str, Any]]] = Observation.from_json(dict(passes))
    if seen.value is None:
        return Observation.from_json(dict(passes))
    if not seen.value:
        return unavailable(CANARY, "no row could be poisoned")
    by_kind = {str(each["kind"]): each for each in seen.value}
    poisoned = sum(int(each["poisoned_rows"]) for each in seen.value)
    nan_rows = sum(int(each["nan_rows"]) for each in seen.value)
    changed = sum(int(each["changed_rows"]) for each in seen.value)
    if nan_rows == 0:
        verdict = "changed_without_nan" if changed else "bit_identical"
    else:
        verdict = "nan_everywhere" if _all_were_read(by_kind) else "nan_inside_blocks"
    return observed({"verdict": verdict, "poisoned_rows": poisoned, "nan_rows": nan_rows}, CANARY)


def _all_were_read(by_kind: Mapping[str, Mapping[str, Any]]) -> bool:
    if "stretch" in by_kind:
        return int(by_kind["stretch"]["nan_rows"]) > 0
    scattered = by_kind.get("scattered")
    return scattered is not None and int(scattered["nan_rows"]) >= _NEARLY_ALL * int(scattered["looked_rows"])


def runtime_mode(
    requested: str,
    ran: Observation[str],
    canary: Observation[dict[str, Any]],
    *,
    parity_passed: bool | None,
) -> Observation[str]:
    """What was computed. Every row read and the right output is a mask; every row read and another one is a reroute."""
    if requested == BASELINE:
        return absent(CANARY, "the baseline reads no index set")
    if canary.value is None:
        return unavailable(CANARY, canary.reason or "no row could be poisoned")
    verdict = canary.value["verdict"]
    if verdict == "changed_without_nan":
        return unavailable(CANARY, "the output changed without NaN, which no mode explains")
    if verdict == "bit_identical":
        return observed("exact_token", CANARY)
    if verdict == "nan_inside_blocks":
        return observed("block_superset", CANARY)
    rerouted = _is_dense(ran.value) or (ran.value is None and parity_passed is False)
    return observed("reroute_to_full" if rerouted else "dense_masked", CANARY)


def _is_dense(backend: str | None) -> bool:
    return backend in (BASELINE, f"{BASELINE}_math")


def contradiction(ran: str | None, mode: str | None) -> str | None:
    """Why names and canary cannot both be believed, or None."""
    if ran in EXACT and mode is not None and mode != "exact_token":
        return f"the names fit {ran}, and the canary says {mode}"
    if _is_dense(ran) and mode in ("exact_token", "block_superset"):
        return f"the names fit {ran}, and the canary says {mode}"
    return None


def fallback(
    case: AttentionCase, requested: str, ran: Observation[str], mode: Observation[str], rerouted: object
) -> Observation[str]:
    """Why another backend ran than the one asked for, from the closed list.

    Args:
        case: the problem.
        requested: the backend asked for.
        ran: the one that ran.
        mode: what was computed.
        rerouted: the reason that the worker's own dispatch gave, or None where it gave none.
    """
    if ran.value is None:
        if requested in EXACT and mode.value not in (None, "exact_token"):
            return observed("silent", CANARY)
        return unavailable(PROFILER, "it was not seen what ran")
    if ran.value == requested and mode.value != "reroute_to_full":
        return absent(PROFILER, "what was asked for ran")
    if rerouted in get_args(FallbackReason):
        return observed(str(rerouted), DISPATCH_LOG)
    if ran.value == f"{requested}_math":
        return observed("math_path_taken", PROFILER)
    if requested == "flex_flash" and ran.value == "flex":
        return observed("kernel_option_ignored", PROFILER)
    if _is_dense(ran.value) and case.sequence <= case.topk:
        return observed("seq_le_topk", PROFILER)
    return observed("silent", PROFILER)


def telling_names(events: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The events whose names any signature knows, each once and in order: what a worker keeps for a record."""
    known = {pattern for each in SIGNATURES for pattern in (*each.needs, *each.excludes)}
    kept: dict[str, str] = {}
    for event in events:
        name = str(event["name"])
        if name not in kept and any(re.search(pattern, name) for pattern in known):
            kept[name] = str(event["kind"])
    return [{"name": name, "kind": kind} for name, kind in kept.items()]


def is_fallback(identity_part: Mapping[str, Any]) -> bool:
    """Whether an identity says that another backend ran than the one asked for."""
    return value_of(identity_part["fallback_reason"]) is not None
