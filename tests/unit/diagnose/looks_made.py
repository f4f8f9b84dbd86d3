"""Looks for the tests of detectors: eight lines of a hang instead of eighty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lanemark.records.look import Depth, FlightEntry, Look, RankLook

SECOND = 1_000_000_000
LAUNCHED_NS = 1_000 * SECOND


def rank(number: int, phase: str = "collective", **changes: Any) -> RankLook:
    """A rank that has waited in its tenth collective since the third second after the launch."""
    base: dict[str, Any] = {
        "alive": True, "phase": phase, "since_ns": LAUNCHED_NS + 3 * SECOND, "step": 0, "sequence": 40,
        "collectives": 10, "compilations": 1, "compile_ns": SECOND, "process_state": "S", "children": (),
        "new_cache_files": 0, "waiting_for_data": False,
    }  # fmt: skip
    if phase == "collective":
        base["label"] = "all_gather_single"
    if phase == "compile":
        base |= {"label": "DYNAMO:0/0", "collectives": 9, "process_state": "R", "compilations": 0, "compile_ns": 0}
    return RankLook(number, **{**base, **changes})


def look(*ranks: RankLook, at_s: float = 6.0, number: int = 1, depth: Depth = "shallow", quiet_s: float = 2.0) -> Look:
    return Look(number, LAUNCHED_NS + int(at_s * SECOND), LAUNCHED_NS, quiet_s, depth, ranks)


def lasting(*ranks: RankLook, seconds: tuple[float, ...] = (5.0, 5.5, 6.0), quiet_s: float = 2.0) -> tuple[Look, ...]:
    """The same picture at several moments."""
    return tuple(look(*ranks, at_s=at, number=i, quiet_s=quiet_s) for i, at in enumerate(seconds, 1))


def growing(looks: tuple[Look, ...], number: int, counts: tuple[int, ...]) -> tuple[Look, ...]:
    """The looks, with the new cache files of one rank as counted in each."""
    return tuple(
        replace(one, ranks=tuple(replace(r, new_cache_files=count) if r.rank == number else r for r in one.ranks))
        for one, count in zip(looks, counts, strict=True)
    )


def flight(*names: str, pending: bool = True) -> tuple[FlightEntry, ...]:
    """A recorder's rows, numbered from 1; the last is not completed, unless told otherwise."""
    last = len(names)
    return tuple(
        FlightEntry(i, name, "started" if pending and i == last else "completed") for i, name in enumerate(names, 1)
    )
