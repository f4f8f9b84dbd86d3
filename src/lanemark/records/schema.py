"""The record's shape, version 1: one strict, frozen schema, and the only place that defines it.

Runs where records are kept (it needs pydantic, imported lazily by its callers). The writer beside the ranks is
`lanemark.lanes` + `lanemark.records.statement`, standard library only; a corpus of records holds them together.

Every observed field is `Observed[T]`: `{"status": "observed", "source", "value"}`, `{"status": "absent", "source"}` or
`{"status": "unavailable", "source", "reason"}`. Durations end in `_s`, sizes in `_bytes`, raw times in `_ns`.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

T = TypeVar("T")

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Stamp = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
#: `startup.declared`: the cache policy that was asked for. Never an observation.
CachePolicy = Literal["require", "seed", "cold"]
#: `startup.state` (facts: the kinds worth telling apart at a run's starting line).
StartupKind = Literal[
    "cold", "warm", "partly_warm", "seeded", "image_seed", "snapshot_restored", "not_compiled",
]  # fmt: skip
#: `data.path_class`: what the tokens were read through, as seen from the ranks' own open files.
PathClass = Literal[
    "object_mount", "network_volume", "local_disk", "ram", "page_cache", "synthetic", "mixed", "unknown",
]  # fmt: skip


class Part(BaseModel):
    """Base of every part: frozen, strict, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Observed(Part, Generic[T]):
    """A value with its source, or why there is none. See `lanemark.records.observation`."""

    status: Literal["observed", "absent", "unavailable"]
    source: Text
    value: T | None = None
    reason: Text | None = None

    @model_validator(mode="after")
    def _pairing(self) -> Observed[T]:
        if self.status == "observed" and (self.value is None or self.reason is not None):
            raise ValueError("an observed value has a value and no reason")
        if self.status != "observed" and self.value is not None:
            raise ValueError(f"an {self.status} observation has no value")
        if self.status == "unavailable" and not self.reason:
            raise ValueError("an unavailable observation says why")
        return self


class DataAskedPart(Part):
    kind: Literal["shards", "synthetic"]
    dataset_digest: Digest | None = None


class CasePart(Part):
    """The question, whole. Its canonical bytes hash to `plan_digest`."""

    lane: Literal["training", "sparse", "promotion"]
    preset: Text
    nproc: Annotated[int, Field(ge=1)]
    mode: Literal["single", "ddp", "fsdp2"]
    compile: Literal["eager", "regional", "model"]
    dtype: Literal["fp32", "bf16"]
    steps: Count
    warmup: Count
    sequence: Count
    micro_batch: Count
    data: DataAskedPart
    surface: Text
    gpu: Text
    grad_accum: Count
    seed: Count
    cache_policy: CachePolicy
    command: list[str]
    stall_s: Seconds
    wall_s: Seconds


class SurfacePart(Part):
    """Where it ran, and the ids that place gave it."""

    name: Text
    app_id: Observed[str]
    call_id: Observed[str]
    hostname: Observed[str]
    boot_id: Observed[str]
    virtualization: Observed[str]


class TimesPart(Part):
    """Wall-clock stamps may step; `duration_s` is from a clock that does not (absent when the supervisor was lost)."""

    prepared_at: Stamp
    sealed_at: Stamp
    duration_s: Observed[float]


class HardwareRequested(Part):
    gpu: Text
    nproc: Count


class HardwareObserved(Part):
    """The devices the ranks really used, and the host they sat in."""

    device_class: Observed[str]
    device_count: Observed[int]
    device_names: Observed[list[str]]
    device_uuids: Observed[list[str]]
    memory_bytes: Observed[int]
    driver: Observed[str]
    cuda: Observed[str]
    mig: Observed[bool]
    ecc: Observed[bool]
    power_limit_w: Observed[float]
    sm_clock_max_mhz: Observed[int]
    cpu_model: Observed[str]
    cpu_logical: Observed[int]
    cpu_usable: Observed[int]
    cpu_flags_digest: Observed[str]
    host_memory_bytes: Observed[int]
    cgroup_memory_bytes: Observed[int]
    cgroup_cpu_quota: Observed[float]
    kernel: Observed[str]


class HardwarePart(Part):
    requested: HardwareRequested
    observed: HardwareObserved


class DistributedRequested(Part):
    mode: Literal["single", "ddp", "fsdp2"]
    world_size: Count


class DistributedObserved(Part):
    mode: Observed[str]
    world_size: Observed[int]
    backend: Observed[str]
    ranks_reporting: Count
    nodes: Observed[int]


class DistributedPart(Part):
    requested: DistributedRequested
    observed: DistributedObserved


class CompileObserved(Part):
    posture: Observed[str]
    compilations: Observed[int]
    compile_s_max: Observed[float]
    last_end_step: Observed[int]


class CompilePart(Part):
    requested: Literal["eager", "regional", "model"]
    observed: CompileObserved


class ImagePart(Part):
    digest: Observed[Digest]
    reference: Observed[str]


class SourcePart(Part):
    """`argv` is verbatim, but for values that look like secrets; `lanemark_digest` covers our own source files."""

    commit: Observed[str]
    dirty: Observed[bool]
    repository_root: Observed[str]
    lanemark_version: Text
    lanemark_digest: Observed[Digest]
    argv: list[str]
    argv_redacted: bool


class SettingPart(Part):
    """One environment variable as a rank had it, and who set it. `value` is missing for `scrubbed` ones."""

    name: Text
    value: str | None = None
    origin: Literal["lanemark", "operator", "scrubbed"]
    reason: Text


class EnvironmentPart(Part):
    """The allow-listed snapshot and the settings applied to the ranks. No secret is ever stored."""

    variables: dict[str, str]
    settings: list[SettingPart]
    python: Text
    platform: Text


class PackagePart(Part):
    """One package that bears on the number. `record_digest` is of the installed RECORD file, which lists every file."""

    name: Text
    version: Observed[str]
    record_digest: Observed[Digest]
    imported: Observed[bool]


class ToolchainPart(Part):
    packages: list[PackagePart]
    torch_build: Observed[str]
    nccl: Observed[str]
    cxx: Observed[str]


class CacheInventory(Part):
    """What a compile cache directory held: keys and binaries are counted apart, because keys alone prove nothing."""

    files: Count
    bytes: Count
    keys: Count
    binaries: Count
    digest: Digest


class StartupPart(Part):
    declared: CachePolicy
    state: Observed[StartupKind]
    cache_directory: Observed[str]
    cache_before: Observed[CacheInventory]
    cache_after: Observed[CacheInventory]
    host_uptime_s: Observed[float]
    time_to_first_step_s: Observed[float]


class ShardRef(Part):
    name: Text
    bytes: Count
    tokens: Count
    sha256: Observed[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]


class PathSeen(Part):
    """One data file as one rank had it open: which mount, which file system, which class and why."""

    rank: Count
    name: Text
    path_class: PathClass
    filesystem: Text
    mount_point: Text
    mount_source: Text
    reason: Text


class DataPart(Part):
    requested: DataAskedPart
    dataset_digest: Observed[Digest]
    tokenizer_digest: Observed[Digest]
    manifest_verified: Observed[bool]
    shards: list[ShardRef]
    path_class: Observed[PathClass]
    paths: list[PathSeen]
    tokens_consumed: Observed[int]
    token_parity: Observed[bool]


class TransitionPart(Part):
    state: Literal["prepared", "detached", "running", "ok", "error", "cancelled", "lost"]
    at: Stamp
    monotonic_s: Seconds | None = None
    reason: Text


class FindingPart(Part):
    kind: Text
    severity: Literal["note", "caveat", "failure"]
    summary: Text
    evidence: list[str]
    rank: Count | None = None


class CausePart(Part):
    """The first cause of a failure: not the first rank to complain."""

    kind: Text
    summary: Text
    rank: Count | None = None


class RankExitPart(Part):
    """How a rank's process ended, as the supervisor saw it. `signal_by` says whether the supervisor sent it."""

    rank: Count
    pid: Count
    status: Observed[int]
    signal: Observed[str]
    signal_by: Literal["nobody", "supervisor", "other", "unknown"]
    end_marker: bool
    last_phase: Observed[str]
    last_step: Observed[int]
    exception: Observed[str]


class OutcomePart(Part):
    """`receipt` says whether the lane's figure may be quoted at all; `receipt_reason` says why, either way."""

    state: Literal["ok", "error", "cancelled", "lost"]
    receipt: bool
    receipt_reason: Text
    first_cause: CausePart | None = None
    ranks: list[RankExitPart]


class EvidencePart(Part):
    name: Text
    digest: Digest
    bytes: Count
    media_type: Text


class WindowPart(Part):
    """The declared window. Nothing measured may move its edges."""

    steps: Count
    warmup: Count
    measured: Count


class SplitPart(Part):
    """Where the window's time went, seconds summed over the window, the slowest rank of each."""

    window_s: Observed[float]
    data_wait_s: Observed[float]
    compile_s: Observed[float]
    other_s: Observed[float]


class StepTimePart(Part):
    """Seconds of one global step: from one step's last rank's end to the next step's last rank's end."""

    mean_s: Seconds
    p50_s: Seconds
    p95_s: Seconds
    p99_s: Seconds
    min_s: Seconds
    max_s: Seconds
    stalls: Count


class SamplesPart(Part):
    """Raw global step times, nanoseconds. Warm-up kept apart and never averaged in."""

    unit: Literal["ns"]
    warmup: list[Count]
    measured: list[Count]


class PhaseSpan(Part):
    """One start-up phase of one rank, seconds since the attempt's launch."""

    phase: Text
    begin_s: float
    end_s: float


class TrainingRank(Part):
    rank: Count
    steps_recorded: Count
    step_p50_s: Observed[float]
    data_wait_s: Observed[float]
    compile_s: Observed[float]
    compile_end_s: Observed[float]
    window_arrival_s: Observed[float]
    first_step_s: Observed[float]
    memory_peak_bytes: Observed[int]
    tokens: Observed[int]
    phases: list[PhaseSpan]


class MemoryPart(Part):
    """Peaks over the ranks (the largest). CUDA figures from the caching allocator; RSS from the kernel."""

    allocated_peak_bytes: Observed[int]
    reserved_peak_bytes: Observed[int]
    rss_peak_bytes: Observed[int]


class LossPart(Part):
    first: Observed[float]
    last: Observed[float]
    finite: Observed[bool]


class ModelPart(Part):
    parameters: Observed[int]
    parameters_active: Observed[int]
    flops_per_token: Observed[float]


class TrainingPart(Part):
    """The training lane's own part: figures of the measured loop, or why there are none."""

    window: WindowPart
    tokens_per_step: Count
    tokens_per_s: Observed[float]
    step_time: Observed[StepTimePart]
    samples: SamplesPart
    split: SplitPart
    ranks: list[TrainingRank]
    memory: MemoryPart
    loss: LossPart
    model: ModelPart
    mfu: Observed[float]
    does_not_prove: list[Text]


class Predicate(Part):
    """One benchmark record of one lane."""

    record_version: Annotated[str, Field(pattern=r"^1\.[0-9]{1,4}$")]
    lane: Literal["training"]
    run_id: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{8}T[0-9]{6}Z-[0-9a-z]{8}$")]
    attempt: Annotated[int, Field(ge=1)]
    plan_digest: Digest
    assurance: Literal["self_attested", "ci_attested", "reproduced"]
    case: CasePart
    surface: SurfacePart
    times: TimesPart
    hardware: HardwarePart
    distributed: DistributedPart
    compile: CompilePart
    image: ImagePart
    source: SourcePart
    environment: EnvironmentPart
    toolchain: ToolchainPart
    startup: StartupPart
    data: DataPart
    transitions: Annotated[list[TransitionPart], Field(min_length=1)]
    findings: list[FindingPart]
    outcome: OutcomePart
    evidence: list[EvidencePart]
    training: TrainingPart


class Subject(Part):
    name: Text
    digest: dict[str, str]


class Statement(Part):
    """in-toto Statement v1 with our predicate (source: in-toto attestation framework, spec/v1/statement.md)."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicateType: Literal["urn:x-lanemark:record:v1"]  # noqa: N815 - the specification's spelling
    predicate: Predicate


def json_schema() -> dict[str, Any]:
    """The record's JSON Schema, draft 2020-12, with `$schema` and `$id` set."""
    schema = TypeAdapter(Statement).json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:x-lanemark:schema:record:v1",
        **schema,
    }
