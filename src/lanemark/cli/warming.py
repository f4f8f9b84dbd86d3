"""The compile cache before and after a run: layers are tried, coverage is judged, the gate is passed; then it is kept.

In this order, and never another: a gate that refused before the layers were tried would refuse what a seed would have
mended, and a cache that is kept before the record is sealed could fail the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lanemark.cli.deciding import Decided
from lanemark.cli.gates import check_cache
from lanemark.cli.parsing import advise
from lanemark.collect.keeping import capture_after
from lanemark.collect.preparing import Attempt
from lanemark.collect.starting import Start, coverage_observed
from lanemark.launch.command import local_surface
from lanemark.launch.environment import apply_settings
from lanemark.observe.fingerprint import fingerprint
from lanemark.records.attempt import State
from lanemark.stage.coverage import check_coverage
from lanemark.stage.seeding import seed_cache


def warm_up_cache(decided: Decided, words: list[str]) -> Decided:
    """Try the layers, judge coverage, pass the gate. Without effect where nothing is compiled.

    Args:
        decided: the case and its placement.
        words: the arguments of `lanemark run`, for the command that a refusal suggests.

    Returns:
        The same, with what was done in `start`.

    Raises:
        GateRefused: the cache cannot be used, or does not cover a case that requires it.
    """
    from lanemark.cli.cache import filling_command

    case, placement = decided.case, decided.placement
    cache_dir = placement.cache_dir
    if cache_dir is None or case.compile == "eager":
        return decided
    cache_dir = cache_dir.absolute()
    environ = apply_settings(os.environ, local_surface(case).request(case, placement).settings)
    seen = fingerprint(environ, devices=decided.devices)
    if case.cache_policy == "cold":
        layers = [untried(source.shown, source.kind, "a cold start is measured") for source in decided.sources]
    else:
        done = seed_cache(decided.sources, cache_dir, case=case, layout=placement.cache_layout, fingerprint=seen)
        layers = [layer.to_json() for layer in done]
        for layer in done:
            advise(f"lanemark: seed {layer.source}: {layer.outcome.replace('_', ' ')}, {layer.reason}")
    coverage = check_coverage(cache_dir, case, placement.cache_layout, fingerprint=seen)
    check_cache(case, cache_dir, placement.cache_layout, coverage, remedy=filling_command(words))
    return replace(decided, start=Start(layers, coverage_observed(coverage).to_json(), seen))


def untried(source: str, kind: str, reason: str) -> dict[str, Any]:
    """The outcome of a layer that was not asked."""
    nothing = {"files": 0, "bytes": 0, "seconds": 0.0}
    return {"source": source, "kind": kind, "outcome": "not_tried", "reason": reason, **nothing}


def keeper(decided: Decided, attempt: Attempt) -> Callable[[State], str | None] | None:
    """What captures the cache after the run, where the operator said where to; else None."""
    return capture_after(
        decided.case, attempt.paths, decided.placement, capture_to=decided.capture_to,
        fingerprint=decided.start.fingerprint,
    )  # fmt: skip
