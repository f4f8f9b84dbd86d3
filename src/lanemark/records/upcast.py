"""Old records read as today's, without touching a byte: pure steps from one minor version to the next.

Files never migrate. What an old record's bytes say is what they say for ever, and its name is their digest. A reader
brings the parsed document to its own minor version, one step after the other, and shows that; `RecordView.data` stays
what was read. A step may add a field only with what the old record really says about it: a thing that nobody looked at
then becomes `unavailable` with that as its reason, never `absent` and never a guess.

`UPCASTERS` has one entry a minor version before ours. A test holds the table to `RECORD_VERSION`, and a corpus of every
version's records, frozen when the version was released, to what reading them must give
(`tests/assets/records/versions/`).

Standard library only, like everything that reads records for display.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

Document = dict[str, Any]
#: A statement of one minor version to the same of the next. It may change the document that it is given.
Upcaster = Callable[[Document], Document]

_CLOCKS: Final = ("container_age_s", "asleep_s", "time_shift_s", "earlier_run")
#: What 1.1 observes at the start of a run and 1.0 did not.
_STARTUP: Final = ("coverage_before", "layers", "layout", "prewarm", "purpose")


def not_recorded() -> Document:
    """An observation that version 1.0 did not make."""
    return {"status": "unavailable", "source": "record of version 1.0", "reason": "version 1.0 did not record it"}


def _to_1_1(doc: Document) -> Document:
    """1.1 says more of the starting line. The case is left alone: its bytes are what `plan_digest` names."""
    predicate = doc["predicate"]
    startup = predicate.get("startup")
    if isinstance(startup, dict):
        for name in _STARTUP:
            startup.setdefault(name, not_recorded())
        startup.setdefault("clocks", {name: not_recorded() for name in _CLOCKS})
    training = predicate.get("training")
    ranks = training.get("ranks") if isinstance(training, dict) else None
    for rank in ranks if isinstance(ranks, list) else []:
        if isinstance(rank, dict):
            rank.setdefault("first_step", not_recorded())
            rank.setdefault("cache", {"used": not_recorded(), "new_files": not_recorded()})
    return doc


#: Minor version to the step that leads from it to the next one.
UPCASTERS: Final[Mapping[int, Upcaster]] = {0: _to_1_1}


def upcast(doc: Document, *, minor: int, to: int, table: Mapping[int, Upcaster] = UPCASTERS) -> Document:
    """A statement of minor version `minor` as one of version `to`; `doc` itself where there is nothing to do.

    Pure: `doc` is not changed. The result states the version that it is in, so that doing it again changes nothing.

    Args:
        doc: the whole statement, of our major version, whose `predicate` is an object.
        minor: the minor version that it states.
        to: the minor version that is wanted. A document of a newer one is left as it is.
        table: the steps.

    Raises:
        LookupError: a step is missing, which is a defect of ours.
    """
    if minor >= to:
        return doc
    out = copy.deepcopy(doc)
    for step in range(minor, to):
        out = table[step](out)
        major = str(out["predicate"]["record_version"]).partition(".")[0]
        out["predicate"]["record_version"] = f"{major}.{step + 1}"
    return out
