"""Free space where something is about to be written."""

from __future__ import annotations

import os
from pathlib import Path

from lanemark.observe.reading import reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, observed, unavailable


def free_space(path: str | os.PathLike[str]) -> Observation[int]:
    """Bytes an ordinary process may still write at `path`, or at its nearest existing parent.

    `f_bavail`, not `f_bfree`: blocks reserved for root are not ours. Some network and object mounts answer with a
    made-up figure; the source names the directory that was asked, so that the mount can be told.
    """
    asked = Path(path).absolute()
    for place in (asked, *asked.parents):
        source = f"statvfs({safe_text(str(place))})"
        try:
            figures = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            return unavailable(source, reason_of(error))
        return observed(figures.f_bavail * figures.f_frsize, source)
    return unavailable(f"statvfs({safe_text(str(asked))})", "no parent directory exists")
