"""A record of the sparse lane as a page shows it: what ran beside what was asked for, and the witnesses. Pure.

Identity comes first and times last: a time beside the wrong name is worth less than no time. No rate is formed from a
time, because the lane shows none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, Group, Row, group, plain, row, shown, stated_row
from lanemark.report.headline import Headline, Receipt
from lanemark.report.lane_sections import LaneSections
from lanemark.report.quantities import count, duration, plural, scaled, short_digest, size, visible
from lanemark.report.tables import TableView

Result = Mapping[str, Any]


def sparse_sections(predicate: Mapping[str, Any]) -> LaneSections:
    """Everything that a record of the sparse lane shows beside the common parts."""
    part = predicate["sparse"]
    results = part["results"]
    return LaneSections(
        headline=headline(predicate),
        groups=(*(_case_group(name, found) for name, found in _by_case(results)), _worker(part)),
        figures=(_question(predicate["case"]["sparse"]), _worker(part)),
        results=(_identities(results), _figures(results), _witnesses(results)),
    )


def headline(predicate: Mapping[str, Any]) -> Headline:
    """How many of the calls ran what was asked for; and whether that may be quoted."""
    case, outcome, part = predicate["case"], predicate["outcome"], predicate["sparse"]
    cause = outcome.get("first_cause")
    receipt = Receipt(quotable=True, label="Receipt", reason=visible(outcome["receipt_reason"]))
    if outcome["state"] != "ok" or not outcome["receipt"]:
        why = visible(cause["summary"]) if cause and outcome["state"] != "ok" else receipt.reason
        receipt = Receipt(quotable=False, label="No receipt", reason=why)
    device = value_of(predicate["hardware"]["observed"]["device_class"])
    subject = ", ".join(
        (
            f"case set {visible(case['preset'])}",
            plural(len(case["sparse"]["cases"]), "case"),
            plural(len(case["sparse"]["backends"]), "backend"),
            f"{plain(device) if device is not None else 'device unknown'} (requested {visible(case['gpu'])})",
        )
    )
    if not receipt.quotable:
        return Headline(subject, "no identity receipt", receipt.reason, receipt)
    told = [value_of(each["backend_identity"]["fallback_reason"]) for each in part["results"]]
    fell = [reason for reason in told if reason is not None]
    number = len(told)
    figure = f"{number - len(fell)} of {number} ran as asked"
    reasons = ", ".join(f"{visible(reason)} × {fell.count(reason)}" for reason in dict.fromkeys(fell))
    qualifier = f"with {plural(len(fell), 'fallback')} ({reasons})" if fell else "with no fallback seen"
    return Headline(subject, figure, f"{qualifier}; no training throughput follows", receipt)


def _by_case(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    names = dict.fromkeys(result["case"]["name"] for result in results)
    return [(name, [result for result in results if result["case"]["name"] == name]) for name in names]


def _shape(case: Mapping[str, Any]) -> str:
    heads = count(case["heads"]) if case["heads"] == case["kv_heads"] else f"{case['heads']} over {case['kv_heads']}"
    empty = f", {plural(case['empty_rows'], 'empty row')}" if case["empty_rows"] else ""
    return (
        f"S {case['sequence']}, topk {case['topk']}, {heads} heads of {case['head_dim']}, {plain(case['dtype'])}, "
        f"{plain(case['index_set'])}" + (f", batch {case['batch']}" if case["batch"] != 1 else "") + empty
    )


def _ran(result: Result) -> str:
    """What ran and how, in words: `gather, exact token`."""
    who = result["backend_identity"]
    actual, mode, reason = (value_of(who[name]) for name in ("actual", "runtime_mode", "fallback_reason"))
    words = "not seen" if actual is None else plain(actual)
    if mode is not None:
        words += f", {plain(mode).replace('_', ' ')}"
    return words + ("" if reason is None else f" (fallback: {plain(reason).replace('_', ' ')})")


def _case_group(name: str, results: Sequence[Result]) -> Group:
    rows = [stated_row("case", _shape(results[0]["case"]))]
    for result in results:
        seen = value_of(result["backend_identity"]["actual"]) is not None
        parts = [_ran(result), _off(result), _p50(result)]
        status = "observed" if seen else "unavailable"
        rows.append(
            Row(plain(result["backend_identity"]["requested"]), Cell(" · ".join(parts), status))  # type: ignore[arg-type]
        )
    return Group(f"What ran over {visible(name)}", tuple(rows))


def _off(result: Result) -> str:
    parity = value_of(result["parity"])
    if parity is None:
        return "held against nothing"
    return f"{'off' if parity['passed'] else 'NO PARITY, off'} by {parity['max_relative_error']:.1e}"


def _p50(result: Result) -> str:
    latency = value_of(result["latency"])
    if latency is None:
        return "not timed"
    return f"p50 {duration(latency['p50'] / 1e9)} of {len(latency['samples'])}"


def _question(asked: Mapping[str, Any]) -> Group:
    return group(
        "Asked of the lane",
        stated_row("backends", list(asked["backends"])),
        stated_row("cases", [case["name"] for case in asked["cases"]]),
        stated_row("calls", f"{plural(asked['repeats'], 'timed call')} after {count(asked['warmup'])} of warm-up"),
        stated_row("choosing indices", "in the time" if asked["indexer_timed"] else "not in the time"),
    )


def _worker(part: Mapping[str, Any]) -> Group:
    remote, collector = part["remote"], part["collector"]
    switched = [f"{each['name']}={value_of(each['value'])}" for each in part["selectors"] if value_of(each["value"])]
    return group(
        "Worker",
        row("host", remote["worker"]),
        row("arch", remote["arch"]),
        row("torch", remote["torch"]),
        stated_row("selectors", switched or f"none of {len(part['selectors'])} was set"),
        stated_row("lifecycle", collector["lifecycle"]),
        row("completed", collector["completed_at"]),
    )


def _identities(results: Sequence[Result]) -> TableView:
    def line(result: Result) -> tuple[Cell, ...]:
        who = result["backend_identity"]
        return (
            Cell(plain(result["case"]["name"]), "stated"),
            Cell(plain(who["requested"]), "stated"),
            shown(who["actual"]),
            shown(who["runtime_mode"], _words),
            shown(who["fallback_reason"], _words),
            shown(result["parity"], _parity_words),
            shown(result["no_grad"]),
        )

    columns = ("case", "asked", "ran", "mode", "fallback", "parity with float64", "no autograd")
    return TableView("Backends: what was asked for and what ran", columns, tuple(line(result) for result in results))


def _words(value: str) -> str:
    return plain(value).replace("_", " ")


def _parity_words(parity: Mapping[str, Any]) -> str:
    off = f"{parity['max_relative_error']:.1e} of {parity['tolerance']:g} allowed"
    return off if parity["passed"] else f"NONE: {off}"


def _figures(results: Sequence[Result]) -> TableView:
    def line(result: Result) -> tuple[Cell, ...]:
        case, work = result["case"], result["work"]
        return (
            Cell(plain(case["name"]), "stated"),
            Cell(_ran(result), "observed"),
            Cell(_shape(case), "stated"),
            shown(result["latency"], lambda value: f"{duration(value['p50'] / 1e9)} of {len(value['samples'])}"),
            shown(work, lambda value: count(value["valid_indices"])),
            shown(work, lambda value: scaled(value["flops"], "FLOP")),
            shown(result["memory_peak_bytes"], size),
        )

    columns = ("case", "ran", "problem", "median call", "valid indices", "work", "memory peak")
    return TableView("Isolated calls: no throughput of anything", columns, tuple(line(result) for result in results))


def _witnesses(results: Sequence[Result]) -> TableView:
    def line(result: Result) -> tuple[Cell, ...]:
        who = result["backend_identity"]
        names = who["names"]
        return (
            Cell(plain(result["case"]["name"]), "stated"),
            Cell(plain(who["requested"]), "stated"),
            Cell(f"{names['state']}, {names['level']} level", "observed", plain(names["source"])),
            Cell(", ".join(plain(name) for name in names["names"]) or "none", "observed", plain(names["source"])),
            shown(who["canary"], _canary_words),
            shown(result["indexer_digest"], short_digest),
        )

    columns = ("case", "asked", "seen", "names", "canary", "indices")
    return TableView("Witnesses: names from a profiler, and a canary", columns, tuple(line(each) for each in results))


def _canary_words(canary: Mapping[str, Any]) -> str:
    rows = plural(canary["poisoned_rows"], "row")
    return f"{_words(canary['verdict'])}: {rows} poisoned, NaN in {count(canary['nan_rows'])} outputs"
