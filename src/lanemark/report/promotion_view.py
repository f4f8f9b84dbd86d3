"""A record of the promotion lane as a page shows it: where the candidate stands, on which rungs, on which cases. Pure.

A pass is shown beside its limits and beside the fault that the case would have noticed with the least room: a reader
sees at once whether the case could have told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lanemark.lanes.readiness import owed
from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, Group, Row, group, plain, row, shown, stated_row
from lanemark.report.headline import Headline, Receipt
from lanemark.report.lane_sections import LaneSections
from lanemark.report.quantities import count, plural, short_digest, visible
from lanemark.report.tables import TableView

Doc = Mapping[str, Any]
_MOST_OWED = 6


def promotion_sections(predicate: Doc) -> LaneSections:
    """Everything that a record of the promotion lane shows beside the common parts."""
    part = predicate["promotion"]
    return LaneSections(
        headline=headline(predicate),
        groups=(_standing(predicate), _ladder_group(part), _parity_group(part["parity"]), _witness(part)),
        figures=(_standing(predicate), _question(predicate), _witness(part), _key(part)),
        results=(_ladder(part), _parity(part["parity"]), _mutants(part["parity"]), _stops(part), _imports(part)),
    )


def headline(predicate: Doc) -> Headline:
    """The state, in the lane's words. Only a record whose word may be quoted says it as a claim."""
    part, outcome = predicate["promotion"], predicate["outcome"]
    cause = outcome.get("first_cause")
    receipt = Receipt(quotable=True, label="Receipt", reason=_words(part["state"]))
    if outcome["state"] != "ok" or not outcome["receipt"]:
        why = visible(cause["summary"]) if cause and outcome["state"] != "ok" else visible(outcome["receipt_reason"])
        receipt = Receipt(quotable=False, label="No receipt", reason=why)
    scope = part["scope"]
    subject = ", ".join((
        plain(part["candidate"]["name"]), _words(part["mode"]), plain(scope["surface"]),
        plain(value_of(scope["arch"]) or "architecture not seen"), plain(scope["dtype"]), plain(scope["direction"]),
        plural(len(predicate["case"]["promotion"]["cases"]), "case"),
    ))  # fmt: skip
    if not receipt.quotable:
        return Headline(subject, f"no verdict ({_words(part['state'])})", receipt.reason, receipt)
    figure = "ready" if part["promotion_ready"] and part["state"] == "ready" else _words(part["state"])
    return Headline(subject, figure, f"because: {visible(part['state_reason'])}", receipt)


def _words(value: str) -> str:
    return plain(value).replace("_", " ")


def _standing(predicate: Doc) -> Group:
    part = predicate["promotion"]
    missing = owed(dict(predicate))
    shown_owed = [visible(each) for each in missing[:_MOST_OWED]]
    more = len(missing) - len(shown_owed)
    return group(
        "Where it stands",
        stated_row("state", _words(part["state"])),
        stated_row("because", part["state_reason"]),
        stated_row("ready", "yes" if part["promotion_ready"] else f"no: {plural(len(missing), 'thing')} owed"),
        *(stated_row("owed" if not place else "", each) for place, each in enumerate(shown_owed)),
        *((stated_row("", f"and {more} more"),) if more > 0 else ()),
        stated_row("status", part["promotion_status"]),
        *(stated_row("rests on", each, code=True) for each in part["promoted_on"]),
        row("applies", part["candidate"]["applicable"]),
        stated_row("why", part["candidate"]["applicable_reason"]),
    )


def _ladder_group(part: Doc) -> Group:
    rows = [
        Row(_words(rung["rung"]), Cell(_rung_words(rung), "observed" if rung["held"] else "withheld"))
        for rung in part["ladder"]
    ]
    return Group("Proof ladder", tuple(rows))


def _rung_words(rung: Doc) -> str:
    return f"held: {visible(rung['reason'])}" if rung["held"] else f"not held: {visible(rung['reason'])}"


def _parity_group(parity: Sequence[Doc]) -> Group:
    if not parity:
        return group("Parity", stated_row("cases", "none was run"))
    rows = []
    for direction in ("forward", "backward"):
        some = [case for case in parity if case["direction"] == direction]
        if not some:
            continue
        passed = [case for case in some if case["verdict"] == "pass"]
        nearest = max(some, key=lambda case: case["fro"] / case["fro_limit"])
        rows.append(stated_row(direction, f"{len(passed)} of {plural(len(some), 'case')} passed"))
        rows.append(stated_row("nearest", f"{nearest['name']}: {_error(nearest)}"))
        rows += [
            stated_row(_words(case["verdict"]), f"{case['name']}: {_error(case)}")
            for case in some
            if case["verdict"] != "pass"
        ]
    return Group("Parity with float64", tuple(rows))


def _error(case: Doc) -> str:
    return f"{case['fro']:.1e} of {case['fro_limit']:.1e} allowed"


def _witness(part: Doc) -> Group:
    who = value_of(part["execute_proof"])
    if who is None:
        return group("What ran", row("execution", part["execute_proof"]))
    names = who["names"]
    seen = ", ".join(visible(name) for name in names["names"][:3]) or "none"
    return group(
        "What ran",
        stated_row("asked", who["requested"]),
        row("ran", who["actual"]),
        stated_row("names", f"{seen} ({names['state']}, level {names['level']})"),
        row("mode", who["runtime_mode"], _words),
        row(
            "canary",
            who["canary"],
            lambda bird: f"{_words(bird['verdict'])}, {count(bird['poisoned_rows'])} rows poisoned",
        ),
        row("fallback", who["fallback_reason"], _words),
    )


def _question(predicate: Doc) -> Group:
    asked, part = predicate["case"]["promotion"], predicate["promotion"]
    return group(
        "Asked of the lane",
        stated_row("candidate", asked["candidate"]),
        stated_row("matrix", asked["matrix"]),
        stated_row("cases", list(asked["cases"])),
        stated_row("wave", part["wave"]["name"]),
        stated_row("lifecycle", part["collector"]["lifecycle"]),
    )


def _key(part: Doc) -> Group:
    key = part["evidence_key"]
    return group(
        "Evidence key: any change expires it",
        stated_row("key", key["digest"], code=True),
        *(stated_row(_words(name), value, code=True) for name, value in key["components"].items()),
    )


def _ladder(part: Doc) -> TableView:
    rows = tuple(
        (
            Cell(_words(rung["rung"]), "stated"),
            Cell("held" if rung["held"] else "not held", "observed" if rung["held"] else "withheld"),
            Cell(plain(rung.get("proof_class") or "none"), "stated"),
            Cell(plain(rung["reason"]), "stated"),
            Cell(plain(rung["evidence"]), "stated"),
        )
        for rung in part["ladder"]
    )
    return TableView("Proof ladder, lowest rung first", ("rung", "held", "class", "why", "names"), rows)


def _parity(parity: Sequence[Doc]) -> TableView:
    rows = tuple(
        (
            Cell(plain(case["name"]), "stated"), Cell(plain(case["direction"]), "stated"),
            Cell(_words(case["verdict"]), "observed" if case["verdict"] == "pass" else "withheld"),
            Cell(_error(case), "observed"), Cell(f"{case['dense_fro']:.1e}", "observed"),
            Cell(f"{case['row']:.1e} of {case['row_limit']:.1e}", "observed"),
            _lse(case["lse_max_error"]),
            Cell(f"{case['repeats']} runs, {'equal bits' if case['bitwise_equal'] else 'DIFFERENT bits'}", "observed"),
            Cell(count(case["seed"]).replace(",", ""), "observed"),
        )
        for case in parity
    )  # fmt: skip
    columns = ("case", "direction", "verdict", "error", "dense path's", "worst row", "log-sum-exp", "repeats", "seed")
    return TableView("Parity with float64", columns, rows)


def _lse(error: Doc) -> Cell:
    """The log-sum-exp's error; one word where none is returned, since a reason in every line would hide the numbers."""
    return (
        Cell("none", "absent", plain(error["source"])) if error["status"] == "absent" else shown(error, "{:.1e}".format)
    )


def _mutants(parity: Sequence[Doc]) -> TableView:
    kinds = list(dict.fromkeys(mutant["name"] for case in parity for mutant in case["mutants"]))
    rows = []
    for case in parity:
        by_name = {mutant["name"]: mutant for mutant in case["mutants"]}
        line = [Cell(plain(case["name"]), "stated"), Cell(plain(case["direction"]), "stated")]
        for kind in kinds:
            mutant = by_name.get(kind)
            if mutant is None:
                line.append(Cell("not asked", "absent"))
                continue
            times = mutant["fro"] / case["fro_limit"]
            words = f"noticed, {times:.1f}× the limit" if mutant["killed"] else f"SURVIVES at {times:.1f}× the limit"
            line.append(Cell(words, "observed" if mutant["killed"] else "withheld"))
        rows.append(tuple(line))
    columns = ("case", "direction", *(_words(kind) for kind in kinds))
    return TableView("Planted faults: what each case would have noticed", columns, tuple(rows))


def _stops(part: Doc) -> TableView:
    rows = tuple(
        (
            Cell(_words(stop["rule"]), "stated"), Cell(f"{stop['limit']:g}", "stated"),
            shown(stop["broken"], lambda value: "BROKEN" if value else "not broken"),
        )
        for stop in part["stop_rules"]
    )  # fmt: skip
    return TableView("Stop rules", ("rule", "limit", "looked at"), rows)


def _imports(part: Doc) -> TableView:
    rows = tuple(
        (Cell(plain(each["module"]), "stated"), shown(each["imported"]), shown(each["error"]))
        for each in part["import_health"]
    )
    columns = ("module", "imports", "error")
    return TableView(f"Imports, apart from parity; source {short_digest_of(part)}", columns, rows)


def short_digest_of(part: Doc) -> str:
    """The candidate's source digest, short, or that it was not seen."""
    value = value_of(part["candidate"]["source_digest"])
    return "not seen" if value is None else short_digest(value)
