"""`lanemark sign ID…`: vouch for records with an Ed25519 key; `lanemark sign --new-key FILE` makes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanemark.cli.parsing import home, parser, print_json
from lanemark.records.errors import DataError, UsageError

if TYPE_CHECKING:
    from lanemark.ledger.keys import PublicKey, SigningKey


def main(args: list[str]) -> int:
    """Sign records, or make a key. Exit 0, or 1 for a record that is missing or does not verify by itself."""
    verb = parser("sign", "Sign records' exact bytes; the signature lies beside the record, which does not change.")
    verb.add_argument("ids", nargs="*", metavar="ID", help="record ids, beginnings of them, or run ids")
    verb.add_argument(
        "--key", default=None, metavar="FILE", help="private key to sign with (default: keys/signing.pem in the home)"
    )
    verb.add_argument(
        "--new-key", default=None, metavar="FILE", help="make a key instead: the private key here, FILE.pub beside it"
    )
    verb.add_argument("--json", action="store_true", help="print what was made as JSON")
    asked = verb.parse_args(args)
    if asked.new_key is not None:
        if asked.ids or asked.key is not None:
            raise UsageError("arguments-invalid", "--new-key makes a key and signs nothing", "give it alone")
        return _new_key(Path(asked.new_key), as_json=asked.json)
    if not asked.ids:
        raise UsageError("arguments-invalid", "no record to sign was named", "name one, or make a key with --new-key")
    return _sign(asked.ids, signing_key(asked.key), as_json=asked.json)


def signing_key(given: str | None) -> SigningKey:
    """The private key that was named, or the one kept in the home."""
    from lanemark.ledger.keys import load_signing_key

    return load_signing_key(home().root / "keys" / "signing.pem" if given is None else Path(given))


def public_keys(given: list[str] | None) -> tuple[PublicKey, ...]:
    """The public keys that were named with `--key`."""
    if not given:
        return ()
    from lanemark.ledger.keys import load_public_key

    return tuple(load_public_key(Path(name)) for name in given)


def _new_key(path: Path, *, as_json: bool) -> int:
    from lanemark.ledger.keys import make_key

    kept = home().root / "keys"
    if path.absolute().parent == kept:  # where `sign` looks by itself: nobody should have to make it first
        try:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise DataError(
                "key-unusable", f"the directory {str(kept)!r} cannot be made ({why})", "name a file elsewhere"
            ) from None
    public, beside = make_key(path)
    if as_json:
        print_json({"keyid": public.keyid, "private_key": str(path), "public_key": str(beside)})
    else:
        print(f"private key: {path} (keep it to yourself)")
        print(f"public key:  {beside} (give it to whoever is to check)")
        print(f"key id:      {public.keyid}")
    return 0


def _sign(ids: list[str], key: SigningKey, *, as_json: bool) -> int:
    from lanemark.ledger.location import open_ledger
    from lanemark.ledger.signing import envelope_of, settle
    from lanemark.ledger.verify import verify_bytes

    ledger, keyid = open_ledger(home()), key.public.keyid
    made: list[dict[str, Any]] = []
    for asked in ids:
        record = ledger.get(asked)
        # Nobody means to vouch for a record that contradicts itself; its evidence and log are not the signer's claim.
        verify_bytes(record.data, expected_id=record.id).raise_if_failed()
        settle(record.data, key, ledger.keep_signature(record.id, keyid, envelope_of(record.data, key)))
        place = ledger.signature_place(record.id, keyid)
        made.append({"record_id": record.id, "keyid": keyid, "signature": place})
        if not as_json:
            print(f"{record.id}: signed by {keyid[:12]}, {place}")
    if as_json:
        print_json({"signatures": made})
    return 0
