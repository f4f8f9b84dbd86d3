"""Which attempts a command line names: run ids of this home, attempt directories that lie anywhere, or manifests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lanemark.collect.gathering import read_json
from lanemark.collect.manifest import Manifest, save
from lanemark.collect.recovering import load_or_recover
from lanemark.collect.sweep import run_ids
from lanemark.records.attempt import RUN_ID, AttemptPaths, Home
from lanemark.records.errors import LedgerError


def named_attempts(home: Home, words: Sequence[str]) -> list[AttemptPaths]:
    """Directories of the attempts named, each once, in order; every one of this home's, newest first, without words.

    A word is a run id, an attempt directory, the manifest inside one, or a copy of a manifest alone: that one gets a
    directory in this home, and what the run left is fetched there.

    Raises:
        LedgerError: `attempt-missing` where a word names none, `attempt-unreadable` where one cannot be understood.
        OSError: this home takes no directory.
    """
    if not words:
        return [home.attempt(run_id) for run_id in run_ids(home)]
    found = list(dict.fromkeys(_named(home, word) for word in words))
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
    if path.is_file():
        return _adopted(home, path)
    raise _unknown(word)


def _adopted(home: Home, path: Path) -> AttemptPaths:
    """A directory in this home for a manifest that came alone. One that is there already stays as it is."""
    try:
        manifest = Manifest.from_json(read_json(path) or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _unknown(str(path)) from None
    paths = home.attempt(manifest.run_id)
    if not paths.manifest.exists():
        paths.root.mkdir(parents=True, exist_ok=True)
        save(paths, manifest)
    return paths


def _unknown(word: str) -> LedgerError:
    return LedgerError(
        "attempt-missing",
        f"no attempt {word[:60]!r} is known here",
        "list them with `lanemark runs`, or name an attempt's directory or manifest",
    )
