"""The `startup` part of a record, and what each rank used of the compile cache. Pure.

Three different things are said side by side and never mixed: what was declared (the case's policy), what the run is
good for (decided before it, from coverage), and what state it really started from (concluded after it, from files,
lookups and clocks). Where the last contradicts one of the others, a finding says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from lanemark.lanes.reports import AttemptFacts, RankReport, looked_up
from lanemark.observe.boot_clocks import NAMES as CLOCK_NAMES
from lanemark.observe.startup import Origin, contradicts, purpose_of, startup_state
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of

_CACHE: Final = "compile cache directory"
_COVERAGE: Final = "coverage of the compile cache before the run"
_USED: Final = "the rank's report of its compile cache"
_LAYERS: Final = "layers of the seed"
_LAYER_FIELDS: Final = ("source", "kind", "outcome", "reason", "files", "bytes", "seconds")
_COUNTS: Final = ("hits", "misses", "bypasses")


def startup_part(facts: AttemptFacts, compiled: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The `startup` part, and what a reader must know of it.

    Args:
        facts: the attempt.
        compiled: the record's `compile.observed`.
    """
    asked = facts.case.compile != "eager"
    if facts.case.compile == "any":  # a command compiles or does not: only what its ranks counted tells
        asked = value_of(compiled["compilations"]) != 0
    before = looked_up(facts.host, "cache_before", _CACHE)
    after = looked_up(facts.host_end, "cache_after", _CACHE)
    clocks = {name: looked_up(facts.host.get("clocks"), name, "boot clocks") for name in (*CLOCK_NAMES, "earlier_run")}
    layers = _layers(facts)
    coverage = looked_up(facts.host, "coverage_before", _COVERAGE)
    state = startup_state(
        Observation.from_json(before),
        Observation.from_json(after),
        compiled=value_of(compiled["posture"]) != "eager",
        compilations=Observation.from_json(compiled["compilations"]),
        origin=Origin(
            layers=value_of(layers) or (),
            misses=_misses(facts.ranks),
            new_files=Observation.from_json(looked_up(facts.host_end, "new_files", _CACHE)),
            time_shift_s=Observation.from_json(clocks["time_shift_s"]),
            older_ranks=_older_ranks(facts),
            earlier_run=Observation.from_json(clocks["earlier_run"]),
        ),
    )
    kind, why = purpose_of(facts.case.cache_policy, coverage, before, compiled=asked)
    cache = facts.launch.get("cache") or {}
    none = absent("launch.json", "not compiled").to_json()
    part = {
        "declared": facts.case.cache_policy,
        "state": state.to_json(),
        "purpose": observed({"kind": kind, "reason": why}, _COVERAGE).to_json(),
        "cache_directory": observed(cache["directory"], "launch.json").to_json() if "directory" in cache else none,
        "layout": observed(cache["layout"], "launch.json").to_json() if "layout" in cache else none,
        "layers": layers,
        "coverage_before": coverage,
        "cache_before": before,
        "cache_after": after,
        "prewarm": _prewarm(facts),
        "clocks": clocks,
        "host_uptime_s": looked_up(facts.host, "host_uptime_s", "/proc/uptime"),
        "time_to_first_step_s": _first_step(facts).to_json(),
    }
    return part, _findings(facts, state, kind, why)


def _findings(facts: AttemptFacts, state: Observation[str], kind: str, why: str) -> list[Finding]:
    found = []
    if kind == "seeding_pass" and facts.launch:
        found.append(Finding("seeding_pass", "caveat", f"a seeding pass, not a benchmark: {why}"[:500]))
    problem = contradicts(facts.case.cache_policy, state)
    if problem is None and kind == "benchmark" and state.value in ("cold", "partly_warm"):
        problem = f"coverage was found whole and the observed start was {state.value}"
    if problem is not None:
        found.append(Finding("cache_state_contradicted", "caveat", problem))
    return found


def _first_step(facts: AttemptFacts) -> Observation[float]:
    if not facts.case.takes_steps:
        return absent("samples.bin of every rank", "the lane takes no steps")
    firsts = [r.samples.rows[0].end_ns for r in facts.ranks if r.samples is not None and r.samples.rows]
    if firsts and facts.launched_ns is not None and len(firsts) == len(facts.ranks):
        return observed((max(firsts) - facts.launched_ns) / 1e9, "samples.bin of every rank")
    return unavailable("samples.bin of every rank", "not every rank finished a first step")


def _layers(facts: AttemptFacts) -> dict[str, Any]:
    """The layers as the launch wrote them down; a document of another shape is not believed."""
    tried = facts.host.get("layers")
    if tried is None:
        return unavailable(_LAYERS, "what was tried was never written").to_json()
    if not isinstance(tried, list) or not all(isinstance(layer, dict) for layer in tried):
        return unavailable(_LAYERS, "what was tried was written in a form that is no list of layers").to_json()
    if not tried:
        return absent(_LAYERS, "none was given").to_json()
    kept = []
    for layer in tried:
        entry = {name: layer.get(name) for name in _LAYER_FIELDS}
        entry["reason"] = entry["reason"] or entry["outcome"]
        if layer.get("digest") is not None:
            entry["digest"] = layer["digest"]
        kept.append(entry)
    return observed(kept, _LAYERS).to_json()


def _older_ranks(facts: AttemptFacts) -> tuple[int, ...]:
    """Ranks whose page was made before they were launched: a memory that was restored, not a process of this launch."""
    if facts.launched_ns is None:
        return ()
    anchors = ((report.rank, (report.beacon or {}).get("anchor_ns")) for report in facts.ranks)
    return tuple(rank for rank, anchor in anchors if isinstance(anchor, int) and anchor < facts.launched_ns)


def _prewarm(facts: AttemptFacts) -> dict[str, Any]:
    """What the ranks say of their pre-warming; done only when every rank says so."""
    source = "observed.json of every rank"
    if not facts.case.takes_steps:
        return absent(source, "the lane has no model to compile beforehand").to_json()
    words = {report.rank: (report.observed or {}).get("prewarm") for report in facts.ranks}
    said = {rank: word for rank, word in words.items() if isinstance(word, dict)}
    if not said:
        return unavailable(source, "no rank reported on pre-warming").to_json()
    first = said[min(said)]
    planned = any(entry.get("planned", entry.get("done")) is True for entry in said.values())
    done: Observation[bool] = observed(all(entry.get("done") is True for entry in said.values()), source)
    if not planned:
        done = absent(source, "it was not planned")
    elif len(said) < len(facts.ranks):
        done = unavailable(source, f"{len(said)} of {len(facts.ranks)} ranks reported")
    value = {
        "policy": facts.case.prewarm,
        "planned": planned,
        "reason": str(first.get("reason") or "no reason was given")[:500],
        "done": done.to_json(),
        "seconds": _largest(said.values(), "seconds", (int, float), source, done),
        "compilations": _largest(said.values(), "compilations", int, source, done),
    }
    return observed(value, source).to_json()


def _largest(entries: Any, key: str, kinds: Any, source: str, done: Observation[bool]) -> dict[str, Any]:
    if not done.value:
        return absent(source, "it was not done").to_json()
    values = [entry[key] for entry in entries if isinstance(entry.get(key), kinds) and entry[key] >= 0]
    if not values:
        return unavailable(source, "no rank counted it").to_json()
    largest = max(values)
    return observed(float(largest) if key == "seconds" else largest, source).to_json()


def cache_word(report: RankReport) -> Any:
    """What a rank last said of its cache: at its end, else before its window."""
    for doc in (report.end, report.observed):
        if doc is not None and "compile_cache" in doc:
            return doc["compile_cache"]
    return None


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError("not a list of names")
    return sorted(set(value))


def _lookups(value: Any) -> dict[str, int]:
    counts = {name: value[name] for name in ("fx", "aot")}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise ValueError("not counts")
    return counts


def used_cache(report: RankReport) -> dict[str, Any]:
    """What one rank used of the cache: counts and a digest. The lists themselves stay in the rank's files."""
    word = cache_word(report)
    if word is None:
        return unavailable(_USED, "the rank did not report it").to_json()
    try:
        seen = Observation.from_json(word)
        if seen.status != "observed":
            return seen.to_json()
        used: Any = seen.value
        lists = {key: _strings(used[key]) for key in ("fx", "aot", "binaries")}
        lines = "".join(f"{kind} {name}\n" for kind, names in lists.items() for name in names)
        value = {
            "fx_keys": len(lists["fx"]),
            "aot_keys": len(lists["aot"]),
            "binaries": len(lists["binaries"]),
            "digest": "sha256:" + hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest(),
            **{name: _lookups(used[name]) for name in _COUNTS},
        }
    except (ValueError, KeyError, TypeError):
        return unavailable(_USED, "it was written in a form that is no report").to_json()
    return observed(value, seen.source).to_json()


def _misses(ranks: Sequence[RankReport]) -> Observation[int]:
    """Lookups that missed, over all ranks that counted."""
    counted = [value_of(used_cache(report)) for report in ranks]
    known = [sum(used["misses"].values()) for used in counted if used is not None]
    return observed(sum(known), _USED) if known else unavailable(_USED, "no rank counted")


def rank_cache(report: RankReport, host_end: dict[str, Any]) -> dict[str, Any]:
    """`training.ranks[].cache`: the rank's own word, and beside it the files that are new, seen from outside."""
    by_rank = host_end.get("new_files_by_rank")
    listed = by_rank if isinstance(by_rank, dict) else {}
    return {"used": used_cache(report), "new_files": looked_up(listed, str(report.rank), _CACHE)}
