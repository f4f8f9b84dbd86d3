"""The manifest of a wave: one summary over the records that it left, each by its digest. Pure.

A manifest adds nothing to what the records say and is no evidence of its own: every row is a function of one record,
so that anybody who has the records can make it again, and `lanemark promotion wave` does. It is written when the wave
is over, which is why a record cannot name the manifest it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lanemark.lanes.readiness import owed
from lanemark.records.observation import value_of
from lanemark.records.terms import RUNGS

Doc = dict[str, Any]
MANIFEST_FORMAT: Final = 1
#: What is said once beside records of a host without a device, because it is no fault of any candidate there.
NO_KERNELS: Final = (
    "on a CPU a profiler names operators and no kernels, so that what passes everything there ends as inconclusive: "
    "only a run on a device can be ready"
)


def wave_row(record_id: str, predicate: Mapping[str, Any]) -> Doc:
    """What a manifest says of one record. Raises KeyError or TypeError where it is none of the promotion lane."""
    part = predicate["promotion"]
    parity = [
        {"name": case["name"], "direction": case["direction"], "verdict": case["verdict"]} for case in part["parity"]
    ]
    return {
        "record_id": record_id,
        "run_id": predicate["run_id"],
        "candidate": part["candidate"]["name"],
        "mode": part["mode"],
        "surface": part["scope"]["surface"],
        "arch": value_of(part["scope"]["arch"]) or "unknown",
        "dtype": part["scope"]["dtype"],
        "direction": part["scope"]["direction"],
        "outcome": predicate["outcome"]["state"],
        "receipt": predicate["outcome"]["receipt"],
        "state": part["state"],
        "reason": part["state_reason"],
        "ready": part["promotion_ready"],
        "owed": len(owed(dict(predicate))),
        "rungs": [rung["rung"] for rung in part["ladder"] if rung["held"]],
        "cases": len(predicate["case"]["promotion"]["cases"]),
        "parity": parity,
        "lifecycle": part["collector"]["lifecycle"],
        "evidence_key": part["evidence_key"]["digest"],
    }


def manifest_document(
    name: str,
    preset: str,
    rows: Iterable[Doc],
    *,
    created_at: str,
    whole: bool,
    left_out: Sequence[Mapping[str, Any]] = (),
) -> Doc:
    """The manifest.

    Args:
        name: of the wave.
        preset: what was asked for.
        rows: of its records (`wave_row`), in the order in which they ran.
        created_at: RFC 3339.
        whole: whether every case of the wave was run.
        left_out: what the wave did not ask, with reasons.
    """
    listed = list(rows)
    return {
        "format": MANIFEST_FORMAT, "wave": name, "preset": preset, "created_at": created_at, "whole": whole,
        "records": listed, "left_out": [dict(each) for each in left_out], "summary": summary(listed),
    }  # fmt: skip


def summary(rows: Sequence[Mapping[str, Any]]) -> Doc:
    """How many records stand where."""
    states = [row["state"] for row in rows]
    return {
        "records": len(rows),
        "ready": sum(row["ready"] is True for row in rows),
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "detached": sum(row["lifecycle"] == "detached" for row in rows),
    }


def is_as_far_as_a_cpu_goes(arch: str, state: str, reason: str) -> bool:
    """Whether a record owes a device and nothing that could be mended where it ran."""
    return (
        arch != "unknown" and not arch.startswith("sm_") and state == "inconclusive" and reason.startswith("unobserved")
    )


def rung_marks(row: Mapping[str, Any]) -> dict[str, str]:
    """For each rung `held`, `not_asked`, `missing`, or `shown`: every case passed, over a rung that is not held."""
    held = set(row["rungs"])
    return {
        rung: "held" if rung in held
        else "not_asked" if rung == "bwd_parity" and row["direction"] == "forward"
        else "shown" if _every_case_passed(row, rung)
        else "missing"
        for rung in RUNGS
    }  # fmt: skip


def _every_case_passed(row: Mapping[str, Any], rung: str) -> bool:
    direction = {"fwd_parity": "forward", "bwd_parity": "backward"}.get(rung)
    verdicts = [case["verdict"] for case in row["parity"] if case["direction"] == direction]
    return bool(verdicts) and len(verdicts) == row.get("cases") and set(verdicts) == {"pass"}


def parity_mark(row: Mapping[str, Any], name: str) -> str:
    """The worst verdict of a case over its directions: `pass`, `fail`, `no_power`, or `not_run`."""
    found = [case["verdict"] for case in row["parity"] if case["name"] == name]
    if not found:
        return "not_run"
    return next((verdict for verdict in ("fail", "no_power") if verdict in found), "pass")


_ROW_TEXTS: Final = (
    "record_id", "run_id", "candidate", "mode", "surface", "arch", "dtype", "direction", "outcome", "state", "reason",
    "lifecycle", "evidence_key",
)  # fmt: skip


def is_manifest(doc: Any) -> bool:
    """Whether a document has a manifest's shape, so that it can be shown. Says nothing of whether it is true."""
    if not isinstance(doc, dict) or doc.get("format") != MANIFEST_FORMAT:
        return False
    texts = all(isinstance(doc.get(key), str) for key in ("wave", "preset", "created_at"))
    lists = all(isinstance(doc.get(key), list) for key in ("records", "left_out"))
    if not (texts and lists and isinstance(doc.get("whole"), bool)):
        return False
    return all(map(_is_row, doc["records"])) and all(map(_is_left_out, doc["left_out"]))


def _texts(doc: Any, keys: Sequence[str]) -> bool:
    return isinstance(doc, dict) and all(isinstance(doc.get(key), str) for key in keys)


def _is_left_out(each: Any) -> bool:
    named = _texts(each, ("candidate", "dtype", "direction", "reason"))
    return named and isinstance(each.get("case"), (str, type(None)))


def _is_row(row: Any) -> bool:
    if not (_texts(row, _ROW_TEXTS) and isinstance(row.get("ready"), bool)):
        return False
    rungs, parity = row.get("rungs"), row.get("parity")
    return (
        isinstance(rungs, list)
        and all(isinstance(rung, str) for rung in rungs)
        and isinstance(parity, list)
        and all(_texts(case, ("name", "direction", "verdict")) for case in parity)
    )


def contradicted(manifest: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Which rows of a manifest are not what their records say. `rows`: made anew, by record id."""
    out = []
    for row in manifest["records"]:
        mine = rows.get(row["record_id"])
        if mine is None:
            out.append(f"{row['record_id'][:19]} is not in the ledger")
        elif dict(mine) != dict(row):
            changed = sorted(key for key in mine if mine[key] != row.get(key))
            out.append(f"{row['record_id'][:19]}: {', '.join(changed)} is not what the record says")
    return tuple(out)
