"""Checkpoints: a log's name, size and root in three lines of text, and signatures under them.

    lanemark/4f7c…                                        origin: which log
    1042                                                  its size, in entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=          its root

    — lanemark/4f7c… Az3grlgtzPIC…                        a key's name; 4 bytes of key id and 64 of signature

The text is a C2SP checkpoint (c2sp.org/tlog-checkpoint) and the whole a signed note (c2sp.org/signed-note), which
witnesses and other log tools read as they are. A checkpoint kept where the log's owner cannot change it (a git tag, a
CI artifact, a mail) is what makes the log worth something: see `lanemark.ledger.log`.

Pure, but for the keys that `sign_checkpoint` and `require_signature` use. Every refusal is `checkpoint-invalid`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from lanemark.ledger.keys import SIGNATURE_BYTES, PublicKey, SigningKey
from lanemark.ledger.merkle import HASH_BYTES
from lanemark.records.errors import LedgerError

#: Signature type of Ed25519 (c2sp.org/signed-note, "Signature types").
_ED25519: Final = b"\x01"
#: The specification asks for at least 16 signatures; five kB each is the largest kind that it knows.
MAX_NOTE_BYTES: Final = 128 * 1024
_ORIGIN: Final = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without spaces and plus: it is a key's name as well
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_SIGNATURE: Final = re.compile(r"— (?P<name>\S{1,1000}) (?P<body>[A-Za-z0-9+/]{4,20000}={0,2})")


class Head(NamedTuple):
    """A state of a log.

    Attributes:
        origin: the log's name.
        size: how many entries it has.
        root: the root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Its three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class SignedHead(NamedTuple):
    """A checkpoint as it was read. Signatures are (name, 4 bytes of key id, the rest) and not yet believed."""

    head: Head
    signatures: tuple[tuple[str, bytes, bytes], ...]


def parse_head(text: str) -> Head:
    """Read exactly three lines. Raises LedgerError `checkpoint-invalid`."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise invalid("its text is not exactly three lines")
    origin, size, encoded = lines[:3]
    if not _ORIGIN.fullmatch(origin):
        raise invalid("its first line is not the name of a log")
    if not _SIZE.fullmatch(size):
        raise invalid("its second line is not a number of entries")
    try:
        root = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        root = b""
    if len(root) != HASH_BYTES or base64.b64encode(root).decode() != encoded:
        raise invalid("its third line is not a root hash")
    return Head(origin, int(size), root)


def parse_checkpoint(data: bytes) -> SignedHead:
    """Read a signed note whose text is a checkpoint. Raises LedgerError `checkpoint-invalid`."""
    if len(data) > MAX_NOTE_BYTES:
        raise invalid(f"it is larger than {MAX_NOTE_BYTES} bytes")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("it is not UTF-8") from None
    if any(character < " " and character != "\n" for character in note):
        raise invalid("it holds control characters")
    text, blank, rest = note.rpartition("\n\n")
    if not blank or not rest.endswith("\n"):
        raise invalid("it is no text, blank line and signature lines")
    signatures = []
    for line in rest[:-1].split("\n"):
        match = _SIGNATURE.fullmatch(line)
        try:
            body = base64.b64decode(match["body"], validate=True) if match else b""
        except (binascii.Error, ValueError):
            body = b""
        if match is None or len(body) <= 4 or base64.b64encode(body).decode() != match["body"]:
            raise invalid("one of its signature lines is not of the form of one")
        signatures.append((match["name"], body[:4], body[4:]))
    return SignedHead(parse_head(text + "\n"), tuple(signatures))


def sign_checkpoint(head: Head, keys: Iterable[SigningKey]) -> bytes:
    """The bytes of a checkpoint that every one of `keys` signed, under the log's own name."""
    lines = []
    for key in keys:
        body = note_key_id(head.origin, key.public) + key.sign(head.text.encode())
        lines.append(f"— {head.origin} {base64.b64encode(body).decode()}\n")
    return (head.text + "\n" + "".join(lines)).encode()


def require_signature(checkpoint: SignedHead, key: PublicKey) -> None:
    """Raise LedgerError `checkpoint-invalid` unless `key` signed the checkpoint under the log's name.

    Lines by other keys are not looked at, as the note format demands; a false line by this key refuses the checkpoint.
    """
    ours = (checkpoint.head.origin, note_key_id(checkpoint.head.origin, key))
    found = [signature for *who, signature in checkpoint.signatures if tuple(who) == ours]
    if not found:
        raise invalid(f"it has no signature by {key.source}")
    for signature in found:
        if len(signature) != SIGNATURE_BYTES or not key.verifies(signature, checkpoint.head.text.encode()):
            raise invalid(f"its signature by {key.source} is not that key's over its text")


def note_key_id(name: str, key: PublicKey) -> bytes:
    """The 4 bytes by which a signed note names a key (c2sp.org/signed-note, "Ed25519 signatures")."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def verifier_key(name: str, key: PublicKey) -> str:
    """The public key as note tools take it: `name+id+base64`."""
    return f"{name}+{note_key_id(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode()}"


def invalid(what: str) -> LedgerError:
    """The `checkpoint-invalid` error."""
    return LedgerError(
        "checkpoint-invalid", f"the checkpoint cannot be relied on: {what}", "take the copy that was exported"
    )
