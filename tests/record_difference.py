"""Two records of the same question on two surfaces, path by path: everything is equal, but for what is listed here.

A path is written with slashes: `training/ranks/0/step_p50_s/value`. Elements of a list go by their `name` where they have
one, else by their place. In a pattern `*` stands for one part, `**` for all that follow. Every pattern comes with why the
two may differ there; a path that no pattern names must be there in both and hold the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Both have the path, with a value of the same kind; the values are of another moment or another process.
MEASURED = {
    "run_id": "each attempt has its own",
    "times/*": "when it was prepared and sealed",
    "times/duration_s/value": "how long it took",
    "outcome/ranks/*/pid": "a process id; a container has its own numbers",
    "startup/host_uptime_s/value": "a clock",
    "startup/clocks/container_age_s/value": "a clock; the host of the local run is a container as well, and older",
    "startup/time_to_first_step_s/value": "a time",
    "data/paths/*/mount_point": "a container sees the same disk at another place of its own tree",
    "data/ranks/*/look_s/value": "a time",
    "data/ranks/*/io/value/rchar": "bytes read of /proc files, whose lengths vary",
    "environment/settings/PYTHONPATH/value": "where the same code lies: laid into the container, or installed here",
    "environment/settings/TORCHINDUCTOR_CACHE_DIR/value": "where the compile cache lies: a directory of the box",
    "environment/settings/TRITON_CACHE_DIR/value": "the same",
    "startup/cache_before/source": "the same, in words",
    "startup/cache_after/source": "the same, in words",
    "startup/cache_directory/value": "the same",
    "training/script/steps_per_s/value": "from times",
    "training/memory/rss_peak_bytes/value": "measured",
    "training/ranks/*/memory_peak_bytes/value": "measured",
    "training/ranks/*/data_wait_s/value": "a time",
    "training/ranks/*/first_step_s/value": "a time",
    "training/ranks/*/first_step/value/*": "times",
    "training/ranks/*/phases/*/begin_s": "a time",
    "training/ranks/*/phases/*/end_s": "a time",
    "training/ranks/*/step_p50_s/value": "a time",
    "training/ranks/*/window_arrival_s/value": "a time",
    "training/samples/*/*": "times of steps",
    "training/split/*/value": "times",
    "training/step_time/value/*": "times",
    "training/tokens_per_s/value": "from times",
    "sparse/results/*/latency/value/p50": "a time",
    "sparse/results/*/latency/value/samples/*": "times",
    "sparse/results/*/latency/value/warmup/*": "times",
    "promotion/wave/name": "each wave has its own",
    # Inputs are drawn anew in every run, so that a kernel cannot be fitted to them; the seed is in the record.
    **dict.fromkeys(
        (f"promotion/parity/*/{name}" for name in ("seed", "dense_fro", "dense_row", "fro", "row", "row_limit")),
        "drawn from the run's own seed",
    ),
    "promotion/parity/*/mutants/*/fro": "drawn from the run's own seed",
    "sparse/collector/completed_at/value": "a time",
    "promotion/collector/completed_at/value": "a time",
    "plan_digest": "the digest of the case, which names the surface",
    # Digests and sizes of files that hold times, process ids, paths or the surface's name. Logs and results of ranks
    # that hold none of these are not listed.
    **{
        f"evidence/{name}/{field}": "of a file that holds times, process ids, paths or the surface's name"
        for name in (
            "case.json", "host.json", "host_end.json", "launch.json", "exits.json", "looks.jsonl", "ranks/*/beacon.page",
            "ranks/*/samples.bin", "ranks/*/observed.json", "ranks/*/end.json", "ranks/*/result.json",
            "ranks/*/stderr.log", "stderr.log", "ranks/*/claim.json", "ranks/*/bench_telemetry.json", "ranks/*/proofs/*",
        )
        for field in ("digest", "bytes")
    },
}  # fmt: skip
#: Texts of both that are the same once one surface's name stands for the other's.
NAMED = {
    "case/surface": "what was asked",
    "surface/name": "what ran it",
    "promotion/scope/surface": "what ran it",
    "*/does_not_prove/*": "a figure proves nothing of another surface",
}
#: The surface part: what one of the two has, says in other words, or cannot know.
OF_THE_SURFACE = {
    "surface/app_id/**": "only a rented run has one",
    "surface/call_id/**": "only a rented run has one",
    "surface/virtualization/value": "how the box was told to be a container",
    "image/reference/**": "Modal tells a container the id of its image; a local run may have none",
    "image/digest/reason": "the same, in words for each kind of container",
    "environment/variables/LANEMARK_HOME": "the operator's; in a container the worker's own home is not a variable",
    "environment/variables/MODAL_*": "set in every container of the platform",
    "source/argv/*": "the command line has the words that rent",
    "source/commit/source": "seen on the launching host, since a container has no repository",
    "source/dirty/source": "the same",
    "source/repository_root/source": "the same",
    "transitions/**": "a rented run is detached before it runs; states are asserted on by themselves",
    "evidence/executions.json/*": "beginnings are counted where a container may be begun again",
    "evidence/rental.json/*": "the request that a box was rented with",
    "evidence/looks/**": "taken where nothing moved for a while, as on a busy machine",
    "sparse/collector/lifecycle": "the local run was waited for",
    "sparse/collector/last_polled_at/**": "nobody polls a run that is waited for",
    "promotion/collector/lifecycle": "the local run was waited for",
    "promotion/collector/last_polled_at/**": "nobody polls a run that is waited for",
}
#: What is found in times, and may be found in one of the two alone.
IN_TIMES = {"data/stalls/**": "stalls of a loader, with when each was and how long: a busy machine makes them"}
#: Findings that follow from times alone: on a busy machine one of the two runs may have them.
FROM_TIMES = frozenset({"stalls_in_window", "straggler", "data_wait", "clock_stepped"})
#: A probe with a time limit that a busy machine missed, in the words of `lanemark.observe`.
_MISSED = re.compile(r"did not (finish|answer) within")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Paths of two predicates where they differ and may not, each with both values."""
    left, right = (dict(_paths(_comparable(predicate))) for predicate in (one, other))
    names = (str(one["surface"]["name"]), str(other["surface"]["name"]))
    missed = [path.rpartition("/")[0] + "/" for side in (left, right) for path, value in side.items()
              if path.endswith("/reason") and _MISSED.search(str(value))]  # fmt: skip
    found = []
    for path in sorted(left.keys() | right.keys()):
        there = path in left and path in right
        values = left.get(path), right.get(path)
        if there and values[0] == values[1]:
            continue
        if _listed(path, OF_THE_SURFACE | IN_TIMES) or path.startswith(tuple(missed)):
            continue
        if there and _listed(path, MEASURED) and _kind(values[0]) == _kind(values[1]):
            continue
        if there and _listed(path, NAMED) and str(values[0]).replace(names[0], names[1]) == str(values[1]):
            continue
        shown = [repr(side[path])[:80] if path in side else "nothing" for side in (left, right)]
        found.append(f"{path}: {shown[0]} against {shown[1]}")
    return found


def _comparable(predicate: Mapping[str, Any]) -> dict[str, Any]:
    kept = [found for found in predicate["findings"] if found["kind"] not in FROM_TIMES]
    return {**predicate, "findings": kept}


def _paths(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path; an empty object or list is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _paths(inner, f"{at}/{name}" if at else str(name))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            named = isinstance(inner, Mapping) and isinstance(inner.get("name"), str) and not at.endswith("paths")
            yield from _paths(inner, f"{at}/{inner['name'] if named else place}")
    else:
        yield at, value


def _listed(path: str, patterns: Mapping[str, str]) -> bool:
    return any(re.fullmatch(_expression(pattern), path) for pattern in patterns)


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".+", "*": "[^/]+"}.get(part, re.escape(part)) for part in parts)


def _kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
