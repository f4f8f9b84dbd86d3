"""Looks at the ranks from outside while nothing moves: when they are taken, what they cost, where they are kept.

    shallow   beacon pages and /proc: nothing is asked of a rank, and nothing in it runs differently
    deep      the ranks are also asked for their flight recorders and stacks, which takes milliseconds of each

A shallow look is due when nothing has moved for a second, and again every half second while that lasts, then every
five. It may take half a percent of a core: what one costs decides when the next may come. A deep look is due once a
pause has lasted two seconds, before a collective's time-out would fire (afterwards the flight recorder shows the failed
operation as completed), and before the supervisor ends a run. In the measured window, where steps may simply be long,
it has to be twice the longest pause that the run recovered from there: asking must not become part of what is measured.

Every look is a line of `looks.jsonl`; what the ranks answered lies verbatim below `looks/`. Both are bounded. A full
disk costs the evidence and never the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lanemark.launch.asking import find_py_spy
from lanemark.launch.cache_growth import CacheGrowth
from lanemark.launch.processes import Descendants
from lanemark.launch.seeing import ask_rank, see
from lanemark.launch.surface import Launched, LaunchRequest, SurfaceStatus
from lanemark.measure.beacon import BeaconView
from lanemark.measure.durable import replace_file, write_all
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.look import Depth, Look

_QUIET_S: Final = 1.0
_DEEP_QUIET_S: Final = 2.0
_EVERY_S: Final = 0.5
#: After a minute of silence nobody is waiting for the next look, and a cold compilation may take half an hour.
_LONG_QUIET_S: Final = 60.0
_RARELY_S: Final = 5.0
#: Processor time of a look times this must pass before the next: half a percent of a core, beside the polling.
_COST_SPACING: Final = 200
#: All of a deep look: longer, and the ranks' ends would be noticed late.
_ASKING_S: Final = 3.0
#: Time left for a look before a collective's time-out fires: a tenth of it, within these bounds.
_MARGIN_S: Final = (1.5, 5.0)
#: Bounds of what is kept. The last look before a run is ended may use the rest of the room.
_LOOKS_BYTES: Final = 4 * 1024 * 1024
_LAST_LOOK_BYTES: Final = 512 * 1024
_DUMP_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class LookPlan:
    """What a look has to know of a launch besides its ids.

    Attributes:
        cache_dirs: by rank, the directories that its compilers write to; empty where there are none. Ranks may share
            them: what one leaves there then counts for all.
        no_cache: why, for ranks without any.
        collective_timeout_s: how long ranks wait in a collective; None when not known.
    """

    cache_dirs: tuple[tuple[Path, ...], ...] = ()
    no_cache: str = "where the rank keeps its cache is not known"
    collective_timeout_s: float | None = None

    @classmethod
    def of(cls, request: LaunchRequest, case: Case) -> LookPlan:
        """The plan of a request."""
        timeout_s = None if case.command else case.collective_timeout_s
        if request.cache_dir is None:
            return cls(no_cache="nothing is compiled", collective_timeout_s=timeout_s)
        settings = {setting.name: setting.value for setting in request.settings if setting.value is not None}
        dirs = []
        for variables in request.rank_variables:
            given = {**settings, **variables}
            names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
            dirs.append(tuple(Path(given[name]) for name in names if name in given))
        return cls(cache_dirs=tuple(dirs), collective_timeout_s=timeout_s)


class Looker:
    """Takes the looks of one supervision. It decides nothing about the run."""

    def __init__(self, paths: AttemptPaths, launched: Launched, plan: LookPlan, clock_ns: Callable[[], int]) -> None:
        self._paths = paths
        self._launched_ns = launched.launched_ns
        self._plan = plan
        self._clock_ns = clock_ns
        self._controls = tuple(paths.rank(rank.rank).control for rank in launched.ranks)
        launched_wall_ns = time.time_ns() - (clock_ns() - launched.launched_ns)
        growth = {dirs: CacheGrowth(dirs, launched_wall_ns) for dirs in plan.cache_dirs}
        self._growth = tuple(growth[dirs] for dirs in plan.cache_dirs)
        self._descendants = Descendants()
        self._number = 0
        self._next_ns = 0
        #: The pause that has had its deep look, and the collective whose time-out has had its own.
        self._deep_pause_ns: int | None = None
        self._timeout_of_ns: int | None = None
        self._pause_ns = 0
        self._longest_pause_ns = 0
        self._looks_bytes = 0
        self._dump_bytes = 0

    def consider(
        self, status: SurfaceStatus, beacons: Sequence[BeaconView | None], errors: dict[int, str], moved_ns: int
    ) -> Look | None:
        """Take a look if one is due.

        Args:
            status: of every rank, as just polled.
            beacons: every rank's page as just read, None where there is none.
            errors: what was wrong with a page that could not be read, by rank.
            moved_ns: when a page last changed or a rank ended.
        """
        now_ns = self._clock_ns()
        in_window = any(page is not None and page.measuring for page in beacons)
        if moved_ns != self._pause_ns:
            if in_window:
                self._longest_pause_ns = max(self._longest_pause_ns, moved_ns - self._pause_ns)
            self._pause_ns = moved_ns
        quiet_ns = now_ns - moved_ns
        if quiet_ns < _QUIET_S * 1e9 or not status.alive:
            return None
        if self._deep_due(beacons, status, now_ns, in_window=in_window):
            return self._take(status, beacons, errors, quiet_ns, "deep")
        if now_ns < self._next_ns:
            return None
        began_s = time.thread_time()
        look = self._take(status, beacons, errors, quiet_ns, "shallow")
        cost_s = time.thread_time() - began_s
        every_s = _EVERY_S if quiet_ns < _LONG_QUIET_S * 1e9 else _RARELY_S
        self._next_ns = now_ns + int(max(every_s, cost_s * _COST_SPACING) * 1e9)
        return look

    def last(
        self, status: SurfaceStatus, beacons: Sequence[BeaconView | None], errors: dict[int, str], moved_ns: int
    ) -> Look:
        """The look before a run is ended, deep."""
        return self._take(status, beacons, errors, self._clock_ns() - moved_ns, "deep", last=True)

    def close(self) -> None:
        """Take away what ranks that were killed could not: the names of their sockets."""
        for control in self._controls:
            with contextlib.suppress(OSError):
                os.unlink(control)

    def _deep_due(
        self, beacons: Sequence[BeaconView | None], status: SurfaceStatus, now_ns: int, *, in_window: bool
    ) -> bool:
        threshold_ns = max(_DEEP_QUIET_S * 1e9, 2 * self._longest_pause_ns if in_window else 0)
        if self._deep_pause_ns != self._pause_ns and now_ns - self._pause_ns >= threshold_ns:
            self._deep_pause_ns = self._pause_ns
            return True
        timeout_s = self._plan.collective_timeout_s
        waiting = [
            page.since_ns
            for page, rank in zip(beacons, status.ranks, strict=True)
            if page is not None and rank.alive and page.phase == "collective"
        ]
        if timeout_s is None or not waiting or min(waiting) == self._timeout_of_ns:
            return False
        margin_s = min(_MARGIN_S[1], max(_MARGIN_S[0], timeout_s / 10))
        if now_ns - min(waiting) < (timeout_s - margin_s) * 1e9:
            return False
        self._timeout_of_ns = min(waiting)
        return True

    def _take(
        self,
        status: SurfaceStatus,
        beacons: Sequence[BeaconView | None],
        errors: dict[int, str],
        quiet_ns: int,
        depth: Depth,
        *,
        last: bool = False,
    ) -> Look:
        self._number += 1
        at_ns = self._clock_ns()
        children, unseen = self._children(status)
        blind = {growth: growth.look() for growth in self._growth}
        ranks = [
            see(
                rank,
                beacons[rank.rank],
                page_error=errors.get(rank.rank, "it has no beacon page"),
                children=children.get(rank.pid or 0),
                no_children=unseen,
                growth=self._growth[rank.rank] if self._growth else None,
                no_growth=blind[self._growth[rank.rank]] if self._growth else self._plan.no_cache,
            )
            for rank in status.ranks
        ]
        if depth == "deep":
            deadline_s, spy = time.monotonic() + _ASKING_S, find_py_spy()
            ranks = [
                ask_rank(
                    rank,
                    status.ranks[rank.rank].pid,
                    self._controls[rank.rank],
                    deadline_s=deadline_s,
                    spy=spy,
                    keep=self._dump,
                )
                for rank in ranks
            ]
        look = Look(
            number=self._number,
            at_ns=at_ns,
            launched_ns=self._launched_ns,
            quiet_s=quiet_ns / 1e9,
            depth=depth,
            ranks=tuple(ranks),
        )
        self._keep(look, last=last)
        return look

    def _children(self, status: SurfaceStatus) -> tuple[dict[int, tuple[str, ...]], str]:
        try:
            return self._descendants.commands({r.pid for r in status.ranks if r.pid is not None and r.alive}), ""
        except OSError as error:
            return {}, f"/proc: {error.strerror or error}"

    def _dump(self, name: str, data: bytes) -> None:
        """Keep what a rank answered, under `<look>-<rank>-<what>`."""
        self._dump_bytes += len(data)
        if self._dump_bytes > _DUMP_BYTES:
            return
        with contextlib.suppress(OSError):
            os.makedirs(self._paths.look_dumps, exist_ok=True)
            replace_file(self._paths.look_dumps / f"{self._number}-{name}", data)

    def _keep(self, look: Look, *, last: bool) -> None:
        line = json.dumps(look.to_json(), separators=(",", ":")).encode("ascii") + b"\n"
        if self._looks_bytes + len(line) > _LOOKS_BYTES - (0 if last else _LAST_LOOK_BYTES):
            return
        with contextlib.suppress(OSError):
            fd = os.open(
                self._paths.looks, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
            )
            try:
                write_all(fd, line)
            finally:
                os.close(fd)
            self._looks_bytes += len(line)
