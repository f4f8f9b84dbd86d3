"""Which program the ranks of a lane run: one literal table. Every surface that starts the reference stack reads it.

Programs are named and never imported: what a rank needs (torch) is no business of the process that starts it.
"""

from __future__ import annotations

from typing import Final

from lanemark.records.case import Lane

#: Lane → module, started as `python -m MODULE` once a rank. All of them leave the same files in a rank's directory
#: (beacon.page, observed.json, end.json, error.json); a lane without steps leaves `result.json` in place of samples.
RANK_PROGRAMS: Final[dict[Lane, str]] = {
    "training": "lanemark.stack.train",
    "sparse": "lanemark.stack.sparse_rank",
    "promotion": "lanemark.stack.promotion_rank",
}
