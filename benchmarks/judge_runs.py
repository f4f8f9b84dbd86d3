"""Records of the test corpus as runs of a benchmark: under other run ids, at other speeds, changed in one thing.

Whatever follows from the change is recomputed, so that a record stays well-formed and keeps its lane's rules.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lanemark.lanes.figures import step_time, tokens_per_s
from lanemark.records.encoding import digest, encode

Doc = dict[str, Any]
Change = Callable[[Doc], None]
GOOD = Path(__file__).resolve().parents[1] / "tests/assets/records/good"
#: Five runs of one thing on a quiet host. Five, because a rank test can call no difference of three against three.
STEADY = (1.0, 1.003, 0.998, 1.001, 0.9985)
#: The same on a noisy one.
NOISY = (1.0, 1.06, 0.95, 1.03, 0.97)


@cache
def _text(name: str) -> bytes:
    return (GOOD / f"{name}.json").read_bytes()


def made(name: str, serial: str, *changes: Change, speed: float = 1.0, steps: int = 0) -> Doc:
    """A statement of the corpus, under another run id, with its steps `speed` times as fast, changed, and whole
    again."""
    doc: Doc = json.loads(_text(name))
    predicate = doc["predicate"]
    predicate["run_id"] = predicate["run_id"][:-8] + f"{serial:0>8}"
    predicate["hardware"]["observed"]["cgroup_cpu_quota"] = {"status": "absent", "source": "/sys/fs/cgroup/cpu.max"}
    if predicate["lane"] == "training":
        _timed(predicate, speed, steps)
    for result in predicate.get("sparse", {}).get("results", ()):
        latency = result["latency"]["value"]
        latency["samples"] = [round(value / speed) for value in latency["samples"]]
        latency["p50"] = float(sorted(latency["samples"])[len(latency["samples"]) // 2])
    for change in changes:
        change(predicate)
    predicate["plan_digest"] = digest(encode(predicate["case"]))
    doc["subject"][0]["digest"] = {"sha256": predicate["plan_digest"].removeprefix("sha256:")}
    return doc


def _timed(predicate: Doc, speed: float, steps: int) -> None:
    """Set the measured samples, and everything that follows from them."""
    part, case = predicate["training"], predicate["case"]
    samples = part["samples"]["measured"]
    if steps:
        samples = [samples[place % len(samples)] for place in range(steps)]
        case["steps"] = steps + case["warmup"]
        part["window"] |= {"steps": case["steps"], "measured": steps}
    part["samples"]["measured"] = [round(value / speed) for value in samples]
    predicate["startup"]["time_to_first_step_s"]["value"] = round(9.25 / speed, 6)
    settled(predicate)


def settled(predicate: Doc) -> None:
    """Recompute what follows from the case and the samples: figures, tokens, requests."""
    part, case = predicate["training"], predicate["case"]
    measured = part["samples"]["measured"]
    part["tokens_per_step"] = case["nproc"] * case["micro_batch"] * case["grad_accum"] * case["sequence"]
    part["step_time"]["value"] = step_time(measured)
    part["tokens_per_s"]["value"] = tokens_per_s(part["tokens_per_step"], measured)
    part["split"]["window_s"]["value"] = sum(measured) / 1e9
    part["split"]["other_s"]["value"] = max(0.0, sum(measured) / 1e9 - part["split"]["data_wait_s"]["value"])
    for rank in part["ranks"]:
        rank["steps_recorded"] = case["warmup"] + len(measured)
        rank["tokens"]["value"] = part["tokens_per_step"] * len(measured) // len(part["ranks"])
    predicate["data"]["tokens_consumed"]["value"] = part["tokens_per_step"] * len(measured)


def put(path: str, value: Any) -> Change:
    """Set what lies at a path; the value of an observation there, where there is one."""

    def change(predicate: Doc) -> None:
        *parents, last = path.split(".")
        node: Any = predicate
        for step in parents:
            node = node[int(step)] if step.isdigit() else node[step]
        held = node.get(last) if isinstance(node, dict) else None
        if isinstance(held, dict) and "status" in held and not (isinstance(value, dict) and "status" in value):
            node[last] = {"status": "observed", "source": held["source"], "value": value}
        else:
            node[last] = copy.deepcopy(value)

    return change


def hidden(path: str) -> Change:
    """Make an observation unavailable."""
    return put(path, {"status": "unavailable", "source": "nowhere", "reason": "it could not be looked at"})


def mode(name: str) -> Change:
    def change(predicate: Doc) -> None:
        predicate["case"]["mode"] = predicate["distributed"]["requested"]["mode"] = name
        predicate["distributed"]["observed"]["mode"]["value"] = name

    return change


def asked_gpu(spec: str) -> Change:
    def change(predicate: Doc) -> None:
        predicate["case"]["gpu"] = predicate["hardware"]["requested"]["gpu"] = spec

    return change


def posture(name: str) -> Change:
    def change(predicate: Doc) -> None:
        predicate["case"]["compile"] = predicate["compile"]["requested"] = name
        predicate["compile"]["observed"]["posture"]["value"] = name

    return change


def torch(version: str) -> Change:
    def change(predicate: Doc) -> None:
        package = predicate["toolchain"]["packages"][0]
        package["version"]["value"], package["record_digest"]["value"] = version, "sha256:" + "7" * 64
        predicate["toolchain"]["torch_build"]["value"] = f"{version}+cu128"
        predicate["image"]["digest"]["value"] = "sha256:" + "8" * 64

    return change


def flash(digest_of: str, *, imported: bool = True) -> Change:
    def change(predicate: Doc) -> None:
        package = next(each for each in predicate["toolchain"]["packages"] if each["name"] == "flash-attn")
        for name, value in (
            ("version", "2.8.3"),
            ("record_digest", "sha256:" + digest_of * 64),
            ("imported", imported),
        ):
            package[name] = {"status": "observed", "source": "importlib.metadata", "value": value}

    return change


def case_of(**fields: Any) -> Change:
    def change(predicate: Doc) -> None:
        predicate["case"] |= fields
        settled(predicate)

    return change


def finding(kind: str, severity: str = "caveat") -> Change:
    def change(predicate: Doc) -> None:
        entry = {"kind": kind, "severity": severity, "summary": kind.replace("_", " "), "evidence": []}
        predicate["findings"] = [*predicate["findings"], entry]

    return change


def partly_warm(predicate: Doc) -> None:
    predicate["startup"]["state"]["value"] = "partly_warm"


def compiled_inside(predicate: Doc) -> None:
    predicate["compile"]["observed"]["last_end_step"]["value"] = 9
    finding("compiled_in_window")(predicate)


def substituted(kind: str, name: str) -> Change:
    def change(predicate: Doc) -> None:
        asked_gpu("H100:8")(predicate)
        predicate["hardware"]["observed"]["device_class"]["value"] = kind
        predicate["hardware"]["observed"]["device_names"]["value"] = [name]
        finding("gpu_substituted")(predicate)

    return change


def runs(name: str, letter: str, speeds: tuple[float, ...], *changes: Change, steps: int = 0) -> tuple[Doc, ...]:
    return tuple(
        made(name, f"{letter}{number}", *changes, speed=speed, steps=steps) for number, speed in enumerate(speeds)
    )


def scaled(speeds: tuple[float, ...], by: float) -> tuple[float, ...]:
    return tuple(speed * by for speed in speeds)


def made_failed(name: str, serial: str) -> Doc:
    """A record of the corpus whose run did not end well, under another run id."""
    doc: Doc = json.loads(_text(name))
    doc["predicate"]["run_id"] = doc["predicate"]["run_id"][:-8] + f"{serial:0>8}"
    return doc
