"""Ed25519 keys in files: made with safe permissions, refused when others may read them.

A private key is PKCS #8 in PEM, unencrypted, mode 0600; its public key lies beside it as `<file>.pub`
(SubjectPublicKeyInfo in PEM). Both are what `openssl pkey` reads. Nothing is ever overwritten: a lost private key
cannot be made again, and nobody could sign another record under its name.

A key is named by its *key id*: the sha256 of the public key as a canonical JSON document, exactly as python's
`securesystemslib` and TUF compute it, so that a signature of ours is found under the same id there. An id is only a
name: which key is trusted is decided by whoever hands a public key to `lanemark verify --key`.

`cryptography` is imported when a key is read or made and at no other time; it is the extra `sign`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lanemark.measure.durable import sync_directory, write_all
from lanemark.records.encoding import safe_text
from lanemark.records.errors import DataError, GateRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: RFC 8032: a public key has 32 bytes, a signature 64.
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
#: A PEM file of one Ed25519 key has about 120 bytes; whatever is larger than this is another kind of file.
_MAX_KEY_FILE_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class PublicKey:
    """A public key that a user named.

    Attributes:
        raw: its 32 bytes (RFC 8032).
        source: the file it came from, for messages.
    """

    raw: bytes
    source: str

    @property
    def keyid(self) -> str:
        """64 hex digits: sha256 of the key's canonical JSON, as securesystemslib names it."""
        doc = {"keytype": "ed25519", "keyval": {"public": self.raw.hex()}, "scheme": "ed25519"}
        return hashlib.sha256(json.dumps(doc, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over exactly `message`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key. Its bytes are never shown, and its `repr` says nothing of them."""

    def __init__(self, key: Ed25519PrivateKey, source: str) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw(), source)

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message (RFC 8032 signatures are deterministic)."""
        return self._key.sign(message)


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key.

    Raises:
        GateRefused: `cryptography-missing`.
        DataError: `key-exposed` when others may read it, `key-unusable` when it is not an Ed25519 private key.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, private=True)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise _unusable(path, "it is encrypted", "decrypt it into a file of mode 0600") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(path, "it is not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "it is not an Ed25519 key")
    return SigningKey(key, _shown(path))


def load_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        GateRefused: `cryptography-missing`.
        DataError: `key-unusable` when it is not an Ed25519 public key.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path, private=False)
    if b"PRIVATE KEY" in data:
        raise _unusable(path, "it is a private key, which is never needed to check", "name the public key beside it")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(path, "it is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable(path, "it is not an Ed25519 key")
    return PublicKey(key.public_bytes_raw(), _shown(path))


def make_key(path: Path) -> tuple[PublicKey, Path]:
    """Make a key pair: the private key at `path` (mode 0600), the public one at `<path>.pub`. Returns the public one.

    Raises:
        GateRefused: `cryptography-missing`.
        DataError: `key-exists` when either file is there already, `key-unusable` when they cannot be written.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(path.name + ".pub")
    try:
        # The public file first: if it exists, or cannot be written, no private key was made that nobody asked to keep.
        _create(beside, public, 0o644)
        try:
            _create(path, private, 0o600)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        sync_directory(path.parent)
    except FileExistsError as error:
        raise DataError(
            "key-exists",
            f"the key file {_shown(Path(error.filename or path))!r} exists already",
            "name a file that does not exist; a key is never overwritten",
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _unusable(path, f"it cannot be written ({why})", "name a file in a directory you may write") from None
    return PublicKey(key.public_key().public_bytes_raw(), _shown(beside)), beside


def _need_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519
    except ImportError:
        raise GateRefused(
            "cryptography-missing",
            "signing and checking signatures need the package `cryptography`, which this interpreter does not have",
            "install it with `pip install 'lanemark[sign]'`",
        ) from None
    assert cryptography is not None


def _read(path: Path, *, private: bool) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if private:
                _refuse_exposed(path, found)
            data = os.read(descriptor, _MAX_KEY_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror or type(error).__name__})") from None
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise _unusable(path, "it is too large for a key")
    return data


def _refuse_exposed(path: Path, found: os.stat_result) -> None:
    """Judged on the open file, so that the file that is read is the one that was looked at."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        what = f"its mode is {mode:04o}: others than its owner may use it"
    elif found.st_uid not in (os.geteuid(), 0):
        what = f"it belongs to user {found.st_uid}, who can read it"
    else:
        return
    raise DataError(
        "key-exposed",
        f"the private key {_shown(path)!r} is not private: {what}",
        "make a new one with `lanemark sign --new-key FILE`, or `chmod 600` this one if nobody has read it",
    )


def _create(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _unusable(path: Path, why: str, remedy: str = "name a key file that `lanemark sign --new-key` made") -> DataError:
    return DataError("key-unusable", f"the key {_shown(path)!r} cannot be used: {why}", remedy)


def _shown(path: Path) -> str:
    return safe_text(os.fspath(path))
