"""Signatures: DSSE envelopes beside the records, over exactly the stored bytes.

    <ledger>/sigs/<64 hex of the record>/<key id>.json

One file is one signer's whole envelope (payload, type and one signature, in the layout of the DSSE specification,
secure-systems-lab/dsse): any tool that reads DSSE can check it with nothing but the public key. What is signed is the
*pre-authentication encoding*, the payload's type and bytes each behind its length, so that a signature over a record
can never be read as one over something else. The payload is the record's own bytes: nothing is parsed and written again
to be signed or to be checked, and a record does not change when it gains a signature.

What a signature proves: whoever holds the private key vouched for these bytes. It does not prove that what they say is
true, nor when they were signed, nor that no other record was signed beside them; for the last there is the log
(`lanemark.ledger.log`).

A signature is accepted only when everything about it is as it must be. There is no second guess and no "mostly":
one signature in the file, base64 in its one canonical form, the payload the very bytes, the key id that of the key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lanemark.ledger.keys import SIGNATURE_BYTES, PublicKey, SigningKey
from lanemark.ledger.objects import NO_LINKS, read_file, unwritable
from lanemark.measure.durable import sync_directory, write_all
from lanemark.records.encoding import MAX_RECORD_BYTES, decode, digest, encode
from lanemark.records.errors import RecordError

#: The media type that the in-toto attestation framework gives to statements in DSSE envelopes.
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
#: Base64 makes 4 bytes of 3; the rest of an envelope has about 300.
MAX_ENVELOPE_BYTES: Final = MAX_RECORD_BYTES // 3 * 4 + 64 * 1024
_KEYID_FILE: Final = re.compile(r"(?P<keyid>[0-9a-f]{64})\.json")


class Envelope(NamedTuple):
    """What one signature file says, decoded and not yet believed."""

    payload: bytes
    payload_type: str
    keyid: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, version 1: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signature_directory(place: Path, record_id: str) -> Path:
    """Where signatures of the record `sha256:<64 hex>` lie below a ledger or beside a lone file. Pure."""
    return place / "sigs" / record_id.removeprefix("sha256:")


def envelope_of(data: bytes, key: SigningKey) -> bytes:
    """The bytes of the envelope in which `key` signs `data`. The same key and data give the same bytes."""
    signature = key.sign(pae(PAYLOAD_TYPE, data))
    return encode(
        {
            "payload": base64.b64encode(data).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key.public.keyid, "sig": base64.b64encode(signature).decode()}],
        }
    )


def sign(ledger_root: Path, data: bytes, key: SigningKey) -> Path:
    """Put `key`'s signature of a record's exact bytes beside the record; returns its path. Idempotent.

    Raises:
        RecordError: `signature-conflict`: a file that is not this key's signature has its name.
        LedgerError: `ledger-unwritable`.
    """
    settle(data, key, keep(ledger_root, digest(data), key.public.keyid, envelope_of(data, key)))
    return signature_directory(ledger_root, digest(data)) / f"{key.public.keyid}.json"


def settle(data: bytes, key: SigningKey, standing: bytes | None) -> None:
    """Accept what stands where `key`'s envelope over `data` was to go, or raise RecordError `signature-conflict`.

    Args:
        data: the record's bytes.
        key: who signed.
        standing: what was there before, as `keep` returns it.
    """
    if standing is None:
        return
    try:
        # Not a comparison of bytes: another tool may have written the same signature with other white space.
        check_envelope(standing, data, key.public)
    except RecordError as error:
        raise conflict(digest(data), key.public.keyid, error.what) from None


def keep(ledger_root: Path, record_id: str, keyid: str, envelope: bytes) -> bytes | None:
    """Create `sigs/<record>/<key id>.json`, whole and durable; what stands there already is never replaced.

    Returns:
        None when it was created now, else the bytes that are there.

    Raises:
        LedgerError: `ledger-unwritable`.
    """
    directory = signature_directory(ledger_root, record_id)
    target = directory / f"{keyid}.json"
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            for parent in (directory.parent, ledger_root):
                sync_directory(parent)
        staged = directory / f".{keyid}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                write_all(descriptor, envelope)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            created = _linked(staged, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
        sync_directory(directory)
        return None if created else read_file(target, MAX_ENVELOPE_BYTES)
    except OSError as error:
        raise unwritable(ledger_root, error) from error


def _linked(staged: Path, target: Path) -> bool:
    """Give the staged file its name, unless something has it."""
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            return False
        os.replace(staged, target)  # two signers at once could replace one another here, each with the same bytes
    return True


def check_form(raw: bytes, data: bytes, keyid: str) -> Envelope:
    """Take an envelope apart that `keyid` may have made over exactly `data`, or raise RecordError `signature-invalid`.

    Everything that can be held against the record without a public key; whether the signature is good is then still
    open, and is asked by `lanemark verify --key`.
    """
    envelope = read_envelope(raw)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise invalid("the envelope's payload type is not that of a statement")
    if envelope.payload != data:
        raise invalid("the envelope holds other bytes than the record")
    if envelope.keyid != keyid:
        raise invalid("the envelope names another key")
    if len(envelope.signature) != SIGNATURE_BYTES:
        raise invalid(f"the signature has {len(envelope.signature)} bytes instead of {SIGNATURE_BYTES}")
    return envelope


def conflict(record_id: str, keyid: str, why: str) -> RecordError:
    """The `signature-conflict` error."""
    return RecordError(
        "signature-conflict",
        f"the record {record_id} has another file for the signature of key {keyid[:12]}… already ({why})",
        "find out which is that key's with `lanemark verify --key`, and move the other one away; nothing was replaced",
    )


def sidecars(place: Path, record_id: str) -> list[str]:
    """Names of what lies where signatures of a record belong, sorted; not those of files that are being written.

    Raises OSError when a directory that exists cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(signature_directory(place, record_id)) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def keyid_of(name: str) -> str | None:
    """The key id in the name of a signature's file, or None when it is not one's name. Pure."""
    match = _KEYID_FILE.fullmatch(name)
    return match["keyid"] if match else None


def signers(places: Iterable[Path], record_id: str) -> tuple[str, ...]:
    """Key ids under which signatures of a record are at hand, sorted. What they are worth is not looked at.

    Raises OSError when a directory that exists cannot be listed: that is not "no signature".
    """
    found = {keyid for place in places for name in sidecars(place, record_id) if (keyid := keyid_of(name))}
    return tuple(sorted(found))


def read_envelope(raw: bytes) -> Envelope:
    """Take an envelope apart, strictly. Raises RecordError `signature-invalid`."""
    try:
        doc = decode(raw, MAX_ENVELOPE_BYTES)
    except ValueError as error:
        raise invalid(f"the envelope is {error}") from None
    top = _exactly(doc, "the envelope", {"payload": str, "payloadType": str, "signatures": list})
    if len(top["signatures"]) != 1:
        raise invalid(f"the envelope has {len(top['signatures'])} signatures, and ours have one")
    one = _exactly(top["signatures"][0], "the signature", {"keyid": str, "sig": str})
    return Envelope(
        _canonical_base64(top["payload"], "the payload"),
        top["payloadType"],
        one["keyid"],
        _canonical_base64(one["sig"], "the signature"),
    )


def check_envelope(raw: bytes, data: bytes, key: PublicKey) -> None:
    """Accept an envelope as `key`'s signature over exactly `data`, or raise RecordError `signature-invalid`."""
    envelope = check_form(raw, data, key.keyid)
    # Over the bytes that were verified, not over those that the envelope brought along.
    if not key.verifies(envelope.signature, pae(PAYLOAD_TYPE, data)):
        raise invalid("the signature is not this key's over these bytes")


def check_signatures(places: Sequence[Path], data: bytes, keys: Sequence[PublicKey]) -> None:
    """Raise unless every one of `keys` has signed exactly `data`.

    Args:
        places: where `sigs/` is looked for; the first that has the key's file decides.
        data: the record's bytes.
        keys: whose signatures must be there.

    Raises:
        RecordError: `signature-missing` or `signature-invalid`, of the first key that fails.
    """
    for key in keys:
        raw = _envelope_bytes(places, digest(data), key)
        try:
            check_envelope(raw, data, key)
        except RecordError as error:
            raise invalid(f"by {key.source} ({key.keyid[:12]}): {error.what}") from None


def _envelope_bytes(places: Sequence[Path], record_id: str, key: PublicKey) -> bytes:
    for place in places:
        try:
            return read_file(signature_directory(place, record_id) / f"{key.keyid}.json", MAX_ENVELOPE_BYTES)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            why = error.strerror or type(error).__name__
            raise invalid(f"by {key.source} ({key.keyid[:12]}): its file cannot be read ({why})") from None
    raise RecordError(
        "signature-missing",
        f"no signature by {key.source} (key id {key.keyid[:12]}…) is at hand",
        "ask its holder for one, or leave the key out",
    )


def _exactly(doc: Any, what: str, fields: dict[str, type]) -> dict[str, Any]:
    if not isinstance(doc, dict) or set(doc) != set(fields):
        raise invalid(f"{what} does not have exactly {', '.join(sorted(fields))}")
    for name, kind in fields.items():
        if not isinstance(doc[name], kind):
            raise invalid(f"{name} of {what} has another type than it must")
    return doc


def _canonical_base64(text: str, what: str) -> bytes:
    """Standard base64 with padding, in the one form that encoding gives: other spellings of the bytes are refused."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise invalid(f"{what} is not canonical base64")
    return data


def invalid(what: str) -> RecordError:
    """The `signature-invalid` error."""
    return RecordError("signature-invalid", what, "do not rely on it; ask the signer for record and signature again")
