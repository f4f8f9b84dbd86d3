"""The groups of labelled rows of a view: figures, start-up, data path, provenance. Pure.

Each function takes one part of a record's plain JSON and returns rows. Nothing is computed here that the record does
not say; a figure that may not be quoted is withheld with the reason, also where the record carries its number.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, Group, Row, group, listed, plain, row, shown, stated_row
from lanemark.report.data_ranks import more_rows
from lanemark.report.headline import Receipt
from lanemark.report.quantities import (
    count,
    duration,
    percent,
    plural,
    scaled,
    significant,
    size,
    visible,
    yes_no,
)
from lanemark.report.quoting import quoted
from lanemark.report.script_rows import script_rows, step_tokens


def fine(seconds: float) -> str:
    """Step times of one window lie close together, so they carry one digit more than other durations."""
    return duration(seconds, 4)


def _step(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Reads one figure of the step-time part."""
    return lambda step: fine(step[f"{name}_s"])


def loss_cell(loss: Mapping[str, Any]) -> Cell:
    """First and last loss in one cell, which has a value only when both were observed."""
    first, last = (shown(loss[name], lambda value: significant(value, 4)) for name in ("first", "last"))
    if first.status != "observed":
        return first
    if last.status != "observed":
        return Cell(f"{last.text} (first {first.text})", last.status, last.source)
    finite = value_of(loss["finite"])
    note = "finiteness not observed" if finite is None else "finite" if finite else "NOT finite"
    return Cell(f"{first.text} → {last.text} ({note})", "observed", first.source)


def figures(training: Mapping[str, Any], receipt: Receipt) -> tuple[Group, ...]:
    """What the measured loop gave: throughput first, then everything a reader needs beside it."""
    return (
        _loop(training, receipt),
        _split(training["split"]),
        _memory_andloss_cell(training),
        _model(training, receipt),
    )


def _loop(training: Mapping[str, Any], receipt: Receipt) -> Group:
    window, step = training["window"], training["step_time"]
    times = (
        row("step time, p50", step, _step("p50")),
        row("step time, p95", step, _step("p95")),
        row("step time, p99", step, _step("p99")),
        row("step time, mean", step, _step("mean")),
        row("fastest, slowest", step, lambda value: f"{fine(value['min_s'])}, {fine(value['max_s'])}"),
        row("stalls", step, lambda value: f"{plural(value['stalls'], 'step')} above twice the median"),
    )
    return group(
        "Measured loop",
        quoted("throughput", training["tokens_per_s"], receipt),
        *(times if value_of(step) is not None else (row("step time", step),)),
        stated_row("window", f"{count(window['measured'])} steps after {count(window['warmup'])} of warm-up"),
        stated_row("steps recorded in it", count(len(training["samples"]["measured"]))),
        stated_row("tokens per step", step_tokens(training)),
        *script_rows(training, receipt),
    )


def _split(split: Mapping[str, Any]) -> Group:
    return group(
        "Where the window went",
        row("whole window", split["window_s"], duration),
        row("data wait", split["data_wait_s"], duration),
        row("compile", split["compile_s"], duration),
        row("other", split["other_s"], duration),
    )


def _memory_andloss_cell(training: Mapping[str, Any]) -> Group:
    memory = training["memory"]
    return group(
        "Peak memory and loss",
        row("allocated", memory["allocated_peak_bytes"], size),
        row("reserved", memory["reserved_peak_bytes"], size),
        row("resident", memory["rss_peak_bytes"], size),
        Row("loss", loss_cell(training["loss"])),
    )


def _model(training: Mapping[str, Any], receipt: Receipt) -> Group:
    model = training["model"]
    return group(
        "Model",
        row("parameters", model["parameters"], count),
        row("active", model["parameters_active"], count),
        row("work per token", model["flops_per_token"], lambda value: scaled(value, "FLOP")),
        quoted("MFU", training["mfu"], receipt, percent),
    )


def inventory(cache: Mapping[str, Any]) -> str:
    """A cache inventory in words: keys and binaries apart, because keys alone prove nothing."""
    return (
        f"{plural(cache['files'], 'file')}, {size(cache['bytes'])}: "
        f"{plural(cache['keys'], 'key')}, {plural(cache['binaries'], 'binary', 'binaries')}"
    )


def startup(predicate: Mapping[str, Any]) -> Group:
    """Where the run started from, by what was seen, and what it compiled."""
    start, compiled = predicate["startup"], predicate["compile"]["observed"]
    clocks = start["clocks"]
    return group(
        "Starting line",
        row("start-up state", start["state"], path_words),
        row("good for", start["purpose"], purpose),
        stated_row("declared policy", f"{plain(start['declared'])} cache"),
        row("time to first step", start["time_to_first_step_s"], duration),
        row("pre-warm", start["prewarm"], prewarm),
        row("coverage before", start["coverage_before"], coverage),
        row("cache before", start["cache_before"], inventory),
        row("cache after", start["cache_after"], inventory),
        row("cache directory", start["cache_directory"], code=True),
        row("cache layout", start["layout"], path_words),
        row("seed", start["layers"], seeded_from),
        row("compilations", compiled["compilations"], count),
        row("compile time, slowest rank", compiled["compile_s_max"], duration),
        row("last compiling step", compiled["last_end_step"], count),
        row("host uptime", start["host_uptime_s"], duration),
        row("container age", clocks["container_age_s"], duration),
        row("host stood still", clocks["asleep_s"], duration),
        row("clock shift", clocks["time_shift_s"], duration),
        row("run before it", clocks["earlier_run"], code=True),
    )


def purpose(value: Mapping[str, Any]) -> str:
    """What a run is good for, with the reason."""
    return f"{path_words(value['kind'])}: {plain(value['reason'])}"


def coverage(value: Mapping[str, Any]) -> str:
    """What a cache held of what the case needs, in words."""
    if value["covered"]:
        return (
            f"all {plural(value['required'], 'key')} and binaries"
            if value["required"] != 1
            else "the one that it needs"
        )
    why = [*value["mismatches"], *value["missing"]]
    return f"short: {plain(why[0])}" if why else "short"


def prewarm(value: Mapping[str, Any]) -> str:
    """Whether ranks compiled beforehand, with the reason."""
    if not value["planned"]:
        return f"skipped: {plain(value['reason'])}"
    seconds = value_of(value["seconds"])
    took = "" if seconds is None else f" in {duration(seconds)} on the slowest rank"
    done = value_of(value["done"])
    said = "not known to be done" if done is None else f"done{took}" if done else "NOT done by every rank"
    return f"{said}: {plain(value['reason'])}"


def seeded_from(layers: list[Mapping[str, Any]]) -> str:
    """Which layer was used, and how many were tried."""
    used = next((layer for layer in layers if layer["outcome"] == "used"), None)
    if used is None:
        last = layers[-1]
        return f"no layer of {len(layers)} used: {path_words(last['outcome'])}, {plain(last['reason'])}"
    return f"{path_words(used['kind'])} {plain(used['source'])}" + (
        f", of {len(layers)} layers" if len(layers) > 1 else ""
    )


def path_words(path_class: str) -> str:
    """A class or a state as words: `local_disk` is `local disk`."""
    return visible(path_class).replace("_", " ")


def data_path(data: Mapping[str, Any]) -> Group:
    """Which tokens, through which path, and how far they were checked."""
    return group(
        "Tokens",
        row("path class", data["path_class"], path_words),
        row("dataset", data["dataset_digest"], code=True),
        row("tokenizer", data["tokenizer_digest"], code=True),
        row("manifest verified", data["manifest_verified"], yes_no),
        row("tokens consumed", data["tokens_consumed"], count),
        row("token parity", data["token_parity"], yes_no),
        *more_rows(data),
    )


def _run(predicate: Mapping[str, Any]) -> Group:
    times = predicate["times"]
    return group(
        "Run",
        stated_row("run", predicate["run_id"], code=True),
        stated_row("attempt", predicate["attempt"]),
        stated_row("plan", predicate["plan_digest"], code=True),
        stated_row("prepared", times["prepared_at"]),
        stated_row("sealed", times["sealed_at"]),
        row("duration", times["duration_s"], duration),
        stated_row("assurance", predicate["assurance"].replace("_", " ")),
        stated_row("record version", predicate["record_version"]),
    )


def _source(predicate: Mapping[str, Any]) -> Group:
    source, image, case = predicate["source"], predicate["image"], predicate["case"]
    argv = shlex.join(source["argv"]) or "none"
    return group(
        "Source and image",
        row("commit", source["commit"], code=True),
        row("uncommitted changes", source["dirty"], yes_no),
        row("repository", source["repository_root"], code=True),
        stated_row("argv", argv, code=True),
        stated_row("argv redacted", source["argv_redacted"]),
        stated_row(
            "user command", shlex.join(case["command"]) or "none: the reference stack", code=bool(case["command"])
        ),
        row("image digest", image["digest"], code=True),
        row("image reference", image["reference"], code=True),
        stated_row("lanemark", source["lanemark_version"]),
        row("lanemark source", source["lanemark_digest"], code=True),
    )


def _toolchain(predicate: Mapping[str, Any]) -> Group:
    toolchain, environment = predicate["toolchain"], predicate["environment"]
    return group(
        "Toolchain",
        stated_row("python", environment["python"]),
        stated_row("platform", environment["platform"]),
        row("torch build", toolchain["torch_build"]),
        row("NCCL", toolchain["nccl"]),
        row("C++ compiler", toolchain["cxx"]),
        row("backend", predicate["distributed"]["observed"]["backend"]),
        row("nodes", predicate["distributed"]["observed"]["nodes"], count),
        stated_row("ranks reporting", predicate["distributed"]["observed"]["ranks_reporting"]),
    )


def _place(predicate: Mapping[str, Any]) -> Group:
    surface, seen = predicate["surface"], predicate["hardware"]["observed"]
    return group(
        "Place",
        stated_row("surface", surface["name"]),
        row("app id", surface["app_id"], code=True),
        row("call id", surface["call_id"], code=True),
        row("host", surface["hostname"], code=True),
        row("boot id", surface["boot_id"], code=True),
        row("virtualization", surface["virtualization"]),
        row("kernel", seen["kernel"]),
        row("CPU", seen["cpu_model"]),
        row("CPUs, logical", seen["cpu_logical"], count),
        row("CPUs, usable", seen["cpu_usable"], count),
        row("CPU flags", seen["cpu_flags_digest"], code=True),
        row("CPU quota", seen["cgroup_cpu_quota"], lambda value: f"{significant(value)} cores"),
        row("host memory", seen["host_memory_bytes"], size),
        row("memory limit", seen["cgroup_memory_bytes"], size),
    )


def _devices(predicate: Mapping[str, Any]) -> Group:
    seen = predicate["hardware"]["observed"]
    return group(
        "Devices",
        row("class", seen["device_class"]),
        row("count", seen["device_count"], count),
        row("names", seen["device_names"], listed),
        row("UUIDs", seen["device_uuids"], listed, code=True),
        row("memory each", seen["memory_bytes"], size),
        row("driver", seen["driver"]),
        row("CUDA", seen["cuda"]),
        row("MIG", seen["mig"], yes_no),
        row("ECC", seen["ecc"], yes_no),
        row("power limit", seen["power_limit_w"], lambda value: f"{significant(value)} W"),
        row("SM clock, max", seen["sm_clock_max_mhz"], lambda value: f"{count(value)} MHz"),
    )


def provenance(predicate: Mapping[str, Any]) -> tuple[Group, ...]:
    """Everything that says what exactly ran, and where."""
    return (
        _source(predicate),
        _run(predicate),
        _toolchain(predicate),
        _devices(predicate),
        _place(predicate),
    )
