"""The starting line of a run: what the compile cache held, which layers were tried, and what the ranks used of it.

Client side: it needs pydantic. Most of it is new in version 1.1. A field that a record of version 1.0 does not have is
read as `unavailable`, with that as its reason, and never as `absent`: nobody looked then.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lanemark.records.schema_parts import Count, Digest, Many, Observed, Part, Seconds, Text
from lanemark.records.terms import LayerKind, LayerResult, Purpose, StartupKind
from lanemark.records.upcast import not_recorded

#: `startup.declared`: the cache policy that was asked for. Never an observation.
CachePolicy = Literal["require", "seed", "cold"]


def unrecorded() -> Observed[Any]:
    """What a field of version 1.1 reads as in a record of version 1.0."""
    return Observed[Any].model_validate(not_recorded())


class CacheInventory(Part):
    """What a compile cache directory held: keys and binaries are counted apart, because keys alone prove nothing."""

    files: Count = Field(description="Regular files.")
    bytes: Count = Field(description="Their bytes in all.")
    keys: Count = Field(description="Files that are cache keys.")
    binaries: Count = Field(description="Files that are compiled code.")
    digest: Digest = Field(description="Digest over the names and contents of all but the compilers' temporaries.")


class CoveragePart(Part):
    """Whether a cache held what the last good run of this question used, byte for byte, on the same kind of machine."""

    covered: bool = Field(description="Whether nothing was missing and nothing that enters the keys had changed.")
    required: Count = Field(description="Keys and binaries that are known to be needed, over all ranks.")
    missing: Many[Text] = Field(description="Those that were missing or had another content, by rank; the first ones.")
    mismatches: Many[Text] = Field(
        description="Why the manifest of that run does not speak for this one; the first ones."
    )


class LayerPart(Part):
    """One layer of the seed that was tried, in the order in which they were."""

    source: Text = Field(description="Where it lies, without credentials.")
    kind: LayerKind = Field(description="What kind of layer it is.")
    outcome: LayerResult = Field(description="What came of it. At most one layer is `used`.")
    reason: Text = Field(description="Why, in a sentence.")
    files: Count = Field(description="Files that were put in place.")
    bytes: Count = Field(description="Their bytes in all.")
    digest: Digest | None = Field(default=None, description="Digest of the archive. Missing where none was read whole.")
    seconds: Seconds = Field(description="Seconds spent on it.")


class PurposePart(Part):
    """What the run is good for."""

    kind: Purpose = Field(
        description="`benchmark`: the cache covered the question. `seeding_pass`: it did not, and the run filled it. "
        "`cold_measurement`: a cold start was to be measured. `not_compiled`: no cache has a part in it."
    )
    reason: Text = Field(description="Why, in a sentence.")


class PrewarmPart(Part):
    """Whether ranks compiled one unsharded block before they shared the model."""

    policy: Literal["auto", "off"] = Field(description="The case's.")
    planned: bool = Field(description="What the policy decided.")
    reason: Text = Field(description="Why it decided so.")
    done: Observed[bool] = Field(description="Whether every rank says it did. Absent when it was not planned.")
    seconds: Observed[float] = Field(description="Seconds it took the slowest rank.")
    compilations: Observed[int] = Field(description="Compilations during it, the largest count of any rank.")


class ClocksPart(Part):
    """What tells a fresh boot from a host that has been up, and both from a memory that was restored."""

    container_age_s: Observed[float] = Field(
        description="Seconds since the first process of this process namespace started, from `/proc/1/stat`."
    )
    asleep_s: Observed[float] = Field(
        description="Seconds since boot that the host stood still: CLOCK_BOOTTIME less CLOCK_MONOTONIC."
    )
    time_shift_s: Observed[float] = Field(
        description="Seconds by which a time namespace shifts the boot clock, as a restored memory snapshot has it."
    )
    earlier_run: Observed[Text] = Field(
        description="The last run before this one on the same boot and with the same cache. Absent when there is none."
    )


def _clocks_unrecorded() -> ClocksPart:
    return ClocksPart(**dict.fromkeys(ClocksPart.model_fields, unrecorded()))


class StartupPart(Part):
    """From where the run started: declared by the operator, and seen in the compile cache and on the ranks."""

    declared: CachePolicy = Field(description="The case's cache policy: a request, never an observation.")
    state: Observed[StartupKind] = Field(
        description="Derived from the inventories, the files that are new, what the ranks looked up, and the clocks."
    )
    purpose: Observed[PurposePart] = Field(
        default_factory=unrecorded, description="What the run is good for. Unavailable in records of version 1.0."
    )
    cache_directory: Observed[str] = Field(description="The compile cache given to the ranks. Absent for eager runs.")
    layout: Observed[Literal["shared", "per_rank"]] = Field(
        default_factory=unrecorded, description="Whether ranks share the cache or have one each. Absent for eager runs."
    )
    layers: Observed[Many[LayerPart]] = Field(
        default_factory=unrecorded, description="Layers of the seed, in order. Absent when none was given."
    )
    coverage_before: Observed[CoveragePart] = Field(
        default_factory=unrecorded, description="Coverage when the ranks were started. Absent for eager runs."
    )
    cache_before: Observed[CacheInventory] = Field(description="Inventory before launch. Absent without a directory.")
    cache_after: Observed[CacheInventory] = Field(description="Inventory after the end. Absent without a directory.")
    prewarm: Observed[PrewarmPart] = Field(
        default_factory=unrecorded, description="Compiling before sharding. Absent in lanes that have no such step."
    )
    clocks: ClocksPart = Field(default_factory=_clocks_unrecorded, description="Boot clocks, at launch.")
    host_uptime_s: Observed[float] = Field(description="Seconds since the host booted, at launch, from `/proc/uptime`.")
    time_to_first_step_s: Observed[float] = Field(
        description="Seconds from launch to the end of step 0 on the last rank. Unavailable when a rank finished none."
    )


class FirstStepPart(Part):
    """Where one rank's time went from launch to the end of step 0. The parts sum to its `first_step_s`."""

    import_s: Seconds = Field(description="Seconds importing, torch above all.")
    init_s: Seconds = Field(description="Seconds forming the process group.")
    build_s: Seconds = Field(description="Seconds building the model.")
    shard_s: Seconds = Field(description="Seconds sharing it among the ranks.")
    prewarm_s: Seconds = Field(description="Seconds of compiling before sharding, its compilations included.")
    compile_s: Seconds = Field(description="Seconds compiling at any other time.")
    first_collective_s: Seconds = Field(
        description="Seconds inside the first collectives: waiting for the other ranks, and moving data."
    )
    other_s: Seconds = Field(description="Seconds of everything else: process start, data, the step itself.")


class LookupsPart(Part):
    """Counts by the cache that was asked. Recorded and never believed alone: hits were seen where all was rebuilt."""

    fx: Count = Field(description="Compiled graphs.")
    aot: Count = Field(description="Joint forward and backward graphs.")


class UsedCachePart(Part):
    """What one rank used of the compile cache, by its own word."""

    fx_keys: Count = Field(description="Compiled graphs that it took from the cache or put there.")
    aot_keys: Count = Field(description="Joint graphs that it took from the cache or put there.")
    binaries: Count = Field(description="Files of the cache that are mapped into its memory.")
    digest: Digest = Field(description="Digest over the keys and binaries: equal for ranks that used the same.")
    hits: LookupsPart = Field(description="Lookups that hit, by torch's counters.")
    misses: LookupsPart = Field(description="Lookups that missed, by torch's counters.")
    bypasses: LookupsPart = Field(description="Graphs that the cache was not asked for, by torch's counters.")


class RankCachePart(Part):
    """One rank and the compile cache."""

    used: Observed[UsedCachePart] = Field(description="By the rank's own word. Absent when it compiled nothing.")
    new_files: Observed[Count] = Field(
        description="Files that were new or changed in its cache directory after the run, seen from outside."
    )


def rank_cache_unrecorded() -> RankCachePart:
    """What `training.ranks[].cache` reads as in a record of version 1.0."""
    return RankCachePart(used=unrecorded(), new_files=unrecorded())
