"""Attempts on disk: list them, and seal those that nobody supervises any more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lanemark.collect.appending import append_to_ledger
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest, load, save
from lanemark.collect.sealing import Ending, seal_attempt
from lanemark.observe.host import boot_id
from lanemark.records.attempt import RUN_ID, Home
from lanemark.records.errors import LanemarkError


@dataclass(frozen=True)
class Collected:
    """What was done about one attempt, in one line."""

    run_id: str
    line: str


def _run_ids(home: Home) -> list[str]:
    try:
        names = os.listdir(home.attempts)
    except OSError:
        return []
    return sorted(
        (name for name in names if RUN_ID.fullmatch(name)), key=lambda name: name.split("-", 1)[1], reverse=True
    )


def attempts(home: Home) -> tuple[list[Manifest], list[str]]:
    """Every attempt that can be read, newest first, and one sentence for each that cannot."""
    known, problems = [], []
    for run_id in _run_ids(home):
        try:
            known.append(load(home.attempt(run_id)))
        except LanemarkError as error:
            problems.append(str(error))
    return known, problems


def seal_lost(home: Home, run_ids: Sequence[str] | None = None) -> list[Collected]:
    """Seal attempts whose state is not final and whose lock nobody holds; append records not yet in the ledger.

    An attempt that is still supervised holds its lock and is left alone. An attempt that cannot be sealed is reported
    and does not keep the others from being sealed.
    """
    done = []
    for run_id in _run_ids(home) if run_ids is None else run_ids:
        try:
            line = _settle(home, run_id)
        except (LanemarkError, OSError, ValueError) as error:
            line = f"{run_id} could not be sealed: {error}"
        if line is not None:
            done.append(Collected(run_id, line))
    return done


def _settle(home: Home, run_id: str) -> str | None:
    paths = home.attempt(run_id)
    if not paths.manifest.exists():
        return None
    manifest = load(paths)
    if manifest.state.final and manifest.appended:
        return None
    with AttemptLock(paths.lock) as held:
        if not held:
            return None
        manifest = load(paths)  # it may have ended while we waited for nothing
        if manifest.state.final and manifest.appended:
            return None
        was = manifest.state
        here = manifest.boot_id == boot_id().value
        record, manifest = seal_attempt(paths, manifest, Ending(supervisor_alive=False, same_clock=here))
        save(paths, manifest)
        appended, notice = append_to_ledger(home, paths, record)
        if appended:
            manifest = replace(manifest, appended=True)
            save(paths, manifest)
    if was.final:
        return f"{run_id} is {was.value}; its record is now in the ledger" if appended else f"{run_id}: {notice}"
    sealed = f"{run_id} was {was.value} without a supervisor and is sealed as {manifest.state.value}"
    return sealed if notice is None else f"{sealed}; {notice}"
