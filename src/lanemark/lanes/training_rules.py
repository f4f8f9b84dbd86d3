"""Rules that a record of the training lane must keep: what a schema cannot say. One literal table, pure predicates.

A well-formed record can still lie: a throughput without a receipt, a mean that is not the mean of its samples, a
window that somebody moved, a compilation inside of it that nobody mentions.
"""

from __future__ import annotations

import math
from typing import Final

from lanemark.lanes.counted import window_rate, window_tokens
from lanemark.lanes.data_rules import DATA_RULES
from lanemark.lanes.figures import DISPUTED, MIN_MEASURED_STEPS, step_time
from lanemark.lanes.rule import Doc, Rule, close, is_ok, is_receipt, short
from lanemark.records.observation import value_of
from lanemark.records.terms import WARM_STATES


def _script(doc: Doc) -> Doc | None:
    """How a command of the user's own was measured; None for the reference stack."""
    script: Doc | None = doc["training"].get("script")
    return script


def _figures_need_receipt(doc: Doc) -> str | None:
    quoted = [name for name in ("tokens_per_s", "mfu") if value_of(doc["training"][name]) is not None]
    script = _script(doc)
    if script is not None and value_of(script["steps_per_s"]) is not None:
        quoted.append("script.steps_per_s")
    if quoted and not is_receipt(doc):
        return f"{' and '.join(quoted)} stated although outcome.receipt is false"
    return None


def _receipt_needs_figure(doc: Doc) -> str | None:
    script = _script(doc)
    if script is not None:
        return (
            "outcome.receipt is true and no steps per second were observed"
            if is_receipt(doc) and value_of(script["steps_per_s"]) is None
            else None
        )
    if is_receipt(doc) and value_of(doc["training"]["tokens_per_s"]) is None:
        return "outcome.receipt is true and no throughput was observed"
    return None


def _receipt_needs_samples(doc: Doc) -> str | None:
    count = len(doc["training"]["samples"]["measured"])
    if is_receipt(doc) and count < MIN_MEASURED_STEPS:
        return f"outcome.receipt is true with {count} measured steps, fewer than {MIN_MEASURED_STEPS}"
    return None


def _receipt_needs_window(doc: Doc) -> str | None:
    count, declared = len(doc["training"]["samples"]["measured"]), doc["training"]["window"]["measured"]
    if is_receipt(doc) and count != declared:
        return f"outcome.receipt is true with {count} measured steps where the window has {declared}"
    return None


def _receipt_needs_finite_loss(doc: Doc) -> str | None:
    loss = doc["training"]["loss"]
    if not is_receipt(doc):
        return None
    if _script(doc) is not None and loss["finite"]["status"] != "observed":
        # A command need not tell its loss; then a finding says that nobody looked.
        said = any(finding["kind"] == "loss_unseen" for finding in doc["findings"])
        return None if said else "outcome.receipt is true, no loss was observed, and no finding says so"
    if value_of(loss["finite"]) is not True:
        return "outcome.receipt is true and no finite loss was observed"
    return None if value_of(loss["last"]) is not None else "outcome.receipt is true and the last loss was not observed"


def _receipt_needs_end_markers(doc: Doc) -> str | None:
    unmarked = [entry["rank"] for entry in doc["outcome"]["ranks"] if entry["end_marker"] is not True]
    if is_receipt(doc) and unmarked:
        return f"outcome.receipt is true and rank {unmarked[0]} left no end marker"
    return None


def _receipt_needs_parity(doc: Doc) -> str | None:
    if is_receipt(doc) and value_of(doc["data"]["token_parity"]) is False:
        return "outcome.receipt is true and the tokens consumed are not the tokens asked for"
    return None


def _receipt_counts_tokens(doc: Doc) -> str | None:
    """Tokens that ranks counted in the window, against the case. A user's own command may count in its own way."""
    training = doc["training"]
    counted = [value_of(rank["tokens"]) for rank in training["ranks"]]
    if not is_receipt(doc) or doc["case"]["command"]:
        return None
    if any(count is None for count in counted):
        return "outcome.receipt is true and a rank's tokens were not observed"
    expected = training["tokens_per_step"] * training["window"]["measured"]
    return (
        None if sum(counted) == expected else f"the ranks consumed {sum(counted)} tokens and the window is {expected}"
    )


def _throughput_from_samples(doc: Doc) -> str | None:
    training = doc["training"]
    stated, measured = value_of(training["tokens_per_s"]), training["samples"]["measured"]
    if stated is None:
        return None
    if not measured or sum(measured) <= 0:
        return "a throughput is stated and the measured samples have no length"
    computed = window_rate(training)
    if computed is None:
        return "a throughput is stated and the command's ranks counted no tokens"
    return None if close(stated, computed) else f"tokens_per_s is {stated} and its samples give {computed}"


def _step_time_from_samples(doc: Doc) -> str | None:
    training = doc["training"]
    stated, measured = value_of(training["step_time"]), training["samples"]["measured"]
    if stated is None:
        return None
    if not measured:
        return "step times are stated without measured samples"
    for name, value in step_time(measured).items():
        if not close(stated[name], value):
            return f"step_time.{name} is {stated[name]} and its samples give {value}"
    return None


def _window_is_the_cases(doc: Doc) -> str | None:
    window, case = doc["training"]["window"], doc["case"]
    if window["warmup"] < 1:
        return "the window has no warm-up, so that step 0 is measured"
    expected = {"steps": case["steps"], "warmup": case["warmup"], "measured": case["steps"] - case["warmup"]}
    return None if window == expected else f"the window is {short(window)} and the case declares {short(expected)}"


def _samples_fit_the_window(doc: Doc) -> str | None:
    samples, window = doc["training"]["samples"], doc["training"]["window"]
    for name in ("warmup", "measured"):
        if len(samples[name]) > window[name]:
            return f"{len(samples[name])} {name} samples where the window has {window[name]}"
    return None


def _step_is_the_cases(doc: Doc) -> str | None:
    case = doc["case"]
    if _script(doc) is not None:
        return _step_is_counted(doc["training"])
    expected = case["nproc"] * case["micro_batch"] * case["grad_accum"] * case["sequence"]
    stated = doc["training"]["tokens_per_step"]
    return None if stated == expected else f"tokens_per_step is {stated} and the case gives {expected}"


def _step_is_counted(training: Doc) -> str | None:
    """A command's tokens of one step are what its ranks counted, where that divides evenly."""
    stated, tokens, steps = (
        training.get("tokens_per_step"),
        window_tokens(training),
        len(training["samples"]["measured"]),
    )
    if stated is None or (tokens is not None and stated * steps == tokens):
        return None
    return f"tokens_per_step is {stated} and the ranks counted {tokens} in {steps} steps"


def _a_script_is_whole(doc: Doc) -> str | None:
    """Case and figures agree on whether a command of the user's own ran, and each has what the other kind has not."""
    case, script = doc["case"], _script(doc)
    if ("script" in case) != (script is not None):
        return "only one of the case and the figures is of a command of the user's own"
    if script is None:
        lacking = [name for name in ("sequence", "micro_batch", "grad_accum") if name not in case]
        asked = [name for name in ("mode", "compile", "dtype") if case[name] == "any"]
        asked += ["data.kind"] if case["data"]["kind"] == "own" else []
        if lacking or asked or "tokens_per_step" not in doc["training"]:
            return f"the case leaves {(lacking + asked + ['tokens_per_step'])[0]} open, as only a command's may"
        return None
    if not case["command"]:
        return "the figures are of a command, and the case has none"
    has = [name for name in ("sequence", "micro_batch", "grad_accum", "prewarm") if name in case]
    if has:
        return f"the case pins {has[0]} of a command, which decides it itself"
    tokens = window_tokens(doc["training"])
    if (script["tokens"] == "counted") != (tokens is not None) and is_receipt(doc):
        return f"the tokens are called {script['tokens']} and the ranks counted {tokens}"
    if script["tokens"] == "declared" and "tokens_per_step" not in case["script"]:
        return "the tokens are called declared and the case declares none"
    if is_receipt(doc) and script["ranks_found"] != case["nproc"]:
        return f"outcome.receipt is true with {script['ranks_found']} of {case['nproc']} ranks found"
    return None


def _steps_per_s_from_samples(doc: Doc) -> str | None:
    script, measured = _script(doc), doc["training"]["samples"]["measured"]
    stated = None if script is None else value_of(script["steps_per_s"])
    if stated is None:
        return None
    if not measured or sum(measured) <= 0:
        return "steps a second are stated and the measured samples have no length"
    computed = len(measured) / (sum(measured) / 1e9)
    return None if close(stated, computed) else f"script.steps_per_s is {stated} and its samples give {computed}"


def _dispute_is_said(doc: Doc) -> str | None:
    """A script's own figure beside ours: where they differ, a reader has to know."""
    script = _script(doc)
    said = None if script is None else value_of(script["reported_tokens_per_s"])
    measured = value_of(doc["training"]["tokens_per_s"])
    if said is None or measured is None or abs(said - measured) <= DISPUTED * measured:
        return None
    if any(finding["kind"] == "figure_disputed" for finding in doc["findings"]):
        return None
    return f"the script reports {said:g} tok/s, {measured:g} were measured, and no finding says so"


def _mfu_needs_peak(doc: Doc) -> str | None:
    stated, device = value_of(doc["training"]["mfu"]), value_of(doc["hardware"]["observed"]["device_class"])
    if stated is None:
        return None
    if device is None or device == "cpu":
        return f"an MFU is stated for {device or 'an unobserved device'}, whose peak is not known"
    return None if 0 < stated <= 1 else f"an MFU of {stated} is not a share of a device's peak"


def _dataset_is_the_one_asked_for(doc: Doc) -> str | None:
    asked, seen = doc["case"]["data"].get("dataset_digest"), value_of(doc["data"]["dataset_digest"])
    if asked is not None and seen is not None and asked != seen and is_receipt(doc):
        return "outcome.receipt is true over another data set than the one asked for"
    return None


def _ok_measured_something(doc: Doc) -> str | None:
    """Every rank ended with status 0 and an end marker, and nothing was measured: a stall that looks healthy."""
    marked = all(entry["end_marker"] for entry in doc["outcome"]["ranks"])
    if is_ok(doc) and marked and not doc["training"]["samples"]["measured"]:
        return "the run ended ok and not one step was measured"
    return None


def _compilation_is_said(doc: Doc) -> str | None:
    last = value_of(doc["compile"]["observed"]["last_end_step"])
    if not is_receipt(doc) or last is None or last < doc["training"]["window"]["warmup"]:
        return None
    if any(finding["kind"] == "compiled_in_window" for finding in doc["findings"]):
        return None
    return f"a rank compiled during step {last}, inside the measured window, and no finding says so"


def _warm_adds_nothing(doc: Doc) -> str | None:
    state = value_of(doc["startup"]["state"])
    if state not in WARM_STATES:
        return None
    for entry in doc["training"]["ranks"]:
        cache = entry.get("cache") or {}
        if new := value_of(cache.get("new_files")):
            return f"the start is called {state} and rank {entry['rank']} left {new} new files in the cache"
        used = value_of(cache.get("used"))
        if used is not None and (missed := sum(used["misses"].values())):
            return f"the start is called {state} and {missed} lookups of rank {entry['rank']} missed"
    return None


def _first_step_sums(doc: Doc) -> str | None:
    for entry in doc["training"]["ranks"]:
        parts, whole = value_of(entry.get("first_step")), value_of(entry["first_step_s"])
        if parts is None:
            continue
        if whole is None:
            return f"the first step of rank {entry['rank']} is split and its length was not observed"
        total = math.fsum(parts.values())
        if not close(whole, total):
            return f"the parts of rank {entry['rank']}'s first step sum to {total:.6g} s and it took {whole:.6g} s"
    return None


def _prewarm_was_seen(doc: Doc) -> str | None:
    """Every rank stood in the phase, by its page; a page that could not be read shows nothing either way."""
    said = value_of(doc["startup"].get("prewarm"))
    if said is None or value_of(said["done"]) is not True:
        return None
    splits = {entry["rank"]: value_of(entry.get("first_step")) for entry in doc["training"]["ranks"]}
    known = {rank: parts for rank, parts in splits.items() if parts is not None}
    without = sorted(rank for rank, parts in known.items() if not parts["prewarm_s"])
    if without:
        return f"pre-warming is said to be done and rank {without[0]} spent no time on it"
    return None if known or not is_ok(doc) else "pre-warming is said to be done and no rank's page shows it"


#: The rules of the training lane. Order is the order of reports: what is quoted first.
TRAINING_RULES: Final[tuple[Rule, ...]] = (
    Rule("figures-need-receipt", "A number without a receipt would be quoted as one.", _figures_need_receipt),
    Rule("receipt-needs-figure", "A receipt is a receipt for a number.", _receipt_needs_figure),
    Rule("receipt-needs-samples", "The mean of two steps is a coincidence.", _receipt_needs_samples),
    Rule("receipt-needs-window", "A shorter window than declared is a window somebody chose.", _receipt_needs_window),
    Rule("receipt-needs-finite-loss", "A model that diverged did other work.", _receipt_needs_finite_loss),
    Rule("receipt-needs-end-markers", "Without one a run stalled or crashed.", _receipt_needs_end_markers),
    Rule("receipt-needs-parity", "Fewer tokens than asked for make any loop fast.", _receipt_needs_parity),
    Rule("receipt-counts-tokens", "Tokens are counted by the ranks, not by the plan.", _receipt_counts_tokens),
    Rule("ok-measured-something", "Status 0 over an empty window is not health.", _ok_measured_something),
    Rule("throughput-from-samples", "The headline is tokens ÷ mean step and nothing else.", _throughput_from_samples),
    Rule("step-time-from-samples", "Every figure can be recomputed from what was measured.", _step_time_from_samples),
    Rule("window-is-the-cases", "Nothing measured may move the edges of the window.", _window_is_the_cases),
    Rule("samples-fit-the-window", "Warm-up is kept apart and nothing is added to it.", _samples_fit_the_window),
    Rule("compilation-is-said", "There is no steady state before the last compilation.", _compilation_is_said),
    Rule("warm-adds-nothing", "Hits are counted where all is rebuilt; new files are not.", _warm_adds_nothing),
    Rule("first-step-sums", "A part that is left out is where the time went.", _first_step_sums),
    Rule("prewarm-was-seen", "A rank that did not compile beforehand compiles later.", _prewarm_was_seen),
    Rule("step-is-the-cases", "Tokens of one step follow from the case alone.", _step_is_the_cases),
    Rule("a-script-is-whole", "What a command leaves open must not be left open by others.", _a_script_is_whole),
    Rule("steps-per-s-from-samples", "Steps a second are one over the mean step.", _steps_per_s_from_samples),
    Rule("dispute-is-said", "Two figures for one thing, and one of them is wrong.", _dispute_is_said),
    Rule("mfu-needs-peak", "A share of an unknown peak is no number.", _mfu_needs_peak),
    Rule("dataset-is-asked-for", "Another data set answers another question.", _dataset_is_the_one_asked_for),
    *DATA_RULES,
)
