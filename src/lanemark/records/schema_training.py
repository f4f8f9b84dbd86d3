"""The training lane's part of a record: the measured loop, or why there is no figure. Client side: needs pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lanemark.records.schema_envelope import CasePart
from lanemark.records.schema_parts import Count, Many, Observed, Part, Seconds, Text
from lanemark.records.schema_script import ScriptCasePart, ScriptPart
from lanemark.records.schema_startup import FirstStepPart, RankCachePart, rank_cache_unrecorded, unrecorded


class TrainingCasePart(CasePart):
    """The training lane's question, whole."""

    lane: Literal["training"] = Field(description="The lane.")
    dtype: Literal["fp32", "bf16", "any"] = Field(
        description="Compute precision; `bf16` keeps fp32 weights and reductions. `any`: a command's own affair."
    )
    steps: Count = Field(description="Optimizer steps in all, warm-up included.")
    warmup: Count = Field(description="Leading steps that are never measured.")
    sequence: Count | None = Field(
        default=None, description="Tokens in one sequence. Missing for a command, which decides it itself."
    )
    micro_batch: Count | None = Field(
        default=None, description="Sequences a rank takes in one forward. Missing for a command."
    )
    grad_accum: Count | None = Field(
        default=None, description="Forwards a rank takes in one optimizer step. Missing for a command."
    )
    script: ScriptCasePart | None = Field(
        default=None, description="What is asked of a command of the user's own. Missing for the reference stack."
    )
    prewarm: Literal["auto", "off"] | None = Field(
        default=None,
        description="Whether ranks compile one unsharded block before they share the model; `auto` leaves it to their "
        "policy. Missing in records of version 1.0, whose cases could not say.",
    )
    collective_timeout_s: Seconds | None = Field(
        default=None,
        description="Seconds that a rank may wait in a collective once nothing is left to compile. Missing in records "
        "of version 1.0.",
    )


class WindowPart(Part):
    """The declared window, in steps. Nothing measured may move its edges."""

    steps: Count = Field(description="Steps in all: the case's.")
    warmup: Count = Field(description="Warm-up steps: the case's.")
    measured: Count = Field(description="Steps that were to be measured: the difference.")


class SplitPart(Part):
    """Where the window's time went: seconds summed over the window, the slowest rank of each."""

    window_s: Observed[float] = Field(description="Seconds the window took. Unavailable when a rank never closed it.")
    data_wait_s: Observed[float] = Field(description="Seconds waiting for a batch.")
    compile_s: Observed[float] = Field(description="Seconds compiling inside the window.")
    other_s: Observed[float] = Field(description="Seconds of everything else.")


class StepTimePart(Part):
    """Seconds of one global step: from one step's last rank's end to the next step's last rank's end."""

    mean_s: Seconds = Field(description="Mean, seconds: what the throughput rests on.")
    p50_s: Seconds = Field(description="Median, seconds. It hides stalls.")
    p95_s: Seconds = Field(description="95th percentile, seconds.")
    p99_s: Seconds = Field(description="99th percentile, seconds.")
    min_s: Seconds = Field(description="Fastest step, seconds.")
    max_s: Seconds = Field(description="Slowest step, seconds.")
    stalls: Count = Field(description="Steps that took more than twice the median.")


class SamplesPart(Part):
    """Raw global step times. Warm-up is kept apart and never averaged in."""

    unit: Literal["ns"] = Field(description="Nanoseconds.")
    warmup: Many[Count] = Field(description="Of the warm-up steps, nanoseconds, in order.")
    measured: Many[Count] = Field(description="Of the measured steps, nanoseconds, in order.")


class PhaseSpan(Part):
    """One start-up phase of one rank."""

    phase: Text = Field(description="The phase.")
    begin_s: float = Field(description="Seconds since the launch.")
    end_s: float = Field(description="Seconds since the launch.")


class TrainingRank(Part):
    """What one rank recorded."""

    rank: Count = Field(description="The rank.")
    steps_recorded: Count = Field(description="Steps in its sample file, warm-up included.")
    step_p50_s: Observed[float] = Field(description="Median of its own measured steps, seconds.")
    data_wait_s: Observed[float] = Field(description="Seconds it waited for data in the window.")
    compile_s: Observed[float] = Field(description="Seconds it spent compiling, the whole run.")
    compile_end_s: Observed[float] = Field(
        description="When its last compilation ended, seconds since the launch. Absent when it compiled nothing."
    )
    window_arrival_s: Observed[float] = Field(description="When it opened the window, seconds since the launch.")
    first_step_s: Observed[float] = Field(description="When its step 0 ended, seconds since the launch.")
    first_step: Observed[FirstStepPart] = Field(
        default_factory=unrecorded,
        description="Where that time went. Unavailable in records of version 1.0, and without a beacon page or a step.",
    )
    cache: RankCachePart = Field(
        default_factory=rank_cache_unrecorded, description="What it used of the compile cache."
    )
    memory_peak_bytes: Observed[int] = Field(description="Bytes at its peak: the allocator's on CUDA, else resident.")
    tokens: Observed[int] = Field(description="Tokens it counted in the window. Unavailable without an end marker.")
    phases: Many[PhaseSpan] = Field(description="Its start-up phases.")


class MemoryPart(Part):
    """Peaks over the ranks (the largest). CUDA figures from the caching allocator; RSS from the kernel."""

    allocated_peak_bytes: Observed[int] = Field(description="Bytes allocated on the device. Absent on a CPU.")
    reserved_peak_bytes: Observed[int] = Field(description="Bytes reserved on the device. Absent on a CPU.")
    rss_peak_bytes: Observed[int] = Field(description="Resident bytes of the process, VmHWM.")


class LossPart(Part):
    """Losses, natural logarithm, mean over the ranks."""

    first: Observed[float] = Field(description="Of the first step. Unavailable without end markers.")
    last: Observed[float] = Field(description="Of the last step. Unavailable without end markers.")
    finite: Observed[bool] = Field(description="Whether every step's loss was finite on every rank.")


class ModelPart(Part):
    """The model that was really built."""

    parameters: Observed[int] = Field(description="Parameters, counted by the ranks before sharding.")
    parameters_active: Observed[int] = Field(description="Parameters that one token's forward touches.")
    flops_per_token: Observed[float] = Field(description="Floating point operations a token costs in training.")


class TrainingPart(Part):
    """The training lane's own part: figures of the measured loop, or why there are none."""

    window: WindowPart = Field(description="The declared window.")
    tokens_per_step: Count | None = Field(
        default=None,
        description="Tokens of the global batch in one step: follows from the case. Of a command, what its ranks "
        "counted, and missing where they counted none, or not the same in every step.",
    )
    tokens_per_s: Observed[float] = Field(
        description="The headline: global batch tokens ÷ mean step, tokens a second. Unavailable without a receipt."
    )
    step_time: Observed[StepTimePart] = Field(description="Figures of the global steps, from `samples.measured`.")
    samples: SamplesPart = Field(description="What the figures are computed from.")
    split: SplitPart = Field(description="Where the window's time went.")
    ranks: Many[TrainingRank] = Field(description="Each rank's own figures.")
    memory: MemoryPart = Field(description="Peak memory, which belongs beside every throughput.")
    loss: LossPart = Field(description="Whether it was training at all.")
    model: ModelPart = Field(description="What was trained.")
    mfu: Observed[float] = Field(
        description="Share, 0 to 1, of the devices' dense peak. Unavailable where the peak is not known, as for a CPU."
    )
    script: ScriptPart | None = Field(
        default=None,
        description="How a command of the user's own was measured. Missing for the reference stack.",
    )
    does_not_prove: Many[Text] = Field(description="What must not be read into this record. Never empty.")
