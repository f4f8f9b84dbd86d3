"""Rules that a record of the training lane must keep: what a schema cannot say. One literal table, pure predicates.

A well-formed record can still lie: a throughput without a receipt, a mean that is not the mean of its samples, a "warm"
start over an empty cache, a substituted device nobody mentions. Each rule looks at the plain JSON of a record's
predicate and answers None or the problem in one sentence. They are asked twice: by the sealing code before the bytes
are fixed, and by everyone who verifies the record later.

Rules judge one record by itself. Whether two may be compared is `lanemark.judge`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from lanemark.lanes.figures import MIN_MEASURED_STEPS, step_time, tokens_per_s
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.case import parse_gpu
from lanemark.records.observation import value_of

Doc = dict[str, Any]
#: The figures are sums of a few thousand doubles: recomputing them elsewhere agrees to far better than this.
REL_TOLERANCE: Final = 1e-9
#: Words that name a request. No observation's source may: a declared value never fills an observed field.
_DECLARED: Final = re.compile(
    r"\b(?:requested|declared|asked for|assumed)\b|^(?:request|case|plan|command line)$", re.IGNORECASE
)
#: Start-up states that say compiled code was there before the run, and so need a cache that held both kinds of file.
_NEEDS_CACHE: Final = frozenset({"warm", "seeded", "image_seed"})
_FINAL: Final = frozenset({"ok", "error", "cancelled", "lost"})


class Rule(NamedTuple):
    """One rule.

    Attributes:
        name: slug, stable.
        why: one sentence: what would be believed wrongly without it.
        check: the record's predicate to None, or to the problem in one sentence fragment.
    """

    name: str
    why: str
    check: Callable[[Doc], str | None]


class Broken(NamedTuple):
    """A rule that a record does not keep: its name, why the rule exists, and the problem found."""

    rule: str
    why: str
    problem: str


def broken_rules(predicate: Doc) -> tuple[Broken, ...]:
    """Every rule that the record breaks, in the order of the table; empty when it keeps them all.

    Never raises: a record that a rule cannot even read breaks that rule.

    Args:
        predicate: the `predicate` of the statement, as plain JSON.
    """
    broken = []
    for rule in RULES:
        try:
            problem = rule.check(predicate)
        except Exception as error:  # the document is not even shaped like a record; that is no reason to pass it
            problem = f"cannot be judged ({type(error).__name__}: {str(error)[:80]})"
        if problem is not None:
            broken.append(Broken(rule.name, rule.why, problem))
    return tuple(broken)


# -- receipt ---------------------------------------------------------------------------------------------------------


def _receipt(doc: Doc) -> bool:
    return doc["outcome"]["receipt"] is True


def _figures_need_receipt(doc: Doc) -> str | None:
    quoted = [name for name in ("tokens_per_s", "mfu") if value_of(doc["training"][name]) is not None]
    if quoted and not _receipt(doc):
        return f"{' and '.join(quoted)} stated although outcome.receipt is false"
    return None


def _receipt_needs_figure(doc: Doc) -> str | None:
    if _receipt(doc) and value_of(doc["training"]["tokens_per_s"]) is None:
        return "outcome.receipt is true and no throughput was observed"
    return None


def _receipt_needs_ok(doc: Doc) -> str | None:
    state = doc["outcome"]["state"]
    return f"outcome.receipt is true and the run ended as {state}" if _receipt(doc) and state != "ok" else None


def _receipt_needs_samples(doc: Doc) -> str | None:
    count = len(doc["training"]["samples"]["measured"])
    if _receipt(doc) and count < MIN_MEASURED_STEPS:
        return f"outcome.receipt is true with {count} measured steps, fewer than {MIN_MEASURED_STEPS}"
    return None


def _receipt_needs_window(doc: Doc) -> str | None:
    count, declared = len(doc["training"]["samples"]["measured"]), doc["training"]["window"]["measured"]
    if _receipt(doc) and count != declared:
        return f"outcome.receipt is true with {count} measured steps where the window has {declared}"
    return None


def _receipt_needs_finite_loss(doc: Doc) -> str | None:
    loss = doc["training"]["loss"]
    if not _receipt(doc):
        return None
    if value_of(loss["finite"]) is not True:
        return "outcome.receipt is true and no finite loss was observed"
    return None if value_of(loss["last"]) is not None else "outcome.receipt is true and the last loss was not observed"


def _receipt_needs_end_markers(doc: Doc) -> str | None:
    unmarked = [entry["rank"] for entry in doc["outcome"]["ranks"] if entry["end_marker"] is not True]
    if _receipt(doc) and unmarked:
        return f"outcome.receipt is true and rank {unmarked[0]} left no end marker"
    return None


def _receipt_needs_parity(doc: Doc) -> str | None:
    if _receipt(doc) and value_of(doc["data"]["token_parity"]) is False:
        return "outcome.receipt is true and the tokens consumed are not the tokens asked for"
    return None


def _receipt_counts_tokens(doc: Doc) -> str | None:
    """Tokens that ranks counted in the window, against the case. A user's own command may count in its own way."""
    training = doc["training"]
    counted = [value_of(rank["tokens"]) for rank in training["ranks"]]
    if not _receipt(doc) or doc["case"]["command"]:
        return None
    if any(count is None for count in counted):
        return "outcome.receipt is true and a rank's tokens were not observed"
    expected = training["tokens_per_step"] * training["window"]["measured"]
    return (
        None if sum(counted) == expected else f"the ranks consumed {sum(counted)} tokens and the window is {expected}"
    )


# -- figures ---------------------------------------------------------------------------------------------------------


def _close(stated: Any, computed: float) -> bool:
    return isinstance(stated, (int, float)) and math.isclose(stated, computed, rel_tol=REL_TOLERANCE, abs_tol=1e-12)


def _throughput_from_samples(doc: Doc) -> str | None:
    training = doc["training"]
    stated, measured = value_of(training["tokens_per_s"]), training["samples"]["measured"]
    if stated is None:
        return None
    if not measured or sum(measured) <= 0:
        return "a throughput is stated and the measured samples have no length"
    computed = tokens_per_s(training["tokens_per_step"], measured)
    return None if _close(stated, computed) else f"tokens_per_s is {stated} and its samples give {computed}"


def _step_time_from_samples(doc: Doc) -> str | None:
    training = doc["training"]
    stated, measured = value_of(training["step_time"]), training["samples"]["measured"]
    if stated is None:
        return None
    if not measured:
        return "step times are stated without measured samples"
    for name, value in step_time(measured).items():
        if not _close(stated[name], value):
            return f"step_time.{name} is {stated[name]} and its samples give {value}"
    return None


def _window_is_the_cases(doc: Doc) -> str | None:
    window, case = doc["training"]["window"], doc["case"]
    if window["warmup"] < 1:
        return "the window has no warm-up, so that step 0 is measured"
    expected = {"steps": case["steps"], "warmup": case["warmup"], "measured": case["steps"] - case["warmup"]}
    return None if window == expected else f"the window is {_short(window)} and the case declares {_short(expected)}"


def _samples_fit_the_window(doc: Doc) -> str | None:
    samples, window = doc["training"]["samples"], doc["training"]["window"]
    for name in ("warmup", "measured"):
        if len(samples[name]) > window[name]:
            return f"{len(samples[name])} {name} samples where the window has {window[name]}"
    return None


def _step_is_the_cases(doc: Doc) -> str | None:
    case = doc["case"]
    expected = case["nproc"] * case["micro_batch"] * case["grad_accum"] * case["sequence"]
    stated = doc["training"]["tokens_per_step"]
    return None if stated == expected else f"tokens_per_step is {stated} and the case gives {expected}"


def _mfu_needs_peak(doc: Doc) -> str | None:
    stated, device = value_of(doc["training"]["mfu"]), value_of(doc["hardware"]["observed"]["device_class"])
    if stated is None:
        return None
    if device is None or device == "cpu":
        return f"an MFU is stated for {device or 'an unobserved device'}, whose peak is not known"
    return None if 0 < stated <= 1 else f"an MFU of {stated} is not a share of a device's peak"


# -- requested and observed ------------------------------------------------------------------------------------------


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
            return f"{name} is {_short(stated)} and the case asks for {_short(asked)}"
    if not doc["run_id"].startswith(f"{case['lane']}-"):
        return f"run_id {doc['run_id'][:60]!r} is not of lane {case['lane']}"
    return None


def _observed_is_not_declared(doc: Doc) -> str | None:
    for path, seen in _observations(doc, ""):
        if seen.get("status") == "observed" and _DECLARED.search(str(seen.get("source", ""))):
            return f"{path} is called observed and its source is {_short(seen['source'])}"
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
    why = _substituted(doc) if _receipt(doc) and parse_gpu(doc["case"]["gpu"]).pinned else None
    return None if why is None else f"outcome.receipt is true for a pinned device and {why}"


def _world_is_whole(doc: Doc) -> str | None:
    seen, reporting = (
        value_of(doc["distributed"]["observed"]["world_size"]),
        doc["distributed"]["observed"]["ranks_reporting"],
    )
    nproc = doc["case"]["nproc"]
    if reporting > nproc:
        return f"{reporting} ranks reported where {nproc} were asked for"
    if _receipt(doc) and reporting != nproc:
        return f"outcome.receipt is true and {reporting} of {nproc} ranks reported"
    if doc["outcome"]["state"] != "ok":
        return None  # a rank that died before it could report is what such a record is about
    return f"a world of {seen} was observed and {reporting} ranks reported" if seen not in (None, reporting) else None


def _ok_has_every_rank(doc: Doc) -> str | None:
    if doc["outcome"]["state"] != "ok":
        return None
    expected = list(range(doc["case"]["nproc"]))
    for name, entries in (("outcome.ranks", doc["outcome"]["ranks"]), ("training.ranks", doc["training"]["ranks"])):
        found = sorted(entry["rank"] for entry in entries)
        if found != expected:
            return f"the run ended ok and {name} lists ranks {_short(found)} of {len(expected)}"
    for entry in doc["outcome"]["ranks"]:
        if value_of(entry["status"]) not in (0, None) or value_of(entry["signal"]) is not None:
            return f"the run ended ok and rank {entry['rank']} did not end with status 0"
    return None


def _ranks_are_listed_once(doc: Doc) -> str | None:
    for name, entries in (("outcome.ranks", doc["outcome"]["ranks"]), ("training.ranks", doc["training"]["ranks"])):
        ranks = [entry["rank"] for entry in entries]
        if len(set(ranks)) != len(ranks) or any(rank >= doc["case"]["nproc"] for rank in ranks):
            return f"{name} lists a rank twice or one that was never asked for"
    return None


# -- start-up and data -----------------------------------------------------------------------------------------------


def _warm_needs_cache(doc: Doc) -> str | None:
    state, before = value_of(doc["startup"]["state"]), value_of(doc["startup"]["cache_before"])
    if state not in _NEEDS_CACHE:
        return None
    if before is None:
        return f"the start is called {state} and the cache before it was not observed"
    if not before["keys"] or not before["binaries"]:
        return f"the start is called {state} over a cache of {before['keys']} keys and {before['binaries']} binaries"
    after = value_of(doc["startup"]["cache_after"])
    if state == "warm" and after is not None and after["digest"] != before["digest"]:
        return "the start is called warm and the run added to the cache"
    return None


def _cold_needs_empty_cache(doc: Doc) -> str | None:
    before = value_of(doc["startup"]["cache_before"])
    if value_of(doc["startup"]["state"]) != "cold" or before is None or not (before["keys"] or before["binaries"]):
        return None
    return f"the start is called cold over a cache of {before['keys']} keys and {before['binaries']} binaries"


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
        return "the tokens are synthetic and the receipt does not say so" if _receipt(doc) and seen is None else None
    return "shards were asked for and the data path is called synthetic" if seen == "synthetic" else None


def _dataset_is_the_one_asked_for(doc: Doc) -> str | None:
    asked, seen = doc["case"]["data"].get("dataset_digest"), value_of(doc["data"]["dataset_digest"])
    if asked is not None and seen is not None and asked != seen and _receipt(doc):
        return "outcome.receipt is true over another data set than the one asked for"
    return None


# -- outcome ---------------------------------------------------------------------------------------------------------


def _ok_has_no_failure(doc: Doc) -> str | None:
    if doc["outcome"]["state"] != "ok":
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
    return None if doc["training"]["does_not_prove"] else "training.does_not_prove is empty"


# -- form ------------------------------------------------------------------------------------------------------------


def _no_null(doc: Doc) -> str | None:
    path = next(_nulls(doc, ""), None)
    return None if path is None else f"{path} is null, which says nothing about why there is no value"


def _scrubbed_has_no_value(doc: Doc) -> str | None:
    for setting in doc["environment"]["settings"]:
        if (setting["origin"] == "scrubbed") == ("value" in setting):
            return (
                f"environment setting {_short(setting['name'])} is {setting['origin']} and its value does not fit that"
            )
    return None


def _evidence_names_are_inside(doc: Doc) -> str | None:
    names = [entry["name"] for entry in doc["evidence"]]
    if len(set(names)) != len(names):
        return "one evidence name stands twice"
    for name in names:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
            return f"the evidence name {_short(name)} is not a plain path inside the attempt"
    return None


def _observations(node: Any, path: str) -> Iterator[tuple[str, Doc]]:
    if isinstance(node, dict):
        if "status" in node and "source" in node and set(node) <= {"status", "source", "value", "reason"}:
            yield path, node
        for key, child in node.items():
            yield from _observations(child, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _observations(child, f"{path}[{place}]")


def _nulls(node: Any, path: str) -> Iterator[str]:
    if node is None:
        yield path
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _nulls(child, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _nulls(child, f"{path}[{place}]")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


#: The rules of the training lane. Order is the order of reports: what is quoted first, form last.
RULES: Final[tuple[Rule, ...]] = (
    Rule("figures-need-receipt", "A number without a receipt would be quoted as one.", _figures_need_receipt),
    Rule("receipt-needs-figure", "A receipt is a receipt for a number.", _receipt_needs_figure),
    Rule("receipt-needs-ok", "A run that failed is no benchmark of anything.", _receipt_needs_ok),
    Rule("receipt-needs-samples", "The mean of two steps is a coincidence.", _receipt_needs_samples),
    Rule("receipt-needs-window", "A shorter window than declared is a window somebody chose.", _receipt_needs_window),
    Rule("receipt-needs-finite-loss", "A model that diverged did other work.", _receipt_needs_finite_loss),
    Rule("receipt-needs-end-markers", "Without one a run stalled or crashed.", _receipt_needs_end_markers),
    Rule("receipt-needs-parity", "Fewer tokens than asked for make any loop fast.", _receipt_needs_parity),
    Rule("receipt-counts-tokens", "Tokens are counted by the ranks, not by the plan.", _receipt_counts_tokens),
    Rule("throughput-from-samples", "The headline is tokens ÷ mean step and nothing else.", _throughput_from_samples),
    Rule("step-time-from-samples", "Every figure can be recomputed from what was measured.", _step_time_from_samples),
    Rule("window-is-the-cases", "Nothing measured may move the edges of the window.", _window_is_the_cases),
    Rule("samples-fit-the-window", "Warm-up is kept apart and nothing is added to it.", _samples_fit_the_window),
    Rule("step-is-the-cases", "Tokens of one step follow from the case alone.", _step_is_the_cases),
    Rule("mfu-needs-peak", "A share of an unknown peak is no number.", _mfu_needs_peak),
    Rule("requested-mirrors-case", "What was asked for is the case and only the case.", _requested_mirrors_case),
    Rule("observed-is-not-declared", "A declared value never fills an observed field.", _observed_is_not_declared),
    Rule("substitution-is-said", "A number from another device must not pass for this one.", _substitution_is_said),
    Rule("pinned-is-served", "A pinned class has no substitute.", _pinned_is_served),
    Rule("world-is-whole", "A number of half a world is not the world's.", _world_is_whole),
    Rule("ok-has-every-rank", "A run is ok when every rank is.", _ok_has_every_rank),
    Rule("ranks-are-listed-once", "A rank counted twice hides one that is missing.", _ranks_are_listed_once),
    Rule("warm-needs-cache", "Keys alone prove nothing: warm means that binaries were there.", _warm_needs_cache),
    Rule("cold-needs-empty-cache", "A warm start called cold makes start-up look fast.", _cold_needs_empty_cache),
    Rule("eager-compiles-nothing", "A compiled run must not pass for an eager one.", _eager_compiles_nothing),
    Rule("synthetic-is-no-data-path", "Made-up tokens measure no data path.", _synthetic_is_no_data_path),
    Rule("dataset-is-asked-for", "Another data set answers another question.", _dataset_is_the_one_asked_for),
    Rule("ok-has-no-failure", "A record that says both cannot be believed in either.", _ok_has_no_failure),
    Rule("failure-names-its-cause", "A failure without a cause cannot be acted upon.", _failure_names_its_cause),
    Rule("transitions-end-in-outcome", "The outcome is where the attempt's life ended.", _transitions_end_in_outcome),
    Rule("transitions-go-forward", "A monotonic clock does not step back.", _transitions_go_forward),
    Rule("says-what-it-does-not-prove", "A number is quoted with its limits.", _says_what_it_does_not_prove),
    Rule("no-null", "No value stands in for a failure; absence has a status and a reason.", _no_null),
    Rule("scrubbed-has-no-value", "A scrubbed variable was not set for the ranks.", _scrubbed_has_no_value),
    Rule("evidence-names-are-inside", "Evidence lies in the attempt and nowhere else.", _evidence_names_are_inside),
)
