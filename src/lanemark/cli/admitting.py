"""Records of the ledger brought before the judge: by id, and with the other runs of their series."""

from __future__ import annotations

from typing import Final

from lanemark.judge.admission import Admitted, admit
from lanemark.judge.series import series_of
from lanemark.judge.steady import audited
from lanemark.ledger.ledger import Ledger
from lanemark.records.errors import LanemarkError
from lanemark.records.observation import value_of

#: Of a series at most this many of the newest records are read: enough for the spread between runs, and quick.
MOST_OF_A_SERIES: Final = 40


def admitted(ledger: Ledger, name: str) -> Admitted:
    """One record by its id, the beginning of its id, or its run id, its evidence held against it.

    Raises RecordError as `Ledger.get`.
    """
    view = ledger.get(name)
    failure = ledger.verify(view.id).failure
    # The lane's rules are asked again by the judge, which names each one that is broken.
    tampered = f"{failure.name}: {failure.detail}" if failure is not None and failure.name != "rules" else None
    found = audited(view.doc["predicate"])
    unsteady, unaudited = (None, None) if found is None else (found.refuses, found.unknown)
    return admit(view.id, view.data, tampered=tampered, unsteady=unsteady, unaudited=unaudited)


def series_around(ledger: Ledger, record: Admitted, metric: str | None = None) -> list[Admitted]:
    """The newest records of the series that `record` is in, itself among them; only itself where it is in none.

    Records that cannot be read are passed over: a listing must not fail for a file that somebody damaged.
    """
    if not record.lane or (name := series_of(record, metric)) is None:
        return [record]
    doc = record.predicate
    listing = ledger.list(
        lane=record.lane,
        preset=doc["case"]["preset"],
        gpu=record.device_class,
        mode=value_of(doc["distributed"]["observed"]["mode"]),
        outcome="ok",
        limit=MOST_OF_A_SERIES,
    )
    found = [record]
    for row in listing.rows:
        if row.id == record.id:
            continue
        try:
            other = admitted(ledger, row.id)
        except LanemarkError:
            continue
        refused = any(reason.severity == "block" for reason in other.reasons)
        if not refused and series_of(other, metric) == name:
            found.append(other)
    return found
