"""The parts of a record that all three lanes share: where it ran, on what, from which sources, and how it ended.

Client side: it needs pydantic. Durations end in `_s`, sizes in `_bytes`; an `Observed` field says in its description
what is read, and when it is `absent` or `unavailable`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lanemark.records.schema_data import DataRankPart, DataStallsPart, PathClass, PathClassAsked, WindowsPart
from lanemark.records.schema_parts import Count, Digest, Many, Observed, Part, Positive, Seconds, Stamp, Text
from lanemark.records.schema_startup import CachePolicy

#: `any` stands in cases of a command of the user's own alone: nothing was asked for, and what was there is observed.
ModeAsked = Literal["single", "ddp", "fsdp2", "any"]
PostureAsked = Literal["eager", "regional", "model", "any"]


class DataAskedPart(Part):
    """Which tokens the case asks for."""

    kind: Literal["shards", "synthetic", "own"] = Field(
        description="`shards`: token files. `synthetic`: made up in memory, which measures no data path. `own`: a "
        "command brings its own, which nothing here identifies."
    )
    dataset_digest: Digest | None = Field(
        default=None,
        description="Digest over the shards' digests. Missing for synthetic tokens, which are no data set, "
        "and for a command's own.",
    )
    path_class: PathClassAsked | None = Field(
        default=None,
        description="What the tokens were said to be read through (`--data-class`). Missing where nothing was said.",
    )


class CasePart(Part):
    """What every lane's question pins. Its canonical bytes, with the lane's own fields, hash to `plan_digest`."""

    preset: Text = Field(description="The named recipe, or the name of the case set.")
    nproc: Positive = Field(description="Ranks asked for, all on one node.")
    mode: ModeAsked = Field(description="How ranks are to share the work. `any`: a command's own affair.")
    compile: PostureAsked = Field(
        description="Compile posture: nothing, one repeated region, or the whole model. `any`: a command's own affair."
    )
    data: DataAskedPart = Field(description="The tokens asked for.")
    surface: Text = Field(description="Where it is to run: `local`, `modal`.")
    gpu: Text = Field(description="GPU specification, `NAME[!|+][:COUNT]`, `cpu` or `any`; `!` admits no substitute.")
    seed: Count = Field(description="Seed of everything drawn at random.")
    cache_policy: CachePolicy = Field(description="What the compile cache must be at the start.")
    command: Many[str] = Field(description="The user's own command, verbatim; empty for the reference program.")
    stall_s: Seconds = Field(description="Seconds without any rank's progress after which the run is ended.")
    wall_s: Seconds = Field(description="Seconds after which the run is ended whatever it does.")


class SurfacePart(Part):
    """Where it ran, and the ids that place gave it."""

    name: Text = Field(description="The surface: `local`, `modal`. Equal to the case's.")
    app_id: Observed[str] = Field(
        description="The place's id of the application. Absent where there is none (`local`)."
    )
    call_id: Observed[str] = Field(description="The place's id of the call. Absent where there is none (`local`).")
    hostname: Observed[str] = Field(description="From `uname` on the host that ran the ranks.")
    boot_id: Observed[str] = Field(
        description="From `/proc/sys/kernel/random/boot_id`: tells two boots of a host apart."
    )
    virtualization: Observed[str] = Field(description="Hypervisor or container kind, as the kernel and DMI tell it.")


class TimesPart(Part):
    """Wall-clock stamps may step; `duration_s` is from a clock that does not."""

    prepared_at: Stamp = Field(description="UTC, when the attempt's directory and case existed.")
    sealed_at: Stamp = Field(description="UTC, when this record was sealed.")
    duration_s: Observed[float] = Field(
        description="Seconds from launch to the end, CLOCK_MONOTONIC. Unavailable when the supervisor was lost."
    )


class HardwareRequested(Part):
    """What was asked for, from the case."""

    gpu: Text = Field(description="The case's GPU specification.")
    nproc: Count = Field(description="The case's number of ranks.")


class HardwareObserved(Part):
    """The devices the ranks really used, and the host they sat in."""

    device_class: Observed[str] = Field(
        description="Class of the devices that the ranks used (`H100`, `cpu`). Unavailable when no rank reported."
    )
    device_count: Observed[int] = Field(description="Different devices used by the ranks, by UUID; 1 for a host's CPU.")
    device_names: Observed[Many[str]] = Field(description="Full device names, each once, in rank order.")
    device_uuids: Observed[Many[str]] = Field(description="Device UUIDs, each once. Absent on a CPU.")
    memory_bytes: Observed[int] = Field(description="Bytes of memory of one device. Absent on a CPU.")
    driver: Observed[str] = Field(description="Kernel driver version, from NVML or `/proc`. Absent without one.")
    cuda: Observed[str] = Field(description="CUDA version that torch was built with. Absent for a CPU build.")
    mig: Observed[bool] = Field(description="Whether MIG is on, from NVML.")
    ecc: Observed[bool] = Field(description="Whether ECC is on, from NVML.")
    power_limit_w: Observed[float] = Field(description="Enforced power limit of one device, watts, from NVML.")
    sm_clock_max_mhz: Observed[int] = Field(description="Highest SM clock allowed, MHz, from NVML.")
    cpu_model: Observed[str] = Field(description="From `/proc/cpuinfo`.")
    cpu_logical: Observed[int] = Field(description="Logical CPUs of the host.")
    cpu_usable: Observed[int] = Field(description="Logical CPUs in the affinity mask.")
    cpu_flags_digest: Observed[str] = Field(description="Digest of the sorted CPU flags: tells instruction sets apart.")
    host_memory_bytes: Observed[int] = Field(description="Bytes of host memory, from `/proc/meminfo`.")
    cgroup_memory_bytes: Observed[int] = Field(description="Bytes that the cgroup allows. Absent when no limit is set.")
    cgroup_cpu_quota: Observed[float] = Field(description="CPUs that the cgroup allows. Absent when no limit is set.")
    kernel: Observed[str] = Field(description="Kernel release, from `uname`.")


class HardwarePart(Part):
    """Requested and observed devices, side by side and never mixed."""

    requested: HardwareRequested = Field(description="From the case and only from there.")
    observed: HardwareObserved = Field(description="From the ranks and host probes and only from there.")


class DistributedRequested(Part):
    """How ranks were asked to work together, from the case."""

    mode: ModeAsked = Field(description="The case's mode.")
    world_size: Count = Field(description="The case's number of ranks.")


class DistributedObserved(Part):
    """How the ranks really worked together."""

    mode: Observed[str] = Field(description="From the ranks' own wrapped modules.")
    world_size: Observed[int] = Field(description="Ranks in the process group, as the ranks saw it.")
    backend: Observed[str] = Field(description="Collective library: `nccl`, `gloo`.")
    ranks_reporting: Count = Field(description="Ranks that left a report of themselves.")
    nodes: Observed[int] = Field(description="Different hosts, by boot id.")


class DistributedPart(Part):
    """Requested and observed distributed mode."""

    requested: DistributedRequested = Field(description="From the case and only from there.")
    observed: DistributedObserved = Field(description="From the ranks and only from there.")


class CompileObserved(Part):
    """What the compiler's own callbacks saw."""

    posture: Observed[str] = Field(description="What really was compiled, from the ranks' modules.")
    compilations: Observed[int] = Field(description="Compilations, the largest count of any rank.")
    compile_s_max: Observed[float] = Field(description="Seconds spent compiling by the slowest rank.")
    last_end_step: Observed[int] = Field(
        description="Last step, from 0, during which a rank compiled. Absent when none compiled during a step."
    )


class CompilePart(Part):
    """Requested compile posture and what was compiled."""

    requested: PostureAsked = Field(description="The case's posture.")
    observed: CompileObserved = Field(description="From the ranks and only from there.")


class ImagePart(Part):
    """The container image, where there is one."""

    digest: Observed[Digest] = Field(description="Content digest. Absent outside a container.")
    reference: Observed[str] = Field(description="The name that it was started by. Absent outside a container.")


class SourcePart(Part):
    """`argv` is verbatim, but for values that look like secrets; `lanemark_digest` covers our own source files."""

    commit: Observed[str] = Field(description="Commit of the working directory's repository. Absent outside of one.")
    dirty: Observed[bool] = Field(description="Whether the working tree had uncommitted changes.")
    repository_root: Observed[str] = Field(description="Where that repository lies.")
    lanemark_version: Text = Field(description="Version of the Lanemark that sealed the record.")
    lanemark_digest: Observed[Digest] = Field(description="Digest over that Lanemark's own source files.")
    argv: Many[str] = Field(description="The command line, verbatim but for values that look like secrets.")
    argv_redacted: bool = Field(description="Whether something in `argv` looked like a secret and was left out.")


class SettingPart(Part):
    """One environment variable as a rank had it, and who set it."""

    name: Text = Field(description="The variable's name.")
    value: str | None = Field(default=None, description="Its value. Missing for `scrubbed` ones.")
    origin: Literal["lanemark", "operator", "scrubbed"] = Field(
        description="Who decided: us, the operator, or removed."
    )
    reason: Text = Field(description="Why it has this value.")


class EnvironmentPart(Part):
    """The allow-listed snapshot and the settings applied to the ranks. No secret is ever stored."""

    variables: dict[str, str] = Field(description="Allow-listed variables of the supervisor's environment, verbatim.")
    settings: Many[SettingPart] = Field(description="What was set or removed for the ranks, with the reason.")
    python: Text = Field(description="Python version of the supervisor.")
    platform: Text = Field(description="Platform as Python names it.")


class PackagePart(Part):
    """One package that bears on the number."""

    name: Text = Field(description="Distribution name.")
    version: Observed[str] = Field(description="From its installed metadata. Absent when it is not installed.")
    record_digest: Observed[Digest] = Field(description="Digest of its installed RECORD file, which lists every file.")
    imported: Observed[bool] = Field(description="Whether it could be imported, from a probe or from the ranks.")


class PinnedWheelPart(Part):
    """What a pinned wheel holds, and what is installed under its name."""

    distribution: Text = Field(description="Distribution name, from the wheel.")
    version: Text = Field(description="Its version, from the wheel.")
    contents: Digest = Field(description="Digest over the paths and hashes of the files that installing it copies.")
    installed: Observed[Digest] = Field(
        description="The same over the files installed here, each read. Absent when none are installed."
    )


class ArtifactPart(Part):
    """One pinned object, whose bytes were held to its digest."""

    name: Text = Field(description="Its name at the source.")
    bytes: Count = Field(description="Its size.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Its digest, hexadecimal.")
    wheel: PinnedWheelPart | None = Field(default=None, description="What it holds, where it is a wheel.")


class ArtifactsPart(Part):
    """What the image was built from, as `artifacts.json` pins it, beside what is installed."""

    source: Text = Field(description="The place that they were staged from, without parameters and credentials.")
    verification: Literal["manifest", "provider", "unverified"] = Field(
        description="Against what their bytes were held; `manifest` is `artifacts.json`."
    )
    image: Observed[Digest] = Field(
        description="The image that `artifacts.json` ties them to. Absent when it names none; `image.digest` ran."
    )
    entries: Many[ArtifactPart] = Field(description="The objects, in name order.")


class ToolchainPart(Part):
    """Versions, digests and import outcomes of what the number rests on."""

    packages: Many[PackagePart] = Field(description="torch, kernel wheels and compilers, one entry each.")
    torch_build: Observed[str] = Field(description="torch's version with its build tag, from the ranks.")
    nccl: Observed[str] = Field(description="NCCL version, from the ranks. Absent on a CPU.")
    cxx: Observed[str] = Field(description="First line of the C++ compiler's `--version`.")
    artifacts: Observed[ArtifactsPart] | None = Field(
        default=None,
        description="Pinned wheels and other artifacts beside what is installed. Missing where a run pinned none, and "
        "in records made before this was looked at.",
    )


class ShardRef(Part):
    """One token file of the data set."""

    name: Text = Field(description="File name inside the data directory.")
    bytes: Count = Field(description="Its size.")
    tokens: Count = Field(description="Tokens that its header declares.")
    sha256: Observed[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        description="Its content digest, hexadecimal. Unavailable when it was not hashed; never copied from a manifest."
    )


class PathSeen(Part):
    """One data file as one rank had it open: which mount, which file system, which class and why."""

    rank: Count = Field(description="The rank.")
    name: Text = Field(description="The file's name.")
    path_class: PathClass = Field(description="What the bytes came through.")
    filesystem: Text = Field(description="File system type, from `/proc/self/mountinfo`.")
    mount_point: Text = Field(description="Where it is mounted.")
    mount_source: Text = Field(description="What is mounted there.")
    reason: Text = Field(description="Why it has this class.")
    device: Text | None = Field(
        default=None,
        description="The mount's device, `major:minor`, with the block device's name where there is one. Missing in "
        "records made before it was kept.",
    )


class StagedPart(Part):
    """Where the shards were carried from before the clock started, as staging wrote it down beside them."""

    source: Text = Field(description="The place they came from, without parameters and credentials.")
    staged_at: Stamp = Field(description="UTC, when the staging ended that put them there.")
    verification: Literal["manifest", "provider", "unverified"] = Field(
        description="Against what their bytes were held, the weakest of all: a manifest's digests, the provider's own "
        "checksums, or nothing that did not come from the bytes themselves."
    )
    objects: Count = Field(description="Objects that were staged.")
    bytes: Count = Field(description="Their size, together.")
    bytes_fetched: Count = Field(
        description="Bytes that this staging carried from the source, repeats included; 0 when all of it was there."
    )
    staging_s: Seconds = Field(description="Seconds that this staging took. Never part of a measured window.")


class DataPart(Part):
    """The hot data path: what was asked for, what the ranks had open, what they consumed."""

    requested: DataAskedPart = Field(description="The case's data.")
    dataset_digest: Observed[Digest] = Field(
        description="Digest over the shards as found. Absent for synthetic tokens."
    )
    tokenizer_digest: Observed[Digest] = Field(description="Digest of the tokenizer file beside the shards.")
    manifest_verified: Observed[bool] = Field(description="Whether the shards are those of the manifest beside them.")
    shards: Many[ShardRef] = Field(description="The token files; empty for synthetic tokens.")
    path_class: Observed[PathClass] = Field(
        description="The class of all ranks' open data files taken together. Of a local disk, `page_cache` where every "
        "rank's evidence says so; records made before `ranks` existed do not tell those two apart."
    )
    paths: Many[PathSeen] = Field(description="Each rank's open data files.")
    tokens_consumed: Observed[int] = Field(description="Tokens that the ranks counted in the window, all together.")
    token_parity: Observed[bool] = Field(
        description="Whether every rank consumed exactly the tokens of the case: in number, and where `windows` was "
        "observed, in which they were."
    )
    staged: Observed[StagedPart] | None = Field(
        default=None,
        description="Where the shards were staged from. Absent when nothing tells that they were; missing in records "
        "made before this was looked at, and for synthetic tokens.",
    )
    ranks: Many[DataRankPart] | None = Field(
        default=None,
        description="Each rank's own data path. Missing in records made before it was looked at, and for synthetic "
        "tokens.",
    )
    windows: Observed[WindowsPart] | None = Field(
        default=None,
        description="Whether the ranks were disjoint and read exactly the case's tokens. Missing as `ranks` is.",
    )
    stalls: Observed[DataStallsPart] | None = Field(
        default=None,
        description="The measured steps in which a rank waited for its tokens. Missing in records made before they "
        "were listed.",
    )


class TransitionPart(Part):
    """One move of the attempt's state."""

    state: Literal["prepared", "detached", "running", "ok", "error", "cancelled", "lost"] = Field(
        description="The state entered."
    )
    at: Stamp = Field(description="UTC, wall clock: it may step.")
    monotonic_s: Seconds | None = Field(
        default=None, description="Seconds since `prepared`. Missing when another process or boot made the move."
    )
    reason: Text = Field(description="Why.")


class FindingPart(Part):
    """What a detector concluded; the messages page explains every kind."""

    kind: Text = Field(description="The finding's slug.")
    severity: Literal["note", "caveat", "failure"] = Field(
        description="`failure` ended the run, `caveat` belongs beside the number, `note` is context."
    )
    summary: Text = Field(description="One sentence.")
    evidence: Many[str] = Field(description="Lines that a person can check.")
    rank: Count | None = Field(default=None, description="The rank concerned, where there is exactly one.")


class CausePart(Part):
    """The first cause of a failure: not the first rank to complain."""

    kind: Text = Field(description="The finding's slug, or `undecided`.")
    summary: Text = Field(description="One sentence.")
    rank: Count | None = Field(default=None, description="The rank concerned, where there is exactly one.")


class RankExitPart(Part):
    """How a rank's process ended, as the supervisor saw it."""

    rank: Count = Field(description="The rank.")
    pid: Count = Field(description="Its process id; 0 when none was seen.")
    status: Observed[int] = Field(
        description="Exit status. Absent when a signal ended it, unavailable when the launcher of a command took it."
    )
    signal: Observed[str] = Field(description="The signal that ended it. Absent when it ended by itself.")
    signal_by: Literal["nobody", "supervisor", "other", "unknown"] = Field(description="Who sent that signal.")
    end_marker: bool = Field(description="Whether it left its clean end marker, written last of all.")
    last_phase: Observed[str] = Field(description="The phase it was in, from its beacon.")
    last_step: Observed[int] = Field(description="The step it was in, from its beacon.")
    exception: Observed[str] = Field(description="The exception it reported. Absent when it reported none.")


class OutcomePart(Part):
    """How the attempt ended, and whether the lane's result may be quoted at all."""

    state: Literal["ok", "error", "cancelled", "lost"] = Field(description="The final state.")
    receipt: bool = Field(description="Whether the lane's result may be quoted. See the lane's rules.")
    receipt_reason: Text = Field(description="Why, either way.")
    first_cause: CausePart | None = Field(default=None, description="Of a failure. Missing when nothing failed.")
    ranks: Many[RankExitPart] = Field(description="Each rank's end.")


class EvidencePart(Part):
    """One file that the record rests on, by digest."""

    name: Text = Field(description="Its path inside the attempt, `/`-separated.")
    digest: Digest = Field(description="Of its bytes.")
    bytes: Count = Field(description="Its size.")
    media_type: Text = Field(description="What it is.")
