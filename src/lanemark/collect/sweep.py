"""Attempts on disk: list them, and seal those that nobody supervises any more."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

from lanemark.collect.collecting import Collected, Surfaces, collect_many
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest
from lanemark.collect.recovering import load_or_recover
from lanemark.launch.local_detached import LocalDetached
from lanemark.records.attempt import RUN_ID, AttemptPaths, Home
from lanemark.records.errors import LanemarkError

#: Outcomes after which there was something to tell.
_TOLD: Final = ("sealed", "appended", "problem")

#: A launcher makes the directory and takes its lock within a millisecond; a disk may be slow.
_BEGINNING_S: Final = 10.0


def run_ids(home: Home) -> list[str]:
    """Every directory that is named like an attempt, newest first."""
    try:
        names = os.listdir(home.attempts)
    except OSError:
        return []
    return sorted(
        (name for name in names if RUN_ID.fullmatch(name)), key=lambda name: name.split("-", 1)[1], reverse=True
    )


def attempts(home: Home, only: Sequence[str] | None = None) -> tuple[list[Manifest], list[str]]:
    """Every attempt that can be read, newest first, and one sentence for each that cannot.

    Args:
        home: where they lie.
        only: run ids to be read; all when None.
    """
    known, problems = [], []
    for run_id in run_ids(home) if only is None else only:
        paths = home.attempt(run_id)
        try:
            known.append(load_or_recover(paths))
        except LanemarkError as error:
            if error.slug != "attempt-missing":
                problems.append(str(error))
            elif not _is_being_prepared(paths):
                problems.append(f"{run_id} is a directory without an attempt: its launcher died before it began")
    return known, problems


def _is_being_prepared(paths: AttemptPaths) -> bool:
    """Whether a launcher is at work in a directory that holds no question yet."""
    if not paths.lock.exists():
        try:
            return time.time() - paths.root.stat().st_mtime < _BEGINNING_S
        except OSError:
            return False
    lock = AttemptLock(paths.lock)
    if not lock.take():
        return True
    lock.release()
    return False


def seal_lost(home: Home, only: Sequence[str] | None = None) -> list[Collected]:
    """Seal attempts on this host that nobody is at any more; append records that are not yet in the ledger.

    An attempt that is still supervised holds its lock and is left alone, and so is one on another surface: that takes
    asking, which is `lanemark collect`. An attempt that cannot be sealed is reported and keeps no other from it.
    """
    known, _ = attempts(home, only)
    local: Surfaces = {"local": LocalDetached()}
    unsettled = [
        home.attempt(manifest.run_id)
        for manifest in known
        if manifest.surface in local and not (manifest.state.final and manifest.appended)
    ]
    free = [paths for paths in unsettled if _is_free(paths)]
    return [done for done in collect_many(home, free, local) if done.outcome in _TOLD and done.line is not None]


def _is_free(paths: AttemptPaths) -> bool:
    """Whether nobody holds the attempt's lock; asking takes it for a moment."""
    try:
        lock = AttemptLock(paths.lock)
        taken = lock.take()
    except OSError:
        return True  # whatever is wrong with it, the collection will say
    lock.release()
    return taken
