"""The classes of many files brought to one answer. Pure; `mounts.py` classifies one file, `data_path.py` finds them."""

from __future__ import annotations

from collections.abc import Sequence

from lanemark.records.observation import Observation, observed, unavailable


def combine(classes: Sequence[str]) -> Observation[str]:
    """One class for all files of all ranks, or `mixed`. Pure.

    Unavailable when nothing was open, or when any file's class is `unknown`: the unseen one could be any of them.
    """
    source = "open files of the ranks (fdinfo, maps, mountinfo)"
    if not classes:
        return unavailable(source, "no data file was open when the ranks were looked at")
    unknown = sum(name == "unknown" for name in classes)
    if unknown:
        return unavailable(
            source, f"{unknown} of {len(classes)} open files are on storage that cannot be told from here"
        )
    distinct = set(classes)
    return observed(distinct.pop() if len(distinct) == 1 else "mixed", source)
