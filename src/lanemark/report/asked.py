"""What was asked for beside what was seen, and whether the two agree. Pure.

Agreement has four answers and not two: what could not be observed cannot be told to agree, and a request that named no
constraint cannot be broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lanemark.records.case import parse_gpu
from lanemark.records.errors import UsageError
from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, plain, shown, stated
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
    """Whether an observed device class satisfies a GPU specification.

    A class without a memory size (`A100`) is satisfied by any size of it. `+` allows newer classes, and nothing here
    knows which class is newer, so another class under `+` cannot be told.
    """
    if observed is None:
        return "unknown"
    try:
        spec = parse_gpu(requested)
    except UsageError:
        return "unknown"
    if spec.name == "any":
        return "unconstrained"
    seen, asked = observed.upper(), spec.name.upper()
    if seen == asked or seen.startswith(asked + "-"):
        return "same"
    return "unknown" if spec.or_better and seen != "CPU" else "differs"


def _startup(predicate: Mapping[str, Any]) -> Asked:
    """The cache policy is a request about the starting line; a finding says when the two contradict each other."""
    startup = predicate["startup"]
    contradicted = any(finding["kind"] == "cache_state_contradicted" for finding in predicate["findings"])
    seen = value_of(startup["state"])
    verdict: Agreement = "unknown" if seen is None else "differs" if contradicted else "same"
    return Asked(
        "start-up",
        stated(f"{plain(startup['declared'])} cache"),
        shown(startup["state"], lambda value: plain(value).replace("_", " ")),
        verdict,
    )


def _data(data: Mapping[str, Any]) -> Asked:
    asked = data["requested"]
    wanted = asked.get("dataset_digest")
    if asked["kind"] == "synthetic":
        return Asked(
            "data", stated("synthetic"), shown(data["path_class"]), _equal("synthetic", value_of(data["path_class"]))
        )
    seen = value_of(data["dataset_digest"])
    return Asked(
        "data",
        stated(f"shards {short_digest(wanted)}" if wanted else "shards, no digest named"),
        shown(data["dataset_digest"], lambda value: f"shards {short_digest(value)}"),
        _equal(wanted, seen) if wanted else "unknown" if seen is None else "unconstrained",
    )


def asked_rows(predicate: Mapping[str, Any]) -> tuple[Asked, ...]:
    """The whole table for one record."""
    hardware, distributed = predicate["hardware"], predicate["distributed"]
    seen, spread, compiled = hardware["observed"], distributed["observed"], predicate["compile"]
    wanted = hardware["requested"]
    return (
        Asked(
            "device", stated(wanted["gpu"]), shown(seen["device_class"]),
            gpu_agreement(wanted["gpu"], value_of(seen["device_class"])),
        ),
        Asked(
            "devices", Cell(count(wanted["nproc"]), "stated"), shown(seen["device_count"], count),
            _equal(wanted["nproc"], value_of(seen["device_count"])),
        ),
        Asked(
            "ranks", Cell(count(distributed["requested"]["world_size"]), "stated"),
            shown(spread["world_size"], count),
            _equal(distributed["requested"]["world_size"], value_of(spread["world_size"])),
        ),
        Asked(
            "mode", stated(distributed["requested"]["mode"]), shown(spread["mode"]),
            _equal(distributed["requested"]["mode"], value_of(spread["mode"])),
        ),
        Asked(
            "compile", stated(compiled["requested"]), shown(compiled["observed"]["posture"]),
            _equal(compiled["requested"], value_of(compiled["observed"]["posture"])),
        ),
        _startup(predicate),
        _data(predicate["data"]),
    )  # fmt: skip
