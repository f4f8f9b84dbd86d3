"""Who really ran, from a profiler's names and the canary: `schema_runtime.IdentityPart` for a promotion. Pure.

`requested` is the case's candidate. Everything else follows from what was seen; what was not seen stays unobserved, and
a name that somebody put there does not count as one that was seen.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.records.terms import CANARY_ALLOWS

Doc = dict[str, Any]
PROFILER: Final = "torch.profiler over one run outside of everything that is measured"
CANARY: Final = "NaN in rows that nobody selected"


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
    witness, canary = result.get("witness") or {}, result.get("canary") or {}
    names, candidates = list(witness.get("names", [])), list(witness.get("candidates", []))
    state = "unobserved" if not names else "observed" if len(candidates) == 1 else "ambiguous"
    why = _why_unseen(witness, candidates)
    actual = observed(candidates[0], PROFILER) if state == "observed" else unavailable(PROFILER, why)
    if actual.value is None:
        fallback: Observation[Any] = unavailable(PROFILER, "it was not seen what ran")
    elif actual.value == candidate:
        fallback = absent(PROFILER, "none was seen")
    else:
        math = actual.value == "sdpa_math"
        fallback = observed("math_path_taken" if math else "silent", PROFILER)
    bird, runtime = _canary(mode, canary)
    proof = {
        "requested": candidate,
        "actual": actual.to_json(),
        "runtime_mode": runtime.to_json(),
        "fallback_reason": fallback.to_json(),
        "names": {
            "level": witness.get("level", "op"), "state": state, "names": names if state != "unobserved" else [],
            "source": PROFILER,
        },
        "canary": bird.to_json(),
    }  # fmt: skip
    return observed(proof, PROFILER)


def _why_unseen(witness: Doc, candidates: list[str]) -> str:
    if "failed" in witness:
        return f"the profiler failed: {witness['failed']}"
    if len(candidates) > 1:
        return f"the names fit {', '.join(candidates)}"
    return f"of {witness.get('num_events', 0)} events none has a name that any candidate answers to"


def _canary(mode: str, canary: Doc) -> tuple[Observation[Doc], Observation[str]]:
    """The canary's part and the runtime mode that follows from it."""
    if mode == "dense_attention":
        why = "dense attention selects nothing, so that no row is left to poison"
        return absent(CANARY, why), absent(CANARY, why)
    if "verdict" not in canary:
        why = canary.get("failed", "it was not sung")
        return unavailable(CANARY, why), unavailable(CANARY, why)
    part = {key: canary[key] for key in ("verdict", "poisoned_rows", "nan_rows")}
    allowed = CANARY_ALLOWS[canary["verdict"]]
    seen: Observation[str] = (
        observed(allowed[0], CANARY) if allowed else unavailable(CANARY, "the output changed, and not into NaN")
    )
    return observed(part, CANARY), seen


def suspicion(candidate: str, runtime_modes: tuple[str, ...] | list[str], result: Doc) -> Suspicion | None:
    """What identity alone rejects a candidate for, or None."""
    witness, canary = result.get("witness") or {}, result.get("canary") or {}
    forged, candidates = witness.get("forged", []), witness.get("candidates", [])
    if forged:
        return Suspicion("name_forged", f"{forged[0]} was put there by the candidate, and no operator of torch's ran")
    verdict = canary.get("verdict")
    if verdict == "changed_without_nan":
        return Suspicion("selection_ignored", "rows that nobody selected changed the output, and not into NaN")
    if verdict is not None and CANARY_ALLOWS[verdict][0] not in runtime_modes:
        mode, admitted = CANARY_ALLOWS[verdict][0], ", ".join(runtime_modes)
        return Suspicion("silently_dense", f"the canary says {mode} and the candidate admits to {admitted}")
    if len(candidates) == 1 and candidates[0] != candidate:
        return Suspicion("another_backend_ran", f"{candidates[0]} ran where {candidate} was asked for")
    return None
