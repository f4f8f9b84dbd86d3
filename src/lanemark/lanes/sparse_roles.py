"""What every field of a sparse record is to a comparison (`lanemark.lanes.shared_roles` explains the roles).

The lane's question is which backend really ran; its only metric is the latency of isolated calls. Results are told
apart by case and by the backend that was *asked for*; the one that ran is a factor, so that a silent fallback is never
compared with the kernel it replaced.
"""

from __future__ import annotations

from typing import Final

from lanemark.lanes.shared_roles import SHARED_ROLES, Role

_MEASURED: Final = "what is measured is not a circumstance of measuring"
_PROBLEM: Final = "another problem is another amount of work"
_RESULT: Final = "sparse.results[case.name+backend_identity.requested]"

SPARSE_ROLES: Final[tuple[Role, ...]] = (
    *SHARED_ROLES,
    Role("case.sparse.backends", "noise", "each result names its own"),
    Role("case.sparse.cases.*", "noise", "each result carries its own"),
    Role("case.sparse.warmup", "covariate", "colder calls are slower"),
    Role("case.sparse.repeats", "covariate", "fewer calls have a wider spread"),
    Role("case.sparse.indexer_timed", "key", "choosing the indices is work"),
    Role("sparse.launcher_args", "factor", "what the worker was told", "argv"),
    Role("sparse.selectors[name].name", "noise", "tells the items apart"),
    Role("sparse.selectors[name].value", "factor", "can switch a backend", "selectors"),
    Role(f"{_RESULT}.case.name", "noise", "tells the items apart"),
    *(
        Role(f"{_RESULT}.case.{name}", "key", _PROBLEM)
        for name in ("batch", "sequence", "topk", "heads", "kv_heads", "head_dim", "dtype", "index_set", "empty_rows")
    ),
    Role(f"{_RESULT}.case.seed", "noise", "the digest of the index tensor is a key"),
    Role(f"{_RESULT}.backend_identity.requested", "noise", "tells the items apart"),
    Role(f"{_RESULT}.backend_identity.actual", "factor", "what ran, whatever was asked for", "backend"),
    Role(f"{_RESULT}.backend_identity.runtime_mode", "factor", "what it computed, whatever its name says", "backend"),
    Role(f"{_RESULT}.backend_identity.fallback_reason", "covariate", "why something else ran"),
    Role(f"{_RESULT}.backend_identity.names.*", "noise", "the witnesses of what ran"),
    Role(f"{_RESULT}.backend_identity.canary", "noise", "a rule holds it to the mode"),
    Role(f"{_RESULT}.no_grad", "key", "autograd changes which kernels are taken"),
    Role(f"{_RESULT}.parity.reference", "key", "what it was held against"),
    Role(f"{_RESULT}.parity.dtype", "noise", "the case's"),
    Role(f"{_RESULT}.parity.tolerance", "covariate", "a wider tolerance admits more"),
    Role(f"{_RESULT}.parity.max_relative_error", "noise", _MEASURED),
    Role(f"{_RESULT}.parity.lse_max_error", "noise", _MEASURED),
    Role(f"{_RESULT}.parity.passed", "key", "what computes something else is not that backend"),
    Role(f"{_RESULT}.latency.unit", "key", "nanoseconds are compared with nanoseconds"),
    Role(f"{_RESULT}.latency.warmup", "noise", _MEASURED),
    Role(f"{_RESULT}.latency.samples", "noise", _MEASURED),
    Role(f"{_RESULT}.latency.p50", "noise", _MEASURED),
    Role(f"{_RESULT}.latency.synchronised", "key", "a stamp before the device is done times the queue"),
    Role(f"{_RESULT}.latency.cache_flushed", "key", "a warm device cache is another memory"),
    Role(f"{_RESULT}.latency.indexer_included", "key", "choosing the indices is work"),
    Role(f"{_RESULT}.work.valid_indices", "key", _PROBLEM),
    Role(f"{_RESULT}.work.flops", "key", _PROBLEM),
    Role(f"{_RESULT}.indexer_digest", "key", "other indices are other work"),
    Role(f"{_RESULT}.memory_peak_bytes", "noise", _MEASURED),
    Role("sparse.remote.worker", "factor", "the program that ran the calls", "source"),
    Role("sparse.remote.lanemark_digest", "factor", "the program that ran the calls", "source"),
    Role("sparse.remote.python", "factor", "the worker's interpreter", "python"),
    Role("sparse.remote.torch", "factor", "the worker's torch", "torch"),
    Role("sparse.remote.arch", "key", "the architecture that kernels are chosen by"),
    Role("sparse.collector.completed_at", "gate", "a run that was not seen to end has no result"),
    Role("sparse.collector.*", "noise", "who looked, and when"),
    Role("sparse.does_not_prove", "noise", "words"),
)
