"""Seed one cache from one archive in a process of its own, for tests that start many or kill one.

    seed_program.py ARCHIVE CACHE_DIR [PAUSE_S]

Prints the outcome. With a pause, that long passes once everything is unpacked and nothing is in place yet, and `staged`
is printed first.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import seed_caches as made
from lanemark.stage import seeding
from lanemark.stage.seed_source import parse_source


def main() -> None:
    archive, cache_dir = sys.argv[1:3]
    if len(sys.argv) > 3:
        real = seeding.install

        def slowly(*args: object) -> object:
            print("staged", flush=True)
            time.sleep(float(sys.argv[3]))
            return real(*args)  # type: ignore[arg-type]

        seeding.install = slowly  # type: ignore[assignment]
    (done,) = seeding.seed_cache(
        [parse_source(archive)], Path(cache_dir), case=made.case(), layout="shared", fingerprint=made.FINGERPRINT
    )
    print(done.outcome, flush=True)


main()
