"""`Place`: where a source lies, read from what the user typed. Pure.

    s3://bucket/prefix?endpoint=https://…&region=…    S3-compatible storage; AWS itself without an endpoint
    gs://bucket/prefix?endpoint=http://…              Google Cloud Storage, or an emulator
    az://container/prefix?account=NAME&endpoint=…     Azure Blob Storage
    https://host/directory                            a web server; it cannot be listed, so a manifest must lie there
    /srv/shards, file:///srv/shards                   a directory of this host

A source is typed, logged and sealed into records, so it never carries a credential: one in it is refused, a presigned
link too, and the refusal does not repeat it. Storage keys come from where its users keep them (`lanemark.stage.store`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError

Kind = Literal["s3", "gs", "az", "http", "local"]

#: Parameters that a location of each kind takes after `?`.
_PARAMETERS: Final[dict[str, tuple[str, ...]]] = {
    "s3": ("endpoint", "region"), "gs": ("endpoint",), "az": ("endpoint", "account"), "http": (), "local": (),
}  # fmt: skip
_SCHEMES: Final[dict[str, Kind]] = {
    "s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "https": "http", "http": "http", "file": "local",
}  # fmt: skip
#: The three stores' rules for names of buckets and containers, taken together: letters, digits, `-`, `_` and dots.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_WORD: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_CREDENTIAL: Final = re.compile(r"access|secret|token|passw|credential|signature|^sig$|(^|[_-])key", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A source, taken apart.

    Attributes:
        kind: which client reads it.
        bucket: bucket or container; for `http` the host with its port; empty for `local`.
        prefix: names below it, without slashes at either end; for `local` the absolute path.
        endpoint: address of the store, or None for the provider's own.
        region: S3 region, or None for what the environment says.
        account: Azure account, or None for what the environment says.
    """

    kind: Kind
    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    account: str | None = None

    @property
    def name(self) -> str:
        """The source as messages and records call it: no parameter, and never a credential."""
        if self.kind == "local":
            return safe_text(self.prefix)
        scheme: str = self.kind
        if self.kind == "http" and self.endpoint is not None:
            scheme = self.endpoint.partition("://")[0]
        return safe_text(f"{scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else ""))

    @property
    def last(self) -> str:
        """The last word of the location, made fit for a directory's name."""
        word = (self.prefix.rpartition("/")[2] or self.bucket).lower()
        return re.sub(r"[^a-z0-9._-]+", "-", word).strip(".-")[:60] or "data"


def is_url(text: str) -> bool:
    """Whether a `--data` value names a place to stage from, and not a directory or a word."""
    return "://" in text


def parse_place(text: str) -> Place:
    """Take a source apart. Touches nothing.

    Raises:
        UsageError: `stage-source-invalid`, or `stage-credentials-in-url`.
    """
    if not text or any(not character.isprintable() for character in text):
        raise invalid("it is empty or has a control character")
    if not is_url(text):
        return Place("local", "", os.path.abspath(os.path.expanduser(text)))
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise invalid("it does not parse as a URL") from None
    if "@" in parts.netloc:
        raise _credentials("a user name or a key stands before its host")
    kind = _SCHEMES.get(parts.scheme.lower())
    if kind is None:
        raise invalid(f"{safe_text(parts.scheme)[:20]}:// is not a kind of place that can be read")
    given = _parameters(kind, parts.query)
    if parts.fragment:
        raise invalid("it has a fragment (#…)")
    return _placed(kind, parts, host, given)


def _placed(kind: Kind, parts: SplitResult, host: str | None, given: dict[str, str]) -> Place:
    """The place of a URL whose scheme and parameters were checked."""
    path = unquote(parts.path)
    if kind == "local":
        if parts.netloc not in ("", "localhost") or not path.startswith("/"):
            raise invalid("a file:// location names a host or no absolute path")
        return Place("local", "", os.path.normpath(path))
    prefix = path.strip("/")
    if any(segment in ("", ".", "..") for segment in prefix.split("/")) and prefix:
        raise invalid("its path has an empty segment, '.' or '..'")
    if kind == "http":
        if not host:
            raise invalid("it names no host")
        return Place("http", parts.netloc.lower(), prefix, endpoint=f"{parts.scheme.lower()}://{parts.netloc.lower()}")
    if not _BUCKET.fullmatch(parts.netloc):
        raise invalid(f"{safe_text(parts.netloc)[:70]!r} is not the name of a bucket")
    return Place(
        kind,
        parts.netloc,
        prefix,
        endpoint=_endpoint(given["endpoint"]) if "endpoint" in given else None,
        region=given.get("region"),
        account=given.get("account"),
    )


def _parameters(kind: Kind, query: str) -> dict[str, str]:
    """The query of a location, strictly: known names, each once."""
    given: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        name, value = unquote(name), unquote(value)
        if _CREDENTIAL.search(name):
            raise _credentials(f"it has a parameter {safe_text(name)[:40]!r}")
        if name not in _PARAMETERS[kind] or not value:
            allowed = ", ".join(_PARAMETERS[kind]) or "none at all"
            raise invalid(f"its parameter {safe_text(name)[:40]!r} is not one that it may have ({allowed})")
        if name in given:
            raise invalid(f"{name!r} stands twice in it")
        if name != "endpoint" and not _WORD.fullmatch(value):
            raise invalid(f"its {name} {safe_text(value)[:40]!r} is not a plain word")
        given[name] = value
    return given


def _endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise invalid("the endpoint is not an http:// or https:// address")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _credentials("the endpoint carries more than a host, a port and a path")
    return text.rstrip("/")


def invalid(what: str) -> UsageError:
    """The `stage-source-invalid` error."""
    return UsageError(
        "stage-source-invalid",
        f"the source cannot be read as a place: {what}",
        "give s3://, gs://, az:// or https:// and a path, or a directory",
    )


def _credentials(what: str) -> UsageError:
    return UsageError(
        "stage-credentials-in-url",
        f"a source must not hold credentials: {what}",
        "take it out, and give keys in the environment or where the store's own tools keep them",
    )
