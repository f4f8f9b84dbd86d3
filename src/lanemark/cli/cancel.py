"""`lanemark cancel`: ask for a run's end, wait for it, and seal its record."""

from __future__ import annotations

import time
from typing import Final

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.places import places
from lanemark.cli.progress import Bar
from lanemark.cli.runs import entry
from lanemark.collect.collecting import Collected, cancel_one
from lanemark.collect.named import named_attempts
from lanemark.collect.recovering import load_or_recover
from lanemark.records.attempt import AttemptPaths

#: A supervisor gives its ranks 10 s to end, forces them for 5, and seals; a surface takes a while to stop a machine.
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.2
_AGAIN_S: Final = 5.0
_OPEN: Final = ("waiting", "busy")


def main(args: list[str]) -> int:
    """Cancel runs. Exit 0 when each named has ended, however it did; 1 when one could not be brought to its end."""
    verb = parser("cancel", "End runs and seal their records. A run that has ended stays what it is.")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run ids, or attempt directories")
    verb.add_argument(
        "--give-up", action="store_true", help="kill what does not end, or seal without the surface's word"
    )
    verb.add_argument("--json", action="store_true", help="print the attempts as JSON")
    asked = verb.parse_args(args)
    place = home()
    open_ = named = named_attempts(place, asked.runs)
    surfaces = places()
    told: dict[str, Collected] = {}
    began_s, asked_s = time.monotonic(), -_AGAIN_S
    with Bar("cancelling") as bar:
        while open_ and time.monotonic() - began_s < _PATIENCE_S:
            # A supervisor that has only just begun may have no ear yet, so it is asked again now and then.
            if time.monotonic() - asked_s >= _AGAIN_S or asked.give_up:
                asked_s = time.monotonic()
                for paths in open_:
                    told[paths.run_id] = cancel_one(place, paths, surfaces, give_up=asked.give_up)
            open_ = [paths for paths in open_ if told[paths.run_id].outcome in _OPEN and not _ended(paths)]
            if open_:
                bar.line(f"{open_[0].run_id} is ending" if len(open_) == 1 else f"{len(open_)} runs are ending")
                time.sleep(_LOOK_S)
    rows, code = [], 0
    for paths in named:
        manifest = load_or_recover(paths)
        done = told[paths.run_id]
        if done.line is not None:
            advise(f"lanemark: {done.line}")
        if not manifest.state.final:
            code = 1
            advise(
                f"lanemark: {paths.run_id} has not ended yet; look again, or `lanemark cancel {paths.run_id} --give-up`"
            )
        rows.append(entry(manifest, paths))
    if asked.json:
        print_json({"runs": rows})
    else:
        for row in rows:
            print(f"{row['run_id']}  {row['state']}  {row['reason']}")
    return code


def _ended(paths: AttemptPaths) -> bool:
    """Whether its supervisor has sealed it, and let go."""
    manifest = load_or_recover(paths)
    return manifest.state.final and manifest.appended
