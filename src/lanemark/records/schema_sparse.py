"""The sparse lane's part of a record: which backend really ran, in isolated eval form. Client side: it needs pydantic.

There is no field for a training throughput, and the lane's rules refuse one under any name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lanemark.records.schema_envelope import CasePart
from lanemark.records.schema_parts import Count, Digest, Magnitude, Many, Name, Observed, Part, Positive, Text
from lanemark.records.schema_runtime import CollectorPart, IdentityPart, RemotePart, SelectorPart
from lanemark.records.terms import IndexSet, SparseDtype


class AttentionCasePart(Part):
    """One attention problem with its index set."""

    name: Name = Field(description="Its name inside the case set, unique there.")
    batch: Positive = Field(description="Sequences.")
    sequence: Positive = Field(description="Query and key positions, S.")
    topk: Positive = Field(description="Indices a query may hold, -1 padded.")
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads.")
    head_dim: Positive = Field(description="Elements of one head.")
    dtype: SparseDtype = Field(description="Element type of queries, keys and values.")
    index_set: IndexSet = Field(description="How indices are made: drawn, near the query, by the indexer, from a file.")
    empty_rows: Count = Field(description="Queries that hold no index at all; their output is 0.")
    seed: Count = Field(description="Seed of inputs and of drawn indices.")


class SparseAskedPart(Part):
    """The sparse lane's own question."""

    backends: Annotated[Many[Name], Field(min_length=1)] = Field(
        description="Backends asked for, each over every case."
    )
    cases: Annotated[Many[AttentionCasePart], Field(min_length=1)] = Field(description="The case set.")
    warmup: Count = Field(description="Leading calls that are never reported.")
    repeats: Positive = Field(description="Calls that are timed.")
    indexer_timed: bool = Field(description="Whether the indexer's time is to be in the samples.")


class SparseCasePart(CasePart):
    """The sparse lane's question, whole."""

    lane: Literal["sparse"] = Field(description="The lane.")
    dtype: SparseDtype = Field(description="Element type where a case names none of its own.")
    sparse: SparseAskedPart = Field(description="What is asked of the sparse lane.")


class ParityPart(Part):
    """The output against float64 arithmetic over the same rounded inputs."""

    reference: Literal["float64"] = Field(description="What it is held against.")
    dtype: SparseDtype = Field(description="Element type of the output.")
    max_relative_error: Magnitude = Field(description="Largest error over the reference's largest magnitude.")
    tolerance: Magnitude = Field(description="Largest error that is parity, no looser than the lane's for the dtype.")
    lse_max_error: Observed[float] = Field(
        description="Largest error of the log-sum-exp. Absent when none is returned."
    )
    passed: bool = Field(description="Whether the error is within the tolerance: recomputed by a rule.")


class LatencyPart(Part):
    """Raw times of isolated calls. Not a throughput of anything, and never turned into one."""

    unit: Literal["ns"] = Field(description="Nanoseconds.")
    warmup: Many[Count] = Field(description="Leading calls, kept apart, nanoseconds.")
    samples: Annotated[Many[Count], Field(min_length=1)] = Field(description="Timed calls, nanoseconds, in order.")
    p50: Magnitude = Field(description="Median of `samples`, nanoseconds: recomputed by a rule.")
    synchronised: bool = Field(description="Whether the device was drained before each stamp. A receipt needs it.")
    cache_flushed: Observed[bool] = Field(
        description="Whether the device's cache was flushed between calls. Absent on a CPU."
    )
    indexer_included: bool = Field(description="Whether choosing the indices is in the time.")


class WorkPart(Part):
    """What one call has to do: counted over valid indices only, never over padding."""

    valid_indices: Count = Field(description="Indices that are not padding, over all queries and sequences.")
    flops: Count = Field(description="4 · valid indices · heads · head_dim: two products, a multiply and an add each.")


class SparseResultPart(Part):
    """One backend over one case."""

    case: AttentionCasePart = Field(description="The case, as asked.")
    backend_identity: IdentityPart = Field(description="The backend asked for and the one that ran.")
    no_grad: Observed[bool] = Field(description="Whether it ran without autograd, from the outputs' own flags.")
    parity: Observed[ParityPart] = Field(
        description="Whether it computed the right thing. Unavailable when it did not run."
    )
    latency: Observed[LatencyPart] = Field(description="How long isolated calls took. Unavailable when none was timed.")
    work: Observed[WorkPart] = Field(description="What one call had to do, counted in the index tensor.")
    indexer_digest: Observed[Digest] = Field(description="Digest of the index tensor. Tells whether two runs had one.")
    memory_peak_bytes: Observed[int] = Field(description="Bytes the device's allocator peaked at. Absent on a CPU.")


class SparsePart(Part):
    """The sparse lane's own part: runtime identity, its witnesses, and what it cost."""

    launcher_args: Many[str] = Field(description="What the worker program was given, verbatim but for secrets.")
    selectors: Many[SelectorPart] = Field(description="Variables that can switch a backend, as the worker saw them.")
    results: Many[SparseResultPart] = Field(description="One entry a backend and case that was tried.")
    remote: RemotePart = Field(description="The worker as it reported itself.")
    collector: CollectorPart = Field(description="Who looked at the run, and when.")
    does_not_prove: Many[Text] = Field(description="What must not be read into this record. Never empty.")
