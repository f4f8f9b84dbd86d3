"""The training lane: whole-model throughput of real training steps. Figures, receipt rule, what it never proves.

The lane answers one question: steady-state throughput of the declared window on the observed hardware. Whether the
number may be quoted at all is `receipt`, decided here from evidence that every rank left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from lanemark.lanes.data_ranks import wait_finding, windows_problem
from lanemark.lanes.figures import (
    MIN_MEASURED_STEPS,
    Steps,
    global_steps,
    percentile,
    rank_split,
    step_time,
    tokens_per_s,
)
from lanemark.lanes.first_step import first_step_of
from lanemark.lanes.presets import Preset
from lanemark.lanes.reports import AttemptFacts, RankReport, combined
from lanemark.lanes.startup import rank_cache
from lanemark.records.case import Case
from lanemark.records.errors import UsageError
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of

#: Start-up phases shown as a timeline; the measured window itself is in the samples.
_TIMELINE: Final = frozenset(
    {
        "start",
        "import",
        "init_process_group",
        "build",
        "shard",
        "prewarm",
        "load",
        "warmup",
        "compile",
        "window",
        "drain",
        "done",
    }
)
_CLOCK: Final = "samples.bin of every rank, CLOCK_MONOTONIC"


def check_window(steps: int, warmup: int) -> None:
    """Refuse a window that could not be a receipt. Raises UsageError `warmup-invalid` or `steps-too-few`."""
    if warmup < 1:
        raise UsageError(
            "warmup-invalid", f"a warm-up of {warmup} steps would measure step 0, which pays for compilation",
            "ask for --warmup 1 or more",
        )  # fmt: skip
    if steps < warmup + MIN_MEASURED_STEPS:
        raise UsageError(
            "steps-too-few",
            f"{steps} steps with {warmup} of them warm-up leave {max(0, steps - warmup)} to measure, and"
            f" {MIN_MEASURED_STEPS} is the least that is a receipt",
            f"ask for --steps {warmup + MIN_MEASURED_STEPS} or more",
        )


def rank_tokens(case: Case) -> int:
    """Tokens that each rank must consume inside the window."""
    return case.micro_batch * case.grad_accum * case.sequence * case.measured_steps


def receipt(case: Case, ranks: Sequence[RankReport], state: str, *, substituted: str | None) -> tuple[bool, str]:
    """Whether the throughput may be quoted, and why or why not. The first failing rule speaks."""
    if state != "ok":
        return False, f"the run ended as {state}"
    for report in ranks:
        if not report.clean:
            return False, f"rank {report.rank} left no clean end marker: a stall or a crash, not a receipt"
    steps = steps_of(ranks)
    if len(steps.measured_ns) < MIN_MEASURED_STEPS:
        return False, f"{len(steps.measured_ns)} measured steps are fewer than {MIN_MEASURED_STEPS}"
    if len(steps.measured_ns) != case.measured_steps:
        return False, f"{len(steps.measured_ns)} steps were measured where {case.measured_steps} were declared"
    for report in ranks:
        finite = ((report.end or {}).get("losses") or {}).get("finite")
        if value_of(finite) is not True and finite is not True:
            return False, f"rank {report.rank} saw a loss that is not finite"
    for report in ranks:
        tokens = (report.end or {}).get("tokens")
        if tokens != rank_tokens(case):
            return (
                False,
                f"rank {report.rank} consumed {tokens} tokens in the window where the case says {rank_tokens(case)}",
            )
    if wrong := windows_problem(case, ranks):
        return False, wrong
    if substituted is not None:
        return False, substituted
    return True, f"{len(steps.measured_ns)} measured steps, every rank ended cleanly, every loss finite"


def steps_of(ranks: Sequence[RankReport]) -> Steps:
    """Global steps over the ranks that recorded any; none when a rank recorded nothing at all."""
    samples = [report.samples for report in ranks if report.samples is not None]
    return global_steps(samples) if len(samples) == len(ranks) else Steps((), (), None, "host")


def _seconds(value_ns: int | None, origin_ns: int | None) -> float | None:
    return None if value_ns is None or origin_ns is None else (value_ns - origin_ns) / 1e9


def _maybe(value: Any, source: str, why: str) -> dict[str, Any]:
    made: Observation[Any] = unavailable(source, why) if value is None else observed(value, source)
    return made.to_json()


def rank_part(report: RankReport, launched_ns: int | None, host_end: dict[str, Any]) -> dict[str, Any]:
    """One entry of `training.ranks`. Times count from `launched_ns`, and are unavailable without it."""
    samples = report.samples
    why = report.samples_problem or "the rank recorded no step"
    split = rank_split(samples) if samples is not None else None
    measured = samples.rows[samples.warmup :] if samples is not None else ()
    compile_ends = [span.end_ns for span in report.spans if span.phase == "compile" and span.end_ns]
    first_end = samples.rows[0].end_ns if samples is not None and samples.rows else None
    median = percentile([(row.end_ns - row.begin_ns) / 1e9 for row in measured], 0.5) if measured else None
    tokens = (report.end or {}).get("tokens")
    spans = [
        {"phase": s.phase, "begin_s": (s.begin_ns - launched_ns) / 1e9, "end_s": (s.end_ns - launched_ns) / 1e9}
        for s in report.spans
        if launched_ns is not None and s.phase in _TIMELINE and s.end_ns is not None and s.end_ns >= s.begin_ns
    ]
    window_begin = samples.window_begin_ns if samples is not None else None
    return {
        "rank": report.rank,
        "steps_recorded": len(samples.rows) if samples is not None else 0,
        "step_p50_s": _maybe(median, "samples.bin", why if samples is None else "no measured step"),
        "data_wait_s": _maybe(split and split.data_wait_s, "samples.bin", "the window was never closed"),
        "compile_s": _maybe(
            sum(span.end_ns - span.begin_ns for span in report.spans if span.phase == "compile" and span.end_ns) / 1e9
            if report.beacon is not None
            else None,
            "beacon.page",
            "no beacon page could be read",
        ),
        "compile_end_s": _maybe(_seconds(max(compile_ends), launched_ns), "beacon.page", "the launch was not stamped")
        if compile_ends
        else absent("beacon.page", "the rank compiled nothing").to_json(),
        "window_arrival_s": _maybe(_seconds(window_begin, launched_ns), "samples.bin", "the window was never opened"),
        "first_step_s": _maybe(_seconds(first_end, launched_ns), "samples.bin", why),
        "first_step": first_step_of(report, launched_ns).to_json(),
        "cache": rank_cache(report, host_end),
        "memory_peak_bytes": _peak(report),
        "tokens": _maybe(tokens, "end.json", "the rank left no end marker"),
        "phases": spans,
    }


def _peak(report: RankReport) -> dict[str, Any]:
    memory = (report.end or {}).get("memory") or {}
    for key in ("allocated_peak_bytes", "rss_peak_bytes"):
        entry = memory.get(key)
        if isinstance(entry, dict) and entry.get("status") == "observed":
            return entry
    return unavailable("end.json", "the rank left no end marker").to_json()


def _losses(ranks: Sequence[RankReport]) -> dict[str, Any]:
    ends = [report.end for report in ranks if report.end is not None]
    why = "no rank left an end marker"

    def over(key: str) -> dict[str, Any]:
        values = [value_of(v) if isinstance(v := (end.get("losses") or {}).get(key), dict) else v for end in ends]
        numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
        if not ends:
            return unavailable("end.json", why).to_json()
        if len(numbers) < len(ends):
            return unavailable("end.json", "a rank's loss is not a finite number").to_json()
        return observed(math.fsum(numbers) / len(numbers), "end.json, mean over the ranks").to_json()

    finite: list[Any] = []
    for end in ends:
        entry = (end.get("losses") or {}).get("finite")
        finite.append(value_of(entry) if isinstance(entry, dict) else entry)
    known: Observation[bool] = (
        observed(all(value is True for value in finite), "end.json of every rank")
        if len(ends) == len(ranks)
        else unavailable("end.json", "not every rank left an end marker")
    )
    return {"first": over("first"), "last": over("last"), "finite": known.to_json()}


def split_part(ranks: Sequence[RankReport], steps: Steps) -> dict[str, Any]:
    """`training.split`: where the window went, each of its parts on the rank that spent most on it."""
    splits = [rank_split(report.samples) if report.samples is not None else None for report in ranks]
    known = [split for split in splits if split is not None]
    if len(known) < len(ranks) or steps.window_ns is None:
        empty = unavailable(_CLOCK, "not every rank closed the window").to_json()
        return {"window_s": empty, "data_wait_s": empty, "compile_s": empty, "other_s": empty}
    return {
        "window_s": observed(steps.window_ns / 1e9, _CLOCK).to_json(),
        "data_wait_s": observed(max(split.data_wait_s for split in known), _CLOCK).to_json(),
        "compile_s": observed(max(split.compile_s for split in known), _CLOCK).to_json(),
        "other_s": observed(max(split.other_s for split in known), _CLOCK).to_json(),
    }


def does_not_prove(facts: AttemptFacts, device_class: str | None, path_class: str | None) -> list[str]:
    """The sentences a reader must not read into this record, most general first."""
    case = facts.case
    said = [
        "that the sparse or the promotion lane is healthy, on this image or any other",
        f"any speed on a device class other than the one observed ({device_class or 'none was observed'})",
        f"any speed on another surface than {case.surface}, or at another size than {case.nproc} ranks",
        "a speed-up over any other record: that takes a comparison with a verdict",
        "the spread between runs: this is one run",
        f"anything about compile posture or mode other than {case.compile} and {case.mode}",
    ]
    if path_class == "synthetic":
        said.append("anything about a data path: the tokens were made up in memory")
    if device_class == "cpu":
        said.append("anything about a GPU: the ranks ran on a CPU")
    if case.preset == "diagnostic":
        said.append("the throughput of any real model: the preset is a reduced-complexity diagnostic")
    return said


def window_findings(training: dict[str, Any], ranks: Sequence[RankReport]) -> list[Finding]:
    """What a reader of the number must know about the measured window itself."""
    found = []
    compile_s, times = value_of(training["split"]["compile_s"]), value_of(training["step_time"])
    if (waited := wait_finding(ranks)) is not None:
        found.append(waited)
    if compile_s:
        text = f"a rank compiled for {compile_s:.2f} s inside the measured window"
        found.append(Finding("compiled_in_window", "caveat", text))
    if times and times["stalls"]:
        text = f"{times['stalls']} of {training['window']['measured']} measured steps took more than twice the median"
        found.append(Finding("stalls_in_window", "caveat", text))
    return found


def _closed_form(preset: Preset, case: Case, parameters: dict[str, Any]) -> tuple[Observation[int], Observation[float]]:
    """Active parameters and FLOPs per token: arithmetic over the preset, believed only when the ranks' own count of
    the model they built agrees with it. Otherwise another model ran, and the preset's numbers are not its numbers.
    """
    source = "preset's closed form, its parameter count confirmed by the ranks"
    counted = value_of(parameters)
    if counted is None:
        why = "the ranks did not report a parameter count to confirm the preset's closed form"
        return unavailable(source, why), unavailable(source, why)
    if counted != preset.num_parameters:
        why = f"the ranks counted {counted} parameters and the preset's closed form says {preset.num_parameters}"
        return unavailable(source, why), unavailable(source, why)
    return observed(preset.num_active_parameters, source), observed(
        float(preset.flops_per_token(case.sequence)), source
    )


def training_part(
    facts: AttemptFacts,
    preset: Preset,
    *,
    device_class: str | None,
    path_class: str | None,
    peak_flops: Observation[float],
    parameters: dict[str, Any],
    no_receipt: str | None,
) -> dict[str, Any]:
    """The `training` part of a record (`lanemark.records.schema.TrainingPart`).

    Args:
        facts: the attempt.
        preset: the recipe that ran; its closed form gives FLOPs per token.
        device_class: the class observed, or None.
        path_class: the hot data path's class observed, or None.
        peak_flops: dense peak of one device at the case's precision, FLOP/s, with its source; or why unknown.
        parameters: the observation of the parameter count that the ranks made on the real model.
        no_receipt: why the throughput may not be quoted, or None when it may. Raw samples are kept either way.
    """
    case, steps = facts.case, steps_of(facts.ranks)
    measured = steps.measured_ns
    why = no_receipt or "no step was measured by every rank"
    complete = bool(measured) and sum(measured) > 0
    source = f"{_CLOCK}; {steps.clock} clock"
    rate = tokens_per_s(case.tokens_per_step, measured) if complete and no_receipt is None else None
    active, flops = _closed_form(preset, case, parameters)
    if rate is None:
        mfu: Observation[Any] = unavailable("training.mfu", why)
    elif peak_flops.value is None:
        mfu = unavailable(peak_flops.source, peak_flops.reason or "the device's peak is not known")
    elif flops.value is None:
        mfu = unavailable(flops.source, flops.reason or "FLOPs per token are not known")
    else:
        mfu = observed(rate * flops.value / (peak_flops.value * case.nproc), f"{peak_flops.source}; {flops.source}")
    return {
        "window": {"steps": case.steps, "warmup": case.warmup, "measured": case.measured_steps},
        "tokens_per_step": case.tokens_per_step,
        "tokens_per_s": _maybe(rate, source, why),
        "step_time": observed(step_time(measured), source).to_json()
        if complete
        else unavailable(source, why).to_json(),
        "samples": {"unit": "ns", "warmup": list(steps.warmup_ns), "measured": list(measured)},
        "split": split_part(facts.ranks, steps),
        "ranks": [rank_part(report, facts.launched_ns, facts.host_end) for report in facts.ranks],
        "memory": {
            key: combined(facts.ranks, "memory", key, max)
            for key in ("allocated_peak_bytes", "reserved_peak_bytes", "rss_peak_bytes")
        },
        "loss": _losses(facts.ranks),
        "model": {
            "parameters": parameters,
            "parameters_active": active.to_json(),
            "flops_per_token": flops.to_json(),
        },
        "mfu": mfu.to_json(),
        "does_not_prove": does_not_prove(facts, device_class, path_class),
    }
