"""Sample records for the report's tests: plain JSON documents that the strict schema accepts.

Each function builds a fresh document, so that a test may change it. Step times come from a seeded generator: the
documents, and with them the golden files, never change by themselves.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import digest, encode
from lanemark.records.statement import PREDICATE_TYPE, RECORD_VERSION, STATEMENT_TYPE, subjects

Doc = dict[str, Any]


def sha(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def seen(value: Any, source: str = "torch") -> Doc:
    return {"status": "observed", "source": source, "value": value}


def gone(source: str, reason: str | None = None) -> Doc:
    return {"status": "absent", "source": source, **({"reason": reason} if reason else {})}


def hidden(source: str, reason: str) -> Doc:
    return {"status": "unavailable", "source": source, "reason": reason}


def record_id(doc: Doc) -> str:
    return digest(encode(doc))


def _case(**changes: Any) -> Case:
    base: Doc = {
        "lane": "training", "preset": "dense-nano", "nproc": 2, "mode": "fsdp2", "compile": "regional", "dtype": "fp32",
        "steps": 50, "warmup": 10, "sequence": 256, "micro_batch": 2,
        "data": DataAsked("shards", sha("torch-headers")),
    }  # fmt: skip
    return Case(**{**base, **changes})


def _times_ns(count: int, usual_s: float, *, seed: int, jitter: float = 0.03) -> list[int]:
    source = random.Random(seed)
    return [int(1e9 * usual_s * (1 + abs(source.gauss(0, jitter)))) for _ in range(count)]


def _hardware(case: Case) -> Doc:
    no_gpu = "no NVIDIA driver on this host"
    observed = {
        "device_class": seen("cpu", "torch"), "device_count": seen(1, "one host CPU"),
        "device_names": seen(["AMD EPYC 9V74 80-Core Processor"], "/proc/cpuinfo"),
        "device_uuids": gone("nvml", no_gpu), "memory_bytes": gone("nvml", no_gpu), "driver": gone("nvml", no_gpu),
        "cuda": gone("torch.version.cuda"), "mig": gone("nvml", no_gpu), "ecc": gone("nvml", no_gpu),
        "power_limit_w": gone("nvml", no_gpu), "sm_clock_max_mhz": gone("nvml", no_gpu),
        "cpu_model": seen("AMD EPYC 9V74 80-Core Processor", "/proc/cpuinfo"), "cpu_logical": seen(2, "/proc/cpuinfo"),
        "cpu_usable": seen(2, "sched_getaffinity"), "cpu_flags_digest": seen(sha("avx512f")[:23], "/proc/cpuinfo"),
        "host_memory_bytes": seen(25_216_331_776, "/proc/meminfo"),
        "cgroup_memory_bytes": hidden("/sys/fs/cgroup/memory.max", "permission denied"),
        "cgroup_cpu_quota": gone("/sys/fs/cgroup/cpu.max", "no quota is set"),
        "kernel": seen("6.8.0-1029-azure", "uname"),
    }  # fmt: skip
    return {"requested": {"gpu": case.gpu, "nproc": case.nproc}, "observed": observed}


def _phases(case: Case, rank: int, step0_s: float, usual_s: float) -> list[Doc]:
    lag = 0.11 * rank
    marks = [
        ("start", 0.04, 0.31 + lag), ("import", 0.31 + lag, 2.62 + lag),
        ("init_process_group", 2.62 + lag, 3.05 + lag), ("build", 3.05 + lag, 3.42 + lag),
        ("shard", 3.42 + lag, 3.66 + lag), ("load", 3.66 + lag, 3.71 + lag),
    ]  # fmt: skip
    begin = marks[-1][2]
    open_s = begin + step0_s + usual_s * (case.warmup - 1)
    close_s = open_s + usual_s * (case.steps - case.warmup)
    marks += [("warmup", begin, open_s), ("window", open_s, close_s), ("drain", close_s, close_s + 0.09)]
    if case.compile != "eager":
        marks += [
            ("compile", begin + 0.08, begin + step0_s * 0.55),
            ("compile", begin + step0_s * 0.6, begin + step0_s * 0.93),
        ]
    return [{"phase": name, "begin_s": round(a, 4), "end_s": round(b, 4)} for name, a, b in marks]


def _way(case: Case, rank: int, whole_s: float) -> Doc:
    """Shares of the whole that differ a little from rank to rank; they sum to it."""
    compiled = 0.0 if case.compile == "eager" else 0.31 - 0.01 * (rank % 4)
    shares = {
        "import_s": 0.34, "init_s": 0.02, "build_s": 0.01, "shard_s": 0.03, "prewarm_s": 0.15 if compiled else 0.0,
        "compile_s": compiled, "first_collective_s": 0.02 + 0.01 * (rank % 4),
    }  # fmt: skip
    parts = {name: round(share * whole_s, 6) for name, share in shares.items()}
    return {**parts, "other_s": whole_s - sum(parts.values())}


def _cache(case: Case) -> Doc:
    source, none = "torch.compiler artifacts", {"fx": 0, "aot": 0}
    if case.compile == "eager":
        return {"used": gone(source, "nothing is compiled"), "new_files": seen(0, "listings")}
    used = {"fx_keys": 2, "aot_keys": 1, "binaries": 13, "digest": sha("used"), "hits": {"fx": 4, "aot": 2}}
    return {"used": seen({**used, "misses": none, "bypasses": none}, source), "new_files": seen(0, "listings")}


def _rank(case: Case, rank: int, warm: list[int], measured: list[int]) -> Doc:
    phases = _phases(case, rank, warm[0] / 1e9, step_time(measured)["p50_s"]) if measured else []
    compile_s = sum(span["end_s"] - span["begin_s"] for span in phases if span["phase"] == "compile")
    ends = [span["end_s"] for span in phases if span["phase"] == "compile"]
    return {
        "rank": rank, "steps_recorded": len(warm) + len(measured),
        "step_p50_s": seen(step_time(measured)["p50_s"] * (1 - 0.001 * rank), "samples.bin"),
        "data_wait_s": seen(0.0021 + 0.0004 * rank, "samples.bin"),
        "compile_s": seen(compile_s, "beacon.page"),
        "compile_end_s": seen(max(ends), "beacon.page") if ends else gone("beacon.page", "nothing was compiled"),
        "window_arrival_s": seen(next(span["begin_s"] for span in phases if span["phase"] == "window"), "beacon.page"),
        "first_step_s": seen(warm[0] / 1e9, "samples.bin"),
        "first_step": seen(_way(case, rank, warm[0] / 1e9), "beacon.page and samples.bin"), "cache": _cache(case),
        "memory_peak_bytes": seen(612_302_848 + 1_048_576 * rank, "VmHWM"),
        "tokens": seen(case.tokens_per_step // case.nproc * case.steps, "end.json"), "phases": phases,
    }  # fmt: skip


def _exit(rank: int, case: Case, **changes: Any) -> Doc:
    return {
        "rank": rank, "pid": 4100 + rank, "status": seen(0, "waitid"), "signal": gone("waitid"), "signal_by": "nobody",
        "end_marker": True, "last_phase": seen("done", "beacon.page"), "last_step": seen(case.steps - 1, "beacon.page"),
        "exception": gone("error.json"), **changes,
    }  # fmt: skip


def _training(case: Case, warm: list[int], measured: list[int]) -> Doc:
    window_s = sum(measured) / 1e9
    return {
        "window": {"steps": case.steps, "warmup": case.warmup, "measured": case.measured_steps},
        "tokens_per_step": case.tokens_per_step,
        "tokens_per_s": seen(tokens_per_s(case.tokens_per_step, measured), "samples.bin"),
        "step_time": seen(step_time(measured), "samples.bin"),
        "samples": {"unit": "ns", "warmup": warm, "measured": measured},
        "split": {
            "window_s": seen(window_s, "samples.bin"), "data_wait_s": seen(0.0025, "samples.bin"),
            "compile_s": seen(0.0, "samples.bin"), "other_s": seen(window_s - 0.0025, "samples.bin"),
        },
        "ranks": [_rank(case, rank, warm, measured) for rank in range(case.nproc)],
        "memory": {
            "allocated_peak_bytes": gone("torch.cuda", "no CUDA device was used"),
            "reserved_peak_bytes": gone("torch.cuda", "no CUDA device was used"),
            "rss_peak_bytes": seen(613_351_424, "VmHWM"),
        },
        "loss": {"first": seen(8.3172, "end.json"), "last": seen(6.1045, "end.json"), "finite": seen(True, "end.json")},
        "model": {
            "parameters": seen(1_328_512, "torch"), "parameters_active": seen(1_328_512, "torch"),
            "flops_per_token": seen(8_765_440.0, "lanes.presets"),
        },
        "mfu": hidden("lanes.figures", "no published peak is known for this CPU"),
        "does_not_prove": [
            "that the sparse or the promotion lane is healthy, or that another preset would train at this rate",
            "anything about convergence: 50 steps were taken",
            "anything about more than one node: all ranks shared one host",
        ],
    }  # fmt: skip


def _package(name: str, version: Doc, imported: Doc, record: Doc | None = None) -> Doc:
    return {
        "name": name, "version": version, "imported": imported,
        "record_digest": record or (seen(sha(name), "RECORD") if version["status"] == "observed" else gone("RECORD")),
    }  # fmt: skip


def _predicate(case: Case, warm: list[int], measured: list[int]) -> Doc:
    here = "importlib.metadata"
    return {
        "record_version": RECORD_VERSION, "lane": "training", "run_id": "training-20261122T152233Z-7k3f9q2x", "attempt": 1,
        "plan_digest": case.digest, "assurance": "self_attested", "case": case.to_json(),
        "surface": {
            "name": case.surface, "app_id": gone("surface", "a local run has none"),
            "call_id": gone("surface", "a local run has none"), "hostname": seen("bench-02", "uname"),
            "boot_id": seen("5be0a3f2-2f43-4f0e-9d86-7d3f7a4f9a11", "/proc/sys/kernel/random/boot_id"),
            "virtualization": seen("kvm", "/proc/cpuinfo"),
        },
        "times": {
            "prepared_at": "2026-11-22T15:22:33.104Z", "sealed_at": "2026-11-22T15:23:20.871Z",
            "duration_s": seen(47.767, "CLOCK_MONOTONIC"),
        },
        "hardware": _hardware(case),
        "distributed": {
            "requested": {"mode": case.mode, "world_size": case.nproc},
            "observed": {
                "mode": seen(case.mode, "rank reports"), "world_size": seen(case.nproc, "torch.distributed"),
                "backend": seen("gloo", "torch.distributed"), "ranks_reporting": case.nproc, "nodes": seen(1, "rank reports"),
            },
        },
        "compile": {
            "requested": case.compile,
            "observed": {
                "posture": seen(case.compile, "rank reports"), "compilations": seen(4, "beacon.page"),
                "compile_s_max": seen(0.88 * warm[0] / 1e9, "beacon.page"), "last_end_step": seen(0, "samples.bin"),
            },
        },
        "image": {"digest": gone("LANEMARK_IMAGE_DIGEST", "not in a container"), "reference": gone("LANEMARK_IMAGE")},
        "source": {
            "commit": seen("9f2c1d7e4b6a8053c1f2e3d4b5a697887766554f", "git"), "dirty": seen(False, "git"),
            "repository_root": seen("/home/bench/lanemark", "git"), "lanemark_version": "0.1.0",
            "lanemark_digest": seen(sha("lanemark"), "source files"),
            "argv": ["lanemark", "run", "training", "--preset", "dense-nano", "--nproc", "2", "--compile", "regional"],
            "argv_redacted": False,
        },
        "environment": {
            "variables": {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            "settings": [
                {"name": "OMP_NUM_THREADS", "value": "1", "origin": "lanemark", "reason": "one core a rank"},
                {"name": "TORCHINDUCTOR_COMPILE_THREADS", "value": "2", "origin": "operator", "reason": "set by the operator, who wins over 1"},
                {"name": "NCCL_TUNER_CONFIG_PATH", "origin": "scrubbed", "reason": "leaked from a multi-node setup"},
            ],
            "python": "3.11.9 (CPython)", "platform": "Linux-6.8.0-1029-azure-x86_64-with-glibc2.36",
        },
        "toolchain": {
            "packages": [
                _package("torch", seen("2.13.0", here), seen(True, "rank 0")),
                _package("numpy", seen("2.3.4", here), seen(True, "rank 0")),
                _package("triton", gone(here), gone("rank 0")),
                _package("flash-attn", gone(here), gone("rank 0")),
            ],
            "torch_build": seen("2.13.0+cpu", "torch"), "nccl": gone("torch.cuda.nccl", "not in this build"),
            "cxx": seen("g++ (Debian 12.2.0-14) 12.2.0", "g++ --version"),
        },
        "startup": {
            "declared": case.cache_policy, "state": seen("warm", "cache inventory"),
            "purpose": seen(
                {"kind": "benchmark", "reason": "the cache held all 32 keys and binaries that a good run of it used"}, "coverage"
            ),
            "layout": seen("shared", "launch.json"), "layers": gone("layers of the seed", "none was given"),
            "coverage_before": seen({"covered": True, "required": 32, "missing": [], "mismatches": []}, "coverage manifest"),
            "prewarm": seen(
                {
                    "policy": "auto", "planned": True, "reason": f"{case.nproc} ranks compile one unsharded block first",
                    "done": seen(True, "observed.json"), "seconds": seen(0.61, "observed.json"), "compilations": seen(2, "observed.json"),
                },
                "observed.json",
            ),
            "clocks": {
                "container_age_s": seen(3_604.0, "/proc/1/stat"), "asleep_s": seen(0.0, "CLOCK_BOOTTIME"),
                "time_shift_s": seen(0.0, "/proc/self/timens_offsets"), "earlier_run": gone("attempts", "none was started with this cache"),
            },
            "cache_directory": seen("/home/bench/.cache/lanemark/inductor", "environment"),
            "cache_before": seen({"files": 62, "bytes": 1_741_824, "keys": 18, "binaries": 14, "digest": sha("before")}, "directory"),
            "cache_after": seen({"files": 62, "bytes": 1_741_824, "keys": 18, "binaries": 14, "digest": sha("before")}, "directory"),
            "host_uptime_s": seen(86_431.0, "/proc/uptime"), "time_to_first_step_s": seen(7.84, "samples.bin"),
        },
        "data": {
            "requested": case.to_json()["data"], "dataset_digest": seen(sha("torch-headers"), "manifest.json"),
            "tokenizer_digest": seen(sha("bpe-4096"), "manifest.json"), "manifest_verified": seen(True, "sha256 of every shard"),
            "shards": [
                {"name": f"headers_{i:06d}.bin", "bytes": 20_001_024 - i, "tokens": 10_000_000 - i // 2, "sha256": seen(sha(f"shard{i}")[7:], "manifest.json")}
                for i in (0, 2)
            ],
            "path_class": seen("local_disk", "rank reports"),
            "paths": [
                {"rank": rank, "name": "headers_000000.bin", "path_class": "local_disk", "filesystem": "ext4", "mount_point": "/",
                 "mount_source": "/dev/sda1", "reason": "ext4 on a local block device"}
                for rank in range(case.nproc)
            ],
            "tokens_consumed": seen(case.tokens_per_step * case.steps, "end.json"), "token_parity": seen(True, "rank reports"),
        },
        "transitions": [
            {"state": "prepared", "at": "2026-11-22T15:22:33.104Z", "monotonic_s": 0.0, "reason": "the case was written"},
            {"state": "running", "at": "2026-11-22T15:22:33.190Z", "monotonic_s": 0.086, "reason": "2 ranks were started"},
            {"state": "ok", "at": "2026-11-22T15:23:20.871Z", "monotonic_s": 47.767, "reason": "every rank ended cleanly"},
        ],
        "findings": [],
        "outcome": {
            "state": "ok", "receipt": True, "receipt_reason": f"{len(measured)} measured steps, a finite loss and an end marker from every rank",
            "ranks": [_exit(rank, case) for rank in range(case.nproc)],
        },
        "evidence": [
            {"name": f"ranks/{rank}/{name}", "digest": sha(f"{rank}{name}"), "bytes": length, "media_type": kind}
            for rank in range(case.nproc)
            for name, length, kind in (("samples.bin", 2464, "application/octet-stream"), ("end.json", 611, "application/json"))
        ],
        "training": _training(case, warm, measured),
    }  # fmt: skip


def _statement(predicate: Doc) -> Doc:
    commit = predicate["source"]["commit"].get("value")
    about = subjects(plan_digest=predicate["plan_digest"], image_digest=None, commit=commit)
    return {"_type": STATEMENT_TYPE, "subject": about, "predicateType": PREDICATE_TYPE, "predicate": predicate}


def ok_cpu() -> Doc:
    """Two CPU ranks, FSDP2, regional compile: step 0 compiles, one measured step stalls."""
    case = _case()
    warm = [4_130_000_000, *_times_ns(9, 0.082, seed=1)]
    measured = _times_ns(40, 0.081, seed=2)
    measured[23] = 204_000_000
    predicate = _predicate(case, warm, measured)
    predicate["findings"] = [
        {"kind": "stalls_in_window", "severity": "caveat", "summary": "1 of 40 measured steps took more than twice the median",
         "evidence": ["step 33: 204 ms, median 82.6 ms"]},
    ]  # fmt: skip
    return _statement(predicate)


def ok_cuda() -> Doc:
    """Eight ranks that asked for H100 and were given H200, on a volume, with an uncommitted change."""
    case = _case(
        preset="dense-1b", nproc=8, gpu="H100:8", dtype="bf16", steps=220, warmup=20, sequence=4096, micro_batch=4,
        surface="modal", stall_s=600.0, cache_policy="require",
    )  # fmt: skip
    warm = [112_400_000_000, 2_210_000_000, *_times_ns(18, 0.412, seed=3, jitter=0.01)]
    measured = _times_ns(200, 0.409, seed=4, jitter=0.008)
    measured[80] = 3_960_000_000
    measured[141] = 918_000_000
    predicate = _predicate(case, warm, measured)
    predicate["run_id"] = "training-20261123T081502Z-m4ezt0hb"
    predicate["times"] = {
        "prepared_at": "2026-11-23T08:15:02.730Z", "sealed_at": "2026-11-23T08:18:41.015Z", "duration_s": seen(218.285, "CLOCK_MONOTONIC"),
    }  # fmt: skip
    for move, at, since in zip(
        predicate["transitions"], ("08:15:02.730", "08:15:03.918", "08:18:41.015"), (0.0, 1.188, 218.285), strict=True
    ):
        move.update(at=f"2026-11-23T{at}Z", monotonic_s=since)
    predicate["transitions"][1]["reason"] = "8 ranks were started"
    observed = predicate["hardware"]["observed"]
    observed.update(
        device_class=seen("H200", "nvml"), device_count=seen(8, "rank reports"), device_names=seen(["NVIDIA H200"] * 8, "nvml"),
        device_uuids=seen([f"GPU-{sha(str(i))[7:15]}" for i in range(8)], "nvml"), memory_bytes=seen(150_754_820_096, "nvml"),
        driver=seen("575.57.08", "nvml"), cuda=seen("13.0", "torch.version.cuda"), mig=seen(False, "nvml"),
        ecc=seen(True, "nvml"), power_limit_w=seen(700.0, "nvml"), sm_clock_max_mhz=seen(1980, "nvml"),
        cpu_model=seen("Intel(R) Xeon(R) Platinum 8592+", "/proc/cpuinfo"), cpu_logical=seen(192, "/proc/cpuinfo"),
        cpu_usable=seen(64, "sched_getaffinity"), host_memory_bytes=seen(2_164_663_517_184, "/proc/meminfo"),
    )  # fmt: skip
    predicate["distributed"]["observed"]["backend"] = seen("nccl", "torch.distributed")
    predicate["image"] = {
        "digest": seen(sha("image"), "LANEMARK_IMAGE_DIGEST"), "reference": seen("registry.example/train:2026-11-20", "LANEMARK_IMAGE"),
    }  # fmt: skip
    predicate["surface"].update(
        app_id=seen("ap-Zk3Qn0cVx1", "modal"),
        call_id=seen("fc-01JD8N5T6V", "modal"),
        hostname=seen("modal", "uname"),
        virtualization=seen("gvisor", "dmesg"),
    )
    predicate["source"].update(
        dirty=seen(True, "git"), argv=["lanemark", "run", "training", "--preset", "dense-1b", "--gpu", "H100:8", "--surface", "modal", "--steps", "220"],
    )  # fmt: skip
    predicate["toolchain"]["packages"][2:] = [
        _package("triton", seen("3.7.0", "importlib.metadata"), seen(True, "rank 0")),
        _package(
            "nvidia-nccl-cu13",
            seen("2.28.9", "importlib.metadata"),
            hidden("rank 0", "a data-only wheel has nothing to import"),
        ),
        _package("flash-attn", seen("2.8.3", "importlib.metadata"), seen(False, "rank 0")),
    ]
    predicate["toolchain"].update(torch_build=seen("2.13.0+cu130", "torch"), nccl=seen("2.28.9", "torch.cuda.nccl"))
    predicate["startup"].update(
        state=seen("cold", "cache inventory"), time_to_first_step_s=seen(141.2, "samples.bin"), host_uptime_s=seen(38.0, "/proc/uptime"),
        cache_before=seen({"files": 0, "bytes": 0, "keys": 0, "binaries": 0, "digest": sha("")}, "directory"),
        cache_after=seen({"files": 1480, "bytes": 318_767_104, "keys": 144, "binaries": 392, "digest": sha("after")}, "directory"),
        purpose=seen({"kind": "seeding_pass", "reason": "coverage is short: torch was '2.12.1', and here it is '2.13.0'"}, "coverage"),
        coverage_before=seen(
            {"covered": False, "required": 96, "missing": [], "mismatches": ["torch was '2.12.1', and here it is '2.13.0'"]},
            "coverage manifest",
        ),
        layers=seen(
            [
                {"source": "/vol/seeds/dense-1b.tar.zst", "kind": "archive", "outcome": "incompatible",
                 "reason": "torch was '2.12.1', and here it is '2.13.0'", "files": 0, "bytes": 0, "seconds": 0.021},
                {"source": "s3://seeds/dense-1b.tar.zst", "kind": "object_storage", "outcome": "unreachable",
                 "reason": "the connection was refused", "files": 0, "bytes": 0, "seconds": 4.2},
            ],
            "layers of the seed",
        ),
    )  # fmt: skip
    for rank in predicate["training"]["ranks"]:
        rank["cache"]["used"]["value"].update(hits={"fx": 0, "aot": 0}, misses={"fx": 4, "aot": 2})
        rank["cache"]["new_files"] = seen(1480, "listings")
    predicate["training"]["ranks"][5]["cache"]["used"] = hidden(
        "torch.compiler artifacts", "ImportError: no such module"
    )
    predicate["data"]["path_class"] = seen("network_volume", "rank reports")
    for path in predicate["data"]["paths"]:
        path.update(
            path_class="network_volume",
            filesystem="fuse",
            mount_point="/data",
            mount_source="volume",
            reason="a FUSE mount whose source is a volume",
        )
    training = predicate["training"]
    training["memory"].update(
        allocated_peak_bytes=seen(71_940_702_208, "torch.cuda"), reserved_peak_bytes=seen(78_383_153_152, "torch.cuda"),
        rss_peak_bytes=seen(9_663_676_416, "VmHWM"),
    )  # fmt: skip
    training["model"] = {
        "parameters": seen(1_235_814_400, "torch"), "parameters_active": seen(1_235_814_400, "torch"),
        "flops_per_token": seen(8.59e9, "lanes.presets"),
    }  # fmt: skip
    training["mfu"] = seen(0.3471, "H200 SXM, dense bf16 peak 989 TFLOP/s, NVIDIA H200 datasheet")
    training["does_not_prove"][1] = "anything about convergence: 220 steps were taken"
    predicate["findings"] = [
        {"kind": "source_dirty", "severity": "note", "summary": "the working tree had uncommitted changes", "evidence": ["git status: 3 files"]},
        {"kind": "gpu_substituted", "severity": "caveat", "summary": "H100:8 was requested and 8 × H200 were observed",
         "evidence": ["requested: H100:8", "nvml: NVIDIA H200 × 8"]},
        {"kind": "data_path_remote", "severity": "caveat", "summary": "all 8 ranks read their tokens through a FUSE volume mount", "evidence": ["/data: fuse"]},
        {"kind": "cache_state_contradicted", "severity": "caveat", "summary": "a covering compile cache was required and the observed start was cold",
         "evidence": ["cache before: 0 files", "cache after: 1,480 files"]},
        {"kind": "stalls_in_window", "severity": "caveat", "summary": "2 of 200 measured steps took more than twice the median",
         "evidence": ["step 100: 3.96 s", "step 161: 918 ms"]},
    ]  # fmt: skip
    return _statement(predicate)


def _no_figures(predicate: Doc, why: str) -> None:
    training = predicate["training"]
    for name in ("tokens_per_s", "step_time", "mfu"):
        training[name] = hidden("samples.bin", why)
    for name in training["split"]:
        training["split"][name] = hidden("samples.bin", why)
    training["loss"] = {name: hidden("end.json", why) for name in ("first", "last", "finite")}


def killed() -> Doc:
    """Rank 1 is killed in measured step 23; rank 0 then fails in its collective and is the first to complain."""
    doc = ok_cpu()
    predicate = doc["predicate"]
    case = _case()
    why = "rank 1 left no end marker"
    _no_figures(predicate, why)
    predicate["training"]["samples"]["measured"] = predicate["training"]["samples"]["measured"][:13]
    for part in predicate["training"]["ranks"]:
        part["steps_recorded"] = 23 + (part["rank"] == 0)
        part["step_p50_s"] = part["data_wait_s"] = hidden("samples.bin", "the window was never closed")
        part["phases"] = [span for span in part["phases"] if span["phase"] != "drain"]
        window = next(span for span in part["phases"] if span["phase"] == "window")
        window["end_s"] = window["begin_s"] + 1.09
        if part["rank"] == 0:
            part["phases"].append({"phase": "failed", "begin_s": window["end_s"], "end_s": window["end_s"]})
        else:
            part["memory_peak_bytes"] = hidden("end.json", "the rank was killed before it wrote it")
            part["tokens"] = hidden("end.json", "the rank was killed before it wrote it")
    predicate["outcome"] = {
        "state": "error", "receipt": False, "receipt_reason": "no end marker from rank 1: a start that did not end is no throughput",
        "first_cause": {"kind": "rank_killed", "summary": "rank 1 was killed by SIGKILL", "rank": 1},
        "ranks": [
            _exit(0, case, status=seen(1, "waitid"), end_marker=False, last_phase=seen("window", "beacon.page"), last_step=seen(23, "beacon.page"),
                  exception=seen("RuntimeError: Connection closed by peer [127.0.0.1]:41872\n  in all_gather_single", "error.json")),
            _exit(1, case, status=gone("waitid"), signal=seen("SIGKILL", "waitid"), end_marker=False, last_phase=seen("window", "beacon.page"),
                  last_step=seen(23, "beacon.page")),
        ],
    }  # fmt: skip
    predicate["findings"] = [
        {"kind": "rank_killed", "severity": "failure", "summary": "rank 1 was killed by SIGKILL, which the supervisor did not send", "rank": 1,
         "evidence": ["waitid: CLD_KILLED, signal 9, 0.4 s before rank 0 failed", "/proc/vmstat oom_kill: unchanged"]},
    ]  # fmt: skip
    predicate["transitions"][-1] = {
        "state": "error",
        "at": "2026-11-22T15:22:51.402Z",
        "monotonic_s": 18.298,
        "reason": "rank 1 was killed by SIGKILL",
    }
    return doc


def synthetic() -> Doc:
    """A clean run on made-up tokens: healthy, and no throughput on data."""
    case = _case(data=DataAsked("synthetic"), compile="eager", steps=13, warmup=3)
    warm = [310_000_000, *_times_ns(2, 0.121, seed=5)]
    predicate = _predicate(case, warm, _times_ns(10, 0.118, seed=6))
    predicate["data"].update(
        dataset_digest=gone("case", "synthetic tokens are no dataset"), tokenizer_digest=gone("case", "synthetic tokens have no tokenizer"),
        manifest_verified=gone("case", "there is no manifest"), shards=[], paths=[], path_class=seen("synthetic", "rank reports"),
    )  # fmt: skip
    predicate["compile"]["observed"].update(
        compilations=seen(0, "beacon.page"),
        compile_s_max=seen(0.0, "beacon.page"),
        last_end_step=gone("samples.bin", "nothing was compiled"),
    )
    predicate["startup"]["state"] = seen("not_compiled", "rank reports")
    predicate["training"]["does_not_prove"].append("anything about a data path: the tokens were made up")
    predicate["findings"] = [
        {
            "kind": "data_synthetic",
            "severity": "caveat",
            "summary": "the tokens were made up, so no data path was measured",
            "evidence": ["case: data.kind is synthetic"],
        },
    ]
    return _statement(predicate)


def lost() -> Doc:
    """The supervisor died before the ranks wrote anything; sealed later, so almost nothing could be looked at."""
    doc = ok_cpu()
    predicate = doc["predicate"]
    case = _case()
    why = "the supervisor was lost before it looked"
    _no_figures(predicate, "no rank wrote a sample file")
    training = predicate["training"]
    training["samples"] = {"unit": "ns", "warmup": [], "measured": []}
    training["ranks"] = []
    for part in (
        training["memory"],
        training["model"],
        predicate["compile"]["observed"],
        predicate["hardware"]["observed"],
    ):
        for name in part:
            part[name] = hidden("attempt directory", why)
    spread = predicate["distributed"]["observed"]
    spread.update(
        {name: hidden("attempt directory", why) for name in ("mode", "world_size", "backend", "nodes")},
        ranks_reporting=0,
    )
    predicate["startup"].update(
        {name: hidden("attempt directory", why) for name in predicate["startup"] if name not in ("declared", "clocks")}
    )
    predicate["startup"]["clocks"] = dict.fromkeys(predicate["startup"]["clocks"], hidden("attempt directory", why))
    predicate["data"].update(
        {name: hidden("attempt directory", why) for name in ("dataset_digest", "tokenizer_digest", "manifest_verified", "path_class", "tokens_consumed", "token_parity")},
        shards=[], paths=[],
    )  # fmt: skip
    predicate["times"]["duration_s"] = gone("CLOCK_MONOTONIC", "another process sealed the record")
    predicate["evidence"] = []
    predicate["transitions"][-1] = {
        "state": "lost",
        "at": "2026-11-22T19:40:01.007Z",
        "reason": "the attempt's lock was free and its state not final",
    }
    predicate["outcome"] = {
        "state": "lost", "receipt": False, "receipt_reason": "the supervisor died without sealing a record",
        "first_cause": {"kind": "supervisor_lost", "summary": "the supervisor died without sealing a record"},
        "ranks": [
            _exit(rank, case, end_marker=False, signal_by="unknown", **{name: hidden("attempt directory", why) for name in ("status", "signal", "last_phase", "last_step", "exception")})
            for rank in range(2)
        ],
    }  # fmt: skip
    predicate["findings"] = [
        {
            "kind": "supervisor_lost",
            "severity": "failure",
            "summary": "the supervisor died without sealing a record",
            "evidence": ["supervisor.lock: free", "attempt.json: running"],
        },
    ]
    return doc


def long_run() -> Doc:
    """Five thousand steps, to see that a chart of many steps still shows every stall."""
    case = _case(steps=5000, warmup=50)
    warm = [26_600_000_000, *_times_ns(49, 0.083, seed=7)]
    measured = _times_ns(4950, 0.081, seed=8)
    measured[1203], measured[4001] = 190_000_000, 1_400_000_000
    return _statement(_predicate(case, warm, measured))


def short_run() -> Doc:
    """Five steps, the fewest a run can have: one of warm-up, four measured."""
    case = _case(steps=5, warmup=1)
    return _statement(_predicate(case, [95_000_000], _times_ns(4, 0.081, seed=9)))


#: A text that tries everything at once: markup, quotes, an escape sequence, a newline, a right-to-left override.
HOSTILE = (
    "</style></svg><script>alert('x')</script>\"'&{{ 7*7 }}{% raw %}\x1b[31mred\n\u202egnp.exe \u05e9\u05dc\u05d5\u05dd "
    + "w" * 200
)


def hostile() -> Doc:
    """Every free text of a record replaced by a hostile one."""
    doc = ok_cpu()
    predicate = doc["predicate"]
    predicate["case"]["preset"] = HOSTILE
    predicate["hardware"]["observed"]["device_class"] = seen(HOSTILE, HOSTILE)
    predicate["source"]["argv"] = [HOSTILE, "javascript:alert(1)", "https://example.org/x"]
    predicate["surface"]["hostname"] = seen(HOSTILE, HOSTILE)
    predicate["environment"]["variables"][HOSTILE] = HOSTILE
    predicate["environment"]["settings"][0].update(name=HOSTILE, value=HOSTILE, reason=HOSTILE)
    predicate["training"]["does_not_prove"] = [HOSTILE]
    predicate["training"]["ranks"][0]["phases"].append({"phase": HOSTILE, "begin_s": 4.0, "end_s": 5.0})
    predicate["findings"] = [{"kind": HOSTILE, "severity": "caveat", "summary": HOSTILE, "evidence": [HOSTILE]}]
    predicate["evidence"][0].update(name=HOSTILE, media_type=HOSTILE)
    predicate["data"]["shards"][0]["name"] = HOSTILE
    predicate["transitions"][0]["reason"] = HOSTILE
    return doc


SAMPLES: dict[str, Callable[[], Doc]] = {
    "ok_cpu": ok_cpu, "ok_cuda": ok_cuda, "killed": killed, "synthetic": synthetic, "lost": lost, "long_run": long_run,
    "short_run": short_run, "hostile": hostile,
}  # fmt: skip
