"""`lanemark promote ID… --because …`: the only way in which a promotion status moves. A new record is sealed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.lanes.promoting import promoted, refuse
from lanemark.lanes.rules import broken_rules
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.observe.clock import stamp
from lanemark.records.attempt import new_run_id
from lanemark.records.encoding import decode
from lanemark.records.observation import value_of
from lanemark.records.statement import seal, subjects


def main(args: list[str]) -> int:
    """Seal a promotion. Exit 0, or 1 where the named records do not support one."""
    verb = parser("promote", "Promote a kernel path on the records that show it, and seal a record that names them.")
    verb.add_argument("ids", nargs="+", metavar="ID", help="records of one candidate and scope, each of them ready")
    verb.add_argument("--because", required=True, metavar="WORDS", help="the reason, as it will stand in the record")
    verb.add_argument("--json", action="store_true", help="print the new record's id and scope as JSON")
    asked = verb.parse_args(args)
    ledger = open_ledger(home())
    named = _named(ledger, asked.ids)
    files = [(record_id, ledger.find(record_id).read_bytes()) for record_id, _ in named]
    evidence = [_evidence(record_id, data) for record_id, data in files]
    run_id = new_run_id("promotion", datetime.now(timezone.utc))
    predicate = promoted(named, asked.because, run_id=run_id, at=stamp(), evidence=evidence)
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
        raise refuse(f"the promotion would break the rule {broken[0].rule}: {broken[0].problem}", "report this defect")
    kept = ledger.append(record.data, [(_name(record_id), data) for record_id, data in files])
    for notice in kept.notices:
        advise(f"lanemark: {notice}")
    scope = predicate["promotion"]["scope"]
    if asked.json:
        print_json({
            "record_id": kept.id, "run_id": run_id, "record_path": str(kept.path), "promotion_status": "promoted",
            "candidate": predicate["promotion"]["candidate"]["name"],
            "promoted_on": predicate["promotion"]["promoted_on"],
        })  # fmt: skip
    else:
        where = f"{scope['surface']}, {value_of(scope['arch'])}, {scope['dtype']}, {scope['direction']}"
        print(f"promoted: {predicate['promotion']['candidate']['name']} for {where}\nrecord {kept.id}")
    return 0


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
