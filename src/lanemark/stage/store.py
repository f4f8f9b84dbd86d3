"""`Store`: list and read a source, each request ending in bytes, in a fault that may pass, or in one error.

Clients of object stores differ most in what they do when something goes wrong: several wait for ever on a silent
server, and all of them repeat by rules of their own. So repeating is switched off in the client and done here
(`persist`), under one rule: a fault that may pass is tried again, after growing pauses, until the source has failed
this one request for `patience_s`. An answer that will be the same next time is raised at once.

The bytes of objects come by plain requests where they can (`lanemark.stage.wire`), and through the client where not.

**Credentials** come from the chains that each provider's users know, as the client follows them: environment variables,
web identity, container and instance roles for S3; application-default credentials for Google; environment, managed
identity and, if `AZURE_USE_AZURE_CLI` is set, the Azure CLI for Azure. The one chain that the client does not follow is
the AWS shared credentials file, which is read here; profiles that need a sign-in or a helper program are not followed
(`aws configure export-credentials` turns one into environment variables). Nothing of it is stored or shown.
"""

from __future__ import annotations

import configparser
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from lanemark.records.errors import LanemarkError, StageError
from lanemark.stage.objects import PIECE_BYTES, Found
from lanemark.stage.place import Place
from lanemark.stage.wire import BUFFER_BYTES, Answer, NotPlainError, Wire

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

_T = TypeVar("_T")

#: A read that delivers nothing for this share of the patience is given up, so that a silent server gets three chances.
_STALL_SHARE: Final = 0.3
_STALL_S: Final = (0.5, 30.0)
_PAUSE_S: Final = (0.1, 3.0)
#: A link slower than this is given up, one piece at a time: eight pieces at once then still carry 0.8 MB/s.
_SLOWEST_BYTES_PER_S: Final = 100_000
_TOO_SLOW: Final = f"it sends less than {_SLOWEST_BYTES_PER_S // 1000} kB a second"
#: Bytes that the client library hands over at a time, for a core's cache to hold while they are hashed. A GiB on two
#: cores: 1.2 CPU s with parts of 256 KiB and 43 MiB resident, 1.5 s with 1 MiB, 1.6 s and 164 MiB with whole pieces.
PART_BYTES: Final = 256 * 1024
#: An object no larger than this comes in one request and one part: for it the round trip is what costs.
WHOLE_BYTES: Final = 1024 * 1024
#: Answers that may be different next time: time-out, too many requests, and every fault of the server (RFC 9110).
_PASSING: Final = frozenset({408, 425, 429})
#: How long a signed link is good for: longer than any one request may take, and short enough to be worth nothing.
_SIGNED: Final = timedelta(minutes=15)
#: The variables that the client, like most, takes a proxy from.
_PROXY: Final = re.compile(r"(http|https|all)_proxy")
_STATUS: Final = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
#: S3 error codes that are about keys though their status is 400 (S3 API reference, "Error responses").
_KEY_CODES: Final = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"})
#: What the transport's own words come down to, first match first.
_WORDS: Final = (
    ("connection refused", "the connection was refused"),
    ("dns error", "its host name is not known"),
    ("name or service", "its host name is not known"),
    ("name resolution", "its host name is not known"),
    ("nodename", "its host name is not known"),
    ("unreachable", "there is no way to its network"),
    ("no route", "there is no way to its network"),
    ("certificate", "its certificate is not trusted"),
    ("timed out", "it did not answer in time"),
    ("timeout", "it did not answer in time"),
    ("timedout", "it did not answer in time"),
    ("reset", "the connection was reset"),
    ("incomplete", "the connection ended early"),
    ("end of file", "the connection ended early"),
    ("body error", "the connection ended early"),
    ("error decoding response body", "the connection ended early"),
    ("eof occurred", "the connection ended early"),
    ("closed", "the connection was closed"),
    ("broken pipe", "the connection was closed"),
)
#: Where a cloud host asks for its own keys; the last resort of every provider's chain.
_HOST_KEYS: Final = ("169.254.169.254", "metadata.google.internal", "169.254.170.2")
#: The variables after which the AWS chain is the client's own to follow (AWS SDK reference, credential providers).
_OTHER_CHAINS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class PassingError(Exception):
    """A fault that may be gone next time. Its text is fit for a message."""


class Store:
    """One source. Safe to use from several threads.

    Args:
        place: where it lies.
        environ: where settings and credentials are looked up that the client does not find by itself.
        patience_s: how long one request may keep failing before the source counts as unreachable.
        stopped: set when staging is over; waiting ends then.
    """

    def __init__(
        self, place: Place, environ: Mapping[str, str], *, patience_s: float, stopped: threading.Event
    ) -> None:
        try:
            import obstore
        except ImportError:
            raise extra_missing("reading a source needs obstore") from None
        self.place = place
        self.patience_s = patience_s
        self._environ = environ
        self._stopped = stopped
        self._obstore = obstore
        self._client = self._connect(environ)
        proxied = any(_PROXY.fullmatch(name.lower()) and value for name, value in os.environ.items())
        # A proxy is the client's to talk to, and signing for Google and Azure may take requests of its own.
        self._wire = Wire(self.stall_s)
        self._plain = place.kind in ("s3", "http") and not proxied

    def at(self, place: Place) -> Store:
        """The same settings at another place."""
        return Store(place, self._environ, patience_s=self.patience_s, stopped=self._stopped)

    # -- requests ----------------------------------------------------------------------------------------------------

    def listing(self) -> list[Found]:
        """Every object below the place; or the one that the place itself names. Empty where there is none.

        Raises:
            StageError: `stage-unreachable` or `stage-denied`, also half-way: an incomplete listing never just ends.
        """

        def ask() -> list[Found]:
            return [_found(entry) for page in self._obstore.list(self._client, chunk_size=1000) for entry in page]

        return self.persist(ask)

    def head(self, name: str) -> Found | None:
        """One object's size and tags, or None when there is none of that name."""

        def ask() -> Found | None:
            try:
                result = self._obstore.get(self._client, name, options={"head": True})
                # What a web server has to say about a directory is a page for people, and no object.
                if self.place.kind == "http" and "html" in str(result.attributes.get("Content-Type", "")):
                    return None
                return _found({**result.meta, "path": name})
            except FileNotFoundError as error:
                self._raise_for_bucket(error)
                return None

        return self.persist(ask)

    def document(self, name: str, limit_bytes: int) -> bytes | None:
        """A small object's bytes, or None when there is none of that name; at most `limit_bytes` + 1 of them."""

        def ask() -> bytes | None:
            try:
                result = self._obstore.get(self._client, name)
                if int(result.meta["size"]) > limit_bytes:
                    return bytes(self._obstore.get_range(self._client, name, start=0, length=limit_bytes + 1))
                return bytes(result.bytes())
            except FileNotFoundError as error:
                self._raise_for_bucket(error)
                return None

        return self.persist(ask)

    def parts(self, found: Found, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes `start` to `stop` of an object, in parts of about `PART_BYTES`, of the object that `found` tells of.

        A part's bytes are there until the next one is asked for.

        Raises:
            PassingError: a fault that may pass; whatever was yielded before it is worth nothing.
            StageError: `stage-changed`, `stage-denied` or `stage-unreachable`.
        """
        first, began = start, time.monotonic()
        answer = self._asked(found, start, stop)
        try:
            for part in self._carried(found, start, stop) if answer is None else answer.parts():
                start += len(part)
                yield part
                took_s = time.monotonic() - began
                if took_s > self.stall_s and start - first < took_s * _SLOWEST_BYTES_PER_S:
                    raise PassingError(_TOO_SLOW)
        except FileNotFoundError:
            raise self._changed(found.name, "removed") from None
        except self._obstore.exceptions.PreconditionError:
            raise self._changed(found.name, "replaced") from None
        except (self._obstore.exceptions.BaseError, OSError) as error:
            self._judge(error, found.name)
            late = time.monotonic() - began > 0.95 * self._longest_s
            raise PassingError(_TOO_SLOW if late else reason_of(error)) from None
        if start != stop:
            raise PassingError("the connection ended early" if start < stop else "it sent more than was asked for")

    def hang_up(self, *, wake: bool = False) -> None:
        """Close kept connections; or, with `wake`, only end what any thread still waits for."""
        if wake:
            self._wire.end()
        else:
            self._wire.close()

    def _asked(self, found: Found, start: int, stop: int) -> Answer | None:
        """The answer to a plain request that has these bytes; None where it is the client library's to ask.

        Whatever is about the request itself (keys, a redirect, an answer that is no plain one) goes to the library as
        well, from then on, and its word counts.
        """
        if not self._plain or found.version is not None:
            return None
        ranged = found.bytes > WHOLE_BYTES
        headers = f"If-Match: {found.etag}\r\n" if found.etag is not None and found.etag.isprintable() else ""
        headers += f"Range: bytes={start}-{stop - 1}\r\n" if ranged else ""
        try:
            answer = self._wire.get(self._url(found.name), headers)
            if answer.status != (206 if ranged else 200):
                self._refused(answer, found.name)
        except OSError as error:
            raise PassingError(reason_of(error)) from None
        except (NotPlainError, self._obstore.exceptions.BaseError, ValueError):
            self._plain = False
            return None
        span, _, size = (
            answer.headers.get("content-range", "").rpartition("/") if ranged else ("", "", str(answer.length))
        )
        tags = {tag.strip('"') for tag in (found.etag, answer.headers.get("etag")) if tag is not None}
        if size != str(found.bytes) or len(tags) > 1:
            answer.close()
            raise self._changed(found.name, "replaced")
        if (
            ranged and span != f"bytes {start}-{stop - 1}"
        ):  # bytes of another place would pass for these where no digest is
            answer.close()
            self._plain = False
            return None
        return answer

    def _refused(self, answer: Answer, name: str) -> None:
        """Raise for an answer without the bytes."""
        status, said = answer.status, b""
        if answer.length > BUFFER_BYTES:
            answer.close()
        else:
            said = b"".join(bytes(part) for part in answer.parts())
        if status == 404:
            raise self._changed(name, "removed")
        if status == 412:
            raise self._changed(name, "replaced")
        if status >= 500 or status in _PASSING:
            code = _CODE.search(said.decode("latin-1"))
            raise PassingError(f"it answered {status}" + (f" {code[1]}" if code else ""))
        raise NotPlainError

    def _url(self, name: str) -> str:
        """Where a plain request finds an object: of a bucket, a link signed for this one request and its time."""
        if self.place.kind == "http":
            return "/".join([str(self.place.endpoint), *(quote(part) for part in (self.place.prefix, name) if part)])
        return str(self._obstore.sign(self._client, "GET", name, expires_in=_SIGNED))

    def _carried(self, found: Found, start: int, stop: int) -> Iterator[memoryview]:
        """The same bytes through the client library."""
        result = self._open(found, start, stop)
        whole = found.bytes <= WHOLE_BYTES
        for part in (result.bytes(),) if whole else result.stream(min_chunk_size=PART_BYTES):
            yield memoryview(part)

    def _open(self, found: Found, start: int, stop: int) -> GetResult:
        options: GetOptions = {}
        if found.etag is not None:
            options["if_match"] = found.etag
        if found.version is not None:
            options["version"] = found.version
        if found.bytes > WHOLE_BYTES:
            options["range"] = (start, stop)
        result = self._obstore.get(self._client, found.name, options=options)
        meta = result.meta
        # Some servers do not know If-Match, and answer with whatever is there now; some list tags without their quotes.
        tags = [tag.strip('"') for tag in (found.etag, meta["e_tag"]) if tag is not None]
        if len(set(tags)) > 1:
            raise self._changed(found.name, "replaced")
        if int(meta["size"]) != found.bytes:
            raise self._changed(found.name, "replaced")
        return result

    def persist(self, work: Callable[[], _T], name: str | None = None) -> _T:
        """Repeat `work` until it is answered, or has failed for `patience_s`; `name` is the object it is about."""
        pause_s, longest_s = _PAUSE_S
        ends: float | None = None
        while True:
            try:
                return work()
            except LanemarkError:
                raise
            except PassingError as error:
                why = str(error)
            except (self._obstore.exceptions.BaseError, OSError) as error:
                self._judge(error, name)
                why = reason_of(error)
            now = time.monotonic()
            # The first request's own waiting counts as well: a silent server has used up one stall by now.
            ends = now + self.patience_s - self.stall_s if ends is None else ends
            # A pause of random length keeps requests that failed together from coming back together.
            pause = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
            if now + pause > ends or self._stopped.wait(pause):
                raise self.unreachable(why, name)
            pause_s = min(longest_s, pause_s * 2)

    # -- what went wrong ---------------------------------------------------------------------------------------------

    def unreachable(self, why: str, name: str | None = None) -> StageError:
        """The `stage-unreachable` error."""
        return StageError(
            "stage-unreachable",
            f"{self._what(name)} cannot be read ({why})",
            "check the location, the network and the store, and run the same command again: what was verified is kept",
        )

    def _what(self, name: str | None) -> str:
        return f"the source {self.place.name}" if name is None else f"the object {name[:120]} of {self.place.name}"

    def _judge(self, error: Exception, name: str | None = None) -> None:
        """Raise for an answer that will be the same next time; return for a fault that may pass."""
        found = self._obstore.exceptions
        text = str(error)
        status, code = _status(text), _CODE.search(text)
        if any(address in text for address in _HOST_KEYS):
            raise self._denied("no keys are set, and this host has none of its own", name)
        by_type = isinstance(error, (found.PermissionDeniedError, found.UnauthenticatedError, PermissionError))
        if by_type or status in (401, 403) or (code is not None and code[1] in _KEY_CODES):
            raise self._denied(reason_of(error), name)
        if isinstance(error, found.InvalidPathError) or "path segment" in text:
            raise StageError(
                "stage-name-hostile",
                f"the source {self.place.name} holds an object whose name is no path",
                "remove it from the source, or name a prefix that does not hold it",
            )
        if status is not None and 300 <= status < 500 and status not in _PASSING:
            raise self.unreachable(reason_of(error), name)

    def _denied(self, why: str, name: str | None) -> StageError:
        return StageError(
            "stage-denied",
            f"{self._what(name)} may not be read with these credentials ({why})",
            "give keys that may list and read there, in the environment or where the store's own tools keep them, and "
            "run the same command again: what was verified is kept",
        )

    def _changed(self, name: str, how: str) -> StageError:
        return StageError(
            "stage-changed",
            f"{self._what(name)} was {how} while it was being staged",
            "run the same command again when nobody writes there; nothing of the old and the new was mixed",
        )

    def _raise_for_bucket(self, error: FileNotFoundError) -> None:
        """A bucket that does not exist answers like an object that does not."""
        code = _CODE.search(str(error))
        if code is not None and code[1] == "NoSuchBucket":
            raise self.unreachable("there is no bucket of that name")

    # -- the client --------------------------------------------------------------------------------------------------

    @property
    def stall_s(self) -> float:
        """Seconds of silence after which a read is given up."""
        low, high = _STALL_S
        return min(high, max(low, self.patience_s * _STALL_SHARE))

    @property
    def _longest_s(self) -> float:
        """Seconds that a request may take in all: a body that trickles is never silent, and ends by this."""
        return self.stall_s + PIECE_BYTES / _SLOWEST_BYTES_PER_S

    def _connect(self, environ: Mapping[str, str]) -> Any:
        from obstore import store

        place = self.place
        endpoint = place.endpoint or endpoint_of(place.kind, environ)
        silence = timedelta(seconds=self.stall_s)
        shared: dict[str, Any] = {
            "client_options": {
                "allow_http": (endpoint or "").startswith("http://"),
                "connect_timeout": silence,
                "read_timeout": silence,
                "timeout": timedelta(seconds=self._longest_s),
            },
            "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        }
        given = {} if endpoint is None else {"endpoint": endpoint}
        prefix = place.prefix or None
        try:
            if place.kind == "local":
                return store.LocalStore(place.prefix)
            if place.kind == "http":
                return store.HTTPStore(f"{place.endpoint}/{place.prefix}", **shared)
            if place.kind == "gs":
                base = {} if endpoint is None else {"base_url": endpoint, "skip_signature": True}
                return store.GCSStore(place.bucket, prefix=prefix, **base, **shared)  # type: ignore[arg-type]
            if place.kind == "az":
                account = {} if place.account is None else {"account_name": place.account}
                return store.AzureStore(place.bucket, prefix=prefix, **account, **given, **shared)  # type: ignore[arg-type]
            region = place.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            keys = profile_keys(environ)
            return store.S3Store(place.bucket, prefix=prefix, region=region, **keys, **given, **shared)  # type: ignore[arg-type]
        except (self._obstore.exceptions.BaseError, ValueError, TypeError, OSError) as error:
            raise self.unreachable(f"its settings cannot be used: {reason_of(error)}") from None


def endpoint_of(kind: str, environ: Mapping[str, str]) -> str | None:
    """The endpoint that the environment names, under the names that each provider's own tools read."""
    if kind == "s3":
        return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None
    if kind == "gs":
        host = environ.get("STORAGE_EMULATOR_HOST")
        return None if not host else host if "://" in host else f"http://{host}"
    return None


def profile_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Keys of the AWS shared credentials file, where no chain that the client follows itself is set; else nothing."""
    if any(environ.get(name) for name in _OTHER_CHAINS):
        return {}
    home = Path(environ.get("HOME") or Path.home())
    path = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials")
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser[environ.get("AWS_PROFILE") or "default"]
    except (OSError, ValueError, KeyError, configparser.Error):
        return {}
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
    }
    found = {short: section[name] for name, short in names.items() if section.get(name)}
    return found if {"access_key_id", "secret_access_key"} <= found.keys() else {}


def reason_of(error: Exception) -> str:
    """What a failed request came to, in a few words that hold no address and no key."""
    text = str(error)
    status = _status(text)
    if status is not None:
        code = _CODE.search(text)
        return f"it answered {status}" + (f" {code[1]}" if code else "")
    lowered = text.lower()
    return next((said for word, said in _WORDS if word in lowered), "the request failed")


def extra_missing(what: str) -> StageError:
    """The `stage-extra-missing` error."""
    return StageError(
        "stage-extra-missing", f"{what}, which is not installed", "install it with `pip install 'lanemark[stage]'`"
    )


def _status(text: str) -> int | None:
    match = _STATUS.search(text)
    return None if match is None else int(match[1] or match[2])


def _found(entry: Mapping[str, Any]) -> Found:
    return Found(str(entry["path"]), int(entry["size"]), entry.get("e_tag") or None, entry.get("version") or None)
