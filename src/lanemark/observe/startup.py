"""The startup state: what the compile cache really was at the start, and whether that is what was declared. Pure.

Derived from two inventories, before and after, never from hit counters (they report hits while everything is rebuilt)
and never from what was asked for. The rule is narrow on purpose: `warm` needs keys *and* binaries at the start and a
cache that came out of the run byte for byte as it went in.
"""

from __future__ import annotations

from typing import Any, Final

from lanemark.records.observation import Observation, observed, unavailable

SOURCE: Final = "compile-cache inventories before and after the run"


def startup_state(
    before: Observation[dict[str, Any]],
    after: Observation[dict[str, Any]],
    *,
    compiled: bool,
    compilations: Observation[int] | None = None,
    cache_misses: Observation[int] | None = None,
) -> Observation[str]:
    """One of `schema.StartupKind`, or why it cannot be told.

    Args:
        before: inventory taken before any rank started.
        after: inventory taken when all had ended.
        compiled: whether the posture that was *observed* on the ranks compiles anything.
        compilations: compilations counted by the ranks in all, where they were counted. A warm start still counts some,
            since tracing always happens; only zero says something.
        cache_misses: lookups that missed, summed over the ranks, where they were counted. Only used against `warm`.
    """
    if not compiled:
        return observed("not_compiled", "the posture observed on the ranks, which compiles nothing")
    if compilations is not None and compilations.value == 0:
        return observed("not_compiled", f"{compilations.source}: no rank compiled anything")
    if before.status == "unavailable":
        return unavailable(SOURCE, f"the cache could not be seen before the run: {before.reason}")
    if before.value is None or _empty(before.value):
        return observed("cold", SOURCE)
    if after.value is None:
        return unavailable(SOURCE, f"the cache could not be seen after the run: {after.reason or 'it was gone'}")
    if cache_misses is not None and cache_misses.value:
        return observed("partly_warm", f"{SOURCE}, and {cache_misses.value} lookups that missed")
    if after.value["digest"] != before.value["digest"]:
        return observed("partly_warm", SOURCE)
    if before.value["keys"] == 0 or before.value["binaries"] == 0:
        return unavailable(
            SOURCE,
            f"the cache held {before.value['keys']} keys and {before.value['binaries']} binaries and did not change: "
            "nothing shows that this run used it",
        )
    return observed("warm", SOURCE)


def _empty(inventory: dict[str, Any]) -> bool:
    return bool(inventory["keys"] == 0 and inventory["binaries"] == 0)


def contradicts(declared: str, state: Observation[str]) -> str | None:
    """One sentence when the declared cache policy and the observed state disagree, else None.

    `require` promises a covering cache; `cold` promises an empty one; `seed` promises neither: it says that the run
    may fill the cache, whatever was in it.
    """
    seen = state.value
    if seen is None:
        return None
    if declared == "require" and seen in ("cold", "partly_warm"):
        return f"a covering compile cache was required and the observed start was {seen}"
    if declared == "cold" and seen in ("warm", "partly_warm", "seeded", "image_seed", "snapshot_restored"):
        return f"a cold start was declared and the observed start was {seen}"
    return None
