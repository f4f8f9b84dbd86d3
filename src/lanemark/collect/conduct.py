"""Conduct one attempt from prepared to sealed, on every exit path.

    lock ─▶ observe host ─▶ request ─▶ running ─▶ launch ─▶ supervise ─▶ observe again ─▶ seal ─▶ append

Whatever goes wrong on the way, a defect of ours included, ends in `seal`: the exception becomes the record's
`start_failed`, and only then is it raised again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.collect.appending import append_to_ledger
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest, save
from lanemark.collect.naming import LiveNaming
from lanemark.collect.pinned import look, packages_of
from lanemark.collect.preparing import Attempt
from lanemark.collect.sealing import Ending, seal_attempt
from lanemark.collect.starting import CacheWatch, Start
from lanemark.launch.environment import apply_settings
from lanemark.launch.looking import LookPlan
from lanemark.launch.supervise import Limits, Supervision, Tick, supervise
from lanemark.launch.surface import LaunchRequest, Placement, Surface
from lanemark.measure.durable import replace_file
from lanemark.observe.clock import ClockWatch, stamp
from lanemark.observe.compile_cache import inventory
from lanemark.observe.reading import reason_of
from lanemark.observe.snapshot import host_snapshot
from lanemark.records.attempt import AttemptPaths, Home, State
from lanemark.records.encoding import encode
from lanemark.records.errors import LanemarkError, LedgerError
from lanemark.records.finding import Finding
from lanemark.records.observation import absent
from lanemark.records.statement import SealedRecord

#: A clock step smaller than this is within what NTP slews during a run; larger ones deserve a line.
_CLOCK_STEP_S: Final = 1.0


_COLD_NAME: Final = "lanemark-cold-caches"


def cold_root(shared: Path) -> Path:
    """Where the caches of cold starts are made and removed again: beside the shared one, never inside it. Pure."""
    return shared.parent / _COLD_NAME


@dataclass(frozen=True)
class Conducted:
    """The end of an attempt.

    Attributes:
        record: the sealed bytes and their id.
        manifest: in its final state.
        record_path: where the record can be read.
        notice: what did not work when the ledger was to take it, or None.
        cache_notices: what did not work, or was done, when the compile cache was to be kept for later runs.
    """

    record: SealedRecord
    manifest: Manifest
    record_path: Path
    notice: str | None
    cache_notices: tuple[str, ...] = ()


def conduct(
    home: Home,
    attempt: Attempt,
    surface: Surface,
    placement: Placement,
    *,
    environ: Mapping[str, str],
    on_tick: Callable[[Tick], None],
    interrupted: Callable[[], str | None],
    on_named: Callable[[Finding], None] | None = None,
    start: Start | None = None,
    findings: tuple[Finding, ...] = (),
    keep_cache: Callable[[State], str | None] | None = None,
    limits: Limits | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    append: bool = True,
) -> Conducted:
    """Run one prepared attempt and seal its record. The calling process is its supervisor.

    Args:
        home: where the ledger is.
        attempt: what `prepare` made.
        surface: where it runs.
        placement: where data and caches lie.
        environ: the operator's environment.
        on_tick: called at each look at the ranks, for progress.
        interrupted: the name of a signal that told us to stop, or None.
        on_named: told what the ranks are found to hang in, when that is first concluded. The run goes on.
        start: what was done before, for the record; by default nothing was.
        findings: what was concluded before, for the record.
        keep_cache: called with the final state once the record is sealed, while a cold run's cache is still there;
            returns a line for the operator, or None. Whatever it raises becomes such a line: it never fails a run.
        limits: when the run is ended from outside; by default as the case declares.
        facts: part of `host.json` → what more was seen for it, by somebody who could see what no probe here can.
        append: whether the record goes to the ledger now; a rented box leaves that to whoever collects.

    Raises:
        OSError: the record could be written nowhere.
        LedgerError: the attempt is already supervised by another process.
    """
    paths = attempt.paths
    lock = attempt.lock or AttemptLock(paths.lock)
    with lock as held:
        if not held:
            raise LedgerError(
                "attempt-unreadable", f"attempt {paths.run_id} is supervised by another process", "wait for it to end"
            )
        watch = CacheWatch(home, paths, attempt.case, placement, start or Start())
        run = _Run(attempt, surface, placement, environ, cache=watch, findings=findings, facts=facts or {})
        failure: BaseException | None = None
        try:
            run.go(on_tick, interrupted, on_named, limits or Limits.of(attempt.case))
        except BaseException as error:
            failure = error
        finally:
            run.observe_end()
        ending = run.ending(interrupted(), failure)
        record, manifest = seal_attempt(paths, run.manifest, ending)
        _save_quietly(paths, manifest)
        appended, notice = append_to_ledger(home, paths, record) if append else (False, None)
        if appended:
            manifest = replace(manifest, appended=True)
            _save_quietly(paths, manifest)
        notices = run.keep_cache(manifest.state, keep_cache)
        run.clean_up()
    if failure is not None and not isinstance(failure, (OSError, LanemarkError)):
        raise failure
    return Conducted(record, manifest, paths.record, notice, notices)


def _save_quietly(paths: AttemptPaths, manifest: Manifest) -> None:
    """The record is sealed by now: a manifest that cannot be saved is found and mended by the next sweep."""
    try:
        save(paths, manifest)
    except OSError:
        return


class _Run:
    """The moving parts of one attempt between `prepared` and sealed."""

    def __init__(
        self,
        attempt: Attempt,
        surface: Surface,
        placement: Placement,
        environ: Mapping[str, str],
        *,
        cache: CacheWatch,
        findings: tuple[Finding, ...],
        facts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.manifest = attempt.manifest
        self._attempt = attempt
        self._paths = attempt.paths
        self._surface = surface
        self._placement = placement
        self._environ = environ
        self._cache = cache
        self._clock = ClockWatch()
        self._findings = list(findings)
        self._facts = facts
        self._launched = False
        self._supervision: Supervision | None = None
        self._completed_at: str | None = None

    def go(
        self,
        on_tick: Callable[[Tick], None],
        interrupted: Callable[[], str | None],
        on_named: Callable[[Finding], None] | None,
        limits: Limits,
    ) -> None:
        """Observe, launch and supervise. Raises OSError or LanemarkError when the ranks cannot be started."""
        paths, case = self._paths, self._attempt.case
        if self._placement.cache_dir is not None:
            os.makedirs(self._placement.cache_dir, exist_ok=True)
        request = self._surface.request(case, self._placement)
        pinned = self.manifest.data.get("artifacts")
        host = host_snapshot(
            cwd=Path.cwd(), environ=self._environ, cache_dir=self._placement.cache_dir, packages=packages_of(pinned)
        )
        artifacts, drift = look(pinned, host["image"]["digest"])
        self._findings += drift
        if artifacts is not None:
            host["toolchain"]["artifacts"] = artifacts.to_json()
        host |= self._cache.before(apply_settings(self._environ, request.settings), self.manifest.boot_id)
        host |= {part: {**host.get(part, {}), **more} for part, more in self._facts.items()}
        replace_file(paths.host, encode(host))
        if interrupted() is not None:
            return
        self._move(State.RUNNING, f"starting {case.nproc} rank{'s' if case.nproc > 1 else ''}")
        self._write_launch(request)
        launched = self._surface.launch(request, paths)
        self._launched = True
        self._supervision = supervise(
            self._surface,
            launched,
            paths,
            limits=limits,
            looking=LookPlan.of(request, case),
            on_tick=on_tick,
            on_look=LiveNaming(paths, case, on_named),
            interrupted=interrupted,
        )
        if self._supervision.reason == "all_ended":
            self._completed_at = stamp()

    def _move(self, state: State, reason: str) -> None:
        self.manifest = self.manifest.moved(state, reason)
        save(self._paths, self.manifest)

    def _write_launch(self, request: LaunchRequest) -> None:
        replace_file(self._paths.launch, encode({**request.to_json(), "launched_ns": time.monotonic_ns()}))

    def observe_end(self) -> None:
        """What can only be seen once the ranks are gone: the cache they left, and what the wall clock did."""
        stepped = self._clock.stepped_s().value or 0.0
        if abs(stepped) >= _CLOCK_STEP_S:
            text = (
                f"the wall clock stepped by {stepped:+.1f} s during the run; durations come from a clock that does not"
            )
            self._findings.append(Finding("clock_stepped", "caveat", text))
        if not self._launched:
            return
        directory = self._placement.cache_dir
        after = inventory(directory) if directory is not None else absent("compile cache directory", "not compiled")
        try:
            replace_file(self._paths.host_end, encode({"cache_after": after.to_json(), **self._cache.after()}))
        except OSError:
            return  # a full disk: the record then says that the cache was not seen afterwards

    def ending(self, signal_name: str | None, failure: BaseException | None) -> Ending:
        """How it ended, for the record."""
        text = None if failure is None else f"{type(failure).__name__}: {failure}"[:500]
        exits = None if self._supervision is None else self._supervision.to_json()
        return Ending(
            interrupted_by=signal_name,
            start_error=None if self._launched else text,
            supervisor_error=text if self._launched else None,
            findings=tuple(self._findings),
            exits=exits,
            completed_at=self._completed_at,
        )

    def keep_cache(self, state: State, keep: Callable[[State], str | None] | None) -> tuple[str, ...]:
        """Write down what a good run used of the cache, then let the operator's own keeping happen."""
        steps: list[Callable[[], str | None]] = [self._cache.remember] if state is State.OK else []
        if keep is not None and self._launched:
            steps.append(lambda: keep(state))
        said = []
        for step in steps:
            try:
                line = step()
            except Exception as error:  # the record is sealed: a cache that cannot be kept is told and no failure
                line = f"the compile cache was not kept: {reason_of(error)}"
            if line is not None:
                said.append(line)
        return tuple(said)

    def clean_up(self) -> None:
        """Give back what only this run needed: the reserved bytes, and a cold run's cache."""
        self._paths.reserve.unlink(missing_ok=True)
        directory = self._placement.cache_dir
        # Only a directory of our own making: under a policy of `cold` the operator's own cache may stand here instead.
        if directory is not None and directory.parent.name == _COLD_NAME:
            shutil.rmtree(directory, ignore_errors=True)
