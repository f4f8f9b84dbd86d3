"""What a training record's `data` part says beyond shards and paths. Pure: from what was written before the ranks ran.

Every field here is optional: records made before it existed, and runs that it cannot concern, do without.
"""

from __future__ import annotations

from typing import Any

from lanemark.lanes.reports import looked_up
from lanemark.records.case import Case


def data_additions(case: Case, listed: dict[str, Any]) -> dict[str, Any]:
    """The optional fields of the `data` part.

    Args:
        case: synthetic tokens come from nowhere, and were never staged.
        listed: what was seen of the data before the ranks started, as the attempt's manifest has it.
    """
    if case.data.kind == "synthetic" or "staged" not in listed:
        return {}
    return {"staged": looked_up(listed, "staged", "staged.json beside the shards")}
