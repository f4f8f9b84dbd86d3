"""Good records of the training lane, built part by part: what the corpus starts from (see `generate.py`)."""

from __future__ import annotations

import hashlib
from typing import Any

from sample_files import WAIT_NS, WARMUP_NS, rank_median_s, sample_file

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import absent, observed, unavailable
from lanemark.records.statement import RECORD_VERSION, SealedRecord, seal, subjects

Doc = dict[str, Any]
COMMIT = "3f1c0b7a9d2e48c6f5a1b0c9d8e7f6a5b4c3d2e1"


def seen(value: Any, source: str) -> Doc:
    return observed(value, source).to_json()


def not_there(source: str, reason: str | None = None) -> Doc:
    return absent(source, reason).to_json()


def unknown(source: str, reason: str) -> Doc:
    return unavailable(source, reason).to_json()


def sha(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


# -- the parts of a record -------------------------------------------------------------------------------------------


def case_of(**changes: Any) -> Case:
    asked: Doc = {
        "lane": "training", "preset": "dense-nano", "nproc": 1, "mode": "single", "compile": "eager", "dtype": "fp32",
        "steps": 5, "warmup": 2, "sequence": 256, "micro_batch": 4, "cache_policy": "cold", "gpu": "any",
        "data": DataAsked("shards", sha("tokens")),
    }  # fmt: skip
    return Case(**{**asked, **changes})


def cpu_hardware(case: Case) -> Doc:
    no_gpu = "the ranks ran on a CPU"
    return {
        "requested": {"gpu": case.gpu, "nproc": case.nproc},
        "observed": {
            "device_class": seen("cpu", "ranks' torch.distributed backend device"),
            "device_count": seen(1, "ranks' device_class (one host CPU)"),
            "device_names": seen(["AMD EPYC 7B13"], "/proc/cpuinfo"),
            "device_uuids": not_there("ranks' device_uuid", no_gpu),
            "memory_bytes": not_there("ranks' device_memory_bytes", no_gpu),
            "driver": not_there("/proc/driver/nvidia", no_gpu),
            "cuda": not_there("torch.version.cuda"),
            "mig": not_there("nvml", no_gpu),
            "ecc": not_there("nvml", no_gpu),
            "power_limit_w": not_there("nvml", no_gpu),
            "sm_clock_max_mhz": not_there("nvml", no_gpu),
            **host_facts(2, 8_322_240_512),
        },
    }


def cuda_hardware(case: Case) -> Doc:
    uuids = [f"GPU-0f3d6c1e-8a52-4b7e-9c41-{rank:012x}" for rank in range(case.nproc)]
    return {
        "requested": {"gpu": case.gpu, "nproc": case.nproc},
        "observed": {
            "device_class": seen("H100", "torch.cuda.get_device_name"),
            "device_count": seen(case.nproc, "ranks' device_uuid"),
            "device_names": seen(["NVIDIA H100 80GB HBM3"], "torch.cuda.get_device_name"),
            "device_uuids": seen(uuids, "torch.cuda.get_device_properties"),
            "memory_bytes": seen(85_014_544_384, "torch.cuda.mem_get_info"),
            "driver": seen("570.86.15", "nvml"),
            "cuda": seen("12.8", "torch.version.cuda"),
            "mig": seen(value=False, source="nvml"),
            "ecc": seen(value=True, source="nvml"),
            "power_limit_w": seen(700.0, "nvml"),
            "sm_clock_max_mhz": seen(1980, "nvml"),
            **host_facts(208, 2_113_500_000_000),
        },
    }


def host_facts(cores: int, memory_bytes: int) -> Doc:
    return {
        "cpu_model": seen("AMD EPYC 7B13", "/proc/cpuinfo"),
        "cpu_logical": seen(cores, "/proc/cpuinfo"),
        "cpu_usable": seen(cores, "sched_getaffinity"),
        "cpu_flags_digest": seen(sha("flags"), "/proc/cpuinfo"),
        "host_memory_bytes": seen(memory_bytes, "/proc/meminfo"),
        "cgroup_memory_bytes": not_there("/sys/fs/cgroup/memory.max", "no limit is set"),
        "cgroup_cpu_quota": unknown("/sys/fs/cgroup/cpu.max", "permission denied"),
        "kernel": seen("6.1.0-18-amd64", "uname"),
    }


def data_part(case: Case) -> Doc:
    if case.data.kind == "synthetic":
        none = "the tokens were made up in memory"
        return {
            "requested": {"kind": "synthetic"},
            "dataset_digest": not_there("data", none), "tokenizer_digest": not_there("data", none),
            "manifest_verified": not_there("data", none), "shards": [], "paths": [],
            "path_class": seen("synthetic", "loader"),
            "tokens_consumed": seen(case.tokens_per_step * case.measured_steps, "end.json of every rank"),
            "token_parity": seen(value=True, source="end.json of every rank"),
        }  # fmt: skip
    path = {
        "name": "train_000.bin", "path_class": "local_disk", "filesystem": "ext4", "mount_point": "/",
        "mount_source": "/dev/vda", "reason": "a block device of this host",
    }  # fmt: skip
    return {
        "requested": {"kind": "shards", "dataset_digest": case.data.dataset_digest},
        "dataset_digest": seen(case.data.dataset_digest, "manifest.json, its shards hashed"),
        "tokenizer_digest": seen(sha("tokenizer"), "tokenizer.json"),
        "manifest_verified": seen(value=True, source="shards hashed before launch"),
        "shards": [
            {
                "name": "train_000.bin", "bytes": 2_001_024, "tokens": 1_000_000,
                "sha256": seen(sha("shard").removeprefix("sha256:"), "hashed before launch"),
            }
        ],
        "path_class": seen("local_disk", "open files of every rank"),
        "paths": [{"rank": rank, **path} for rank in range(case.nproc)],
        "tokens_consumed": seen(case.tokens_per_step * case.measured_steps, "end.json of every rank"),
        "token_parity": seen(value=True, source="end.json of every rank"),
    }  # fmt: skip


#: What a run started from: the state, and the layer of the seed that it came from, if any.
WARM = ("warm", "seeded", "image_seed", "long_lived")


def layer(kind: str, outcome: str, reason: str, **changes: Any) -> Doc:
    source = {"archive": "/vol/seeds/dense.tar.zst", "image_directory": "/opt/lanemark/seed"}.get(
        kind, "s3://seeds/dense.tar.zst"
    )
    tried = {
        "source": source,
        "kind": kind,
        "outcome": outcome,
        "reason": reason,
        "files": 0,
        "bytes": 0,
        "seconds": 0.125,
    }
    return {**tried, **changes}


def layers_of(state: str) -> Doc:
    none = not_there("layers of the seed", "none was given")
    if state not in ("seeded", "image_seed"):
        return none
    placed = {"files": 212, "bytes": 48_112_004}
    if state == "image_seed":
        return seen([layer("image_directory", "used", "it covers the case", **placed)], "layers of the seed")
    tried = [
        layer("object_storage", "unreachable", "connection refused", seconds=2.5),
        layer("archive", "used", "it covers the case", digest=sha("archive"), **placed),
    ]
    return seen(tried, "layers of the seed")


def purpose_part(case: Case, state: str) -> Doc:
    kind, why = "seeding_pass", "coverage is short: no run of this case has recorded what it needs"
    if case.compile == "eager":
        kind, why = "not_compiled", "nothing is compiled, so no compile cache has a part in it"
    elif case.cache_policy == "cold":
        kind, why = "cold_measurement", "a cold start is what the case measures"
    elif state in WARM:
        kind, why = "benchmark", "the cache held all 135 keys and binaries that a good run of it used"
    return seen({"kind": kind, "reason": why}, "coverage of the compile cache before the run")


def coverage_part(case: Case, state: str) -> Doc:
    source = "coverage manifest and listing of the compile cache"
    if case.compile == "eager":
        return not_there(source, "nothing is compiled")
    whole = state in WARM
    why = [] if whole else ["no run of this case has recorded what it needs"]
    return seen({"covered": whole, "required": 135 if whole else 0, "missing": [], "mismatches": why}, source)


def prewarm_part(case: Case) -> Doc:
    source = "observed.json of every rank"
    planned = case.compile != "eager" and case.nproc > 1
    none = not_there(source, "it was not planned")
    return seen(
        {
            "policy": case.prewarm, "planned": planned,
            "reason": "blocks are compiled apart and shared afterwards" if planned else "nothing is shared or compiled",
            "done": seen(value=True, source=source) if planned else none,
            "seconds": seen(2.25, source) if planned else none,
            "compilations": seen(3, source) if planned else none,
        },
        source,
    )  # fmt: skip


def startup_part(case: Case, state: str) -> Doc:
    empty = {"files": 0, "bytes": 0, "keys": 0, "binaries": 0, "digest": sha("nothing")}
    full = {"files": 212, "bytes": 48_112_004, "keys": 61, "binaries": 74, "digest": sha("cache")}
    compiled = case.compile != "eager"
    where = "TORCHINDUCTOR_CACHE_DIR of every rank"
    none = not_there(where, "nothing was compiled")
    return {
        "declared": case.cache_policy,
        "state": seen(state, "cache inventories and compilations"),
        "purpose": purpose_part(case, state),
        "cache_directory": seen("/var/tmp/lanemark/cache", where) if compiled else none,
        "layout": seen("shared", "launch.json") if compiled else not_there("launch.json", "not compiled"),
        "layers": layers_of(state),
        "coverage_before": coverage_part(case, state),
        "cache_before": seen(full if state in WARM else empty, where) if compiled else none,
        "cache_after": seen(full, where) if compiled else none,
        "prewarm": prewarm_part(case),
        "clocks": {
            "container_age_s": seen(3_604.5, "/proc/1/stat and CLOCK_BOOTTIME"),
            "asleep_s": seen(0.0, "CLOCK_BOOTTIME less CLOCK_MONOTONIC"),
            "time_shift_s": seen(0.0, "/proc/self/timens_offsets"),
            "earlier_run": seen("training-20261122T151802Z-00000old", "attempts of this home on the same boot")
            if state == "long_lived"
            else not_there("attempts of this home on the same boot", "none was started with this cache"),
        },
        "host_uptime_s": seen(86_213.4, "/proc/uptime"),
        "time_to_first_step_s": seen(9.25, "samples.bin"),
    }


def first_step_part(case: Case) -> Doc:
    """As much of it in whole binary fractions of a second as keeps the sum exact."""
    compiled, shared = case.compile != "eager", case.nproc > 1
    parts = {
        "import_s": 2.75, "init_s": 0.5, "build_s": 0.375, "shard_s": 0.125,
        "prewarm_s": 2.25 if compiled and shared else 0.0, "compile_s": 2.5 if compiled else 0.0,
        "first_collective_s": 0.25 if shared else 0.0,
    }  # fmt: skip
    return {**parts, "other_s": 9.25 - sum(parts.values())}


def rank_cache_part(case: Case, state: str) -> Doc:
    source = "torch.compiler artifacts and /proc/self/maps"
    if case.compile == "eager":
        none = not_there(source, "the rank compiled nothing")
        return {"used": none, "new_files": seen(0, "listings of the compile cache before and after the run")}
    missed = 0 if state in WARM else 3
    return {
        "used": seen(
            {
                "fx_keys": 3, "aot_keys": 2, "binaries": 9, "digest": sha("keys and binaries"),
                "hits": {"fx": 3 - missed, "aot": 2 if state in WARM else 0},
                "misses": {"fx": missed, "aot": 0 if state in WARM else 2}, "bypasses": {"fx": 0, "aot": 0},
            },
            source,
        ),
        "new_files": seen(0 if state in WARM else 212, "listings of the compile cache before and after the run"),
    }  # fmt: skip


def package(name: str, version: str | None) -> Doc:
    if version is None:
        none = not_there("importlib.metadata", "not installed")
        return {"name": name, "version": none, "record_digest": none, "imported": none}
    return {
        "name": name,
        "version": seen(version, "importlib.metadata"),
        "record_digest": seen(sha(name + version), "RECORD"),
        "imported": seen(value=True, source="ranks' torch_version" if name == "torch" else "import probe"),
    }


def rank_exit(rank: int, *, ended: str = "ok") -> Doc:
    ok = ended == "ok"
    died = ended == "killed"
    return {
        "rank": rank,
        "pid": 4200 + rank,
        "status": seen(0, "waitid") if ok else not_there("waitid", "ended by a signal"),
        "signal": not_there("waitid") if ok else seen("SIGKILL" if died else "SIGTERM", "waitid"),
        "signal_by": "nobody" if ok else "other" if died else "supervisor",
        "end_marker": ok,
        "last_phase": seen("done" if ok else "window", "beacon.page"),
        "last_step": seen(4 if ok else 2, "beacon.page"),
        "exception": not_there("error.json"),
    }


def rank_part(case: Case, rank: int, samples: list[int], *, startup: str, ended: bool = True) -> Doc:
    why = "the rank left no end marker"
    tokens = case.micro_batch * case.grad_accum * case.sequence * case.measured_steps
    phases = [("start", 0.0, 0.4), ("import", 0.4, 3.1), ("init_process_group", 3.1, 3.6), ("build", 3.6, 4.0),
              ("load", 4.0, 4.1), ("warmup", 4.1, 9.4), ("window", 9.4, 9.8)]  # fmt: skip
    compiled = case.compile != "eager"
    return {
        "rank": rank,
        "steps_recorded": case.warmup + len(samples),
        "step_p50_s": seen(rank_median_s(rank, samples), "samples.bin")
        if samples
        else unknown("samples.bin", "no measured step"),
        "data_wait_s": seen(WAIT_NS / 1e9, "samples.bin")
        if ended
        else unknown("samples.bin", "the window was never closed"),
        "compile_s": seen(4.75 if compiled else 0.0, "beacon.page"),
        "compile_end_s": seen(9.1, "beacon.page")
        if compiled
        else not_there("beacon.page", "the rank compiled nothing"),
        "window_arrival_s": seen(9.4, "samples.bin"),
        "first_step_s": seen(9.25, "samples.bin"),
        "first_step": seen(first_step_part(case), "beacon.page and samples.bin"),
        "cache": rank_cache_part(case, startup),
        "memory_peak_bytes": seen(612_000_000, "/proc/self/status VmHWM") if ended else unknown("end.json", why),
        "tokens": seen(tokens, "end.json") if ended else unknown("end.json", why),
        "phases": [{"phase": name, "begin_s": begin, "end_s": end} for name, begin, end in phases],
    }


def training_part(case: Case, samples: list[int], *, state: str, startup: str, synthetic: bool, device: str) -> Doc:
    source = "samples.bin of every rank, CLOCK_MONOTONIC; host clock"
    whole = state == "ok"
    why = f"the run ended as {state}"
    rate = tokens_per_s(case.tokens_per_step, samples) if whole else None
    unsaid = [
        "that the sparse or the promotion lane is healthy, on this image or any other",
        "the spread between runs: this is one run",
    ]
    if synthetic:
        unsaid.append("anything about a data path: the tokens were made up in memory")
    mfu = unknown("peak FLOP/s", "no dense peak is known for a CPU")
    if device != "cpu":
        mfu = seen(0.412, "NVIDIA H100 datasheet, dense bf16; preset's closed form") if whole else unknown("mfu", why)
    memory = (
        seen(612_000_000, "/proc/self/status VmHWM") if whole else unknown("end.json", "no rank left an end marker")
    )
    return {
        "window": {"steps": case.steps, "warmup": case.warmup, "measured": case.measured_steps},
        "tokens_per_step": case.tokens_per_step,
        "tokens_per_s": seen(rate, source) if whole else unknown(source, why),
        "step_time": seen(step_time(samples), source) if samples else unknown(source, "no step was measured"),
        "samples": {"unit": "ns", "warmup": WARMUP_NS[: case.warmup], "measured": samples},
        "split": {
            "window_s": seen(sum(samples) / 1e9, source) if whole else unknown(source, why),
            "data_wait_s": seen(WAIT_NS / 1e9, source) if whole else unknown(source, why),
            "compile_s": seen(0.0, source) if whole else unknown(source, why),
            "other_s": seen(max(0.0, (sum(samples) - WAIT_NS) / 1e9), source) if whole else unknown(source, why),
        },
        "ranks": [rank_part(case, rank, samples, startup=startup, ended=whole) for rank in range(case.nproc)],
        "memory": {
            "allocated_peak_bytes": not_there("torch.cuda", "no CUDA device was used") if device == "cpu" else memory,
            "reserved_peak_bytes": not_there("torch.cuda", "no CUDA device was used") if device == "cpu" else memory,
            "rss_peak_bytes": memory,
        },
        "loss": {
            "first": seen(8.317, "end.json, mean over the ranks") if whole else unknown("end.json", "no end marker"),
            "last": seen(7.902, "end.json, mean over the ranks") if whole else unknown("end.json", "no end marker"),
            "finite": seen(value=True, source="end.json of every rank")
            if whole
            else unknown("end.json", "no end marker"),
        },
        "model": {
            "parameters": seen(3_412_992, "ranks' model"),
            "parameters_active": seen(3_412_992, "preset's closed form, confirmed by the ranks"),
            "flops_per_token": seen(21_234_176.0, "preset's closed form, confirmed by the ranks"),
        },
        "mfu": mfu,
        "does_not_prove": unsaid,
    }


def finding(kind: str, severity: str, summary: str, *evidence: str, rank: int | None = None) -> Doc:
    doc: Doc = {"kind": kind, "severity": severity, "summary": summary, "evidence": list(evidence)}
    return doc if rank is None else {**doc, "rank": rank}


def transitions(state: str, reason: str) -> list[Doc]:
    steps = [
        {"state": "prepared", "at": "2026-11-22T15:22:33.104Z", "monotonic_s": 0.0, "reason": "asked for by a person"},
        {"state": "running", "at": "2026-11-22T15:22:33.911Z", "monotonic_s": 0.807, "reason": "ranks were started"},
        {"state": state, "at": "2026-11-22T15:22:44.020Z", "monotonic_s": 10.916, "reason": reason},
    ]
    if state == "lost":  # sealed by another process, maybe after another boot: its clock says nothing here
        del steps[-1]["monotonic_s"]
    return steps


def predicate_of(
    case: Case,
    *,
    serial: str,
    samples: list[int],
    state: str = "ok",
    ended: tuple[str, ...] | None = None,
    cause: Doc | None = None,
    findings: tuple[Doc, ...] = (),
    startup: str = "not_compiled",
    device: str = "cpu",
    image: str | None = None,
    sampled: int = 1,
) -> Doc:
    """A record's predicate. `sampled`: how many ranks' sample files, from the first, it names; all is what a run leaves."""
    ended = ended or ("ok",) * case.nproc
    backend = "single process" if case.mode == "single" else "gloo" if device == "cpu" else "nccl"
    duration = unknown("supervisor", "the supervisor was lost") if state == "lost" else seen(10.916, "CLOCK_MONOTONIC")
    compiled = case.compile != "eager"
    said = {"ok": "every rank ended cleanly, every loss finite"}.get(state, f"the run ended as {state}")
    local = not_there("local surface", "a local run has no such id")
    outcome: Doc = {
        "state": state,
        "receipt": state == "ok",
        "receipt_reason": f"{len(samples)} measured steps, {said}",
        "ranks": [rank_exit(rank, ended=how) for rank, how in enumerate(ended)],
    }
    if cause is not None:
        outcome["first_cause"] = cause
    return {
        "record_version": RECORD_VERSION,
        "lane": "training",
        "run_id": f"training-20261122T152233Z-{serial:0>8}",
        "attempt": 1,
        "plan_digest": case.digest,
        "assurance": "self_attested",
        "case": case.to_json(),
        "surface": {
            "name": case.surface, "app_id": local, "call_id": local, "hostname": seen("bench-01", "uname"),
            "boot_id": seen("0c1b7c0e-9a1f-4c39-8c55-6b0f5a4d2f10", "/proc/sys/kernel/random/boot_id"),
            "virtualization": seen("kvm", "/sys/class/dmi/id"),
        },
        "times": {
            "prepared_at": "2026-11-22T15:22:33.104Z", "sealed_at": "2026-11-22T15:22:44.020Z", "duration_s": duration,
        },
        "hardware": cpu_hardware(case) if device == "cpu" else cuda_hardware(case),
        "distributed": {
            "requested": {"mode": case.mode, "world_size": case.nproc},
            "observed": {
                "mode": seen(case.mode, "ranks' wrapped modules"), "world_size": seen(case.nproc, "torch.distributed"),
                "backend": seen(backend, "torch.distributed"), "ranks_reporting": case.nproc,
                "nodes": seen(1, "one supervisor, one boot id"),
            },
        },
        "compile": {
            "requested": case.compile,
            "observed": {
                "posture": seen(case.compile, "ranks' wrapped modules"),
                "compilations": seen(2 if compiled else 0, "beacon.page, largest of the ranks"),
                "compile_s_max": seen(4.75 if compiled else 0.0, "beacon.page, slowest of the ranks"),
                "last_end_step": seen(0, "samples.bin of every rank") if compiled
                else not_there("samples.bin of every rank", "no rank compiled during a step"),
            },
        },
        "image": {
            "digest": not_there("/run/.containerenv", "not in a container") if image is None else seen(image, "podman"),
            "reference": not_there("/run/.containerenv", "not in a container"),
        },
        "source": {
            "commit": seen(COMMIT, "git rev-parse"), "dirty": seen(value=False, source="git status"),
            "repository_root": seen("/srv/bench", "git rev-parse"), "lanemark_version": "0.1.0",
            "lanemark_digest": seen(sha("lanemark"), "installed package"),
            "argv": ["lanemark", "run", "training", "--preset", case.preset, "--nproc", str(case.nproc)],
            "argv_redacted": False,
        },
        "environment": {
            "variables": {"OMP_NUM_THREADS": "1"},
            "settings": [
                {"name": "OMP_NUM_THREADS", "value": "1", "origin": "operator", "reason": "set before the launch"},
                {"name": "NCCL_NET", "origin": "scrubbed", "reason": "a multi-node plugin has no place on one node"},
            ],
            "python": "3.11.7", "platform": "Linux-6.1.0-18-amd64-x86_64-with-glibc2.36",
        },
        "toolchain": {
            "packages": [package("torch", "2.13.0"), package("triton", None), package("flash-attn", None)],
            "torch_build": seen("2.13.0+cpu" if device == "cpu" else "2.13.0+cu128", "torch.__version__"),
            "nccl": not_there("torch.cuda.nccl") if device == "cpu" else seen("2.27.3", "torch.cuda.nccl.version"),
            "cxx": seen("g++ (Debian 12.2.0-14) 12.2.0", "g++ --version"),
        },
        "startup": startup_part(case, startup),
        "data": data_part(case),
        "transitions": transitions(state, said),
        "findings": list(findings),
        "outcome": outcome,
        "evidence": [
            evidence_entry(f"ranks/{rank}/samples.bin", samples_of(case, rank, samples, state)) for rank in range(sampled)
        ],
        "training": training_part(
            case, samples, state=state, startup=startup, synthetic=case.data.kind == "synthetic", device=device
        ),
    }  # fmt: skip


def samples_of(case: Case, rank: int, samples: list[int], state: str) -> bytes:
    """The sample file of one rank of such a run, which `KEPT` then has by its digest."""
    data = sample_file(
        rank, samples, warmup=case.warmup, steps=case.steps, closed=state == "ok", compiled=case.compile != "eager"
    )
    KEPT[hashlib.sha256(data).hexdigest()] = data
    return data


def evidence_entry(name: str, data: bytes) -> Doc:
    """The evidence entry that says `name` holds `data`."""
    return {
        "name": name, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "media_type": "application/octet-stream",
    }  # fmt: skip


#: Sample files by the hex of their digest, as a ledger keeps them; filled while records are built.
KEPT: dict[str, bytes] = {}
SAMPLES = [125_000_000, 126_000_000, 124_500_000]
#: The sample file of rank 0 of the short eager runs.
EVIDENCE = sample_file(0, SAMPLES, warmup=2, steps=5, closed=True, compiled=False)
LONG_SAMPLES = [124_000_000 + 350_000 * (step * 7 % 11) for step in range(12)]


def sealed(predicate: Doc) -> SealedRecord:
    image = predicate["image"]["digest"].get("value")
    return seal(predicate, subjects(plan_digest=predicate["plan_digest"], image_digest=image, commit=COMMIT))


# -- good ------------------------------------------------------------------------------------------------------------


def good() -> dict[str, Doc]:
    killed = finding("rank_killed", "failure", "rank 1 was killed by SIGKILL", "ranks/1: signal 9, not ours", rank=1)
    lost = finding("supervisor_lost", "failure", "the supervisor died without sealing", "supervisor.lock is free")
    stopped = finding("interrupted", "failure", "the supervisor was told to stop", "SIGINT")
    made_up = finding("data_synthetic", "caveat", "the tokens were made up, so no data path was measured")
    two = {"nproc": 2, "mode": "ddp"}
    shared = {"nproc": 2, "mode": "fsdp2", "compile": "regional"}
    why = "a seeding pass, not a benchmark: coverage is short: no run of this case has recorded what it needs"
    seeding = finding("seeding_pass", "caveat", why)
    return {
        "eager_ddp_cpu": predicate_of(case_of(**two), serial="ddp0", samples=SAMPLES),
        "fsdp2_regional_warm": predicate_of(
            case_of(nproc=2, mode="fsdp2", compile="regional", dtype="bf16", steps=14, cache_policy="require"),
            serial="fsdp", samples=LONG_SAMPLES, startup="warm", sampled=2,
        ),
        "fsdp2_regional_seeded": predicate_of(
            case_of(**shared, cache_policy="require"), serial="seed", samples=SAMPLES, startup="seeded",
        ),
        "regional_long_lived": predicate_of(
            case_of(compile="regional", cache_policy="seed"), serial="xng0", samples=SAMPLES, startup="long_lived",
        ),
        "seeding_pass": predicate_of(
            case_of(**shared, cache_policy="seed"), serial="pass", samples=SAMPLES, startup="cold", findings=(seeding,),
        ),
        "error_rank_killed": predicate_of(
            case_of(**two), serial="kx11", samples=[], state="error", ended=("stopped", "killed"), findings=(killed,),
            cause={"kind": "rank_killed", "summary": "rank 1 was killed by SIGKILL", "rank": 1},
        ),
        "lost": predicate_of(
            case_of(**two), serial="xst0", samples=SAMPLES[:2], state="lost", ended=("killed", "killed"),
            findings=(lost,), cause={"kind": "supervisor_lost", "summary": "the supervisor died without sealing"},
        ),
        "cancelled": predicate_of(
            case_of(), serial="cnc0", samples=SAMPLES[:1], state="cancelled", ended=("stopped",), findings=(stopped,),
        ),
        "synthetic": predicate_of(
            case_of(data=DataAsked("synthetic")), serial="synt", samples=SAMPLES, findings=(made_up,)
        ),
        "cuda_h100_8": predicate_of(
            case_of(nproc=8, mode="fsdp2", compile="regional", dtype="bf16", steps=14, gpu="H100!:8", preset="dense-1b",
                    sequence=4096, micro_batch=1),
            serial="h100", samples=LONG_SAMPLES, startup="cold", device="cuda", image=sha("image"), sampled=8,
        ),
    }  # fmt: skip
