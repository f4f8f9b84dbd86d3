"""Where the ledger is: `LANEMARK_LEDGER` read, and what it names opened.

    (unset)                                  $LANEMARK_HOME/ledger
    /srv/share/ledger                        a directory
    s3://bucket/prefix?endpoint=https://…    S3-compatible storage; further parameters below

Parameters of an `s3://` location: `endpoint` (AWS itself when not given), `region`, `deadline_s` (how long storage may
stay without an answer) and `index` (a PostgreSQL URL of a shared index; also from `LANEMARK_INDEX_URL`).

No location carries a credential (`lanemark.ledger.s3_location`): storage keys come from the environment or the shared
credentials file, the database's password from `PGPASSWORD`, `.pgpass`, a service file, or `LANEMARK_INDEX_URL`.

A directory is the ordinary case, and imports nothing that only the others need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanemark.ledger.ledger import Ledger
    from lanemark.ledger.s3_location import S3Location
    from lanemark.records.attempt import Home


def ledger_location(home: Home, environ: Mapping[str, str]) -> Path | S3Location:
    """Where the ledger is, from the environment. Touches nothing.

    Raises:
        UsageError: `ledger-location-invalid`, or `ledger-credentials-in-url`.
    """
    text, index = environ.get("LANEMARK_LEDGER", ""), environ.get("LANEMARK_INDEX_URL", "")
    if "://" in text or "\0" in text or index:
        from lanemark.ledger.s3_location import invalid, parse_s3

        scheme = text.partition("://")[0].lower() if "://" in text else ""
        if scheme == "s3":
            return parse_s3(text, index)
        if scheme.isalnum():
            raise invalid(f"{scheme[:20]}:// is not a kind of place it can name")
        if index:
            raise invalid("LANEMARK_INDEX_URL is set, and only a ledger on s3:// can have a shared index")
        if "\0" in text:
            raise invalid("a path holds no NUL character")
    return Path(os.path.expanduser(text)).absolute() if text else home.ledger


def open_ledger(home: Home, environ: Mapping[str, str] | None = None) -> Ledger:
    """The ledger that the environment names. Touches neither disk nor network yet.

    Args:
        home: where the ledger lies unless `LANEMARK_LEDGER` says otherwise, and where copies of a remote one are kept.
        environ: this process's environment when not given.

    Raises:
        UsageError: as `ledger_location`.
        LedgerError: `team-extra-missing`: the location needs a package that is not installed.
    """
    from lanemark.ledger.ledger import Ledger

    environ = os.environ if environ is None else environ
    place = ledger_location(home, environ)
    if isinstance(place, Path):
        return Ledger(place, environ)
    from lanemark.ledger.copies import open_remote

    return open_remote(place, home.ledger_copies / place.key, environ)
