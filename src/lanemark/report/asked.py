"""What was asked for beside what was seen, and whether the two agree. Pure.

Agreement has four answers and not two: what could not be observed cannot be told to agree, and a request that named no
constraint cannot be broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lanemark.observe.gpu_names import gpu_matches
from lanemark.observe.path_class import contradicts as path_contradicts
from lanemark.observe.startup import contradicts
from lanemark.records.case import parse_gpu
from lanemark.records.errors import UsageError
from lanemark.records.observation import Observation, value_of
from lanemark.report.cells import Cell, plain, shown, stated
from lanemark.report.data_ranks import class_words
from lanemark.report.quantities import count, short_digest

Agreement = Literal["same", "differs", "unknown", "unconstrained"]

AGREEMENT_WORDS: Mapping[Agreement, str] = {
    "same": "as asked",
    "differs": "differs",
    "unknown": "cannot be told",
    "unconstrained": "any would do",
}


@dataclass(frozen=True)
class Asked:
    """One line of the table: what was requested, what was observed, and whether they agree."""

    label: str
    requested: Cell
    observed: Cell
    agreement: Agreement

    @property
    def words(self) -> str:
        return AGREEMENT_WORDS[self.agreement]


def _equal(requested: object, observed: object) -> Agreement:
    if observed is None:
        return "unknown"
    return "same" if observed == requested else "differs"


def gpu_agreement(requested: str, observed: str | None) -> Agreement:
    """Whether an observed device class satisfies a GPU specification; how many of them is a line of its own."""
    if observed is None:
        return "unknown"
    try:
        spec = parse_gpu(requested)
    except UsageError:
        return "unknown"
    if spec.name == "any":
        return "unconstrained"
    matches, _ = gpu_matches(replace(spec, count=None), observed, None)
    return "unknown" if matches is None else "same" if matches else "differs"


def _startup(predicate: Mapping[str, Any]) -> Asked:
    """The cache policy is a request about the starting line; `seed` promises nothing about it."""
    startup = predicate["startup"]
    declared, state = startup["declared"], Observation.from_json(startup["state"])
    said = any(finding["kind"] == "cache_state_contradicted" for finding in predicate["findings"])
    verdict: Agreement = "same"
    if said or contradicts(declared, state) is not None:
        verdict = "differs"
    elif state.value is None:
        verdict = "unknown"
    elif declared == "seed":
        verdict = "unconstrained"
    seen = shown(startup["state"], lambda value: plain(value).replace("_", " "))
    return Asked("start-up", stated(f"{plain(declared)} cache"), seen, verdict)


def _data(data: Mapping[str, Any]) -> Asked:
    asked = data["requested"]
    wanted = asked.get("dataset_digest")
    if asked["kind"] == "synthetic":
        return Asked(
            "data", stated("synthetic"), shown(data["path_class"]), _equal("synthetic", value_of(data["path_class"]))
        )
    if asked["kind"] == "own":
        return Asked(
            "data",
            stated("the command's own"),
            shown(data["path_class"], lambda value: plain(value).replace("_", " ")),
            "unconstrained",
        )
    seen = value_of(data["dataset_digest"])
    return Asked(
        "data",
        stated(f"shards {short_digest(wanted)}" if wanted else "shards, no digest named"),
        shown(data["dataset_digest"], lambda value: f"shards {short_digest(value)}"),
        _equal(wanted, seen) if wanted else "unknown" if seen is None else "unconstrained",
    )


def _path(data: Mapping[str, Any]) -> tuple[Asked, ...]:
    """The data path's class, where the run was said to have one."""
    wanted, seen = data["requested"].get("path_class"), value_of(data["path_class"])
    if wanted is None:
        return ()
    verdict: Agreement = "unknown" if seen is None else "differs" if path_contradicts(wanted, seen) else "same"
    return (Asked("data path", stated(class_words(wanted)), shown(data["path_class"], class_words), verdict),)


def _devices(hardware: Mapping[str, Any]) -> tuple[Asked, ...]:
    """The class, and one device a rank. Ranks on a CPU share the host's processor, so there the count has no line."""
    wanted, seen = hardware["requested"], hardware["observed"]
    device_class = value_of(seen["device_class"])
    device = Asked(
        "device", stated(wanted["gpu"]), shown(seen["device_class"]), gpu_agreement(wanted["gpu"], device_class)
    )
    if device_class == "cpu":
        return (device,)
    asked, found = wanted["nproc"], seen["device_count"]
    return (device, Asked("devices", stated(count(asked)), shown(found, count), _equal(asked, value_of(found))))


def _word(label: str, requested: str, observation: dict[str, Any]) -> Asked:
    seen = value_of(observation)
    agreement = "unconstrained" if requested == "any" and seen is not None else _equal(requested, seen)
    return Asked(label, stated(requested), shown(observation), agreement)


def asked_rows(predicate: Mapping[str, Any]) -> tuple[Asked, ...]:
    """The whole table for one record."""
    wanted, seen = predicate["distributed"]["requested"], predicate["distributed"]["observed"]
    ranks, compiled = wanted["world_size"], predicate["compile"]
    return (
        *_devices(predicate["hardware"]),
        Asked(
            "ranks", stated(count(ranks)), shown(seen["world_size"], count), _equal(ranks, value_of(seen["world_size"]))
        ),
        _word("mode", wanted["mode"], seen["mode"]),
        _word("compile", compiled["requested"], compiled["observed"]["posture"]),
        _startup(predicate),
        _data(predicate["data"]),
        *_path(predicate["data"]),
    )
