"""`Bucket`: four requests to S3-compatible storage, each of which ends in an answer or in one error, in bounded time.

Storage fails in ways that disks do not: it answers 503 when it is busy, drops a connection in the middle of a body,
and sometimes says nothing at all. So every request has a time limit of its own, is repeated after a growing pause, and
gives up when there was no progress for the location's `deadline_s`. Then one sentence says what the store did. What the
store answered clearly (no such bucket, no permission) is never repeated.

Two answers must not be taken for one another: a name that is not there is None or False, a store that could not be
asked is `ledger-unreachable`. Bytes that come back are compared with the digest that names them by the caller.

`obstore` is imported when the first bucket is opened, and by nothing else.
"""

from __future__ import annotations

import configparser
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from lanemark.records.encoding import safe_text
from lanemark.records.errors import LedgerError

if TYPE_CHECKING:
    from obstore.store import S3Store

    from lanemark.ledger.s3_location import S3Location

_T = TypeVar("_T")

#: One request may take this much of the deadline, so that a store which stalls once or twice still gets its chance.
_TRY_SHARE: Final = 0.25
_TRY_S: Final = (0.25, 5.0)
#: Bytes a second that a link is believed to carry at the least: a request gets one more second for each of these.
_SLOW_BYTES_PER_S: Final = 1_000_000
_PAUSE_S: Final = (0.1, 2.0)
#: What one request of ListObjectsV2 returns at most (S3 API reference).
_PAGE: Final = 1000
#: Answers that may be different next time: time-out, too many requests, and every fault of the server (RFC 9110).
_PASSING: Final = frozenset({408, 425, 429})
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
#: What the transport's own words come down to, first match first.
_WORDS: Final = (
    ("connection refused", "the connection was refused"),
    ("dns error", "its host name is not known"),
    ("certificate", "its certificate is not trusted"),
    ("timed out", "it did not answer in time"),
    ("timeout", "it did not answer in time"),
    ("reset", "the connection was reset"),
    ("incomplete", "the connection ended early"),
    ("error decoding response body", "the connection ended early"),
    ("closed", "the connection was closed"),
)
_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
#: Ways to get keys that the client follows by itself (AWS SDK reference guide, "Standardized credential providers").
_OTHER_CHAINS: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
#: The last resort of that chain: the address at which a cloud host asks for its own keys.
_HOST_KEYS: Final = "http://169.254.169.254/"


class Named(NamedTuple):
    """One object in a listing: its name under the bucket's prefix, and its size in bytes."""

    name: str
    size_bytes: int


class Bucket:
    """One prefix of one bucket. Safe to use from several threads.

    Args:
        place: which bucket, and how long to wait for it.
        environ: where credentials are looked up.

    Raises:
        LedgerError: `team-extra-missing`.
    """

    def __init__(self, place: S3Location, environ: Mapping[str, str]) -> None:
        try:
            import obstore
        except ImportError:
            raise extra_missing("a ledger on s3:// needs obstore") from None
        self.place = place
        self.name = place.name
        self._environ = environ
        self._obstore = obstore
        low, high = _TRY_S
        self._try_s = min(high, max(low, place.deadline_s * _TRY_SHARE))
        self._clients: dict[int, S3Store] = {}

    def create(self, name: str, data: bytes) -> bool:
        """Put an object where none is; False when one is there already, which may be what an earlier try of ours left.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`.
        """

        def put(client: S3Store) -> bool:
            try:
                self._obstore.put(client, name, data, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
            return True

        return self._persist(put, len(data))

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """An object's bytes, or None when there is none of that name.

        At most `limit_bytes` + 1 of them are fetched, so that a caller sees that it is too large.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`.
        """

        def get(client: S3Store) -> bytes | None:
            try:
                found = self._obstore.get(client, name)
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                return None
            size = int(found.meta["size"])
            if size > limit_bytes:
                return bytes(self._obstore.get_range(client, name, start=0, length=limit_bytes + 1))
            if size > self._try_s * _SLOW_BYTES_PER_S:
                raise _LargerError(size)
            return bytes(found.bytes())

        def get_large(client: S3Store) -> bytes:
            return bytes(self._obstore.get(client, name).bytes())

        try:
            return self._persist(get, 0)
        except _LargerError as error:
            size = error.size_bytes
        return self._persist(get_large, size)

    def names(self, directory: str) -> Iterator[Named]:
        """Every object under `directory`, in the order of their names, a page at a time.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`, also half-way: an incomplete listing never just ends.
        """
        last: str | None = None
        while True:
            page = self._persist(lambda client, last=last: self._page(client, directory, last), 0)  # type: ignore[misc]
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].name

    def _page(self, client: S3Store, directory: str, after: str | None) -> list[Named]:
        try:
            stream = self._obstore.list(client, directory, offset=after, chunk_size=_PAGE)
            for chunk in stream:
                return [Named(str(entry["path"]), int(entry["size"])) for entry in chunk]
        except FileNotFoundError as error:
            _raise_for_bucket(error)
        return []

    # -- one request, until it is answered ---------------------------------------------------------------------------

    def _persist(self, work: Callable[[S3Store], _T], size_bytes: int) -> _T:
        """Repeat `work` until it is answered; `size_bytes` are carried by it, which may take time of their own."""
        transfer_s = size_bytes // _SLOW_BYTES_PER_S
        try_s = self._try_s + transfer_s
        ends = time.monotonic() + self.place.deadline_s + transfer_s
        pause_s, longest_s = _PAUSE_S
        while True:
            try:
                return work(self._client(transfer_s))
            except (self._obstore.exceptions.BaseError, OSError) as error:
                self._judge(error)
                # A pause of random length keeps writers that failed together from coming back together.
                pause = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
                if time.monotonic() + pause + try_s > ends:
                    raise self._unreachable(reason_of(error)) from None
                time.sleep(pause)
                pause_s = min(longest_s, pause_s * 2)

    def _judge(self, error: Exception) -> None:
        """Raise for an answer that will be the same next time; return for a fault that may pass."""
        found = self._obstore.exceptions
        text = str(error)
        match = _STATUS.search(text)
        status = int(match[1]) if match else None
        if _HOST_KEYS in text:
            raise self._denied("no keys are set, and this host has none of its own")
        if isinstance(error, (found.PermissionDeniedError, found.UnauthenticatedError)) or status in (401, 403):
            raise self._denied(f"it refuses these keys: {reason_of(error)}")
        if status is not None and 400 <= status < 500 and status not in _PASSING:
            raise self._unreachable(reason_of(error))

    def _denied(self, why: str) -> LedgerError:
        return LedgerError(
            "ledger-denied",
            f"the storage of {self.name} cannot be used ({why})",
            "give keys that may list, read and create there, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in the "
            "shared credentials file",
        )

    def _unreachable(self, why: str) -> LedgerError:
        return LedgerError(
            "ledger-unreachable",
            f"the ledger {self.name} cannot be reached ({why})",
            "check endpoint, bucket and network; nothing is lost, and `lanemark collect` appends what waits",
        )

    def _client(self, transfer_s: int) -> S3Store:
        """A client whose requests may last as long as this transfer; one for each power of two of seconds."""
        size = transfer_s.bit_length()
        if size not in self._clients:
            self._clients[size] = self._connect(self._try_s + ((1 << size) - 1))
        return self._clients[size]

    def _connect(self, request_s: float) -> S3Store:
        from obstore.store import S3Store

        place = self.place
        given: dict[str, Any] = dict(static_keys(self._environ))
        if place.endpoint is not None:
            given["endpoint"] = place.endpoint
        region = place.region or self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        try:
            return S3Store(
                place.bucket,
                prefix=place.prefix or None,
                region=region or "us-east-1",
                client_options={
                    "allow_http": (place.endpoint or "").startswith("http://"),
                    "timeout": timedelta(seconds=request_s),
                    "connect_timeout": timedelta(seconds=self._try_s),
                },
                # Repeating is ours, so that one deadline holds over all of it.
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=request_s)},
                **given,
            )
        except (self._obstore.exceptions.BaseError, ValueError, TypeError) as error:
            raise self._unreachable(f"its settings cannot be used: {reason_of(error)}") from None


class _LargerError(Exception):
    """An object needs more time than a small request has."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes


def reason_of(error: Exception) -> str:
    """What a failed request came to, in a few words that hold no address and no key."""
    text = str(error)
    if match := _STATUS.search(text):
        code = _CODE.search(text)
        return f"it answered {match[1]}" + (f" {code[1]}" if code else "")
    lowered = text.lower()
    return next((said for word, said in _WORDS if word in lowered), "the request failed")


def extra_missing(what: str) -> LedgerError:
    """The `team-extra-missing` error."""
    return LedgerError(
        "team-extra-missing", f"{what}, which is not installed", "install it with `pip install 'lanemark[team]'`"
    )


def static_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Keys from the environment, else from the shared credentials file, as the store's client takes them.

    None where another chain is set, or nothing is: web identity, container and instance credentials are the client's
    own to find. Profiles that need a helper program or a sign-in are not followed; `aws configure export-credentials`
    turns one into environment variables.
    """
    source: Mapping[str, str] = environ
    if any(environ.get(name) for name in _OTHER_CHAINS):
        return {}
    if not environ.get("AWS_ACCESS_KEY_ID"):
        home = environ.get("HOME") or os.path.expanduser("~")
        path = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path(home) / ".aws" / "credentials")
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
            source = parser[environ.get("AWS_PROFILE") or "default"]
        except (OSError, ValueError, KeyError, configparser.Error):
            return {}
    found = {name: value for name in _KEYS if (value := source.get(name.upper()) or source.get(name))}
    return found if {"aws_access_key_id", "aws_secret_access_key"} <= found.keys() else {}


def _raise_for_bucket(error: FileNotFoundError) -> None:
    """A bucket that does not exist answers like an object that does not; only one of them is an empty place."""
    code = _CODE.search(str(error))
    if code is not None and code[1] == "NoSuchBucket":
        raise LedgerError(
            "ledger-unreachable",
            "the storage has no bucket of the name that the ledger's location gives",
            f"create it, or correct the location ({safe_text(code[1])})",
        ) from None
