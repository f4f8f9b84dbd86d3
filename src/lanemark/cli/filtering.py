"""The filters that `list` and `export` share: their arguments, and what was asked as `Filters`."""

from __future__ import annotations

import argparse
import re
from typing import Final

from lanemark.cli.asked import one_of
from lanemark.cli.parsing import Parser
from lanemark.ledger.rows import Filters
from lanemark.records.case import LANES
from lanemark.records.errors import UsageError

#: A beginning of an RFC 3339 time stamp in UTC, as records have them.
_TIME: Final = re.compile(
    r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}(T[0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,3})?)?)?Z?)?)?)?", re.IGNORECASE
)
_COMMIT: Final = re.compile(r"[0-9a-f]{4,64}")
_OUTCOMES: Final = ("ok", "error", "cancelled", "lost")


def add_filters(verb: Parser) -> None:
    """The filter arguments of one verb."""
    group = verb.add_argument_group("which records")
    group.add_argument("--lane", default=None, metavar="L", help=f"{', '.join(LANES)}")
    group.add_argument("--gpu", default=None, metavar="CLASS", help="observed device class")
    group.add_argument("--preset", default=None, metavar="P", help="model recipe")
    group.add_argument("--surface", default=None, metavar="S", help="where it ran: local, modal, …")
    group.add_argument("--mode", default=None, metavar="M", help="observed distributed mode")
    group.add_argument("--startup", default=None, metavar="STATE", help="observed start-up state: cold, warm, …")
    group.add_argument("--outcome", default=None, metavar="O", help=f"{', '.join(_OUTCOMES)}")
    group.add_argument("--commit", default=None, metavar="HEX", help="observed source commit, or its first digits")
    group.add_argument("--since", default=None, metavar="TIME", help="sealed then or later (2026-11-22, or RFC 3339)")
    group.add_argument("--until", default=None, metavar="TIME", help="sealed then or earlier; a day counts whole")


def filters(asked: argparse.Namespace, limit: int | None) -> Filters:
    """What was asked. Raises UsageError for a value that no record could have."""
    if asked.lane is not None:
        one_of(asked.lane, "--lane", LANES)
    if asked.outcome is not None:
        one_of(asked.outcome, "--outcome", _OUTCOMES)
    commit = None if asked.commit is None else asked.commit.lower()
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise UsageError(
            "value-invalid", f"--commit {commit[:40]!r} is not 4 to 64 hexadecimal digits", "give --commit such digits"
        )
    return Filters(
        lane=asked.lane,
        gpu=asked.gpu,
        preset=asked.preset,
        since=_time(asked.since, "--since"),
        limit=limit,
        surface=asked.surface,
        mode=asked.mode,
        startup=asked.startup,
        outcome=asked.outcome,
        until=_time(asked.until, "--until"),
        commit=commit,
    )


def _time(text: str | None, name: str) -> str | None:
    """The time as a beginning of a record's own stamps: without a final `Z`, which they have after milliseconds."""
    if text is None:
        return None
    if not _TIME.fullmatch(text):
        raise UsageError(
            "value-invalid",
            f"{name} {text[:40]!r} is not a time in UTC or the beginning of one",
            f"give {name} as 2026-11-22 or 2026-11-22T15:04:05Z",
        )
    return text.upper().removesuffix("Z")
