"""Try once more when, and only when, the ranks could not form a process group.

A failed bootstrap is the one class that another try may mend: a port or an interface that was not ready yet. Every
other failure would come back, or would hide in the average of tries. The second attempt has a record of its own, and
its note `retried_bootstrap` names the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lanemark.collect.conduct import Conducted
from lanemark.records.encoding import decode
from lanemark.records.finding import Finding

#: The class that is retried. There is no second one.
_RETRIED: Final = "bootstrap_failed"


def first_cause_of(done: Conducted) -> Mapping[str, Any] | None:
    """The first cause in an attempt's record, or None when nothing failed."""
    cause: Mapping[str, Any] | None = decode(done.record.data)["predicate"]["outcome"].get("first_cause")
    return cause


def with_one_retry(
    attempt: Callable[[tuple[Finding, ...]], Conducted],
    *,
    interrupted: Callable[[], str | None],
    announce: Callable[[str], None],
) -> Conducted:
    """Make one attempt, and a second one if the first could not form a process group.

    Args:
        attempt: prepares and conducts one attempt whose record is to carry the findings given.
        interrupted: the signal that told us to stop, or None; then nothing is tried again.
        announce: told in one line that a second attempt follows.

    Returns:
        The last attempt made.
    """
    first = attempt(())
    cause = first_cause_of(first)
    if cause is None or cause["kind"] != _RETRIED or interrupted() is not None:
        return first
    announce(f"{first.manifest.run_id} could not form a process group; trying once more")
    note = Finding(
        "retried_bootstrap",
        "note",
        f"an attempt before this one, {first.manifest.run_id}, could not form a process group",
        (f"its record: {first.record.id}", f"its first cause: {cause['summary']}"),
    )
    return attempt((note,))
