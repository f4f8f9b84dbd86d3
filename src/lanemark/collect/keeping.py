"""Keep the compile cache of a run where the operator said where to, once its record is sealed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lanemark.collect.starting import rank_words
from lanemark.launch.surface import Placement
from lanemark.records.attempt import AttemptPaths, State
from lanemark.records.case import Case
from lanemark.stage.capture import capture_cache


def capture_after(
    case: Case,
    paths: AttemptPaths,
    placement: Placement,
    *,
    capture_to: Path | None,
    fingerprint: Mapping[str, Any] | None,
) -> Callable[[State], str | None] | None:
    """What `conduct` calls when the record is sealed, or None where nothing is to be captured.

    Args:
        case: whose cache it is.
        paths: where its ranks said what they used.
        placement: where the cache lies.
        capture_to: the archive; None to keep nothing.
        fingerprint: what the cache's keys depend on; without it nothing can be said of what would be captured.
    """
    cache_dir = placement.cache_dir
    if capture_to is None or cache_dir is None or fingerprint is None:
        return None
    directory, destination, seen = cache_dir.absolute(), capture_to, fingerprint

    def keep(_state: State) -> str | None:
        done = capture_cache(
            directory,
            destination,
            case=case,
            layout=placement.cache_layout,
            fingerprint=seen,
            rank_reports=rank_words(paths, case.nproc),
            run_id=paths.run_id,
        )
        if not done.captured:
            return f"the compile cache was not captured: {done.reason}"
        return f"the compile cache was captured to {str(destination)!r}: {done.reason}, {done.digest}"

    return keep
