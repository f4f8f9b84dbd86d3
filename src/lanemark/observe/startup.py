"""The startup state: what a run really started from, whether that is what was declared, and what the run is good for.

Derived from two inventories, the files that are new after the run, lookups that missed, the layers that were put in
place and the clocks; never from hit counters (they report hits while everything is rebuilt) and never from what was
asked for. The rule is narrow on purpose: every warm kind needs keys *and* binaries at the start, a cache that came out
of the run as it went in, and no rank that missed. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.records.terms import WARM_STATES, Purpose

SOURCE: Final = "compile-cache inventories before and after the run"
_LAYERS: Final = "layers of the seed, tried before the launch"
_NOTHING_SEEN: Final[Observation[Any]] = unavailable("start of the run", "nobody looked")


class Origin(NamedTuple):
    """What else was seen of a run's start, beside the two inventories.

    Attributes:
        layers: the seed's layers in order, as JSON (`kind`, `source`, `outcome`).
        misses: lookups that missed, summed over the ranks, where they were counted.
        new_files: files that were new or changed after the run.
        time_shift_s: the boot clock's shift by a time namespace.
        older_ranks: ranks whose process is older than the launch: only a restored memory has such.
        earlier_run: the last run before this one on the same boot and with the same cache.
    """

    layers: Sequence[Mapping[str, Any]] = ()
    misses: Observation[int] = _NOTHING_SEEN
    new_files: Observation[int] = _NOTHING_SEEN
    time_shift_s: Observation[float] = _NOTHING_SEEN
    older_ranks: tuple[int, ...] = ()
    earlier_run: Observation[str] = _NOTHING_SEEN


_NO_ORIGIN: Final = Origin()


def startup_state(
    before: Observation[dict[str, Any]],
    after: Observation[dict[str, Any]],
    *,
    compiled: bool,
    compilations: Observation[int] | None = None,
    origin: Origin = _NO_ORIGIN,
) -> Observation[str]:
    """One of `records.terms.StartupKind`, or why it cannot be told.

    Args:
        before: inventory taken before any rank started, after the seed was put in place.
        after: inventory taken when all had ended.
        compiled: whether the posture that was *observed* on the ranks compiles anything.
        compilations: compilations counted by the ranks in all, where they were counted. A warm start still counts some,
            since tracing always happens; only zero says something.
        origin: what else was seen.
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
    if origin.misses.value:
        return observed("partly_warm", f"{SOURCE}, and {origin.misses.value} lookups that missed")
    if origin.new_files.value:
        return observed("partly_warm", f"{SOURCE}, and {origin.new_files.value} files that are new")
    if after.value["digest"] != before.value["digest"]:
        return observed("partly_warm", SOURCE)
    if before.value["keys"] == 0 or before.value["binaries"] == 0:
        return unavailable(
            SOURCE,
            f"the cache held {before.value['keys']} keys and {before.value['binaries']} binaries and did not change: "
            "nothing shows that this run used it",
        )
    return _warm_kind(origin)


def _warm_kind(origin: Origin) -> Observation[str]:
    """Where a cache that covered the run came from, most telling first."""
    used = used_layer(origin.layers)
    if used is not None:
        kind = "image_seed" if used["kind"] == "image_directory" else "seeded"
        return observed(kind, f"{SOURCE}, and a seed from {used['source']}")
    if origin.older_ranks:
        return observed("snapshot_restored", f"start of rank {origin.older_ranks[0]}'s process, before its launch")
    if origin.time_shift_s.value:
        return observed("snapshot_restored", f"{origin.time_shift_s.source}: the boot clock is shifted")
    if origin.earlier_run.value is not None:
        return observed("long_lived", f"{SOURCE}, and run {origin.earlier_run.value} before it on the same boot")
    return observed("warm", SOURCE)


def used_layer(layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The layer that was put in place, or None."""
    return next((layer for layer in layers if layer.get("outcome") == "used"), None)


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
    if declared == "cold" and (seen in WARM_STATES or seen == "partly_warm"):
        return f"a cold start was declared and the observed start was {seen}"
    return None


def purpose_of(
    policy: str, coverage: Mapping[str, Any], before: Mapping[str, Any], *, compiled: bool
) -> tuple[Purpose, str]:
    """What a run is good for, and why. Coverage that could not be looked at covers nothing.

    Asking for a cold start makes none: the cache has to have been seen empty.

    Args:
        policy: the case's cache policy.
        coverage: the observation of `coverage_before`, as JSON.
        before: the observation of `cache_before`, as JSON.
        compiled: whether the case compiles anything.
    """
    if not compiled:
        return "not_compiled", "nothing is compiled, so no compile cache has a part in it"
    if policy == "cold":
        held = before.get("value") if before.get("status") == "observed" else None
        if before.get("status") == "absent" or (isinstance(held, Mapping) and not (held["keys"] or held["binaries"])):
            return "cold_measurement", "the compile cache was empty before the run, as the case wants it"
        found = "could not be seen" if held is None else f"held {held['keys']} keys and {held['binaries']} binaries"
        return "seeding_pass", f"the case wants a cold start, and the compile cache {found}"
    seen = coverage.get("value")
    if coverage.get("status") != "observed" or not isinstance(seen, Mapping):
        return "seeding_pass", f"coverage is not known: {coverage.get('reason', coverage.get('status', 'unknown'))}"
    if seen["covered"]:
        return "benchmark", f"the cache held all {seen['required']} keys and binaries that a good run of it used"
    why = next(iter((*seen["mismatches"], *seen["missing"])), "nothing says what is needed")
    return "seeding_pass", f"coverage is short: {why}"


def earlier_run(manifests: Sequence[Mapping[str, Any]], *, boot_id: str, cache_dir: str) -> Observation[str]:
    """The newest attempt on this boot, with this cache, whose ranks were started: its run id.

    Args:
        manifests: `attempt.json` of earlier attempts, newest first.
        boot_id: of this boot.
        cache_dir: the compile cache's directory.
    """
    source = "attempts of this home on the same boot"
    for manifest in manifests:
        states = {step.get("state") for step in manifest.get("transitions", ()) if isinstance(step, Mapping)}
        placement = manifest.get("placement")
        same = isinstance(placement, Mapping) and placement.get("cache_dir") == cache_dir
        if same and manifest.get("boot_id") == boot_id and "running" in states:
            return observed(str(manifest["run_id"]), source)
    return absent(source, "none was started with this cache")
