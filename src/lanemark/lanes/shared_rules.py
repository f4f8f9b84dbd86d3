"""Rules that a record of every lane must keep: what was asked for, what was seen, how it ended. Pure.

One literal table at the end; each row has its reason. The lanes' own tables are beside it, and `lanemark.lanes.rules`
asks them all.
"""

from __future__ import annotations

import re
from typing import Final

from lanemark.lanes.rule import Doc, Rule, is_ok, is_receipt, nulls, observations, short, surveyed
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.case import LANES, parse_gpu
from lanemark.records.observation import value_of
from lanemark.records.terms import WARM_STATES

#: Words that name a request. No observation's source may: a declared value never fills an observed field.
_DECLARED: Final = re.compile(
    r"\b(?:requested|declared|asked for|assumed)\b|^(?:request|case|plan|command line)$", re.IGNORECASE
)
#: The same, loosely and in plain text: in sources that have none of these, each on its line, the pattern finds nothing.
_MAYBE_DECLARED: Final = (
    "requested", "declared", "asked for", "assumed", "\nrequest\n", "\ncase\n", "\nplan\n", "\ncommand line\n",
)  # fmt: skip
_FINAL: Final = frozenset({"ok", "error", "cancelled", "lost"})
#: What only a rank can have seen. With no rank reporting, a value in one of these can only be the request again.
_RANKS_ALONE: Final = (
    ("hardware", "device_class"), ("hardware", "device_names"), ("hardware", "device_uuids"),
    ("distributed", "mode"), ("distributed", "world_size"), ("distributed", "backend"), ("compile", "posture"),
)  # fmt: skip


def _receipt_needs_ok(doc: Doc) -> str | None:
    state = doc["outcome"]["state"]
    return f"outcome.receipt is true and the run ended as {state}" if is_receipt(doc) and state != "ok" else None


def _requested_mirrors_case(doc: Doc) -> str | None:
    case = doc["case"]
    pairs = (
        ("lane", doc["lane"], case["lane"]),
        ("surface.name", doc["surface"]["name"], case["surface"]),
        ("hardware.requested.gpu", doc["hardware"]["requested"]["gpu"], case["gpu"]),
        ("hardware.requested.nproc", doc["hardware"]["requested"]["nproc"], case["nproc"]),
        ("distributed.requested.mode", doc["distributed"]["requested"]["mode"], case["mode"]),
        ("distributed.requested.world_size", doc["distributed"]["requested"]["world_size"], case["nproc"]),
        ("compile.requested", doc["compile"]["requested"], case["compile"]),
        ("startup.declared", doc["startup"]["declared"], case["cache_policy"]),
        ("data.requested", doc["data"]["requested"], case["data"]),
    )
    for name, stated, asked in pairs:
        if stated != asked:
            return f"{name} is {short(stated)} and the case asks for {short(asked)}"
    if not doc["run_id"].startswith(f"{case['lane']}-"):
        return f"run_id {doc['run_id'][:60]!r} is not of lane {case['lane']}"
    return None


def _observed_is_not_declared(doc: Doc) -> str | None:
    parts = surveyed(doc).parts
    sources = {str(each.get("source", "")) for each in parts if type(each) is dict and each.get("status") == "observed"}
    lines = "\n".join(("", *sources, "")).lower()
    if lines.isascii() and not any(words in lines for words in _MAYBE_DECLARED):
        return None
    if not any(_DECLARED.search(source) for source in sources):
        return None
    for path, seen in observations(doc, ""):
        if seen.get("status") == "observed" and _DECLARED.search(str(seen.get("source", ""))):
            return f"{path} is called observed and its source is {short(seen['source'])}"
    return None


def _substituted(doc: Doc) -> str | None:
    """Why the device observed is not the one asked for, by the same reading that seals records; None when it is."""
    seen = doc["hardware"]["observed"]
    asked = parse_gpu(doc["case"]["gpu"])
    matches, why = gpu_matches(asked, value_of(seen["device_class"]), value_of(seen["device_count"]))
    return why if matches is False else None


def _substitution_is_said(doc: Doc) -> str | None:
    why = _substituted(doc)
    said = any(finding["kind"] == "gpu_substituted" for finding in doc["findings"])
    return None if why is None or said else f"{why}, and no finding says so"


def _pinned_is_served(doc: Doc) -> str | None:
    why = _substituted(doc) if is_receipt(doc) and parse_gpu(doc["case"]["gpu"]).pinned else None
    return None if why is None else f"outcome.receipt is true for a pinned device and {why}"


def _world_is_whole(doc: Doc) -> str | None:
    seen, reporting = (
        value_of(doc["distributed"]["observed"]["world_size"]),
        doc["distributed"]["observed"]["ranks_reporting"],
    )
    nproc = doc["case"]["nproc"]
    if reporting > nproc:
        return f"{reporting} ranks reported where {nproc} were asked for"
    if is_receipt(doc) and reporting != nproc:
        return f"outcome.receipt is true and {reporting} of {nproc} ranks reported"
    if not is_ok(doc) or ("script" in doc["case"] and not is_receipt(doc)):
        return None  # a rank that died, or was never found, before it could report is what such a record is about
    return f"a world of {seen} was observed and {reporting} ranks reported" if seen not in (None, reporting) else None


def _rank_lists(doc: Doc) -> list[tuple[str, list[Doc]]]:
    """Where a record lists ranks, by lane: the ends everywhere, and the training lane's own figures."""
    lists = [("outcome.ranks", doc["outcome"]["ranks"])]
    return [*lists, ("training.ranks", doc["training"]["ranks"])] if doc["lane"] == "training" else lists


def _ok_has_every_rank(doc: Doc) -> str | None:
    if not is_ok(doc):
        return None
    expected = list(range(doc["case"]["nproc"]))
    for name, entries in _rank_lists(doc):
        found = sorted(entry["rank"] for entry in entries)
        if found != expected:
            return f"the run ended ok and {name} lists ranks {short(found)} of {len(expected)}"
    for entry in doc["outcome"]["ranks"]:
        if value_of(entry["status"]) not in (0, None) or value_of(entry["signal"]) is not None:
            return f"the run ended ok and rank {entry['rank']} did not end with status 0"
    return None


def _ranks_are_listed_once(doc: Doc) -> str | None:
    for name, entries in _rank_lists(doc):
        ranks = [entry["rank"] for entry in entries]
        if len(set(ranks)) != len(ranks) or any(rank >= doc["case"]["nproc"] for rank in ranks):
            return f"{name} lists a rank twice or one that was never asked for"
    return None


def _warm_needs_cache(doc: Doc) -> str | None:
    state, before = value_of(doc["startup"]["state"]), value_of(doc["startup"]["cache_before"])
    if state not in WARM_STATES:
        return None
    if before is None:
        return f"the start is called {state} and the cache before it was not observed"
    if not before["keys"] or not before["binaries"]:
        return f"the start is called {state} over a cache of {before['keys']} keys and {before['binaries']} binaries"
    after = value_of(doc["startup"]["cache_after"])
    if after is not None and after["digest"] != before["digest"]:
        return f"the start is called {state} and the run added to the cache"
    return None


def _cold_needs_empty_cache(doc: Doc) -> str | None:
    before = value_of(doc["startup"]["cache_before"])
    if value_of(doc["startup"]["state"]) != "cold" or before is None or not (before["keys"] or before["binaries"]):
        return None
    return f"the start is called cold over a cache of {before['keys']} keys and {before['binaries']} binaries"


def _seeded_needs_a_layer(doc: Doc) -> str | None:
    """Of a record of version 1.0 the layers are not known, and neither is where a seed came from."""
    state, layers = value_of(doc["startup"]["state"]), value_of(doc["startup"].get("layers")) or []
    used = [layer["kind"] for layer in layers if layer["outcome"] == "used"]
    if len(used) > 1:
        return f"{len(used)} layers of the seed are called used, and only the first that fits is"
    if state not in ("seeded", "image_seed") or "layers" not in doc["startup"]:
        return None
    if not used:
        return f"the start is called {state} and no layer of a seed was used"
    baked = used[0] == "image_directory"
    return (
        None if baked == (state == "image_seed") else f"the start is called {state} and the layer is of kind {used[0]}"
    )


def _purpose_is_earned(doc: Doc) -> str | None:
    startup, case = doc["startup"], doc["case"]
    purpose = value_of(startup.get("purpose"))
    if purpose is None:
        return None
    kind, compiled = purpose["kind"], case["compile"] != "eager"
    if case["compile"] == "any":
        # A command compiles or does not; only what its ranks counted tells.
        compiled = value_of(doc["compile"]["observed"]["compilations"]) != 0
        if (kind == "not_compiled") == compiled:
            return f"the purpose is {kind} and the ranks were {'' if compiled else 'not '}seen to compile"
    elif (kind == "not_compiled") == compiled:
        return f"the purpose is {kind} and the case's compile posture is {case['compile']}"
    cold = case["cache_policy"] == "cold"
    if compiled and ((kind == "cold_measurement" and not cold) or (kind == "benchmark" and cold)):
        return f"the purpose is {kind} and the case's cache policy is {case['cache_policy']}"
    before = value_of(startup["cache_before"])
    if kind == "cold_measurement" and before is not None and (before["keys"] or before["binaries"]):
        return "the run is called a cold measurement and its compile cache was not empty"
    covered = value_of(startup.get("coverage_before"))
    if kind == "benchmark" and (covered is None or not covered["covered"]):
        return "the run is called a benchmark and the cache was not seen to cover the case"
    if kind == "seeding_pass" and is_ok(doc) and not any(f["kind"] == "seeding_pass" for f in doc["findings"]):
        return "the run is a seeding pass and no finding says so"
    return None


def _coverage_is_whole(doc: Doc) -> str | None:
    seen = value_of(doc["startup"].get("coverage_before"))
    if seen is None or not seen["covered"]:
        return None
    if seen["missing"] or seen["mismatches"]:
        return "the cache is said to cover the case and something is listed as missing or changed"
    return None if seen["required"] else "the cache is said to cover the case and nothing is known to be needed"


def _minor_is_whole(doc: Doc) -> str | None:
    """What may be missing may be missing in records of version 1.0 alone, where nobody could know."""
    if not int(doc["record_version"].partition(".")[2]):
        return None
    for name in ("purpose", "layout", "layers", "coverage_before", "prewarm", "clocks"):
        if name not in doc["startup"]:
            return f"startup.{name} is missing from a record of version {doc['record_version']}"
    if doc["lane"] != "training":
        return None
    for name in () if "script" in doc["case"] else ("prewarm", "collective_timeout_s"):
        if name not in doc["case"]:
            return f"case.{name} is missing from a record of version {doc['record_version']}"
    for entry in doc["training"]["ranks"]:
        for name in ("first_step", "cache"):
            if name not in entry:
                return f"{name} of rank {entry['rank']} is missing from a record of version {doc['record_version']}"
    return None


def _eager_compiles_nothing(doc: Doc) -> str | None:
    count = value_of(doc["compile"]["observed"]["compilations"])
    if value_of(doc["startup"]["state"]) == "not_compiled" and count:
        return f"the start is called not_compiled and {count} compilations were observed"
    return None


def _synthetic_is_no_data_path(doc: Doc) -> str | None:
    data, seen = doc["data"], value_of(doc["data"]["path_class"])
    if doc["case"]["data"]["kind"] == "synthetic":
        if seen not in (None, "synthetic"):
            return f"the tokens are synthetic and a data path of class {seen} is claimed"
        if data["shards"] or data["paths"] or value_of(data["dataset_digest"]) is not None:
            return "the tokens are synthetic and shards of a data set are listed"
        return "the tokens are synthetic and the receipt does not say so" if is_receipt(doc) and seen is None else None
    return "shards were asked for and the data path is called synthetic" if seen == "synthetic" else None


def _ok_has_no_failure(doc: Doc) -> str | None:
    if not is_ok(doc):
        return None
    if doc["outcome"].get("first_cause") is not None:
        return "the run ended ok and a first cause of failure is named"
    failed = [finding["kind"] for finding in doc["findings"] if finding["severity"] == "failure"]
    return f"the run ended ok and the finding {failed[0]} is a failure" if failed else None


def _failure_names_its_cause(doc: Doc) -> str | None:
    state = doc["outcome"]["state"]
    if state in ("error", "lost") and doc["outcome"].get("first_cause") is None:
        return f"the run ended as {state} and no first cause is named (`undecided` is one)"
    return None


def _transitions_end_in_outcome(doc: Doc) -> str | None:
    states = [step["state"] for step in doc["transitions"]]
    if states[-1] != doc["outcome"]["state"]:
        return f"the last transition is to {states[-1]} and the outcome is {doc['outcome']['state']}"
    early = [state for state in states[:-1] if state in _FINAL]
    return f"the attempt went on after the final state {early[0]}" if early else None


def _transitions_go_forward(doc: Doc) -> str | None:
    seconds = [step["monotonic_s"] for step in doc["transitions"] if "monotonic_s" in step]
    return None if seconds == sorted(seconds) else "the transitions' monotonic times go backwards"


def _says_what_it_does_not_prove(doc: Doc) -> str | None:
    lane = doc["lane"]
    return None if doc[lane]["does_not_prove"] else f"{lane}.does_not_prove is empty"


def _no_null(doc: Doc) -> str | None:
    if not surveyed(doc).has_null:
        return None
    path = next(iter(nulls(doc, "")), None)
    return None if path is None else f"{path} is null, which says nothing about why there is no value"


def _scrubbed_has_no_value(doc: Doc) -> str | None:
    for setting in doc["environment"]["settings"]:
        if (setting["origin"] == "scrubbed") == ("value" in setting):
            return (
                f"environment setting {short(setting['name'])} is {setting['origin']} and its value does not fit that"
            )
    return None


def _evidence_names_are_inside(doc: Doc) -> str | None:
    names = [entry["name"] for entry in doc["evidence"]]
    if len(set(names)) != len(names):
        return "one evidence name stands twice"
    for name in names:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
            return f"the evidence name {short(name)} is not a plain path inside the attempt"
    return None


def _lane_part_alone(doc: Doc) -> str | None:
    lane = doc["lane"]
    if not isinstance(doc.get(lane), dict):
        return f"the record is of lane {short(lane)} and has no part of that name"
    others: list[str] = [name for name in LANES if name != lane and name in doc]
    others += [f"case.{name}" for name in LANES if name != lane and name in doc["case"]]
    return f"the record is of lane {lane} and carries {others[0]}" if others else None


def _observed_needs_a_probe(doc: Doc) -> str | None:
    if doc["distributed"]["observed"]["ranks_reporting"] > 0:
        return None
    for part, field in _RANKS_ALONE:
        if value_of(doc[part]["observed"][field]) is not None:
            return f"{part}.observed.{field} has a value and no rank reported anything"
    return None


#: The rules of every lane. Order is the order of reports: what may be quoted first, form last.
SHARED_RULES: Final[tuple[Rule, ...]] = (
    Rule("lane-part-alone", "A good result in one lane is no evidence for another.", _lane_part_alone),
    Rule("receipt-needs-ok", "A run that failed is no benchmark of anything.", _receipt_needs_ok),
    Rule("requested-mirrors-case", "What was asked for is the case and only the case.", _requested_mirrors_case),
    Rule("observed-is-not-declared", "A declared value never fills an observed field.", _observed_is_not_declared),
    Rule("observed-needs-a-probe", "What equals the request was perhaps only copied from it.", _observed_needs_a_probe),
    Rule("substitution-is-said", "A number from another device must not pass for this one.", _substitution_is_said),
    Rule("pinned-is-served", "A pinned class has no substitute.", _pinned_is_served),
    Rule("world-is-whole", "A number of half a world is not the world's.", _world_is_whole),
    Rule("ok-has-every-rank", "A run is ok when every rank is.", _ok_has_every_rank),
    Rule("ranks-are-listed-once", "A rank counted twice hides one that is missing.", _ranks_are_listed_once),
    Rule("warm-needs-cache", "Keys alone prove nothing: warm means that binaries were there.", _warm_needs_cache),
    Rule("cold-needs-empty-cache", "A warm start called cold makes start-up look fast.", _cold_needs_empty_cache),
    Rule("seeded-needs-a-layer", "A seed that nobody can name cannot be used again.", _seeded_needs_a_layer),
    Rule("purpose-is-earned", "A run that fills the cache is no benchmark.", _purpose_is_earned),
    Rule("coverage-is-whole", "One missing key is a compilation, and a compilation can be a hang.", _coverage_is_whole),
    Rule("eager-compiles-nothing", "A compiled run must not pass for an eager one.", _eager_compiles_nothing),
    Rule("synthetic-is-no-data-path", "Made-up tokens measure no data path.", _synthetic_is_no_data_path),
    Rule("ok-has-no-failure", "A record that says both cannot be believed in either.", _ok_has_no_failure),
    Rule("failure-names-its-cause", "A failure without a cause cannot be acted upon.", _failure_names_its_cause),
    Rule("transitions-end-in-outcome", "The outcome is where the attempt's life ended.", _transitions_end_in_outcome),
    Rule("transitions-go-forward", "A monotonic clock does not step back.", _transitions_go_forward),
    Rule("says-what-it-does-not-prove", "A number is quoted with its limits.", _says_what_it_does_not_prove),
    Rule("minor-is-whole", "What is left out of a record is not doubted by its reader.", _minor_is_whole),
    Rule("no-null", "No value stands in for a failure; absence has a status and a reason.", _no_null),
    Rule("scrubbed-has-no-value", "A scrubbed variable was not set for the ranks.", _scrubbed_has_no_value),
    Rule("evidence-names-are-inside", "Evidence lies in the attempt and nowhere else.", _evidence_names_are_inside),
)
