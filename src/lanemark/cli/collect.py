"""`lanemark collect`: bring detached runs home, seal lost attempts, append what the ledger lacks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.places import places
from lanemark.cli.progress import Bar
from lanemark.cli.runs import entry, where
from lanemark.collect.collecting import Collected, Surfaces, collect_many
from lanemark.collect.left_waves import left_waves
from lanemark.collect.manifest import Manifest
from lanemark.collect.named import named_attempts
from lanemark.collect.polls import read_polls
from lanemark.collect.recovering import load_or_recover
from lanemark.collect.waves import wave_file
from lanemark.lanes.collected import UNFINISHED
from lanemark.records.attempt import AttemptPaths, Home, State
from lanemark.records.errors import LanemarkError, UsageError

#: A run of seconds is looked at twice a second, one of hours every half minute; see `pause_s`.
_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 30.0
_SHARE: Final = 0.05
#: After these there is nothing more to wait for.
_SETTLED: Final = ("done", "sealed", "appended")


def main(args: list[str]) -> int:
    """Collect attempts. Exit 0 when every one that ended did so well and none is a problem, 1 otherwise."""
    verb = parser("collect", "Bring detached runs home, and seal attempts whose supervisor was lost.")
    verb.add_argument("runs", nargs="*", metavar="RUN", help="run ids, or attempt directories (default: all)")
    verb.add_argument("--all", action="store_true", help="all attempts, the default")
    verb.add_argument("--wait", action="store_true", help="wait until every attempt named has ended")
    verb.add_argument("--json", action="store_true", help="print the attempts as JSON")
    asked = verb.parse_args(args)
    if asked.all and asked.runs:
        raise UsageError("arguments-invalid", "--all collects every attempt, and some were named", "leave one out")
    place = home()
    named = named_attempts(place, asked.runs)
    surfaces = places()
    seen = _wait(place, named, surfaces) if asked.wait else _round(place, named, surfaces, {})
    if asked.runs:
        return _report(named, seen, as_json=asked.json)
    while asked.wait and _driven(place):  # a driver is about to leave the next case of its wave
        time.sleep(_SHORTEST_S)
        known = {paths.run_id for paths in named}
        # A directory is there a moment before its manifest is.
        new = [paths for paths in named_attempts(place, ()) if paths.run_id not in known and paths.manifest.is_file()]
        if new:
            seen |= _wait(place, new, surfaces)
            named = [*new, *named]
    code = _report(named, seen, as_json=asked.json)
    return 1 if _stopped_waves(place) else code


def _driven(place: Home) -> bool:
    return any(left.is_driven() for left in left_waves(place.left_waves))


def _stopped_waves(place: Home) -> bool:
    """Whether a left wave stopped before its end, and say which. A manifest that its driver did not come to is made."""
    from lanemark.cli.promotion import left_line
    from lanemark.cli.wave_driver import keep_manifest

    stopped = False
    for left in left_waves(place.left_waves):
        try:
            wave = left.read()
            if left.is_driven() or (
                wave.num_ended == len(wave.cases) and wave_file(place.waves, wave.name) is not None
            ):
                continue
            if wave.num_ended == len(wave.cases):
                keep_manifest(place, wave)
                continue
        except LanemarkError as error:
            advise(f"lanemark: {error}")
        else:
            advise(f"lanemark: {left_line(left, wave, driven=False)}")
        stopped = True
    return stopped


def pause_s(elapsed_s: float) -> float:
    """Seconds until the next look at runs that were waited for so long: a twentieth of that. Pure."""
    return min(_LONGEST_S, max(_SHORTEST_S, _SHARE * elapsed_s))


def _round(
    place: Home, named: Sequence[AttemptPaths], surfaces: Surfaces, told: dict[str, Collected]
) -> dict[str, Collected]:
    """One look at each; says what is new. Returns what is known of all."""
    for done in collect_many(place, named, surfaces):
        before = told.get(done.run_id)
        if done.line is not None and (before is None or before.line != done.line):
            advise(f"lanemark: {done.line}")
        told[done.run_id] = done
    return told


def _wait(place: Home, named: Sequence[AttemptPaths], surfaces: Surfaces) -> dict[str, Collected]:
    """Look again and again until all have ended; progress on stderr."""
    began_s = time.monotonic()
    told: dict[str, Collected] = {}
    open_ = list(named)
    with Bar("collecting") as bar:
        while True:
            for done in collect_many(place, open_, surfaces):
                before = told.get(done.run_id)
                if done.line is not None and (before is None or before.line != done.line):
                    bar.say(done.line)
                told[done.run_id] = done
            open_ = [paths for paths in open_ if not _over(told.get(paths.run_id))]
            if not open_:
                return told
            bar.line(_waiting_for(open_, told, len(named)))
            time.sleep(pause_s(time.monotonic() - began_s))


def _over(seen: Collected | None) -> bool:
    """Whether waiting changes nothing: it has ended, or it cannot be read. Silence of a surface is waited out."""
    if seen is None:
        return False
    return seen.outcome in _SETTLED or (seen.outcome == "problem" and seen.slug != "surface-unreachable")


def _waiting_for(open_: Sequence[AttemptPaths], told: dict[str, Collected], total: int) -> str:
    if len(open_) == 1 == total:
        seen = told[open_[0].run_id].manifest
        state = "waiting" if seen is None else seen.state.value
        at = where(open_[0])
        return f"{open_[0].run_id} is {state}" + ("" if at is None else f": {at}")
    states = Counter(seen.state.value for paths in open_ if (seen := told[paths.run_id].manifest) is not None)
    parts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{total - len(open_)} of {total} ended; {parts}"


def _report(named: Sequence[AttemptPaths], seen: dict[str, Collected], *, as_json: bool) -> int:
    rows, code = [], 0
    for paths in named:
        done = seen.get(paths.run_id)
        try:
            manifest = load_or_recover(paths)
        except LanemarkError:
            code = 1  # said already, when it was collected
            continue
        rows.append((_entry(manifest, paths, done), manifest))
        problem = done is not None and done.outcome == "problem"
        if problem or (manifest.state.final and manifest.state.value != "ok"):
            code = 1
    if as_json:
        print_json({"runs": [row for row, _ in rows]})
    else:
        for row, manifest in rows:
            how = f" ({row['how']})" if "how" in row else ""
            print(f"{manifest.run_id}  {manifest.state.value}  {manifest.transitions[-1].reason}{how}")
    return code


def _entry(manifest: Manifest, paths: AttemptPaths, done: Collected | None) -> dict[str, Any]:
    doc = entry(manifest, paths)
    if done is not None:
        doc["outcome"] = done.outcome
        if done.slug is not None:
            doc["error"] = {"slug": done.slug, "message": done.line}
    if manifest.detached and manifest.state in (State.OK, State.ERROR):
        attached = any(poll.seen in UNFINISHED for poll in read_polls(paths))
        doc["how"] = "re-attached" if attached else "finished by itself"
    return doc
