"""`S3Location`: an `s3://` ledger location taken apart, strictly. Pure.

    s3://bucket/prefix?endpoint=https://host:9000&region=eu-west-1&deadline_s=20&index=postgresql://host/records

A location is typed, logged and pasted, so it never carries a credential: one in it is refused, and the refusal does not
repeat it. A password inside the index URL is accepted from the environment alone, and never shown.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError

LEDGER_VARIABLE: Final = "LANEMARK_LEDGER"
INDEX_URL_VARIABLE: Final = "LANEMARK_INDEX_URL"
#: Longer than the slow-down answers of a busy S3 bucket last, shorter than anybody's patience with `lanemark list`.
DEADLINE_S: Final = 20.0
_DEADLINES_S: Final = (1.0, 600.0)
#: Amazon S3 User Guide, "Bucket naming rules", without the reserved words.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: The "safe characters" of the S3 User Guide on object key names, less those that shells and URLs read as their own.
_SEGMENT: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=-]{1,200}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_PARAMETERS: Final = ("endpoint", "region", "deadline_s", "index")
_CREDENTIAL: Final = re.compile(r"access|secret|token|passw|credential|signature|(^|[_-])key", re.IGNORECASE)


class IndexURL:
    """A PostgreSQL URL that may hold a password. Its text form never does.

    Attributes:
        conninfo: what the driver is given. Do not print it.
    """

    __slots__ = ("conninfo", "secret")

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        parts = urlsplit(conninfo)
        words = [value for name, value in parse_qsl(parts.query) if "password" in name.lower()]
        if parts.password:
            words += [parts.password, unquote(parts.password)]
        self.secret = tuple(word for word in words if word)

    def scrub(self, text: str) -> str:
        """`text` without this URL's password in it, however the driver quoted it."""
        text = text.replace(self.conninfo, str(self))
        for word in self.secret:
            text = text.replace(word, "***")
        return text

    def __str__(self) -> str:
        parts = urlsplit(self.conninfo)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"

    __repr__ = __str__


class S3Location(NamedTuple):
    """A ledger on S3-compatible storage.

    Attributes:
        bucket, prefix: where in the store; the prefix may be empty and has no slash at either end.
        endpoint: URL of the store, or None for AWS.
        region: its region, or None for what the environment says.
        deadline_s: how long the store may make no progress before an operation fails.
        shared_index: a shared index, or None for one of this machine's own.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    deadline_s: float = DEADLINE_S
    shared_index: IndexURL | None = None

    @property
    def name(self) -> str:
        """`s3://bucket/prefix`, as messages call it."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def key(self) -> str:
        """What tells this ledger from others, in local file names and in a shared index: 16 hexadecimal digits.

        The endpoint is part of it, because two stores may have a bucket of one name. Hosts that share an index must
        therefore write the endpoint alike.
        """
        return hashlib.sha256(f"{self.endpoint or 'aws'} {self.name}".encode()).hexdigest()[:16]


def parse_s3(text: str, index_text: str) -> S3Location:
    """A location that begins with `s3://`. Pure.

    Args:
        text: the location.
        index_text: the index URL that the environment gives, or empty; the location's own wins.

    Raises:
        UsageError: `ledger-location-invalid`, or `ledger-credentials-in-url`.
    """
    if any(character.isspace() or not character.isprintable() for character in text):
        raise invalid("it has a space or a control character")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise invalid("it does not parse as a URL") from None
    if "@" in parts.netloc:
        raise _credentials("the location has a user name or a key before its bucket")
    given = _parameters(parts.query)
    if parts.fragment:
        raise invalid("it has a fragment (#…)")
    if not _BUCKET.fullmatch(parts.netloc):
        raise invalid(f"{safe_text(parts.netloc)[:70]!r} is not the name of a bucket")
    prefix = unquote(parts.path).strip("/")
    for segment in prefix.split("/") if prefix else ():
        if not _SEGMENT.fullmatch(segment):
            raise invalid(
                f"{safe_text(segment)[:60]!r} in the prefix is not made of letters, digits, '.', '_', '=' and '-'"
            )
    region = given.get("region")
    if region is not None and not _REGION.fullmatch(region):
        raise invalid(f"{safe_text(region)[:60]!r} is not the name of a region")
    return S3Location(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=_endpoint(given["endpoint"]) if "endpoint" in given else None,
        region=region,
        deadline_s=_deadline(given["deadline_s"]) if "deadline_s" in given else DEADLINE_S,
        shared_index=_index(given.get("index"), index_text),
    )


def _parameters(query: str) -> dict[str, str]:
    """The query of a location, strictly: known names, each once. `+` is a plus sign."""
    given: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        name = unquote(name)
        if _CREDENTIAL.search(name):
            raise _credentials(f"the location has a parameter {safe_text(name)[:40]!r}")
        if name not in _PARAMETERS or not value:
            raise invalid(f"{safe_text(name)[:40]!r} with a value is not one of {', '.join(_PARAMETERS)}")
        if name in given:
            raise invalid(f"{name!r} stands twice in it")
        given[name] = unquote(value)
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


def _deadline(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    low, high = _DEADLINES_S
    if not low <= seconds <= high:
        raise invalid(f"deadline_s is not a number of seconds from {low:g} to {high:g}")
    return seconds


def _index(given: str | None, from_environment: str) -> IndexURL | None:
    """The index URL: the location's own, else the environment's."""
    text = given or from_environment
    if not text:
        return None
    try:
        url = IndexURL(text)
    except ValueError:
        raise invalid("the index does not parse as a URL") from None
    if not text.startswith(("postgresql://", "postgres://")) or any(c.isspace() or c == "\0" for c in text):
        raise invalid("the index is not a postgresql:// URL")
    if given and url.secret:
        raise _credentials(f"the index in the location has a password, which only {INDEX_URL_VARIABLE} may have")
    return url


def invalid(what: str) -> UsageError:
    """The `ledger-location-invalid` error."""
    return UsageError(
        "ledger-location-invalid",
        f"{LEDGER_VARIABLE} does not name a ledger: {what}",
        "give it a directory or s3://BUCKET/PREFIX?endpoint=URL, or unset it",
    )


def _credentials(what: str) -> UsageError:
    return UsageError(
        "ledger-credentials-in-url",
        f"{LEDGER_VARIABLE} must not hold credentials: {what}",
        "take it out, and give storage keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in the shared "
        "credentials file, and a database password as PGPASSWORD or in .pgpass",
    )
