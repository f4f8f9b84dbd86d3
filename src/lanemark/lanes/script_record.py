"""A record of a command of the user's own, from an attempt's facts. Pure.

Everything that a rank of ours would have said and a command does not say is `unavailable` with the reason, or `absent`
where we looked and there is nothing. Nothing is filled in from what was declared: a throughput needs tokens that the
ranks counted, and without them there are steps a second only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from lanemark.lanes.envelope import compilation, distributed, envelope, hardware, toolchain
from lanemark.lanes.figures import DISPUTED, MIN_MEASURED_STEPS, last_compiling_step, step_time
from lanemark.lanes.outcome import outcome_part, provenance_findings
from lanemark.lanes.reports import AttemptFacts, RankReport, agreed, combined
from lanemark.lanes.startup import startup_part
from lanemark.lanes.training import does_not_prove, rank_part, split_part, steps_of, window_findings
from lanemark.observe.gpu_names import gpu_matches
from lanemark.observe.path_class import combine
from lanemark.records.case import Case, parse_gpu
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of

_CLOCK: Final = "samples.bin of every rank, CLOCK_MONOTONIC"
_NO_RECIPE: Final = "a command of the user's own follows no recipe of ours"


def script_predicate(facts: AttemptFacts) -> dict[str, Any]:
    """The predicate of one record of a command (`lanemark.records.schema.TrainingPredicate`)."""
    case = facts.case
    devices, disagreements = hardware(facts)
    modes, more = distributed(facts)
    last_step = last_compiling_step([report.samples for report in facts.ranks if report.samples is not None])
    compiled, most = compilation(facts, last_step)
    seen = devices["observed"]
    device_class = value_of(seen["device_class"])
    matches, why_not = gpu_matches(parse_gpu(case.gpu), device_class, value_of(seen["device_count"]))
    found = [*facts.findings, *(Finding("ranks_disagree", "caveat", text) for text in (*disagreements, *more, *most))]
    pinned = None
    if matches is False:
        found.append(Finding("gpu_substituted", "caveat", why_not))
        pinned = f"the device was pinned and another was served: {why_not}" if parse_gpu(case.gpu).pinned else None
    startup, startup_findings = startup_part(facts, compiled["observed"])
    data = own_data(facts)
    can_quote, why = script_receipt(case, facts.ranks, facts.state, substituted=pinned)
    training = script_training(facts, device_class=device_class, no_receipt=None if can_quote else why)
    predicate = {
        **envelope(facts),
        "hardware": devices,
        "distributed": modes,
        "compile": compiled,
        "toolchain": toolchain(facts),
        "startup": startup,
        "data": data,
        "outcome": outcome_part(facts, can_quote, why),
        "training": training,
    }
    found += [*startup_findings, *window_findings(training, facts.ranks), *provenance_findings(predicate)]
    found += script_findings(facts, training, data)
    predicate["findings"] = [finding.to_json() for finding in found]
    return predicate


def script_receipt(case: Case, ranks: Sequence[RankReport], state: str, *, substituted: str | None) -> tuple[bool, str]:
    """Whether the figures may be quoted, and why or why not. The first failing rule speaks."""
    if state != "ok":
        return False, f"the run ended as {state}"
    for report in ranks:
        if report.claim is None:
            return False, f"rank {report.rank} was never found: the command did not start it, or it is no Python"
        taken = 0 if report.samples is None else len(report.samples.rows)
        if report.clean:
            continue
        if not taken:
            return False, f"rank {report.rank} was found and took no step: no optimizer of torch stepped, and no mark"
        if taken < case.steps:
            return False, f"rank {report.rank} took {taken} steps of the {case.steps} declared: ask for --steps {taken}"
        return False, f"rank {report.rank} took its steps and left no end marker"
    steps = steps_of(ranks)
    if len(steps.measured_ns) < MIN_MEASURED_STEPS or len(steps.measured_ns) != case.measured_steps:
        return False, f"{len(steps.measured_ns)} steps were measured where {case.measured_steps} were declared"
    for report in ranks:
        if value_of(((report.end or {}).get("losses") or {}).get("finite")) is False:
            return False, f"rank {report.rank} reported a loss that is not finite"
    ways = {value_of((report.observed or {}).get("way")) for report in ranks}
    if len(ways) != 1:
        return False, f"the ranks counted their steps in different ways ({', '.join(sorted(map(str, ways)))})"
    if substituted is not None:
        return False, substituted
    return True, f"{len(steps.measured_ns)} measured steps, every rank found, the command ended with status 0"


def script_training(facts: AttemptFacts, *, device_class: str | None, no_receipt: str | None) -> dict[str, Any]:
    """The `training` part, with `script` in it."""
    case, ranks = facts.case, facts.ranks
    steps = steps_of(ranks)
    measured = steps.measured_ns
    total_ns = sum(measured)
    why = no_receipt or "no step was measured by every rank"
    source = f"{_CLOCK}; {steps.clock} clock"
    complete = bool(measured) and total_ns > 0
    tokens = counted_tokens(ranks)
    quoted = complete and no_receipt is None
    rate: Observation[float] = unavailable(source, why)
    if quoted and tokens is None:
        rate = unavailable("end.json of every rank", "the command's ranks counted no tokens")
    elif quoted and tokens is not None:
        rate = observed(tokens / (total_ns / 1e9), f"{source}; tokens counted by the ranks")
    a_second: Observation[float] = (
        observed(len(measured) / (total_ns / 1e9), source) if quoted else unavailable(source, why)
    )
    no_recipe = absent("lanemark.lanes.presets", _NO_RECIPE).to_json()
    times: Observation[Any] = observed(step_time(measured), source) if complete else unavailable(source, why)
    part: dict[str, Any] = {
        "window": {"steps": case.steps, "warmup": case.warmup, "measured": case.measured_steps},
        "tokens_per_s": rate.to_json(),
        "step_time": times.to_json(),
        "samples": {"unit": "ns", "warmup": list(steps.warmup_ns), "measured": list(measured)},
        "split": split_part(ranks, steps),
        "ranks": [rank_part(report, facts.launched_ns, facts.host_end) for report in ranks],
        "memory": {
            key: combined(ranks, "memory", key, max)
            for key in ("allocated_peak_bytes", "reserved_peak_bytes", "rss_peak_bytes")
        },
        "loss": reported_losses(ranks),
        "model": {
            "parameters": agreed(ranks, "parameters")[0],
            "parameters_active": no_recipe,
            "flops_per_token": no_recipe,
        },
        "mfu": unavailable("training.mfu", f"{_NO_RECIPE}, so the work of a token is not known").to_json(),
        "script": script_part(facts, a_second, tokens),
        "does_not_prove": _does_not_prove(facts, device_class, tokens),
    }
    if value_of(part["script"]["measured_by"]) == "hooks":
        # The hook sees a step end; when its tokens were in hand it cannot tell, and 0 would be a guess.
        for place in (part["split"], *part["ranks"]):
            place["data_wait_s"] = unavailable(
                "samples.bin", "optimizer steps do not tell when tokens were there"
            ).to_json()
    if tokens is not None and measured and tokens % len(measured) == 0:
        part["tokens_per_step"] = tokens // len(measured)
    return part


def counted_tokens(ranks: Sequence[RankReport]) -> int | None:
    """Tokens of the window over all ranks, or None where one of them did not count."""
    counted = [(report.end or {}).get("tokens") for report in ranks]
    if not counted or not all(isinstance(count, int) for count in counted):
        return None
    return sum(count for count in counted if isinstance(count, int))


def script_part(facts: AttemptFacts, steps_per_s: Observation[float], tokens: int | None) -> dict[str, Any]:
    """`training.script`: how the command was measured."""
    case, ranks = facts.case, facts.ranks
    claims = [report.claim for report in ranks if report.claim is not None]
    declared = case.script is not None and case.script.tokens_per_step is not None
    ends = [report.exit or {} for report in ranks]
    status = next((end["command_status"] for end in ends if "command_status" in end), None)
    command: Observation[int] = unavailable("waitpid", "the supervisor saw no end of the command")
    if status is not None:
        command = observed(status, "waitpid") if status >= 0 else absent("waitpid", f"signal {-status} ended it")
    return {
        "measured_by": agreed(ranks, "way")[0],
        "tokens": "counted" if tokens is not None else "declared" if declared else "absent",
        "steps_per_s": steps_per_s.to_json(),
        "reported_tokens_per_s": reported(ranks),
        "parameter_dtypes": agreed(ranks, "parameter_dtypes")[0],
        "ranks_found": len(claims),
        "found_by": sorted({str(claim["found_by"]) for claim in claims}),
        "restarts": max((int(claim["life"]) for claim in claims), default=0),
        "command_status": command.to_json(),
    }


def reported_losses(ranks: Sequence[RankReport]) -> dict[str, Any]:
    """`training.loss` from what ranks told: the mean over those that did, which is often rank 0 alone."""
    source = "lanemark.note"
    words = [(report.end or {}).get("losses") or {} for report in ranks]

    def over(key: str) -> dict[str, Any]:
        values = [value for word in words if isinstance(value := value_of(word.get(key)), (int, float))]
        if values:
            return observed(math.fsum(values) / len(values), f"{source}, mean over {len(values)} ranks").to_json()
        said = next((word[key] for word in words if isinstance(word.get(key), dict)), None)
        return said if said is not None else unavailable(source, "no rank left an end marker").to_json()

    finite = [value for word in words if (value := value_of(word.get("finite"))) is not None]
    known: Observation[bool] = unavailable(source, "the command reported no loss")
    if finite:
        known = observed(all(finite), f"{source}, every loss that was reported")
    return {"first": over("first"), "last": over("last"), "finite": known.to_json()}


def reported(ranks: Sequence[RankReport]) -> dict[str, Any]:
    """The script's own throughput: that of the first rank that reported one."""
    words = [(report.end or {}).get("reported_tokens_per_s") for report in ranks]
    said = [word for word in words if isinstance(word, dict)]
    first = next((word for word in said if word.get("status") == "observed"), None)
    if first is not None:
        return first
    return said[0] if said else unavailable("lanemark.note", "no rank left an end marker").to_json()


def own_data(facts: AttemptFacts) -> dict[str, Any]:
    """The `data` part: what the ranks were seen to have open, and that nothing identifies it."""
    own = absent("the case", "a command brings its own tokens, and nothing here identifies them").to_json()
    latest = {report.rank: _data_files(report) for report in facts.ranks}
    paths = [{"rank": rank, **entry} for rank, entries in latest.items() for entry in entries or ()]
    path_class: Observation[str]
    if paths:
        path_class = combine([entry["path_class"] for entry in paths])
    elif any(entries is None for entries in latest.values()):
        path_class = unavailable("ranks' open files", "not every rank was looked at")
    else:
        path_class = absent("ranks' open files", "no data file was open or mapped whenever they were looked at")
    total = counted_tokens(facts.ranks)
    consumed: Observation[int] = unavailable("end.json of every rank", "the command's ranks counted no tokens")
    if total is not None:
        consumed = observed(total, "end.json of every rank")
    return {
        "requested": {"kind": facts.case.data.kind},
        "dataset_digest": own,
        "tokenizer_digest": own,
        "manifest_verified": own,
        "shards": [],
        "path_class": path_class.to_json(),
        "paths": paths,
        "tokens_consumed": consumed.to_json(),
        "token_parity": absent("the case", "it asks a command for no number of tokens").to_json(),
    }


def _data_files(report: RankReport) -> list[dict[str, Any]] | None:
    for doc in (report.end, report.observed):
        if doc is not None and isinstance(doc.get("data_files"), list):
            return [entry for entry in doc["data_files"] if isinstance(entry, dict)]
    return None


def script_findings(facts: AttemptFacts, training: dict[str, Any], data: dict[str, Any]) -> list[Finding]:
    """What a reader must know of a command's record that the reference stack's never needs."""
    found = []
    script = training["script"]
    if script["ranks_found"]:
        found.append(Finding("data_own", "caveat", "the command brought its own tokens, and nothing identifies them"))
    if data["path_class"].get("value") in ("object_mount", "network_volume"):
        words = {"object_mount": "an object-store mount", "network_volume": "a network volume"}
        where = words[data["path_class"]["value"]]
        found.append(Finding("data_path_remote", "caveat", f"the ranks read their tokens through {where}"))
    if script["ranks_found"] and training["loss"]["finite"]["status"] != "observed":
        found.append(Finding("loss_unseen", "caveat", "the command reported no loss, so nobody saw whether it trained"))
    if script["restarts"]:
        times = "once" if script["restarts"] == 1 else f"{script['restarts']} times"
        text = f"ranks were started again {times} after they had taken steps; the figures are of their last life"
        found.append(Finding("restarted", "caveat", text))
    said, measured = value_of(script["reported_tokens_per_s"]), value_of(training["tokens_per_s"])
    if said is not None and measured is not None and abs(said - measured) > DISPUTED * measured:
        text = f"the script reports {said:,.0f} tok/s and {measured:,.0f} were measured"
        found.append(Finding("figure_disputed", "caveat", text))
    declared = facts.case.script.tokens_per_step if facts.case.script is not None else None
    counted = training.get("tokens_per_step")
    if declared is not None and counted is not None and declared != counted:
        text = f"{declared:,} tokens a step were declared and {counted:,} were counted"
        found.append(Finding("tokens_disputed", "caveat", text))
    return found


def _does_not_prove(facts: AttemptFacts, device_class: str | None, tokens: int | None) -> list[str]:
    said = [
        line
        for line in does_not_prove(facts, device_class, None)
        if not line.startswith("anything about compile posture or mode")
    ]
    said.append("which tokens were read, and that another run of the command would read the same")
    if tokens is None:
        said.append("any number of tokens: nobody counted them, and steps of one script are no unit for another's")
    return said
