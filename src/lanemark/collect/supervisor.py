"""The program that supervises a detached run: `python -m lanemark.collect.supervisor ATTEMPT_DIR LOCK_FD`.

It is started by `lanemark.launch.local_detached` with the attempt's lock in its hands, and conducts the attempt just as
`lanemark run` would: same gates passed, same record. What differs is who can end it: no terminal, only SIGTERM, which
is what `lanemark cancel` sends. It prints nothing unless it breaks; `supervisor.log` holds that then.

It refuses an attempt that is not `detached`, or that another supervisor began before: whatever starts this program
twice, the ranks are launched once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lanemark.collect.conduct import Conducted, conduct
from lanemark.collect.handing_over import Handover, read_handover
from lanemark.collect.keeping import capture_after
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import load, save
from lanemark.collect.preparing import Attempt, prepare, this_process
from lanemark.collect.retrying import with_one_retry
from lanemark.collect.sealing import load_case
from lanemark.collect.signals import StopSignals
from lanemark.launch.command import local_surface
from lanemark.launch.local_detached import own_ids
from lanemark.launch.supervise import Tick
from lanemark.launch.surface import Surface
from lanemark.records.attempt import AttemptPaths, State
from lanemark.records.case import Case
from lanemark.records.errors import LanemarkError, LedgerError
from lanemark.records.finding import Finding


def _say(line: str) -> None:
    """Into `supervisor.log`."""
    sys.stderr.write(f"lanemark: {line}\n")
    sys.stderr.flush()


def begin(paths: AttemptPaths, lock_fd: int) -> Attempt:
    """Take over the attempt: its lock, its case, and this process's ids in its manifest, durably.

    Raises:
        LedgerError: it is not for us: no lock, another state, or another supervisor before us.
    """
    lock = AttemptLock.inherited(paths.lock, lock_fd) or AttemptLock(paths.lock)
    if not lock.take():
        raise _not_ours(paths, "somebody else holds its lock")
    manifest = load(paths)
    if manifest.state is not State.DETACHED:
        raise _not_ours(paths, f"it is {manifest.state.value}")
    if manifest.ids:
        raise _not_ours(paths, "another supervisor began before")
    manifest = replace(manifest, ids=own_ids(), supervisor=this_process())
    save(paths, manifest)
    return Attempt(paths, load_case(paths), manifest, lock)


def _not_ours(paths: AttemptPaths, why: str) -> LedgerError:
    return LedgerError(
        "attempt-unreadable", f"{paths.run_id} cannot be supervised: {why}", "collect it with `lanemark collect`"
    )


def supervise_attempt(
    attempt: Attempt, handover: Handover, surface: Callable[[Case], Surface] = local_surface
) -> Conducted:
    """Conduct the attempt that was taken over, and a second one if its ranks could not form a process group."""
    home = handover.placement.home
    waiting = [attempt]
    with StopSignals() as stop:

        def once(findings: tuple[Finding, ...]) -> Conducted:
            mine = waiting.pop() if waiting else _again(attempt, handover)
            return conduct(
                home, mine, surface(mine.case), handover.placement, environ=os.environ, on_tick=_unseen,
                interrupted=stop, start=handover.start, findings=findings,
                keep_cache=_keeper(handover, mine.case, mine.paths),
            )  # fmt: skip

        return with_one_retry(once, interrupted=stop, announce=_say)


def _unseen(_: Tick) -> None:
    """Nobody watches; who wants to know reads the beacons."""


def _keeper(handover: Handover, case: Case, paths: AttemptPaths) -> Any:
    return capture_after(
        case, paths, handover.placement, capture_to=handover.capture_to, fingerprint=handover.start.fingerprint
    )


def _again(first: Attempt, handover: Handover) -> Attempt:
    """The second attempt after a failed bootstrap: of the same case, and supervised from its first moment."""
    kept = first.manifest
    return prepare(
        handover.placement.home, first.case, argv=kept.argv, placement=kept.placement, data=kept.data, hold=True
    )


def main(argv: list[str]) -> int:
    """Supervise one attempt. Exit 0 when a record was sealed, 1 otherwise."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    paths = AttemptPaths(Path(os.fsdecode(argv[0])))
    try:
        attempt, handover = begin(paths, int(argv[1])), read_handover(paths)
        # Everything is imported by now: started elsewhere, a file of that directory could pass for a module of ours.
        with contextlib.suppress(OSError, KeyError):
            os.chdir(attempt.manifest.placement["cwd"])
        done = supervise_attempt(attempt, handover)
    except LanemarkError as error:
        _say(f"{error} [{error.slug}]")
        return 1
    for line in (done.notice, *done.cache_notices):
        if line is not None:
            _say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
