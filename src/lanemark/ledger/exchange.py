"""One record in the words of other programs: MLCommons' log lines, OpenMetrics text, a trace for Perfetto. Pure.

One way only: what is written here is for looking at, and never read back as evidence. Each carries the record's digest,
so that whoever looks can find the record. Figures of a record without a receipt are left out, as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from lanemark.records.observation import value_of

#: MLCommons' prefix of a log line (source: mlcommons/logging, mllog).
_PREFIX: Final = ":::MLLOG"
_QUANTILES: Final = (("0.5", "p50_s"), ("0.95", "p95_s"), ("0.99", "p99_s"))


def figures(predicate: Mapping[str, Any]) -> dict[str, float]:
    """What a record of the training lane may be quoted for, by name with its unit; empty without a receipt."""
    if predicate["lane"] != "training" or predicate["outcome"]["receipt"] is not True:
        return {}
    training = predicate["training"]
    times = value_of(training["step_time"]) or {}
    found = {
        "tokens_per_s": value_of(training["tokens_per_s"]),
        "steps_per_s": value_of((training.get("script") or {}).get("steps_per_s")),
        **{f"step_{name}": times.get(name) for name in ("mean_s", "p50_s", "p95_s", "p99_s")},
        "mfu": value_of(training["mfu"]),
        "loss_last": value_of(training["loss"]["last"]),
        "rss_peak_bytes": value_of(training["memory"]["rss_peak_bytes"]),
        "allocated_peak_bytes": value_of(training["memory"]["allocated_peak_bytes"]),
        "time_to_first_step_s": value_of(predicate["startup"]["time_to_first_step_s"]),
    }
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def labels(record_id: str, predicate: Mapping[str, Any]) -> dict[str, str]:
    """What tells one record from another in a dashboard: short texts, the digest first."""
    seen = predicate["hardware"]["observed"]
    found = {
        "record": record_id,
        "run_id": predicate["run_id"],
        "lane": predicate["lane"],
        "preset": predicate["case"]["preset"],
        "surface": predicate["surface"]["name"],
        "device_class": value_of(seen["device_class"]),
        "world_size": value_of(predicate["distributed"]["observed"]["world_size"]),
        "mode": value_of(predicate["distributed"]["observed"]["mode"]),
        "posture": value_of(predicate["compile"]["observed"]["posture"]),
        "outcome": predicate["outcome"]["state"],
        "receipt": str(predicate["outcome"]["receipt"]).lower(),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def mllog_lines(record_id: str, predicate: Mapping[str, Any]) -> Iterator[str]:
    """A run as MLCommons' log lines, in the order of time. What a submission needs beyond it is not claimed.

    Times are the record's wall-clock stamps; the run starts when the window opens, as warm-up is no part of it. The
    window is one block of MLCommons', between two counts of samples, where the record knows what a sample is: in the
    reference stack a sequence. Which of their checks this meets is held by a test and listed in docs/your-script.md.
    """
    began_ms = _milliseconds(predicate["times"]["prepared_at"])
    ended_ms = _milliseconds(predicate["times"]["sealed_at"])
    launched_ms = next(
        (_milliseconds(step["at"]) for step in predicate["transitions"] if step["state"] == "running"), began_ms
    )

    def line(at_ms: int, kind: str, key: str, value: Any, **more: Any) -> str:
        doc = {
            "namespace": "lanemark", "time_ms": at_ms, "event_type": kind, "key": key, "value": value,
            "metadata": {"file": "lanemark", "lineno": 0, **more},
        }  # fmt: skip
        return f"{_PREFIX} {json.dumps(doc, ensure_ascii=False)}"

    point = "POINT_IN_TIME"
    yield line(began_ms, point, "submission_benchmark", f"{predicate['lane']}/{predicate['case']['preset']}")
    yield line(began_ms, point, "submission_platform", labels(record_id, predicate).get("device_class", "unknown"))
    yield line(began_ms, point, "lanemark_record", record_id)
    yield line(launched_ms, "INTERVAL_START", "init_start", None)
    training = predicate.get("training")
    arrivals = [value_of(rank["window_arrival_s"]) for rank in training["ranks"]] if training else []
    opened = [arrival for arrival in arrivals if arrival is not None]
    if training is None or not opened:
        yield line(ended_ms, "INTERVAL_END", "run_stop", None, status="aborted")
        return
    opened_ms = launched_ms + round(max(opened) * 1e3)
    if training.get("tokens_per_step") is not None:
        yield line(launched_ms, point, "global_batch_size", training["tokens_per_step"], unit="tokens")
    yield line(launched_ms, point, "seed", predicate["case"]["seed"])
    for key, value in _division_of_work(predicate).items():
        yield line(launched_ms, point, key, value)
    yield line(opened_ms, "INTERVAL_END", "init_stop", None)
    yield line(opened_ms, "INTERVAL_START", "run_start", None)
    warmup, samples = training["window"]["warmup"], _samples_per_step(predicate)
    if samples is not None:
        yield line(opened_ms, "INTERVAL_START", "block_start", None, samples_count=warmup * samples)
    at_ns = 0
    for number, took_ns in enumerate(training["samples"]["measured"]):
        at_ns += took_ns
        stats = {"step_time_s": took_ns / 1e9}
        step = warmup + number
        yield line(opened_ms + round(at_ns / 1e6), point, "tracked_stats", stats, step=step)
    closed_ms = opened_ms + round(at_ns / 1e6)
    yield line(closed_ms, point, "tracked_stats", figures(predicate), step=training["window"]["steps"])
    if samples is not None:
        done = (warmup + len(training["samples"]["measured"])) * samples
        yield line(closed_ms, "INTERVAL_END", "block_stop", None, samples_count=done)
    good = predicate["outcome"]["receipt"] is True
    yield line(closed_ms, "INTERVAL_END", "run_stop", None, status="success" if good else "aborted")


def _samples_per_step(predicate: Mapping[str, Any]) -> int | None:
    """Sequences of the global batch in one step, from the tokens that were consumed; None where that is not known."""
    tokens, case = predicate["training"].get("tokens_per_step"), predicate["case"]
    if tokens is None or "script" in case or tokens % case["sequence"]:
        return None
    return int(tokens // case["sequence"])


def _division_of_work(predicate: Mapping[str, Any]) -> dict[str, int]:
    """How the model was divided, in MLCommons' words, where the observed mode says so; empty for a command's record.

    Each mode of the reference stack keeps whole layers, sequences and experts on every rank (`stack/parallel.py`).
    """
    mode = value_of(predicate["distributed"]["observed"]["mode"])
    if "script" in predicate["case"] or mode not in ("single", "ddp", "fsdp2"):
        return {}
    whole = dict.fromkeys(
        ("tensor_parallelism", "pipeline_parallelism", "context_parallelism", "expert_parallelism"), 1
    )
    return whole | {"micro_batch_size": predicate["case"]["micro_batch"]}


def openmetrics(records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Records as OpenMetrics text, a line at a time: a gauge a figure, and the step times as a summary.

    Source: OpenMetrics 1.0 (prometheus/OpenMetrics): families are not interleaved, so all records are read first.
    """
    known = [(labels(record_id, predicate), predicate) for record_id, predicate in records]
    units = {"_s": "seconds", "_bytes": "bytes"}
    families: dict[str, tuple[str, list[str]]] = {}
    for tags, predicate in known:
        text = ",".join(f'{name}="{_escaped(value)}"' for name, value in tags.items())
        for name, value in figures(predicate).items():
            unit = next((word for ending, word in units.items() if name.endswith(ending) and "_per_s" not in name), "")
            family = f"lanemark_{name.removesuffix('_s')}_seconds" if unit == "seconds" else f"lanemark_{name}"
            family = family.replace("_per_s", "_per_second")
            families.setdefault(family, (unit, []))[1].append(f"{family}{{{text}}} {value!r}")
    for family in sorted(families):
        unit, lines = families[family]
        yield f"# TYPE {family} gauge\n"
        if unit:
            yield f"# UNIT {family} {unit}\n"
        for line in lines:
            yield line + "\n"
    yield "# EOF\n"


def trace(record_id: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """Phases of every rank and the global steps, as Chrome's trace events: what Perfetto and `chrome://tracing` open.

    A rank is a process, its phases one thread of it; the steps are of all ranks together, in a process of their own.
    Times are microseconds since the launch.
    """
    events: list[dict[str, Any]] = []
    training = predicate.get("training")
    for rank in training["ranks"] if training else []:
        pid = rank["rank"]
        events.append({"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": f"rank {pid}"}})
        for span in rank["phases"]:
            nested = int(span["phase"] in ("compile", "collective"))
            events.append(_event(span["phase"], "phase", (pid, nested), (span["begin_s"] * 1e6, span["end_s"] * 1e6)))
    arrivals = [value_of(rank["window_arrival_s"]) for rank in training["ranks"]] if training else []
    opened = [arrival for arrival in arrivals if arrival is not None]
    if training is not None and opened:
        pid = len(training["ranks"])
        events.append({"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": "all ranks"}})
        at_us = max(opened) * 1e6
        for number, took_ns in enumerate(training["samples"]["measured"]):
            step = training["window"]["warmup"] + number
            events.append(_event(f"step {step}", "step", (pid, 0), (at_us, at_us + took_ns / 1e3)))
            at_us += took_ns / 1e3
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": labels(record_id, predicate)}


def _event(name: str, kind: str, row: tuple[int, int], span_us: tuple[float, float]) -> dict[str, Any]:
    """A complete event: on which row (process, thread), from when to when."""
    length_us = max(0.0, span_us[1] - span_us[0])
    return {"name": name, "cat": kind, "ph": "X", "pid": row[0], "tid": row[1], "ts": span_us[0], "dur": length_us}


def _milliseconds(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() * 1e3)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
