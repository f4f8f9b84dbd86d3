"""`lanemark promote ID… --because …`: the only way in which a promotion status moves. A new record is sealed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.promotion import promotion_records
from lanemark.lanes.promoting import WORDS, Said, promoted, refusal_of, refuse, rejected, scope_of, shadowed
from lanemark.lanes.rules import broken_rules
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.observe.clock import stamp
from lanemark.records.attempt import new_run_id
from lanemark.records.encoding import decode
from lanemark.records.errors import UsageError
from lanemark.records.observation import value_of
from lanemark.records.statement import seal, subjects


def main(args: list[str]) -> int:
    """Seal a person's word. Exit 0, or 1 where the named records do not support it."""
    verb = parser(
        "promote", "Promote a kernel path on the records that show it, reject it, or put it into the shadow; a record "
        "that names them is sealed.",
    )  # fmt: skip
    verb.add_argument("ids", nargs="+", metavar="ID", help="records of one candidate and scope")
    verb.add_argument("--because", required=True, metavar="WORDS", help="the reason, as it will stand in the record")
    verb.add_argument(
        "--status", default="promoted", metavar="S",
        help="promoted (default; each record is ready), rejected (one of them shows a failure, or --declared), or "
        "shadow (watched, and taking no part)",
    )  # fmt: skip
    verb.add_argument(
        "--declared", action="store_true", help="of a rejection: no record shows a failure, and the reason is yours"
    )
    verb.add_argument("--json", action="store_true", help="print the new record's id and scope as JSON")
    asked = verb.parse_args(args)
    _check_words(asked.status, declared=asked.declared)
    ledger = open_ledger(home())
    named = _named(ledger, asked.ids)
    kept_with = list(named)
    after = None
    if asked.status == "promoted" and all(doc.get("lane") == "promotion" for _, doc in named):
        after = refusal_of(promotion_records(ledger), scope_of(named[0][1]))
        kept_with += [after] if after is not None and after[0] not in dict(named) else []
    files = [(record_id, ledger.find(record_id).read_bytes()) for record_id, _ in kept_with]
    run_id = new_run_id("promotion", datetime.now(timezone.utc))
    said = Said(asked.because, run_id, stamp(), [_evidence(record_id, data) for record_id, data in files])
    if asked.status == "promoted":
        predicate = promoted(named, said, after=after)
    elif asked.status == "rejected":
        predicate = rejected(named, said, declared=asked.declared)
    else:
        predicate = shadowed(named, said)
    record = seal(
        predicate,
        subjects(
            plan_digest=predicate["plan_digest"],
            image_digest=value_of(predicate["image"]["digest"]),
            commit=value_of(predicate["source"]["commit"]),
        ),
    )
    broken = broken_rules(decode(record.data)["predicate"])
    if broken:
        raise refuse(f"the word would break the rule {broken[0].rule}: {broken[0].problem}", "report this defect")
    kept = ledger.append(record.data, [(_name(record_id), data) for record_id, data in files])
    for notice in kept.notices:
        advise(f"lanemark: {notice}")
    part = predicate["promotion"]
    scope = part["scope"]
    if asked.json:
        print_json({
            "record_id": kept.id, "run_id": run_id, "record_path": str(kept.path), "word": asked.status,
            "promotion_status": part["promotion_status"], "state": part["state"], "reason": part["state_reason"],
            "candidate": part["candidate"]["name"], "promoted_on": part["promoted_on"],
        })  # fmt: skip
    else:
        where = f"{scope['surface']}, {value_of(scope['arch'])}, {scope['dtype']}, {scope['direction']}"
        print(f"{asked.status}: {part['candidate']['name']} for {where}\nrecord {kept.id}")
    return 0


def _check_words(status: str, *, declared: bool) -> None:
    if status not in WORDS:
        raise UsageError(
            "value-invalid", f"--status {status[:40]!r} is nothing that a person can say of a candidate",
            f"use {', '.join(WORDS)}; blocked and inconclusive are what a run finds",
        )  # fmt: skip
    if declared and status != "rejected":
        raise UsageError(
            "value-invalid", f"--declared is of a rejection, and --status is {status}",
            "leave it out: a promotion is never declared, and a shadow always is",
        )  # fmt: skip


def _named(ledger: Ledger, ids: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The named records, each once and newest first."""
    found = {}
    for name in ids:
        view = ledger.get(name)
        found[view.id] = view.doc["predicate"]
    return sorted(found.items(), key=lambda item: (item[1]["times"]["sealed_at"], item[0]), reverse=True)


def _name(record_id: str) -> str:
    return f"records/{record_id.removeprefix('sha256:')}.json"


def _evidence(record_id: str, data: bytes) -> dict[str, Any]:
    return {
        "name": _name(record_id), "digest": record_id, "bytes": len(data), "media_type": "application/json",
    }  # fmt: skip
