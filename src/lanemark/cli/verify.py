"""`lanemark verify ID|FILE…`: check records step by step. Any failing step closes; every record is checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lanemark.cli.parsing import home, parser, print_json
from lanemark.cli.sign import public_keys
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import LanemarkError

if TYPE_CHECKING:
    from lanemark.ledger.keys import PublicKey


def main(args: list[str]) -> int:
    """Verify records. Exit 0 when every one verifies, 1 otherwise."""
    verb = parser("verify", "Verify records: bytes, digest, syntax, schema, lane rules, evidence, signatures, log.")
    verb.add_argument("targets", nargs="+", metavar="ID|FILE", help="record ids, beginnings of them, run ids, or files")
    verb.add_argument(
        "--key", action="append", default=None, metavar="PUB",
        help="public key that must have signed each record; without any, signatures are reported as not checked",
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print the steps as JSON")
    asked = verb.parse_args(args)
    keys = public_keys(asked.key)
    reports = [_checked(target, keys) for target in asked.targets]
    if asked.json:
        print_json({"verified": all(report["ok"] for report in reports), "records": reports})
    else:
        for report in reports:
            _print(report)
    return 0 if all(report["ok"] for report in reports) else 1


def _checked(target: str, keys: tuple[PublicKey, ...]) -> dict[str, object]:
    from lanemark.ledger.verify import verify_file

    place = home()
    path = Path(target)
    try:
        report = (
            # A file that lies in some ledger is checked in that one; any other one, beside the ledger's.
            verify_file(
                path, ledger_root=None if path.parent.parent.name == "objects" else open_ledger(place).root, keys=keys
            )
            if "/" in target or path.suffix == ".json" or path.is_file()
            else open_ledger(place).verify(target, keys=keys)
        )
    except LanemarkError as error:
        failed = {"number": 0, "name": "find", "status": "failed", "slug": error.slug, "detail": str(error)}
        return {"target": target, "ok": False, "steps": [failed]}
    return {
        "target": target,
        "ok": report.ok,
        "record_id": report.record_id,
        "steps": [{key: value for key, value in vars(step).items() if value is not None} for step in report.steps],
    }


def _print(report: dict[str, object]) -> None:
    marks = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}
    print(f"{report['target']}: {'verified' if report['ok'] else 'NOT VERIFIED'}")
    steps = report["steps"]
    assert isinstance(steps, list)
    for step in steps:
        slug = f" [{step['slug']}]" if step.get("slug") else ""
        print(f"  {step['number']:>2}. {step['name']:<9} {marks[step['status']]:<8} {step['detail']}{slug}")
