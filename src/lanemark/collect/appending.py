"""Append a sealed record to the ledger, with its evidence. A failed append is a notice, never a failed run.

The ledger is the one that `LANEMARK_LEDGER` names, a directory or object storage. Storage that does not answer costs
the end of a run its deadline once; `lanemark collect` appends the record later, from the attempt directory.
"""

from __future__ import annotations

from lanemark.ledger.location import open_ledger
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.encoding import decode
from lanemark.records.errors import LanemarkError
from lanemark.records.statement import SealedRecord


def append_to_ledger(home: Home, paths: AttemptPaths, record: SealedRecord) -> tuple[bool, str | None]:
    """Append the record and the evidence that is still at hand.

    Returns:
        Whether the ledger has the record now, and a sentence on what did not work, or None. The record stays in the
        attempt directory either way, and `lanemark collect` tries again where the ledger refused.
    """
    evidence = [
        (item["name"], paths.root / item["name"])
        for item in decode(record.data)["predicate"]["evidence"]
        if (paths.root / item["name"]).is_file()
    ]
    try:
        done = open_ledger(home).append(record.data, evidence)
    except (LanemarkError, OSError) as error:
        return False, f"the record could not be appended to the ledger ({error}); it is kept at {paths.record}"
    return True, "; ".join(done.notices) or None
