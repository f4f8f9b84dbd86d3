"""Reading a seed from somewhere else: object storage through `obstore`, servers through the standard library.

One archive is one read, unpacked while it arrives; nothing is kept on the way. What storage answers is never trusted:
whoever reads checks every byte against the manifest. So this module only says what it could not get, and why, in words
that hold no address and no key.
"""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, urlsplit

from lanemark.stage.seed_archive import Readable
from lanemark.stage.seed_source import loopback, parameters

#: Silence longer than this ends a read; an archive of any size may take as long as bytes keep coming.
SILENCE_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20


class Unreachable(Exception):  # noqa: N818 - a verdict on a layer, which its caller records
    """A source did not answer, or refused; `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotThere(Unreachable):
    """The source answered that it holds nothing of that name."""


@contextmanager
def stream(url: str) -> Iterator[Readable]:
    """One object's bytes as they arrive.

    Raises:
        Unreachable: also from `read`, half-way; `NotThere` when there is no such object.
    """
    opened = _served(url) if urlsplit(url).scheme in ("http", "https") else _stored(url)
    with opened as readable:
        yield readable


def fetch(url: str, limit_bytes: int) -> bytes:
    """One object, whole. Raises Unreachable, also when it is longer than `limit_bytes`."""
    with stream(url) as source:
        data = bytearray()
        while piece := source.read(_CHUNK_BYTES):
            data += piece
            if len(data) > limit_bytes:
                raise Unreachable(f"it answers with more than the {limit_bytes} bytes that were to be read")
    return bytes(data)


def below(url: str, path: str) -> str:
    """The URL of a file below a URL that ends in `/`, its query kept."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + quote(path)).geturl()


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """A redirect may lead elsewhere over https; never to plain http on another machine."""

    def redirect_request(  # noqa: PLR0917 - the library's own signature
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        parts = urlsplit(newurl)
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.hostname or "")):
            raise Unreachable("it redirects to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _served(url: str) -> Iterator[Readable]:
    handlers: list[urllib.request.BaseHandler] = [_NoDowngrade()]
    if loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy knows the way back to this machine
    opener = urllib.request.build_opener(*handlers)
    try:
        response = opener.open(url, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise NotThere(f"it answered {error.code}: there is nothing of that name") from None
        raise Unreachable(f"it answered {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(_reason(error)) from None
    with closing(response):
        yield _Served(response)


class _Served:
    """A server's answer; whatever ends it early is `Unreachable` and not a short archive."""

    def __init__(self, response: Any) -> None:
        self._response = response
        stated = response.headers.get("Content-Length", "")
        self._left = int(stated) if stated.isascii() and stated.isdigit() else None

    def read(self, size: int, /) -> bytes:
        try:
            data: bytes = self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the answer broke off: {_reason(error)}") from None
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise Unreachable(f"the answer broke off {self._left} bytes before its end")
        return data


@contextmanager
def _stored(url: str) -> Iterator[Readable]:
    try:
        import obstore
        from obstore.store import from_url
    except ImportError:
        raise Unreachable(
            "reading object storage needs obstore; install it with `pip install 'lanemark[team]'`"
        ) from None
    parts = urlsplit(url)
    # az://ACCOUNT/CONTAINER/…: the container belongs to the store, the rest names the object.
    depth = 1 if parts.scheme == "az" else 0
    steps = parts.path.lstrip("/").split("/")
    place = f"{parts.scheme}://{'/'.join([parts.netloc, *steps[:depth]])}"
    given = parameters(url)
    try:
        make: Any = from_url  # its overloads are one a scheme, and the scheme is known only here
        store = make(
            place,
            client_options={
                "allow_http": given.get("endpoint", "").startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                "read_timeout": timedelta(seconds=SILENCE_S),
            },
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
            **_settings(parts.scheme, given, os.environ),
        )
        answer = obstore.get(store, "/".join(steps[depth:]))
    except FileNotFoundError:
        raise NotThere("there is no object of that name") from None
    except Exception as error:  # the client's errors share no base with what its transport raises
        raise Unreachable(_reason(error)) from None
    yield _Stored(answer.stream(min_chunk_size=_CHUNK_BYTES))


def _settings(scheme: str, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    """What `from_url` takes beside the URL; keys come from the environment, as the client finds them."""
    if scheme != "s3":
        return {}
    region = given.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = given.get("endpoint")
    return {"region": region} | ({"endpoint": endpoint} if endpoint else {})


class _Stored:
    """Chunks of whatever size the client has, as a `read`."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._held:
            try:
                self._held = memoryview(bytes(next(self._chunks, b"")))
            except Exception as error:  # as above: whatever broke, the bytes did not come
                raise Unreachable(f"the answer broke off: {_reason(error)}") from None
        data, self._held = self._held[:size], self._held[size:]
        return bytes(data)


def _reason(error: BaseException) -> str:
    """What a failed request came to, without addresses, which may be signed."""
    if isinstance(error, Unreachable):
        return error.reason
    text = str(error).lower()
    said = (
        ("timed out", "it did not answer in time"),
        ("timeout", "it did not answer in time"),
        ("refused", "the connection was refused"),
        ("certificate", "its certificate is not trusted"),
        ("name or service", "its host name is not known"),
        ("dns error", "its host name is not known"),
        ("status code: 403", "it refuses these keys"),
        ("status code: 401", "it refuses these keys"),
        ("reset", "the connection was reset"),
        ("incomplete", "the connection ended early"),
        ("credential", "no keys are set"),
    )
    for word, meaning in said:
        if word in text:
            return meaning
    return "its certificate is not trusted" if isinstance(error, ssl.SSLError) else f"{type(error).__name__}"
