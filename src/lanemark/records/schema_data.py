"""What a record says of each rank's data path: page cache, counters, the windows it read, the steps it waited in.

Client side: it needs pydantic. All of it came after the first records of version 1.1, and is optional in `data`: a
record that was made before has none of it, and says by that nothing about its path.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lanemark.records.schema_parts import Count, Many, Observed, Part, Seconds

#: `data.path_class`: what the tokens were read through, as seen from the ranks' own open files.
PathClass = Literal[
    "object_mount", "network_volume", "local_disk", "ram", "page_cache", "synthetic", "mixed", "unknown",
]  # fmt: skip
#: What a case may say that its tokens are read through.
PathClassAsked = Literal["object_mount", "network_volume", "local_disk", "ram", "page_cache", "mixed"]
#: A set of windows as one number: see `lanemark.lanes.windows`.
WindowSum = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class ResidencyPart(Part):
    """How much of the data files was in the page cache."""

    bytes: Count = Field(description="Size of the files that were looked at.")
    resident_bytes: Count = Field(description="Bytes of them that were in the page cache.")
    files: Count = Field(description="Files that were looked at: all, or as many as the time for it allowed.")
    files_open: Count = Field(description="Data files that the rank has open.")


class ReadCountersPart(Part):
    """The process's counters over the measured window. Reads through a mapping are in neither where it is FUSE's."""

    read_bytes: Count = Field(description="Bytes fetched from storage for it, whatever file they are of.")
    rchar: Count = Field(description="Bytes it asked for by read calls, page cache included, mappings not.")


class WindowSetPart(Part):
    """A set of token windows."""

    count: Count = Field(description="How many.")
    sum: WindowSum = Field(description="Their numbers, scrambled and added modulo 2^64: the same in any order.")


class WindowsReadPart(WindowSetPart):
    """The windows that one rank was handed inside the measured window of time."""

    sequences: Count = Field(description="Training sequences of one epoch, as this rank's loader counts them.")


class WindowsPart(Part):
    """What the ranks read together, against what the case has them read."""

    sequences: Count = Field(description="Training sequences of one epoch, on which all ranks agree.")
    read: WindowSetPart = Field(description="Counts and sums of all ranks, added.")
    expected: WindowSetPart = Field(
        description="From the case's seed and batch alone: the order is walked again when the record is sealed."
    )
    as_expected: bool = Field(
        description="Whether both are equal: the ranks were disjoint, and read exactly the tokens of the case."
    )


class DataRankPart(Part):
    """One rank's own data path, with the evidence for its class."""

    rank: Count = Field(description="The rank.")
    path_class: Observed[PathClass] = Field(
        description="The class of its files by their mounts; of a local disk, `page_cache` where the evidence says so."
    )
    files: Count = Field(description="Data files it had open or mapped.")
    resident_before: Observed[ResidencyPart] = Field(
        description="The page cache before it read a token. Unavailable where the kernel's word is not believed."
    )
    resident_after: Observed[ResidencyPart] = Field(description="The page cache after the window.")
    io: Observed[ReadCountersPart] = Field(description="Its counters over the window, from `/proc/self/io`.")
    windows: Observed[WindowsReadPart] = Field(description="The windows of tokens that it was handed.")
    look_s: Observed[Seconds] = Field(description="Seconds that all looks at its data path took, none in the window.")


class DataStallPart(Part):
    """A measured step in which a rank waited for its tokens for more than a tenth of a step."""

    rank: Count = Field(description="The rank.")
    step: Count = Field(description="The step, from 0, warm-up included.")
    wait_s: Seconds = Field(description="Seconds it waited.")
    step_s: Seconds = Field(description="Seconds the step took, the wait included.")


class DataStallsPart(Part):
    """All such steps of all ranks."""

    count: Count = Field(description="How many.")
    wait_s: Seconds = Field(description="Seconds waited in them, all together.")
    longest: Many[DataStallPart] = Field(description="Up to 32 of them, the longest first.")
