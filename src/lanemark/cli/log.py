"""`lanemark log append|prove|checkpoint|verify`: the ledger's transparency log."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lanemark.cli.asked import one_of
from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.sign import public_keys, signing_key
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import DataError, LanemarkError, LedgerError, RecordError, UsageError

if TYPE_CHECKING:
    from lanemark.ledger.checkpoint import SignedHead
    from lanemark.ledger.keys import PublicKey
    from lanemark.ledger.ledger import Ledger
    from lanemark.ledger.store import Log

_ACTIONS: Final = ("append", "prove", "checkpoint", "verify")
_DESCRIPTION: Final = (
    "Keep a log of the ledger's records in which nothing can be removed, moved or altered unseen by whoever holds an "
    "older checkpoint. append: add records. prove: show that records are in it. checkpoint: sign its present state, to "
    "be kept elsewhere. verify: check all of it, and that it continues a checkpoint."
)
#: Options and arguments that only some actions take, by their names in the parsed arguments.
_OPTIONS: Final = {"ids": "ID", "all": "--all", "key": "--key", "checkpoint": "--checkpoint", "output": "-o"}
#: What `verify` says beside its result: nobody should conclude more.
_ALONE: Final = (
    "this log agrees with itself, which proves nothing against its owner; a checkpoint kept elsewhere would "
    "(`lanemark log checkpoint -o FILE`, later `lanemark log verify --checkpoint FILE`)"
)


def main(args: list[str]) -> int:
    """Work with the log. Exit 0, or 1 when a check fails or a record cannot be logged."""
    verb = parser("log", _DESCRIPTION)
    verb.add_argument("action", metavar="ACTION", help=", ".join(_ACTIONS))
    verb.add_argument("ids", nargs="*", metavar="ID", help="append, prove: record ids, beginnings of them, or run ids")
    verb.add_argument("--all", action="store_true", help="append: every record of the ledger that is not in it yet")
    verb.add_argument(
        "--key", action="append", default=None, metavar="FILE",
        help="checkpoint: private key (default: keys/signing.pem in the home); verify: public key of the checkpoint",
    )  # fmt: skip
    verb.add_argument("--checkpoint", default=None, metavar="FILE", help="verify: the log must continue this one")
    verb.add_argument("-o", dest="output", default=None, metavar="FILE", help="checkpoint: file to write it to")
    verb.add_argument("--json", action="store_true", help="print the outcome as JSON")
    asked = verb.parse_args(args)
    action = one_of(asked.action, "the action", _ACTIONS)
    _check_options(action, asked)
    ledger = open_ledger(home())
    if action == "append":
        return _append(ledger, None if asked.all else asked.ids, as_json=asked.json)
    if action == "prove":
        return _prove(ledger, asked.ids, as_json=asked.json)
    if action == "checkpoint":
        return _checkpoint(ledger, asked.key, asked.output, as_json=asked.json)
    return _verify(ledger, asked.checkpoint, public_keys(asked.key), as_json=asked.json)


def _check_options(action: str, asked: Any) -> None:
    """Refuse an option that the action would leave unused, and an action without what it is about."""
    used = {
        "append": {"ids", "all"},
        "prove": {"ids"},
        "checkpoint": {"key", "output"},
        "verify": {"key", "checkpoint"},
    }[action]
    for name, shown in _OPTIONS.items():
        if getattr(asked, name) and name not in used:
            raise UsageError("arguments-invalid", f"`lanemark log {action}` takes no {shown}", "leave it out")
    if "ids" in used and bool(asked.ids) == bool(asked.all):
        what = "--all" if action == "append" else "no other"
        raise UsageError("arguments-invalid", f"`lanemark log {action}` needs IDs, or {what}", "name the records")
    if action == "verify" and asked.key and asked.checkpoint is None:
        raise UsageError("arguments-invalid", "--key is of a checkpoint, and none was named", "add --checkpoint FILE")


def _append(ledger: Ledger, ids: list[str] | None, *, as_json: bool) -> int:
    wanted, refused = [], []
    for path in _files(ledger, ids):
        try:
            wanted.append(_whole(path))
        except RecordError as error:
            refused.append({"file": str(path), "slug": error.slug, "detail": error.what})
            advise(f"lanemark: {error} [{error.slug}]")
    done = ledger.log().append(wanted)
    if as_json:
        print_json(
            {"added": list(done.added), "present": list(done.present), "refused": refused} | _head_json(done.head)
        )
    else:
        print(f"{len(done.added)} added, {len(done.present)} already there; the log has {done.head.size} entries")
    return 1 if refused else 0


def _files(ledger: Ledger, ids: list[str] | None) -> Iterable[Path]:
    """The files to log: those named, or all in the order of their names. What is no record's file is said and left."""
    if ledger.is_remote:
        ledger.list(limit=1)  # brings this machine's copies up to what storage holds, each held against its name
    if ids is not None:
        yield from map(ledger.find, ids)
        return
    from lanemark.ledger.objects import iter_objects

    for item in iter_objects(ledger.root):
        if item.record_id is None:
            advise(f"lanemark: {item.path} {item.problem}")
        else:
            yield item.path


def _whole(path: Path) -> str:
    """The id of a record whose bytes are the ones it is named by: damage must not be logged as the record."""
    from lanemark.ledger.objects import hash_file

    try:
        found, _ = hash_file(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise RecordError(
            "record-missing", f"the record {path.stem} cannot be read ({why})", "it is not logged"
        ) from None
    if found != path.stem:
        raise RecordError(
            "record-corrupt", f"the bytes of record {path.stem} are not the ones it is named by", "it is not logged"
        )
    return f"sha256:{found}"


def _prove(ledger: Ledger, ids: list[str], *, as_json: bool) -> int:
    log = ledger.log()
    proofs = [log.prove("sha256:" + ledger.find(asked).stem) for asked in ids]
    if as_json:
        print_json(
            {
                "proofs": [
                    {"record_id": p.record_id, "index": p.number, "proof": [_text(part) for part in p.proof]}
                    | _head_json(p.head)
                    for p in proofs
                ]
            }
        )
        return 0
    for p in proofs:
        print(f"{p.record_id}: entry {p.number} of {p.head.size}; {len(p.proof)} hashes lead to {_text(p.head.root)}")
        for part in p.proof:
            print(f"  {_text(part)}")
    return 0


def _checkpoint(ledger: Ledger, keys: list[str] | None, output: str | None, *, as_json: bool) -> int:
    from lanemark.ledger.checkpoint import parse_checkpoint, verifier_key

    loaded = [signing_key(name) for name in keys] if keys else [signing_key(None)]
    data = ledger.log().sign(loaded)
    head = parse_checkpoint(data).head
    if output is not None:
        _write(Path(output), data)
    names = [verifier_key(head.origin, key.public) for key in loaded]
    if as_json:
        print_json({"checkpoint": data.decode(), "verifier_keys": names} | _head_json(head))
        return 0
    if output is None:
        sys.stdout.write(data.decode())
    for name in names:
        advise(f"verifier key: {name}")
    advise("keep this where the ledger's owner cannot change it: a git tag, a CI artifact, a mail")
    return 0


def _write(path: Path, data: bytes) -> None:
    from lanemark.measure.durable import replace_file

    try:
        replace_file(path, data)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise LedgerError(
            "output-unwritable", f"{os.fspath(path)!r} cannot be written ({why})", "name another file with -o"
        ) from None


def _verify(ledger: Ledger, file: str | None, keys: tuple[PublicKey, ...], *, as_json: bool) -> int:
    log = ledger.log()
    old = None if file is None else _read_checkpoint(Path(file))
    checks = [_checked("tree", lambda: _tree(log))]
    if checks[0]["status"] == "ok":
        checks.append(_checked("records", lambda: _records(log)))
    if old is not None:
        checks.append(_checked("signature", lambda: _signature(old, keys)))
        checks.append(_checked("consistency", lambda: _consistency(log, old)))
    good = all(check["status"] != "failed" for check in checks)
    if as_json:
        print_json({"verified": good, "checks": checks, "against_a_checkpoint": old is not None})
    else:
        print(f"the log is {'verified' if good else 'NOT VERIFIED'}")
        for check in checks:
            slug = f" [{check['slug']}]" if "slug" in check else ""
            print(f"  {check['check']:<12}{check['status']:<12}{check['detail']}{slug}")
    if good and old is None:
        advise(f"lanemark: {_ALONE}")
    return 0 if good else 1


def _checked(name: str, check: Any) -> dict[str, str]:
    try:
        status, detail = check()
    except LanemarkError as error:
        return {"check": name, "status": "failed", "detail": error.what, "slug": error.slug}
    return {"check": name, "status": status, "detail": detail}


def _tree(log: Log) -> tuple[str, str]:
    head = log.audit()
    return "ok", f"{head.size} entries lead to the root {_text(head.root)}"


def _records(log: Log) -> tuple[str, str]:
    lost = list(log.lost_records())
    if lost:
        first = lost[0]
        what = "is gone from the ledger" if first.slug == "record-missing" else "has other bytes than were logged"
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise RecordError(
            first.slug, f"entry {first.number}, {first.record_id}, {what}{more}", "bring it back from a copy"
        )
    return "ok", "every logged record is in the ledger with the bytes that were logged"


def _signature(old: SignedHead, keys: tuple[PublicKey, ...]) -> tuple[str, str]:
    from lanemark.ledger.checkpoint import require_signature

    if not keys:
        return "not checked", f"no key was named with --key; {len(old.signatures)} on the checkpoint"
    for key in keys:
        require_signature(old, key)
    return "ok", "; ".join(f"signed by {key.source}" for key in keys)


def _consistency(log: Log, old: SignedHead) -> tuple[str, str]:
    head, proof = log.consistent_with(old.head)
    return "ok", f"the first {old.head.size} of {head.size} entries are those of the checkpoint ({len(proof)} hashes)"


def _read_checkpoint(path: Path) -> SignedHead:
    from lanemark.ledger.checkpoint import MAX_NOTE_BYTES, parse_checkpoint
    from lanemark.ledger.objects import read_file

    try:
        data = read_file(path, MAX_NOTE_BYTES)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(
            "data-missing", f"the checkpoint {os.fspath(path)!r} cannot be read ({why})", "check its path"
        ) from None
    return parse_checkpoint(data)


def _head_json(head: Any) -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": _text(head.root)}


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
