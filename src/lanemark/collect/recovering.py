"""Read an attempt's manifest, and put it together again from the files beside it where it is damaged or missing.

`attempt.json` is replaced atomically, so only a disk, a copy that was cut short or a hand can damage it. What it held
is then taken from what is left, in this order:

    record.json     the attempt is over, and the record says all that matters
    handover.json   the manifest as the launcher handed it over
    case.json       the question; when it was prepared stands in the run id

How far the attempt had come follows from which files exist. Ids of a rented place cannot be guessed: the surface is
asked by run id. What was put together says so, and nothing of it is written before somebody holds the attempt's lock.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from lanemark.collect.gathering import read_json
from lanemark.collect.manifest import Manifest, load
from lanemark.records.attempt import RUN_ID, AttemptPaths, State, Transition
from lanemark.records.case import Case
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import LanemarkError, LedgerError

_MOMENT: Final = re.compile(r"-([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z-")


def load_or_recover(paths: AttemptPaths) -> Manifest:
    """The manifest, whole or put together. Reads only.

    Raises:
        LedgerError: `attempt-missing` where there is no such attempt, `attempt-unreadable` where nothing is left to put
            a manifest together from. Nothing is removed or written.
    """
    try:
        return load(paths)
    except LanemarkError as error:
        if error.slug == "attempt-missing" and not (RUN_ID.fullmatch(paths.run_id) and paths.case.is_file()):
            raise
        damage = error
    why = "its manifest was missing" if damage.slug == "attempt-missing" else "its manifest was damaged"
    for attempt in (_from_record, _from_handover, _from_case):
        try:
            found = attempt(paths)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, LanemarkError):
            continue
        if found.run_id == paths.run_id:
            return replace(found, recovered=f"{why}; it was put together from {_NAMES[attempt]}")
    raise LedgerError(
        "attempt-unreadable",
        f"the manifest of attempt {paths.run_id!r} is damaged, and nothing beside it says what was asked",
        f"restore attempt.json or case.json in {str(paths.root)!r} from a copy; nothing was changed there",
    )


def _from_record(paths: AttemptPaths) -> Manifest:
    data = paths.record.read_bytes()
    predicate = decode(data)["predicate"]
    source = predicate["source"]
    base = _bare(paths, Case.from_json(predicate["case"]), tuple(source["argv"]), redacted=source["argv_redacted"])
    return base.sealed(digest(data), predicate)


def _from_handover(paths: AttemptPaths) -> Manifest:
    return _advanced(paths, Manifest.from_json((read_json(paths.handover) or {})["manifest"]))


def _from_case(paths: AttemptPaths) -> Manifest:
    return _advanced(paths, _bare(paths, Case.from_json(read_json(paths.case) or {}), (), redacted=False))


_NAMES: Final = {_from_record: "record.json", _from_handover: "handover.json", _from_case: "case.json"}


def _bare(paths: AttemptPaths, case: Case, argv: tuple[str, ...], *, redacted: bool) -> Manifest:
    """A manifest of which only the question and the run id are known."""
    moment = _MOMENT.search(paths.run_id)
    if moment is None:
        raise ValueError("a run id without a time")
    year, month, day, hour, minute, second = moment.groups()
    at = f"{year}-{month}-{day}T{hour}:{minute}:{second}.000Z"
    return Manifest(
        run_id=paths.run_id,
        plan_digest=case.digest,
        lane=case.lane,
        preset=case.preset,
        surface=case.surface,
        argv=argv,
        argv_redacted=redacted,
        placement={},
        state=State.PREPARED,
        transitions=(Transition(State.PREPARED, at, None, "its run id says when"),),
        prepared_ns=0,
        boot_id="unknown",
    )


def _advanced(paths: AttemptPaths, base: Manifest) -> Manifest:
    """As far as the files say that the attempt had come. The times of moves are gone: they are those of the first."""
    for state, marks, reason in (
        (State.DETACHED, (paths.handover,), "handover.json exists"),
        (State.RUNNING, (paths.launch,), "launch.json exists"),
    ):
        if base.state is not state and not base.state.final and any(mark.is_file() for mark in marks):
            step = Transition(state, base.transitions[0].at, None, f"put together again: {reason}")
            base = replace(base, state=state, transitions=(*base.transitions, step))
    return base
