"""One backend over one case: call it, hold its output against float64, look at it from two sides, and time it.

In this order, and the looking before the timing, because what is compiled or loaded at a first call is then done. What
a backend raises is the result of that backend over that case and ends nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lanemark.lanes.sparse_identity import BASELINE, CANARY, PROFILER, telling_names
from lanemark.records.errors import LanemarkError
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.records.questions import AttentionCase, SparseAsked
from lanemark.stack.sparse.backends import FULL_BELOW, Dispatch, call, dispatch
from lanemark.stack.sparse.contract import count_valid, indices_digest
from lanemark.stack.sparse.problem import Problem
from lanemark.stack.sparse.reference import dense_reference, largest_error, largest_lse_error, reference
from lanemark.stack.sparse.timing import peak_memory, time_calls
from lanemark.stack.sparse.watch import canary, profile

_INDICES: Final = "index tensor"
_PARITY: Final = "output against float64 arithmetic over the same rounded inputs"
#: Variables and options that can switch a backend, here or inside torch and the kernels it takes.
SELECTORS: Final = (
    FULL_BELOW, "TORCH_CUDNN_SDPA_ENABLED", "FLASH_ATTENTION_ARCH", "FLASH_ATTENTION_NUM_SMS", "CUTE_DSL_ARCH",
    "TRITON_INTERPRET", "TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE",
)  # fmt: skip


class Expected(NamedTuple):
    """What a case has to give, in float64: over the chosen rows, and over all causal ones for the baseline."""

    chosen: tuple[Tensor, Tensor]
    dense: tuple[Tensor, Tensor] | None


def expect(problem: Problem, *, dense: bool) -> Expected:
    """The references of a case; the dense one only where the baseline is among the backends."""
    return Expected(reference(problem), dense_reference(problem) if dense else None)


def selectors(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every selector as this worker sees it."""
    return [
        {
            "name": name,
            "value": (observed(environ[name][:500], "environ") if environ.get(name) else absent("environ")).to_json(),
        }
        for name in SELECTORS
    ]


def measure(
    case: AttentionCase,
    backend: str,
    problem: Problem,
    expected: Expected,
    asked: SparseAsked,
    *,
    environ: Mapping[str, str],
    enter: Callable[[str], None] = lambda _what: None,
) -> dict[str, Any]:
    """Everything that is seen of a backend over a case, as `lanemark.lanes.sparse_record.result` reads it.

    Args:
        case: the problem.
        backend: as it was asked for.
        problem: its tensors.
        expected: its references.
        asked: warm-up, repeats, and whether choosing indices is in the time.
        environ: of this worker.
        enter: told what is being done, for the beacon.
    """
    on_cuda = problem.q_BHSD.is_cuda
    doc: dict[str, Any] = {
        "case": case.name,
        "backend": backend,
        "valid_indices": _valid(backend, problem).to_json(),
        "indexer_digest": observed(indices_digest(problem.indices_BSK), _INDICES).to_json(),
    }
    if on_cuda:
        peak_memory(problem.q_BHSD.device)
    try:
        enter("first call")
        taken = dispatch(backend, problem.q_BHSD, environ=environ)
        out, lse = _run(taken, problem)
        enter("names")
        seen = profile(lambda: _run(taken, problem), on_cuda=on_cuda)
        enter("canary")
        passes = _canary(backend, taken, problem)
    except Exception as error:
        return {**doc, **_did_not_run(error)}
    doc |= {
        "no_grad": observed(not out.requires_grad and out.grad_fn is None, "autograd marks of the output").to_json(),
        "errors": _errors(backend, out.detach(), None if lse is None else lse.detach(), expected).to_json(),
        "telemetry": {
            "profile": _telling(seen).to_json(),
            "canary": passes.to_json(),
            **({} if taken.reason is None else {"rerouted": taken.reason}),
        },
        "all_names": seen.to_json(),
    }
    enter("timing")
    return {**doc, "latency": _times(taken, problem, asked), "memory_peak_bytes": _peak(problem)}


def _run(taken: Dispatch, problem: Problem) -> tuple[Tensor, Tensor | None]:
    return call(taken.attend, problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)


def _canary(backend: str, taken: Dispatch, problem: Problem) -> Observation[list[dict[str, Any]]]:
    if backend == BASELINE:
        return absent(CANARY, "the baseline reads no index set")
    return canary(problem, lambda k, v, indices: call(taken.attend, problem.q_BHSD, k, v, indices)[0])


def _telling(seen: Observation[list[dict[str, str]]]) -> Observation[list[dict[str, str]]]:
    return seen if seen.value is None else observed(telling_names(seen.value), PROFILER)


def _valid(backend: str, problem: Problem) -> Observation[int]:
    if backend == BASELINE:
        return absent(_INDICES, "the baseline reads no index set")
    return observed(count_valid(problem.indices_BSK), _INDICES)


def _errors(backend: str, out: Tensor, lse: Tensor | None, expected: Expected) -> Observation[dict[str, Any]]:
    wanted = expected.dense if backend == BASELINE else expected.chosen
    if wanted is None:
        return unavailable(_PARITY, "there is no reference of the baseline")
    if out.shape != wanted[0].shape:
        return unavailable(_PARITY, f"the output is of shape {tuple(out.shape)}, not {tuple(wanted[0].shape)}")
    error = largest_error(out, wanted[0])
    if error == float("inf"):
        return unavailable(_PARITY, "the output holds values that are not finite")
    source = "log-sum-exp of the output"
    off: Observation[float] = absent(source, "the backend returns none")
    if lse is not None:
        worst = largest_lse_error(lse, wanted[1])
        off = observed(worst, source) if worst != float("inf") else unavailable(source, "it is infinite elsewhere")
    return observed({"max_relative_error": error, "lse_max_error": off.to_json()}, _PARITY)


def _times(taken: Dispatch, problem: Problem, asked: SparseAsked) -> dict[str, Any]:
    reselect = problem.reselect if asked.indexer_timed else None

    def one() -> None:
        chosen = problem if reselect is None else problem._replace(indices_BSK=reselect())
        _run(taken, chosen)

    included = asked.indexer_timed and reselect is not None
    device = problem.q_BHSD.device
    if asked.indexer_timed and not included:
        why = "choosing the indices was to be timed, and they were drawn, not chosen"
        return unavailable("isolated calls", why).to_json()
    with torch.no_grad():
        return time_calls(one, device, warmup=asked.warmup, repeats=asked.repeats, indexer_included=included).to_json()


def _peak(problem: Problem) -> dict[str, Any]:
    return peak_memory(problem.q_BHSD.device).to_json()


def _did_not_run(error: Exception) -> dict[str, Any]:
    """A backend that raised: everything that would have been seen of it is unavailable, for that reason."""
    said = error.what if isinstance(error, LanemarkError) else " ".join(f"{type(error).__name__}: {error}".split())
    why = f"the backend did not run: {said}"[:300]

    def missing(source: str) -> dict[str, Any]:
        return unavailable(source, why).to_json()

    return {
        "no_grad": missing("autograd marks of the output"),
        "errors": missing(_PARITY),
        "telemetry": {"profile": missing(PROFILER), "canary": missing(CANARY)},
        "latency": missing("isolated calls"),
        "memory_peak_bytes": missing("allocator of the device"),
    }
