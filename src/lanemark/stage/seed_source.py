"""`Source`: where a compile cache may be seeded from, as a word on a command line. Pure.

    /volume/seeds/dense.tar.zst            an archive on a volume
    s3://bucket/dense.tar.zst              an archive in object storage: one object, one read (also gs://, az://, https://)
    /opt/lanemark-seed                     a directory: baked into the image, or written by `lanemark cache bake`
    https://host/seeds/dense/              such a directory behind a server, fetched file by file

An `s3://` source may carry `?endpoint=URL&region=NAME`. Plain `http://` is taken for loopback only. What goes into a
record is `Source.shown`: no user, no password, no query, since a query is where signed URLs keep their signature.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError

SOURCES_VARIABLE: Final = "LANEMARK_CACHE_FROM"
ARCHIVE_SUFFIX: Final = ".tar.zst"
_STORES: Final = ("s3", "gs", "az")
_SERVERS: Final = ("https", "http")
_PARAMETERS: Final = ("endpoint", "region")
#: A list of layers longer than this is a mistake in quoting.
MAX_SOURCES: Final = 16

SourceKind = Literal["archive", "object_storage", "image_directory", "per_file"]


@dataclass(frozen=True)
class Source:
    """One layer.

    Attributes:
        kind: how it is read.
        text: as it was given; it may hold a signature, so it is used and never shown.
        shown: the same without anything that could be a credential.
    """

    kind: SourceKind
    text: str
    shown: str

    @property
    def path(self) -> Path:
        """Of a source on this machine."""
        assert self.kind in ("archive", "image_directory")
        return Path(os.path.expanduser(self.text)).absolute()


def parse_source(text: str) -> Source:
    """Understand one source. Raises UsageError `cache-source-invalid`; looks at nothing but the text."""
    if not text or not text.isprintable() or len(text) > 4096:
        raise invalid(text, "it is empty, too long, or has a control character")
    if "://" not in text:
        kind: SourceKind = "archive" if text.endswith(ARCHIVE_SUFFIX) else "image_directory"
        return Source(kind, text, safe_text(text))
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise invalid(text, "it does not parse as a URL") from None
    if parts.scheme not in (*_STORES, *_SERVERS) or not host:
        raise invalid(text, "it is not a path, nor a URL of s3, gs, az or https")
    if parts.scheme == "http" and not loopback(host):
        raise invalid(text, "plain http is taken from loopback only")
    _check_query(text, parts)
    shown = safe_text(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
    if parts.path.endswith("/"):
        return Source("per_file", text, shown)
    if parts.path.endswith(ARCHIVE_SUFFIX):
        return Source("object_storage", text, shown)
    raise invalid(text, f"it ends in neither {ARCHIVE_SUFFIX} nor /")


def parse_sources(given: Iterable[str], environ: Mapping[str, str]) -> tuple[Source, ...]:
    """The layers in order: those of the command line, else those of `LANEMARK_CACHE_FROM`, separated by spaces.

    Raises:
        UsageError: `cache-source-invalid`.
    """
    texts = list(given) or environ.get(SOURCES_VARIABLE, "").split()
    if len(texts) > MAX_SOURCES:
        raise invalid(texts[0], f"it is one of {len(texts)} sources, more than {MAX_SOURCES}")
    return tuple(parse_source(text) for text in texts)


def loopback(host: str) -> bool:
    """Whether a host name stands for this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parameters(text: str) -> dict[str, str]:
    """The query of an object-storage URL."""
    return dict(parse_qsl(urlsplit(text).query))


def _check_query(text: str, parts: SplitResult) -> None:
    if parts.fragment:
        raise invalid(text, "it has a fragment (#…)")
    if parts.scheme not in _STORES:
        return
    if "@" in parts.netloc:
        raise invalid(text, "it has a user name or a key before its bucket, which the environment is for")
    given = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in given:
        if name not in _PARAMETERS or not value or parts.scheme != "s3":
            raise invalid(text, f"the parameter {name[:40]!r} is not one of endpoint and region, which s3:// takes")
        if name == "endpoint":
            where = urlsplit(value)
            plain = where.scheme == "http" and not loopback(where.hostname or "")
            if where.scheme not in _SERVERS or not where.hostname or "@" in where.netloc or plain:
                raise invalid(text, "its endpoint is no https:// address without credentials")


def invalid(text: str, why: str) -> UsageError:
    """The `cache-source-invalid` error, with nothing in it that may be a credential."""
    shown = text.partition("?")[0]
    if "@" in shown and "://" in shown:
        shown = f"{shown.partition('://')[0]}://{shown.rpartition('@')[2]}"
    return UsageError(
        "cache-source-invalid",
        f"{safe_text(shown)[:120]!r} cannot be a source of a compile cache: {why}",
        "give a path or URL that ends in .tar.zst, a directory, or a URL that ends in /",
    )
