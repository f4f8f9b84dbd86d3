"""What really ran: the parts by which the sparse and promotion lanes tell a request from a runtime. Needs pydantic.

One idea: `requested` is a name from the case, and everything else about identity is witnessed. Names of operators or
kernels come from a profiler pass outside the timed calls, and a NaN canary tells what was computed whatever the names
say. What was not seen stays unobserved.
"""

from __future__ import annotations

from pydantic import Field

from lanemark.records.schema_parts import Count, Digest, Many, Name, Observed, Part, Positive, Stamp, Text
from lanemark.records.terms import (
    CanaryVerdict,
    FallbackReason,
    Lifecycle,
    ObservationLevel,
    ObservationState,
    RuntimeMode,
)


class NamesPart(Part):
    """Which operators or kernels a profiler pass saw, and whether they settle anything."""

    level: ObservationLevel = Field(description="`op`: names of operators. `kernel`: names of device kernels.")
    state: ObservationState = Field(
        description="`observed`: the names fit one backend. `ambiguous`: they fit several. `unobserved`: none was seen."
    )
    names: Many[Text] = Field(description="The names, in order of appearance, each once. Empty when `unobserved`.")
    source: Text = Field(description="The profiler, and what it was run over. Never the timed calls.")


class CanaryPart(Part):
    """What the output did when key and value rows that nobody selected held NaN."""

    verdict: CanaryVerdict = Field(
        description="`bit_identical`: nobody read them. `nan_inside_blocks`: blocks around selected rows were read. "
        "`nan_everywhere`: all rows were read. `changed_without_nan`: something else is wrong."
    )
    poisoned_rows: Positive = Field(description="Key rows that were poisoned.")
    nan_rows: Count = Field(description="Output rows that held NaN afterwards.")


class IdentityPart(Part):
    """Which backend really ran."""

    requested: Name = Field(description="The backend asked for: the case's.")
    actual: Observed[Name] = Field(
        description="The backend that ran, concluded from `names` or the canary. Never copied from the request; "
        "unavailable when nothing was seen that says so."
    )
    runtime_mode: Observed[RuntimeMode] = Field(
        description="What was computed. Needs the canary, or kernel names for `reroute_to_full`."
    )
    fallback_reason: Observed[FallbackReason] = Field(
        description="Why another backend ran than the one asked for. Absent when none did, unavailable when unknown."
    )
    names: NamesPart = Field(description="What a profiler saw.")
    canary: Observed[CanaryPart] = Field(
        description="The witness that no name can fool. Absent when every row was selected, so none could be poisoned."
    )


class SelectorPart(Part):
    """One environment variable or option that can switch a backend."""

    name: Text = Field(description="Its name.")
    value: Observed[str] = Field(description="Its value as the worker saw it. Absent when it was not set.")


class RemotePart(Part):
    """The worker as the worker itself reported it; the host's own view is in the common parts."""

    worker: Observed[str] = Field(description="The worker's host name.")
    python: Observed[str] = Field(description="Its Python version.")
    torch: Observed[str] = Field(description="Its torch version with build tag.")
    arch: Observed[str] = Field(description="Its device's architecture (`sm_90`), or the CPU's.")
    lanemark_digest: Observed[Digest] = Field(description="Digest of the Lanemark sources that ran there.")


class LookPart(Part):
    """One look of a collector at the run."""

    at: Stamp = Field(description="UTC, wall clock of the collector's host.")
    seen: Text = Field(description="The state that the surface reported.")
    note: Text | None = Field(default=None, description="An error it met, where there was one.")


class CollectorPart(Part):
    """How the result was brought home."""

    lifecycle: Lifecycle = Field(description="`blocking`: the launcher waited. `detached`: it left.")
    reattached: bool = Field(description="Whether a collector found the run unfinished and waited for it.")
    looks: Many[LookPart] = Field(description="Every look, in order. Empty for a blocking run.")
    last_polled_at: Observed[Stamp] = Field(description="When it was last looked at. Absent for a blocking run.")
    completed_at: Observed[Stamp] = Field(
        description="When the worker said that it was done. Absent when it never did."
    )
    snapshots: Many[Text] = Field(description="Names of evidence: call graphs taken on time-out or error.")


class ImportHealthPart(Part):
    """Whether a module could be imported: health of the image, and no proof that anything ran."""

    module: Text = Field(description="The module.")
    imported: Observed[bool] = Field(description="Whether it could be imported, from a probe in a process of its own.")
    error: Observed[str] = Field(description="What it said otherwise. Absent when it could.")
