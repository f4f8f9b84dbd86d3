"""Who really ran, from a profiler's names and the canary: `schema_runtime.IdentityPart` for a promotion. Pure.

`requested` is the case's candidate. Everything else follows from what was seen; what was not seen stays unobserved, and
a name that somebody put there does not count as one that was seen.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from lanemark.lanes.sparse_identity import canary_part, names_part, runtime_mode
from lanemark.records.observation import Observation, absent, observed, unavailable

Doc = dict[str, Any]
PROFILER: Final = "torch.profiler over one run outside of everything that is measured"
CANARY: Final = "output after NaN in key and value rows that a query did not choose"


class Suspicion(NamedTuple):
    """A reason to reject that identity alone gives: one of `lanemark.lanes.promotion_parity.Rejection`."""

    reason: str
    words: str


def identity_of(candidate: str, mode: str, result: Doc) -> Observation[Doc]:
    """The execute proof of a result, unavailable where nothing was executed.

    Args:
        candidate: the case's.
        mode: `dense_attention` or `sparse_validation`.
        result: the rank's document (`lanemark.stack.promotion.examine`).
    """
    if not (result.get("executed") or {}).get("done"):
        return unavailable("worker", "nothing was executed")
    names, actual = _names(result)
    if actual.value is None:
        fallback: Observation[Any] = unavailable(PROFILER, "it was not seen what ran")
    elif actual.value == candidate:
        fallback = absent(PROFILER, "none was seen")
    else:
        fallback = observed("math_path_taken" if actual.value.endswith("_math") else "silent", PROFILER)
    if mode == "dense_attention":
        why = "dense attention selects nothing, so that no row is left to poison"
        bird, runtime = absent(CANARY, why), absent(CANARY, why)
    else:
        bird, runtime = canary_of(result)
    proof = {
        "requested": candidate,
        "actual": actual.to_json(),
        "runtime_mode": runtime.to_json(),
        "fallback_reason": fallback.to_json(),
        "names": names,
        "canary": bird.to_json(),
    }
    return observed(proof, PROFILER)


def _names(result: Doc) -> tuple[Doc, Observation[str]]:
    """What the profiler saw, and the one candidate that it fits: by signatures for the sparse lane's backends."""
    if "profile" in result:
        return names_part(result["profile"])
    witness = result.get("witness") or {}
    names, candidates = list(witness.get("names", [])), list(witness.get("candidates", []))
    state = "unobserved" if not names else "observed" if len(candidates) == 1 else "ambiguous"
    part = {"level": witness.get("level", "op"), "state": state, "names": names, "source": PROFILER}
    if state == "observed":
        return part, observed(candidates[0], PROFILER)
    return part, unavailable(PROFILER, _why_unseen(witness, candidates))


def canary_of(result: Doc) -> tuple[Observation[Doc], Observation[str]]:
    """The canary's part and the runtime mode that follows from it; without a canary neither."""
    if "canary" not in result:
        none = unavailable(CANARY, "it was not sung")
        return none, none
    bird = canary_part(result["canary"])
    failed = result.get("parity_failed") is True
    return bird, runtime_mode("", unavailable(PROFILER, "told by the canary"), bird, parity_passed=not failed)


def _why_unseen(witness: Doc, candidates: list[str]) -> str:
    if "failed" in witness:
        return f"the profiler failed: {witness['failed']}"
    if len(candidates) > 1:
        return f"the names fit {', '.join(candidates)}"
    return f"of {witness.get('num_events', 0)} events none has a name that any candidate answers to"


def suspicion(candidate: str, runtime_modes: tuple[str, ...] | list[str], result: Doc) -> Suspicion | None:
    """What identity alone rejects a candidate for, or None."""
    forged = (result.get("witness") or {}).get("forged", [])
    if forged:
        return Suspicion("name_forged", f"{forged[0]} was put there by the candidate, and no operator of torch's ran")
    bird, runtime = canary_of(result)
    if bird.value is not None and bird.value["verdict"] == "changed_without_nan":
        return Suspicion("selection_ignored", "rows that nobody selected changed the output, and not into NaN")
    if runtime.value is not None and runtime.value not in runtime_modes:
        admitted = ", ".join(runtime_modes) or "nothing"
        return Suspicion("silently_dense", f"the canary says {runtime.value} and the candidate admits to {admitted}")
    actual = _names(result)[1]
    if actual.value is not None and actual.value != candidate:
        return Suspicion("another_backend_ran", f"{actual.value} ran where {candidate} was asked for")
    return None
