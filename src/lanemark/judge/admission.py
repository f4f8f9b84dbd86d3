"""Whether a record may take part in a comparison at all: its gates, looked at once. Pure.

In order: its bytes are its name's; its attempt came to an end; its lane's rules hold; it has a receipt; it consumed its
tokens; its window was steady; it was no seeding pass. Then what must be said beside it: a substituted device, a tree
with uncommitted changes, its findings.

A gate that cannot be looked at is closed: a record that lacks the observation does not pass for want of it.
"""

from __future__ import annotations

from typing import Any, Final

from lanemark.judge.facts import Facts, facts_of
from lanemark.judge.table import table_of
from lanemark.lanes.rule import Doc
from lanemark.lanes.rules import broken_rules
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.case import parse_gpu
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import UsageError
from lanemark.records.observation import value_of
from lanemark.records.statement import RECORD_VERSION
from lanemark.records.upcast import upcast
from lanemark.records.verdict import Reason

_FINAL: Final = frozenset({"ok", "error", "cancelled", "lost"})
#: Findings with a code or a row of their own: they are not said twice.
_SAID_ELSEWHERE: Final = frozenset({"gpu_substituted", "source_dirty", "compiled_in_window", "data_synthetic",
                                    "seeding_pass"})  # fmt: skip
#: Findings that say so.
_COMPILED_INSIDE: Final = frozenset({"compiled_in_window", "recompiled_after_warmup"})
_OUR_MINOR: Final = int(RECORD_VERSION.partition(".")[2])
#: What `startup.purpose` may say of a run whose figures are benchmarks (record version 1.1).
_BENCHMARKS: Final = frozenset({"benchmark", "cold_measurement", "not_compiled"})


class Admitted:
    """A record at the door of a comparison.

    Attributes:
        id: its id, or what else it is called where it has none.
        predicate: the record proper, as the JSON of its bytes. Read-only.
        lane: its lane, or "" where it names none.
        reasons: what speaks against it or must be said beside it. Their sides are all `a`.
    """

    __slots__ = ("_facts", "id", "lane", "predicate", "reasons")

    def __init__(self, record_id: str, predicate: Doc, reasons: tuple[Reason, ...]) -> None:
        self.id = record_id
        self.predicate = predicate
        lane = predicate.get("lane")
        self.lane = lane if isinstance(lane, str) else ""
        self.reasons = reasons
        self._facts: dict[tuple[str, bool], Facts] = {}

    def facts(self, metric: str, *, on_cpu: bool) -> Facts:
        """Its fields for one metric. Read once and kept."""
        key = (metric, on_cpu)
        found = self._facts.get(key)
        if found is None:
            found = self._facts[key] = facts_of(
                self.predicate, table_of(self.lane, metric, on_cpu, min(self.minor, _OUR_MINOR))
            )
        return found

    @property
    def minor(self) -> int:
        """The minor version that it states; 0 where it states none."""
        return _minor(self.predicate)

    @property
    def device_class(self) -> str | None:
        """The observed class of the devices that the ranks used, or None where it was not observed."""
        seen = value_of(self.predicate.get("hardware", {}).get("observed", {}).get("device_class"))
        return seen if isinstance(seen, str) else None


def _minor(predicate: Doc) -> int:
    _, _, text = str(predicate.get("record_version")).partition(".")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0


def _as_today(predicate: Doc) -> Doc:
    """The predicate as this version reads it, which is how its rules want it. What is compared stays as it was."""
    minor = _minor(predicate)
    if minor >= _OUR_MINOR:
        return predicate
    today: Doc = upcast({"predicate": predicate}, minor=minor, to=_OUR_MINOR)["predicate"]
    return today


def admit(
    record_id: str,
    data: bytes,
    *,
    unsteady: str | None = None,
    tampered: str | None = None,
    unaudited: str | None = None,
) -> Admitted:
    """A record by its id and exact bytes. Never raises: bytes that are no record are admitted with their refusal.

    Args:
        record_id: `sha256:…`, as the ledger names it.
        data: its bytes.
        unsteady: why an audit of its raw samples found no steady state, where one was made and found so.
        tampered: why a verification of its evidence failed, where one was made and failed.
        unaudited: why an audit could not tell, where one was made and could not.
    """
    try:
        doc = decode(data)
    except ValueError as error:
        return Admitted(record_id, {}, (Reason("BROKEN_RULE", "block", "", "a", detail=str(error)[:120]),))
    predicate = doc.get("predicate") if isinstance(doc, dict) else None
    if not isinstance(predicate, dict):
        return Admitted(record_id, {}, (Reason("BROKEN_RULE", "block", "", "a", detail="it is no record"),))
    reasons = []
    if digest(data) != record_id:
        reasons.append(Reason("BAD_DIGEST", "block", "", "a", detail=f"they hash to {digest(data)[:19]}…"))
    if tampered is not None:
        reasons.append(Reason("BAD_EVIDENCE", "block", "evidence", "a", detail=tampered[:160]))
    if unaudited is not None:
        reasons.append(Reason("STEADINESS_UNKNOWN", "caveat", "training.window", "a", detail=unaudited))
    return admit_predicate(record_id, predicate, reasons, unsteady=unsteady)


def admit_predicate(
    record_id: str, predicate: Doc, reasons: list[Reason] | None = None, *, unsteady: str | None = None
) -> Admitted:
    """A record whose bytes were held against its name elsewhere. Never raises."""
    found = list(reasons or ())
    try:
        found += _ended(predicate)
        found += [
            Reason("BROKEN_RULE", "block", broken.rule, "a", detail=broken.problem)
            for broken in broken_rules(_as_today(predicate))
        ]
        found += _gates(predicate, unsteady)
        found += _caveats(predicate)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        found.append(Reason("BROKEN_RULE", "block", "", "a", detail=f"misses what every record has: {error}"))
    return Admitted(record_id, predicate, tuple(found))


def _ended(doc: Doc) -> list[Reason]:
    found = []
    last = doc["transitions"][-1]["state"] if doc["transitions"] else "nothing"
    if last not in _FINAL:
        found.append(Reason("UNSEALED", "block", "transitions", "a", a=str(last)))
    collector = doc[doc["lane"]].get("collector") if isinstance(doc.get(doc["lane"]), dict) else None
    if collector is not None and value_of(collector["completed_at"]) is None:
        found.append(Reason("UNSEALED", "block", f"{doc['lane']}.collector.completed_at", "a"))
    return found


def _gates(doc: Doc, unsteady: str | None) -> list[Reason]:
    found, outcome = [], doc["outcome"]
    if outcome["receipt"] is not True or outcome["state"] != "ok":
        found.append(Reason("NO_RECEIPT", "block", "outcome.receipt", "a", detail=str(outcome["receipt_reason"])[:160]))
    # A command is asked for no number of tokens, and what its ranks counted is the work that its figures rest on.
    asks = doc["lane"] == "training" and "script" not in doc["case"]
    if asks and value_of(doc["data"]["token_parity"]) is not True:
        found.append(Reason("TOKEN_PARITY_BROKEN", "block", "data.token_parity", "a"))
    why = unsteady or _compiled_inside(doc)
    if why is not None:
        found.append(Reason("NO_STEADY_STATE", "block", "training.window", "a", detail=why))
    return found + _purpose(doc)


def _compiled_inside(doc: Doc) -> str | None:
    """Why there was no steady state as far as compilations tell; None when they do not speak against it."""
    if doc["lane"] != "training":
        return None
    if any(finding["kind"] in _COMPILED_INSIDE for finding in doc["findings"]):
        return "a compilation happened inside it"
    last = doc["compile"]["observed"]["last_end_step"]
    if last["status"] == "unavailable":
        return "it is not known whether a compilation happened inside it"
    step = value_of(last)
    return (
        "a compilation happened inside it" if step is not None and step >= doc["training"]["window"]["warmup"] else None
    )


def _purpose(doc: Doc) -> list[Reason]:
    """What the run was for. Version 1.0 could not say; from 1.1 on a record that does not say is not a benchmark."""
    seen = value_of(doc["startup"].get("purpose"))
    stated = seen.get("kind") if isinstance(seen, dict) else None
    if stated is None:
        if _minor(doc) == 0 and "purpose" not in doc["startup"]:
            return []
        return [Reason("MISSING_EVIDENCE", "block", "startup.purpose", "a")]
    return (
        [] if stated in _BENCHMARKS else [Reason("SEEDING_PASS", "block", "startup.purpose", "a", a=str(stated)[:60])]
    )


def _caveats(doc: Doc) -> list[Reason]:
    found = []
    seen = doc["hardware"]["observed"]
    try:
        asked = parse_gpu(doc["case"]["gpu"])
    except UsageError:
        found.append(Reason("BROKEN_RULE", "block", "case.gpu", "a", detail="names no device"))
    else:
        fits, why = gpu_matches(asked, value_of(seen["device_class"]), value_of(seen["device_count"]))
        if fits is False:
            found.append(Reason("GPU_SUBSTITUTED", "caveat", "hardware.observed.device_class", "a", detail=why))
    for path, asked_for, observed in (
        ("distributed.observed.mode", doc["case"]["mode"], doc["distributed"]["observed"]["mode"]),
        ("compile.observed.posture", doc["case"]["compile"], doc["compile"]["observed"]["posture"]),
    ):
        if asked_for != "any" and (other := value_of(observed)) not in (None, asked_for):
            found.append(Reason("NOT_AS_REQUESTED", "caveat", path, "a", detail=f"{asked_for} asked for, {other} seen"))
    if value_of(doc["source"]["dirty"]) is True:
        found.append(Reason("UNCOMMITTED_SOURCE", "caveat", "source.dirty", "a"))
    for finding in doc["findings"]:
        kind: Any = finding["kind"]
        if finding["severity"] == "caveat" and kind not in _SAID_ELSEWHERE:
            found.append(
                Reason("RECORD_CAVEAT", "caveat", f"findings.{kind}", "a", detail=str(finding["summary"])[:160])
            )
    return found
