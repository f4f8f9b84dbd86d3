"""What every field of a record is to a comparison: the rows that all lanes share. Data, with a reason in each row.

Two records are compared field by field over their raw JSON, and every field has exactly one role:

* `key`        differs: refused. The records answer different questions.
* `factor`     differs: refused, unless the question declares it (`--vary`); more than one is a confounded question.
* `envelope`   differs: a caveat. It holds components that are judged themselves, and may hold others.
* `covariate`  differs: a caveat. A circumstance that may bear on the figure and is not what is asked about.
* `noise`      ignored: names, times, requests, and what was measured.
* `gate`       not compared: each record has to pass on its own (`lanemark.judge.admission`).

A field that has no row is not ignored: where it differs, the comparison is refused, because somebody added it for a
reason. A request is always noise: what was asked for is not what was there, and only the observed counts.

Paths: `a.b` is one field, an observation or a value compared whole; `a.*` is everything below `a`, each member a field
of its own; `a[]` has rows for the items of a list of objects; `a[name]` is a list whose items are told apart by that
field.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

RoleName = Literal["key", "factor", "envelope", "covariate", "noise", "gate"]
#: Strongest first: a container that could not be read is as bad as the worst thing it may have held.
ROLES: Final[tuple[RoleName, ...]] = ("key", "factor", "envelope", "covariate", "noise", "gate")


class Role(NamedTuple):
    """One row of a lane's table.

    Attributes:
        path: see the module's docstring.
        role: what the field is to a comparison.
        why: one clause.
        factor: the name by which `--vary` declares it; rows of one factor vary together. Empty: the path itself.
        instead: other roles under a condition: a metric's name, or `cpu` where the ranks ran on a processor.
        optional: a record may lack it without anything being unknown.
        since: the minor version of the record that brought the field; an older record lacks it rightly.
    """

    path: str
    role: RoleName
    why: str
    factor: str = ""
    instead: tuple[tuple[str, RoleName], ...] = ()
    optional: bool = False
    since: int = 0


_ASKED: Final = "a request; what was there is observed elsewhere"
_ID: Final = "names the run, not what ran"
_TIME: Final = "when, not how fast"
_CPU_KEY: Final[tuple[tuple[str, RoleName], ...]] = (("cpu", "key"),)
_FIRST_STEP_KEY: Final[tuple[tuple[str, RoleName], ...]] = (("time_to_first_step_s", "key"),)
_FIRST_STEP_COVARIATE: Final[tuple[tuple[str, RoleName], ...]] = (("time_to_first_step_s", "covariate"),)

_IDENTITY: Final = (
    Role("record_version", "noise", "what a version adds is judged field by field"),
    Role("lane", "gate", "lanes never mix"),
    Role("run_id", "gate", "a run is not compared with itself"),
    Role("attempt", "noise", _ID),
    Role("plan_digest", "noise", "a name for the case, whose fields are judged one by one"),
    Role("assurance", "covariate", "a statement that somebody else reproduced is a stronger one"),
    Role("surface.name", "key", "a rented cold container and an owned warm host measure different things"),
    Role("surface.app_id", "noise", _ID),
    Role("surface.call_id", "noise", _ID),
    Role("surface.hostname", "noise", "containers draw a new one each time; the host's hardware is judged itself"),
    Role("surface.boot_id", "noise", _ID),
    Role("surface.virtualization", "covariate", "a hypervisor or a container layer costs something"),
    Role("times.prepared_at", "noise", _TIME),
    Role("times.sealed_at", "noise", _TIME),
    Role("times.duration_s", "noise", "of the whole attempt, start and all"),
    Role("transitions.*", "noise", _TIME),
    Role("evidence.*", "noise", "digests of files that every run writes anew"),
    Role("findings.*", "gate", "caveats are carried over; causes are in the outcome"),
    Role("outcome.state", "gate", "what did not end well supports no comparison"),
    Role("outcome.receipt", "gate", "what may not be quoted may not be compared"),
    Role("outcome.receipt_reason", "noise", "words for the receipt"),
    Role("outcome.first_cause.*", "noise", "of a failure", optional=True),
    Role("outcome.ranks.*", "noise", "how each process ended; the receipt rests on it"),
)  # fmt: skip

_CASE: Final = (
    Role("case.lane", "gate", "lanes never mix"),
    Role("case.preset", "key", "another model is another question"),
    Role("case.nproc", "noise", _ASKED),
    Role("case.mode", "noise", _ASKED),
    Role("case.compile", "noise", _ASKED),
    Role("case.dtype", "factor", "precision changes the work and the kernels", "dtype"),
    Role("case.data.kind", "noise", _ASKED),
    Role("case.data.dataset_digest", "noise", _ASKED, optional=True),
    Role("case.data.path_class", "noise", _ASKED, optional=True),
    Role("case.surface", "noise", "equal to surface.name, which is a key"),
    Role("case.gpu", "noise", _ASKED),
    Role("case.seed", "noise", "draws other weights and another order of the same data"),
    Role("case.cache_policy", "noise", _ASKED),
    Role("case.command", "factor", "another program is another thing measured", "command"),
    Role("case.stall_s", "noise", "a limit that a run with a receipt did not reach"),
    Role("case.wall_s", "noise", "a limit that a run with a receipt did not reach"),
    Role("case.prewarm", "noise", _ASKED, optional=True),
    Role("case.collective_timeout_s", "noise", "a limit that a run with a receipt did not reach", optional=True),
)

_HARDWARE: Final = (
    Role("hardware.requested.gpu", "noise", _ASKED),
    Role("hardware.requested.nproc", "noise", _ASKED),
    Role("hardware.observed.device_class", "key", "the device that the ranks used, whatever was asked for"),
    Role("hardware.observed.device_count", "key", "eight devices are not one"),
    Role("hardware.observed.device_names", "covariate", "boards of one class can differ", instead=_CPU_KEY),
    Role("hardware.observed.device_uuids", "noise", _ID),
    Role("hardware.observed.memory_bytes", "key", "variants of one class differ in memory, and in its bandwidth"),
    Role("hardware.observed.driver", "covariate", "drivers change clocks and launch costs"),
    Role("hardware.observed.cuda", "factor", "the toolkit that torch was built with", "torch"),
    Role("hardware.observed.mig", "key", "a slice is not a device"),
    Role("hardware.observed.ecc", "key", "checking memory costs bandwidth"),
    Role("hardware.observed.power_limit_w", "covariate", "a lower cap is a slower device"),
    Role("hardware.observed.sm_clock_max_mhz", "covariate", "a lower clock is a slower device"),
    Role("hardware.observed.cpu_model", "covariate", "feeds the device; is the device on a processor",
         instead=_CPU_KEY),
    Role("hardware.observed.cpu_logical", "covariate", "more cores feed more", instead=_CPU_KEY),
    Role("hardware.observed.cpu_usable", "covariate", "more cores feed more", instead=_CPU_KEY),
    Role("hardware.observed.cpu_flags_digest", "covariate", "instruction sets choose kernels", instead=_CPU_KEY),
    Role("hardware.observed.host_memory_bytes", "covariate", "page cache and pinned buffers live there"),
    Role("hardware.observed.cgroup_memory_bytes", "covariate", "a limit can evict the page cache"),
    Role("hardware.observed.cgroup_cpu_quota", "covariate", "a quota throttles the ranks"),
    Role("hardware.observed.kernel", "covariate", "schedulers differ"),
)  # fmt: skip

_SOFTWARE: Final = (
    Role("distributed.requested.mode", "noise", _ASKED),
    Role("distributed.requested.world_size", "noise", _ASKED),
    Role("distributed.observed.mode", "factor", "how ranks share the model", "mode"),
    Role("distributed.observed.world_size", "key", "more ranks do more work a step"),
    Role("distributed.observed.nodes", "key", "a network between ranks is another machine"),
    Role("distributed.observed.backend", "factor", "the collective library", "mode"),
    Role("distributed.observed.ranks_reporting", "noise", "a rule holds it to the world's size"),
    Role("compile.requested", "noise", _ASKED),
    Role("compile.observed.posture", "factor", "eager, one region or the whole model", "compile"),
    Role("compile.observed.compilations", "noise", "follows from the posture and the cache"),
    Role("compile.observed.compile_s_max", "noise", "outside the window; a gate looks at the window"),
    Role("compile.observed.last_end_step", "noise", "a gate looks at the window"),
    Role("image.digest", "envelope", "holds components that no field names"),
    Role("image.reference", "noise", "a tag is a name; the digest is the content"),
    Role("source.commit", "factor", "other code", "source"),
    Role("source.dirty", "covariate", "changes that no commit names"),
    Role("source.repository_root", "noise", "a place on one machine"),
    Role("source.lanemark_version", "noise", "the digest beside it is the content"),
    Role("source.lanemark_digest", "factor", "the measured loop and the reference stack are in this package", "source"),
    Role("source.argv", "factor", "whatever the case does not already pin", "argv"),
    Role("source.argv_redacted", "noise", "redacted arguments are unknown, and counted as that"),
    Role("environment.variables.MODAL_IMAGE_ID", "envelope", "another build of the rented image", optional=True),
    Role("environment.variables.CI", "covariate", "changes the key of a compile cache", optional=True),
    Role("environment.variables.*", "factor", "listed because it bears on the number", "environment", optional=True),
    Role("environment.settings[name].value", "factor", "the operator's own; what Lanemark chose follows from the case",
         "environment", optional=True),
    Role("environment.settings[name].name", "noise", "tells the items apart"),
    Role("environment.settings[name].origin", "noise", "who set it, not what it is"),
    Role("environment.settings[name].reason", "noise", "words"),
    Role("environment.python", "factor", "the interpreter", "python"),
    Role("environment.platform", "covariate", "kernel and C library"),
    Role("toolchain.packages[name].name", "noise", "tells the items apart"),
    Role("toolchain.packages[name].version", "factor", "kernels and what calls them", "packages"),
    Role("toolchain.packages[name].record_digest", "factor", "two builds of one version differ here", "packages"),
    Role("toolchain.packages[name].imported", "factor", "a wheel that does not load runs nothing", "packages"),
    Role("toolchain.artifacts.*", "noise", "what is installed is compared as packages", optional=True),
    Role("toolchain.torch_build", "factor", "version and build", "torch"),
    Role("toolchain.nccl", "factor", "the collective library that was loaded", "torch"),
    Role("toolchain.cxx", "covariate", "builds kernels only on a processor", "cxx", instead=(("cpu", "factor"),)),
)  # fmt: skip

_START: Final = (
    Role("startup.declared", "noise", _ASKED),
    Role("startup.state", "covariate", "the loop is measured after it; the first step is not", instead=_FIRST_STEP_KEY),
    Role("startup.cache_directory", "noise", "a place on one machine"),
    Role("startup.cache_before", "noise", "the state is drawn from it", instead=_FIRST_STEP_COVARIATE),
    Role("startup.cache_after", "noise", "what the run left behind"),
    Role("startup.host_uptime_s", "noise", "differs between any two runs"),
    Role("startup.time_to_first_step_s", "noise", "a metric of its own"),
    Role("startup.coverage_before.covered", "noise", "the state is drawn from it", instead=_FIRST_STEP_COVARIATE,
         since=1),
    Role("startup.coverage_before.required", "noise", "how much the cache was asked to hold", since=1),
    Role("startup.coverage_before.missing", "noise", "words for the coverage", since=1),
    Role("startup.coverage_before.mismatches", "noise", "words for the coverage", since=1),
    Role("startup.layers", "noise", "where the seed came from; the state says with what result", since=1),
    Role("startup.layout", "covariate", "a shared and a per-rank cache start and compile differently", since=1),
    Role("startup.prewarm.policy", "noise", _ASKED, since=1),
    Role("startup.prewarm.planned", "noise", "whether it was done is beside it", since=1),
    Role("startup.prewarm.reason", "noise", "words", since=1),
    Role("startup.prewarm.done", "covariate", "what was compiled before the ranks had to meet", since=1),
    Role("startup.prewarm.seconds", "noise", "outside the window", since=1),
    Role("startup.prewarm.compilations", "noise", "outside the window", since=1),
    Role("startup.purpose", "gate", "a seeding pass is no benchmark", since=1),
    Role("startup.clocks.*", "noise", "the state is drawn from them", since=1),
    Role("data.requested.kind", "noise", _ASKED),
    Role("data.requested.dataset_digest", "noise", _ASKED, optional=True),
    Role("data.requested.path_class", "noise", _ASKED, optional=True),
    Role("data.dataset_digest", "key", "other tokens are other work"),
    Role("data.tokenizer_digest", "key", "other tokens are other work"),
    Role("data.manifest_verified", "covariate", "shards that nobody checked may not be the ones meant"),
    Role("data.shards.*", "noise", "the data set's digest is over them"),
    Role("data.path_class", "key", "an object mount is not a local disk; the page cache over one is, with a caveat"),
    Role("data.paths.*", "noise", "mounts of one machine; their class is a key"),
    Role("data.tokens_consumed", "noise", "follows from the number of steps"),
    Role("data.token_parity", "gate", "fewer tokens make any loop fast"),
    Role("data.stalls", "noise", "what is measured is not a circumstance of measuring", optional=True),
    Role("data.windows.*", "noise", "token parity, a gate, rests on it", optional=True),
    Role("data.ranks.*", "noise", "the class of all ranks is a key, and token parity a gate", optional=True),
    Role("data.staged.verification", "covariate", "bytes that nothing was held against may be others", optional=True),
    Role("data.staged.*", "noise", "how the shards got here; what they are and lie on are keys", optional=True),
)  # fmt: skip

#: Rows of every lane.
SHARED_ROLES: Final[tuple[Role, ...]] = (*_IDENTITY, *_CASE, *_HARDWARE, *_SOFTWARE, *_START)

#: Values of a key that are two circumstances of one thing: a difference is a caveat and no refusal. A file on
#: a disk is read from it once, and whether the page cache had it then is seldom a question; the data wait is beside it.
KINDRED: Final[dict[str, frozenset[str]]] = {"data.path_class": frozenset({"local_disk", "page_cache"})}

#: Environment variables that are listed in a record and do not bear on a comparison, with why.
NOISE_VARIABLES: Final[dict[str, str]] = {
    "CUDA_VISIBLE_DEVICES": "which devices of a host; their class and number are observed",
    "NVIDIA_VISIBLE_DEVICES": "which devices of a host; their class and number are observed",
    "RANK": "rank placement",
    "LOCAL_RANK": "rank placement",
    "WORLD_SIZE": "rank placement; the world's size is observed",
    "LOCAL_WORLD_SIZE": "rank placement; the world's size is observed",
    "MASTER_ADDR": "rendezvous",
    "MASTER_PORT": "rendezvous",
    "TORCHELASTIC_ERROR_FILE": "a place on one machine",
    "TORCHELASTIC_RUN_ID": "names the run",
    "TORCHINDUCTOR_CACHE_DIR": "a place; the state of the cache there is observed",
    "TRITON_CACHE_DIR": "a place; the state of the cache there is observed",
    "TMPDIR": "a place on one machine",
    "MODAL_TASK_ID": "names the container",
    "LANEMARK_HOME": "a place on one machine",
    "LANEMARK_LEDGER": "where records are kept",
    "LANEMARK_INDEX_URL": "where records are listed",
    "LANEMARK_MIN_FREE_MB": "a gate's limit",
    "LANEMARK_CACHE_FROM": "where a seed is looked for; what came of it is observed",
    "LANEMARK_CACHE_TO": "where a seed is left",
    "LANEMARK_ATTEMPT_DIR": "a place on one machine",
    "LANEMARK_RANK_DIR": "a place on one machine",
    "LANEMARK_DATA_DIR": "a place; the data path is observed",
    "LANEMARK_LISTEN_FD": "rendezvous",
}
#: Flags of our own command line that take a value and that say nothing beyond the case, what was observed, or where
#: things lie. `compare` takes them out of `source.argv` before it compares what is left.
PINNED_FLAGS: Final = frozenset({
    "--preset", "--nproc", "--mode", "--gpu", "--compile", "--dtype", "--steps", "--warmup", "--sequence",
    "--micro-batch", "--grad-accum", "--seed", "--surface", "--data", "--data-class", "--cache-policy", "--cache-from",
    "--cache-to", "--cache-layout", "--prewarm", "--tokens-per-step", "--collective-timeout", "--stall-timeout",
    "--wall-limit", "--repeat", "--against",
})  # fmt: skip
#: The same of flags without a value.
PINNED_SWITCHES: Final = frozenset({"--json", "--detach"})
#: Packages that torch brings along by its own pins: they change when torch does, and are varied with it.
TORCH_PACKAGES: Final = frozenset({
    "torch", "triton", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
})  # fmt: skip
