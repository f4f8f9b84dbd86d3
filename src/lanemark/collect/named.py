"""Which attempts a command line names: run ids of this home, or attempt directories that lie anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lanemark.collect.recovering import load_or_recover
from lanemark.collect.sweep import run_ids
from lanemark.records.attempt import RUN_ID, AttemptPaths, Home
from lanemark.records.errors import LedgerError


def named_attempts(home: Home, words: Sequence[str]) -> list[AttemptPaths]:
    """Directories of the attempts named, each once, in order; every one of this home's, newest first, without words.

    A word is a run id, an attempt directory, or the manifest inside one.

    Raises:
        LedgerError: `attempt-missing` where a word names none, `attempt-unreadable` where one cannot be understood.
    """
    if not words:
        return [home.attempt(run_id) for run_id in run_ids(home)]
    found = [_named(home, word) for word in dict.fromkeys(words)]
    for paths in found:
        load_or_recover(paths)
    return found


def _named(home: Home, word: str) -> AttemptPaths:
    if RUN_ID.fullmatch(word):
        return home.attempt(word)
    path = Path(os.path.abspath(word))
    root = path.parent if path.name == "attempt.json" else path
    if RUN_ID.fullmatch(root.name) and root.is_dir():
        return AttemptPaths(root)
    raise LedgerError(
        "attempt-missing",
        f"no attempt {word[:60]!r} is known here",
        "list them with `lanemark runs`, or name an attempt's directory",
    )
