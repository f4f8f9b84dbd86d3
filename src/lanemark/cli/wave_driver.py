"""The program that goes through a left wave: `python -m lanemark.cli.wave_driver HOME NAME LOCK_FD`.

It is started by `lanemark run promotion … --detach` and by `lanemark promotion resume`, with the wave's lock in its
hands. Each case passes the same gates as it would have in front of a terminal, is left with a supervisor of its own,
and is waited for; then comes the next. It polls nothing that a record would show: whether a run ended is read from its
attempt. After the last case it writes the wave's manifest.

A hang-up does not reach it. SIGTERM or SIGKILL end it and not the run that it waits for. A cancelled run ends the wave,
as it does one that is waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked
from lanemark.cli.leaving import leave
from lanemark.cli.places import places
from lanemark.collect.collecting import collect_one
from lanemark.collect.left_waves import LeftCase, LeftWave, LeftWavePlace
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest
from lanemark.collect.recovering import load_or_recover
from lanemark.collect.waves import WaveFile, write_wave
from lanemark.lanes.wave import manifest_document, wave_row
from lanemark.launch.local_detached import own_ids, start_left
from lanemark.observe.clock import stamp
from lanemark.observe.reading import reason_of
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import LanemarkError, RunFailed

DRIVER: Final = "lanemark.cli.wave_driver"
#: Between two looks at the run that is waited for: a tenth of its age, within these.
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 2.0
#: Attempts of one case that were never launched, before the wave is given up.
_TRIES: Final = 3


def start_driver(home: Home, place: LeftWavePlace) -> None:
    """Start the wave's driver, which holds `place.lock` from then on; the caller's hold is let go of.

    Raises:
        RunFailed: no process could be started.
    """
    lock = place.lock.fileno()
    command = [sys.executable, "-m", DRIVER, str(home.root.absolute()), place.root.name, str(lock)]
    try:
        start_left(command, place.root, place.log, lock)
    except OSError as error:
        raise RunFailed(
            "run-failed", f"the driver of the wave {place.root.name} could not be started ({reason_of(error)})",
            "check that this user may start processes",
        ) from error  # fmt: skip
    finally:
        place.lock.release()


class Driver:
    """One driver at its wave."""

    def __init__(self, home: Home, place: LeftWavePlace) -> None:
        self._home = home
        self._place = place
        self._wave = place.save(replace(place.read(), driver=own_ids(), stopped=None))

    def go(self) -> LeftWave:
        """Go through the wave. Raises LanemarkError or OSError when a case cannot be left."""
        while (number := self._wave.next_case()) is not None:
            if self._wave.cases[number].run_id is None:
                self._leave(number)
            self._see_end(number)
        return self._wave

    def stop(self, why: str) -> None:
        """Write down why the wave does not go on."""
        self._wave = self._place.save(replace(self._wave, stopped=why[:500]))

    def _leave(self, number: int) -> None:
        from lanemark.cli.run import prepare_run

        wave = self._wave
        _say(f"case {number + 1} of {len(wave.cases)}")
        decided = prepare_run(asked_of(wave, wave.cases[number]), self._home, list(wave.words))
        leave(
            decided, self._home, argv=list(wave.argv), artifacts=dict(wave.artifacts), wave=wave.name,
            prepared=lambda run_id: self._note(number, run_id=run_id),
        )  # fmt: skip

    def _see_end(self, number: int) -> None:
        entry = self._wave.cases[number]
        assert entry.run_id is not None
        manifest = self._ended(self._home.attempt(entry.run_id))
        if manifest.end is not None and manifest.end.word == "absent" and len(entry.earlier) < _TRIES:
            self._note(number, run_id=None, earlier=(*entry.earlier, entry.run_id))
        else:
            self._note(number, state=manifest.state.value)

    def _ended(self, paths: AttemptPaths) -> Manifest:
        """Wait until the run is sealed: by its supervisor, or here where that is gone."""
        began_s = time.monotonic()
        while True:
            manifest = load_or_recover(paths)
            if manifest.state.final and manifest.appended:
                return manifest
            with AttemptLock(paths.lock) as held:
                gone = held
            if gone:
                done = collect_one(self._home, paths, places())
                if done.manifest is not None and done.manifest.state.final:
                    return done.manifest
                if done.outcome == "problem":
                    raise RunFailed("run-failed", done.line or "its run cannot be collected", "look at its attempt")
            time.sleep(min(_LONGEST_S, max(_SHORTEST_S, 0.1 * (time.monotonic() - began_s))))

    def _note(self, number: int, **changes: Any) -> None:
        self._wave = self._place.save(self._wave.with_case(number, **changes))


def asked_of(wave: LeftWave, entry: LeftCase) -> Asked:
    """A case as its command line would have asked for it."""
    cache = wave.cache
    return Asked(
        case=entry.case, preset=None, dtype_given=True, data="synthetic", reasons=dict(entry.reasons),
        cache_layout=cache["layout"], cache_from=tuple(cache["from"]), cache_to=cache["to"],
    )  # fmt: skip


def rows_of(home: Home, wave: LeftWave) -> list[dict[str, Any]]:
    """The manifest's rows of the cases that have a record, in order."""
    rows = []
    for entry in wave.cases:
        if entry.run_id is None or entry.state is None:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = home.attempt(entry.run_id).record.read_bytes()
            rows.append(wave_row(digest(data), decode(data)["predicate"]))
    return rows


def manifest_of(home: Home, wave: LeftWave) -> dict[str, Any]:
    """The manifest of a left wave as it is now; whole once every case has a record."""
    rows = rows_of(home, wave)
    return manifest_document(
        wave.name, wave.preset, rows, created_at=stamp(), whole=len(rows) == len(wave.cases), left_out=wave.left_out
    )


def keep_manifest(home: Home, wave: LeftWave) -> WaveFile:
    """Write the manifest of a wave that nobody is at. Raises LedgerError `ledger-unwritable`."""
    return write_wave(home.waves, wave.name, manifest_of(home, wave))


def _say(line: str) -> None:
    """Into `driver.log`."""
    sys.stderr.write(f"lanemark: {stamp()} {line}\n")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    """Go through one wave. Exit 0 when every case was gone through and the manifest is kept, 1 otherwise."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    home = Home(Path(os.fsdecode(argv[0])))
    place = LeftWavePlace(home.left_waves, argv[1])
    lock = AttemptLock.inherited(place.root / "wave.lock", int(argv[2])) or place.lock
    if not lock.take():
        _say("another driver is at the wave")
        return 1
    from lanemark.cli import run  # noqa: F401 - before leaving this directory: see `lanemark.collect.supervisor`

    driver = Driver(home, place)
    with contextlib.suppress(OSError):
        os.chdir(place.read().cwd)
    try:
        keep_manifest(home, driver.go())
    except (LanemarkError, OSError) as error:
        said = f"{error} [{error.slug}]" if isinstance(error, LanemarkError) else reason_of(error)
        _say(said)
        driver.stop(said)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
