"""Watching a run from outside until it is over, and ending it when it should be.

Each round reads what the ranks show (beacon pages, exits, process states), then judges, in this order:

    all_ended       every rank ended cleanly
    interrupted     somebody told the supervisor to stop (unless a rank had failed before, which is then the reason)
    rank_failed     a rank ended badly; the others get `settle_s` to leave their own evidence, then the tree is ended
    stopped         a rank was stopped by a signal and has not continued for `stopped_s`
    wall_limit      the run is older than `wall_s`
    stalled         nothing has moved for `stall_s`

Reading comes before judging in every round, so a supervisor that was itself suspended for an hour finds the progress
that the ranks made meanwhile and does not call it a stall. Progress is any change of any beacon, any exit, and
processor time used by a rank that is compiling: a cold compilation may take half an hour without a word. While nothing
but processor time moves, looks are taken (`lanemark.launch.looking`); what is concluded from them ends no run.

The supervisor installs no signal handlers (its caller does, and passes `interrupted`), and no file of a rank can end
it: a page that cannot be read is a fact about that rank.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from lanemark.launch.evidence import Evidence, RankState, read_free_disk, read_oom_counters
from lanemark.launch.logs import LogCut, compact, relieve
from lanemark.launch.looking import Looker, LookPlan
from lanemark.launch.processes import read_wait_channel
from lanemark.launch.surface import Launched, RankStatus, SignalSent, Surface, SurfaceStatus
from lanemark.measure.beacon import BeaconError, BeaconView, read_beacon
from lanemark.measure.durable import replace_file
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.encoding import encode
from lanemark.records.look import Look
from lanemark.records.observation import Observation, absent, observed, unavailable

Reason = Literal["all_ended", "rank_failed", "stalled", "stopped", "wall_limit", "interrupted"]
SignalBy = Literal["nobody", "supervisor", "other"]
Shown = TypeVar("Shown")

#: Signals that ask a process to end: what a terminal, a service manager or a container's stop sends.
_ASKING_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP")
#: While ranks start, phases change fast and a person watches; later twice a second is enough to see a stall of seconds.
_START_POLL_S: Final = 0.2
_START_S: Final = 60.0
_STEADY_POLL_S: Final = 0.5
_COMMAND_WORKS: Final = frozenset({"compile", "start", "import", "build", "drain", "done", "failed"})


@dataclass(frozen=True)
class Limits:
    """When a run is ended from outside; all in seconds.

    Attributes:
        stall_s: without any progress for this long.
        wall_s: whatever it does.
        stopped_s: a rank may be stopped by a signal for this long.
        grace_s: between asking ranks to end and forcing them.
        settle_s: others may go on for this long after one ended badly.
        end_marker_required: whether status 0 without `end.json` is a failure, as it is for the reference stack. A
            command that is not ours leaves no marker, and may make no beacon: it then has no stall limit either.
        working: phases in which processor time counts as progress: compiling, and of a launched command everything
            outside its step loop, where it may read, tokenise or save for as long as it likes.
    """

    stall_s: float
    wall_s: float
    stopped_s: float = 10.0
    grace_s: float = 10.0
    settle_s: float = 3.0
    end_marker_required: bool = True
    working: frozenset[str] = frozenset({"compile"})

    @classmethod
    def of(cls, case: Case) -> Limits:
        """The limits that a case declares."""
        made = cls(stall_s=case.stall_s, wall_s=case.wall_s, end_marker_required=not case.command)
        return made if case.script is None else replace(made, working=_COMMAND_WORKS)


@dataclass(frozen=True)
class RankEnd:
    """How a rank's process ended, as seen from outside.

    Attributes:
        order: 0 for the first end that was seen.
        status: exit status; None when a signal ended it, or when it could not be ended at all.
        signal: the signal's name; `signal_by` says whether it was ours.
        ended_ns: when it was seen; None when the process outlived even SIGKILL (an uninterruptible wait).
        end_marker: whether `end.json` was there.
        clean: status 0, with a marker where one is required.
        command_status: of a rank whose status its launcher took: how the command ended, negative for a signal.
    """

    rank: int
    pid: int | None
    order: int
    status: int | None
    signal: str | None
    signal_by: SignalBy
    ended_ns: int | None
    end_marker: bool
    clean: bool
    command_status: int | None = None

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "rank": self.rank,
            "order": self.order,
            "signal_by": self.signal_by,
            "end_marker": self.end_marker,
            "clean": self.clean,
        }
        optional = {
            "pid": self.pid,
            "status": self.status,
            "signal": self.signal,
            "ended_ns": self.ended_ns,
            "command_status": self.command_status,
        }
        return doc | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Tick:
    """What one round saw, for a progress display. `beacons` is by rank; None where there is no page (yet)."""

    elapsed_s: float
    status: SurfaceStatus
    beacons: tuple[BeaconView | None, ...]


@dataclass(frozen=True)
class Supervision:
    """A run, watched to its end.

    Attributes:
        reason: why it is over; `detail` says it in one phrase, and `rank` names the rank where there is exactly one.
        ends: every rank's end, in the order they were seen.
        signals: those we sent, so that they are not taken for a cause.
        beacons: by rank, the last page that could be read; `beacon_errors` says what was wrong with others.
        evidence: what the host said.
        logs: logs that are not whole.
        began_ns, ended_ns: of the watching, `monotonic_ns`.
    """

    reason: Reason
    detail: str
    rank: int | None
    ends: tuple[RankEnd, ...]
    signals: tuple[SignalSent, ...]
    beacons: tuple[BeaconView | None, ...]
    beacon_errors: dict[int, str]
    evidence: Evidence
    logs: tuple[LogCut, ...]
    began_ns: int
    ended_ns: int

    def to_json(self) -> dict[str, Any]:
        """The supervision as `exits.json` holds it in the end. Beacon pages are files of their own."""
        doc: dict[str, Any] = {
            "reason": self.reason,
            "detail": self.detail,
            "ranks": [end.to_json() for end in self.ends],
            "signals": [sent.to_json() for sent in self.signals],
            "beacon_errors": {str(rank): text for rank, text in self.beacon_errors.items()},
            "evidence": self.evidence.to_json(),
            "logs": [cut.to_json() for cut in self.logs],
            "began_ns": self.began_ns,
            "ended_ns": self.ended_ns,
        }
        if self.rank is not None:
            doc["rank"] = self.rank
        return doc


@dataclass
class _Watch:
    """What a supervision knows so far."""

    paths: AttemptPaths
    limits: Limits
    began_ns: int
    progress_ns: int
    #: As `progress_ns`, but for processor time: since when nothing has moved that anyone can see.
    moved_ns: int
    #: Paths that every round looks at, by rank; made once, because making them costs more than looking.
    pages: tuple[Path, ...]
    logs: tuple[tuple[Path, Path], ...]
    beacons: list[BeaconView | None]
    beacon_errors: dict[int, str] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    ends: list[RankEnd] = field(default_factory=list)
    signals: list[SignalSent] = field(default_factory=list)
    failed: RankEnd | None = None
    failed_ns: int = 0


@dataclass(frozen=True)
class _Decision:
    reason: Reason
    detail: str
    rank: int | None = None


def supervise(
    surface: Surface,
    launched: Launched,
    paths: AttemptPaths,
    *,
    limits: Limits,
    looking: LookPlan | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    on_look: Callable[[Look], None] | None = None,
    interrupted: Callable[[], str | None] = lambda: None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> Supervision:
    """Watch a launched run until it is over; end it when it should be; leave nothing of it behind.

    Args:
        surface: by whom it was launched.
        launched: what was.
        paths: where it leaves its files.
        limits: when to end it.
        looking: what looks have to know of the launch.
        on_tick: shown every round; one that raises is not called again, and the run goes on.
        on_look: shown every look, likewise.
        interrupted: the reason to stop, once there is one.
        clock_ns: the clock of the surface's stamps.

    Returns:
        What was seen. `exits.json` holds it too, where the disk had room.
    """
    oom_before = read_oom_counters()
    now_ns = clock_ns()
    watch = _watch(paths, limits, now_ns, len(launched.ranks))
    looker = Looker(paths, launched, looking or LookPlan(), clock_ns)
    try:
        while True:
            status = surface.poll(launched)
            _observe(watch, status, clock_ns())
            on_tick = _show(on_tick, Tick((clock_ns() - watch.began_ns) / 1e9, status, tuple(watch.beacons)))
            look = looker.consider(status, watch.beacons, watch.beacon_errors, watch.moved_ns)
            on_look = on_look if look is None else _show(on_look, look)
            decision = _decide(watch, status, clock_ns(), interrupted())
            if decision is not None:
                break
            young = clock_ns() - watch.began_ns < _START_S * 1e9
            surface.wait(launched, _START_POLL_S if young else _STEADY_POLL_S)
        states, free = _states(status), read_free_disk(paths.root)
        if status.alive:
            look = looker.last(status, watch.beacons, watch.beacon_errors, watch.moved_ns)
            on_look = _show(on_look, look)
            watch.signals += surface.stop(launched, decision.reason, grace_s=limits.grace_s)
            status = surface.poll(launched)
            _observe(watch, status, clock_ns())
        _note_survivors(watch, status)
    finally:
        surface.cleanup(launched)
        looker.close()
    logs = _compact_logs(paths, len(launched.ranks))
    evidence = Evidence(states, oom_before, read_oom_counters(), *free)
    supervision = Supervision(
        reason=decision.reason,
        detail=decision.detail,
        rank=decision.rank,
        ends=tuple(watch.ends),
        signals=tuple(watch.signals),
        beacons=tuple(watch.beacons),
        beacon_errors=dict(watch.beacon_errors),
        evidence=evidence,
        logs=logs,
        began_ns=watch.began_ns,
        ended_ns=clock_ns(),
    )
    _write_exits(paths, supervision.to_json())
    return supervision


def _watch(paths: AttemptPaths, limits: Limits, now_ns: int, nproc: int) -> _Watch:
    ranks = [paths.rank(rank) for rank in range(nproc)]
    return _Watch(
        paths=paths,
        limits=limits,
        began_ns=now_ns,
        progress_ns=now_ns,
        moved_ns=now_ns,
        pages=tuple(rank.beacon for rank in ranks),
        logs=tuple((rank.stdout, rank.stderr) for rank in ranks),
        beacons=[None] * nproc,
    )


def _observe(watch: _Watch, status: SurfaceStatus, now_ns: int) -> None:
    """Take in what the ranks show now."""
    ended = {end.rank for end in watch.ends}
    fresh = [rank for rank in status.ranks if not rank.alive and rank.rank not in ended]
    for rank in sorted(fresh, key=lambda each: each.ended_ns or now_ns):
        end = _end_of(watch, rank)
        watch.ends.append(end)
        watch.progress_ns = watch.moved_ns = now_ns
        if not end.clean and watch.failed is None:
            watch.failed, watch.failed_ns = end, now_ns
    if fresh:
        _write_exits(watch.paths, {"ranks": [end.to_json() for end in watch.ends]})
    for rank in status.ranks:
        if rank.rank in ended:
            continue
        if _read_page(watch, rank.rank):
            watch.progress_ns = watch.moved_ns = now_ns
        if _works(watch, rank):
            watch.progress_ns = now_ns
        for log in watch.logs[rank.rank]:
            relieve(log)


def _end_of(watch: _Watch, rank: RankStatus) -> RankEnd:
    ours = {sent.signal for sent in watch.signals if sent.rank == rank.rank}
    end_marker = os.path.isfile(watch.paths.rank(rank.rank).end)
    # A command answers for its ranks: it ended well, and no rank left an exception behind.
    answered = rank.command_status == 0 and not os.path.isfile(watch.paths.rank(rank.rank).error)
    ended_well = rank.status == 0 or (rank.status is None and rank.signal is None and answered)
    return RankEnd(
        rank=rank.rank,
        pid=rank.pid,
        order=len(watch.ends),
        status=rank.status,
        signal=rank.signal,
        signal_by="nobody" if rank.signal is None else "supervisor" if rank.signal in ours else "other",
        ended_ns=rank.ended_ns,
        end_marker=end_marker,
        clean=ended_well and (end_marker or not watch.limits.end_marker_required),
        command_status=rank.command_status,
    )


def _read_page(watch: _Watch, rank: int) -> bool:
    """Read the rank's beacon; True when it has moved. Whatever stands in the file, the supervisor goes on."""
    before = watch.beacons[rank]
    try:
        page = read_beacon(watch.pages[rank])
    except FileNotFoundError:  # it has not come that far
        return False
    except (OSError, BeaconError) as error:
        watch.beacon_errors[rank] = f"{type(error).__name__}: {error}"[:300]
        return False
    if page.rank != rank:
        watch.beacon_errors[rank] = f"the page says that it is of rank {page.rank}"
        return False
    watch.beacon_errors.pop(rank, None)
    watch.beacons[rank] = page
    return before is None or page.sequence != before.sequence


def _works(watch: _Watch, rank: RankStatus) -> bool:
    """Whether the rank may work without a word in its phase, and has used the processor since the last round."""
    page = watch.beacons[rank.rank]
    if rank.cpu_s is None or page is None or page.phase not in watch.limits.working:
        return False
    before = watch.cpu_s.get(rank.rank, rank.cpu_s)
    watch.cpu_s[rank.rank] = rank.cpu_s
    return rank.cpu_s > before


def _decide(watch: _Watch, status: SurfaceStatus, now_ns: int, interrupted: str | None) -> _Decision | None:
    """Whether the run is over or has to be. See the module's table."""
    failed = watch.failed
    # Whoever ends a whole container signals ranks and supervisor alike: such a rank did not fail by itself.
    if interrupted is not None and (status.alive or failed is not None):
        if failed is None or failed.signal in _ASKING_SIGNALS:
            return _Decision("interrupted", interrupted)
        return _Decision("rank_failed", _describe(failed), failed.rank)
    if failed is not None:
        if status.alive and now_ns - watch.failed_ns < watch.limits.settle_s * 1e9:
            return None
        return _Decision("rank_failed", _describe(failed), failed.rank)
    if not status.alive:
        return _Decision("all_ended", f"all {len(status.ranks)} ranks ended cleanly")
    return _limit_reached(watch, status, now_ns)


def _limit_reached(watch: _Watch, status: SurfaceStatus, now_ns: int) -> _Decision | None:
    limits = watch.limits
    for rank in status.ranks:
        if rank.stopped_since_ns is not None and now_ns - rank.stopped_since_ns > limits.stopped_s * 1e9:
            return _Decision("stopped", f"rank {rank.rank} was stopped by a signal and did not continue", rank.rank)
    if now_ns - watch.began_ns > limits.wall_s * 1e9:
        return _Decision("wall_limit", f"the run is older than {limits.wall_s:g} s")
    visible = limits.end_marker_required or any(page is not None for page in watch.beacons)
    if visible and now_ns - watch.progress_ns > limits.stall_s * 1e9:
        return _Decision("stalled", f"no rank made progress for {limits.stall_s:g} s")
    return None


def _describe(end: RankEnd) -> str:
    if end.signal is not None:
        return f"rank {end.rank} was ended by {end.signal}"
    if end.status is None and end.command_status is not None:
        how = f"with status {end.command_status}" if end.command_status >= 0 else f"by signal {-end.command_status}"
        return f"the command ended {how}"
    if end.status is None:
        return f"rank {end.rank} ended and its status could not be seen"
    if end.status == 0:
        return f"rank {end.rank} ended with status 0 and left no end marker"
    return f"rank {end.rank} ended with status {end.status}"


def _states(status: SurfaceStatus) -> tuple[RankState, ...]:
    return tuple(_state(rank) for rank in status.ranks)


def _state(rank: RankStatus) -> RankState:
    source = "the surface" if rank.pid is None else f"/proc/{rank.pid}"
    if not rank.alive:
        gone: Observation[Any] = absent(source, "the rank had ended")
        return RankState(rank.rank, gone, gone)
    state: Observation[str] = unavailable(source, "the surface shows no process state")
    if rank.state is not None:
        state = observed(rank.state, f"{source}/stat")
    channel = None if rank.pid is None else read_wait_channel(rank.pid)
    wait_channel: Observation[str] = unavailable(f"{source}/wchan", "the kernel does not say, or it is running")
    if channel is not None:
        wait_channel = observed(channel, f"{source}/wchan")
    return RankState(rank.rank, state, wait_channel)


def _note_survivors(watch: _Watch, status: SurfaceStatus) -> None:
    """A process that even SIGKILL did not end is listed, without an end."""
    for rank in status.ranks:
        if rank.alive:
            end_marker = os.path.isfile(watch.paths.rank(rank.rank).end)
            order = len(watch.ends)
            watch.ends.append(RankEnd(rank.rank, rank.pid, order, None, None, "nobody", None, end_marker, clean=False))


def _compact_logs(paths: AttemptPaths, nproc: int) -> tuple[LogCut, ...]:
    cuts = []
    for rank in range(nproc):
        for stream, path in (("stdout", paths.rank(rank).stdout), ("stderr", paths.rank(rank).stderr)):
            cut = compact(path)
            if cut is not None:
                cuts.append(LogCut(rank, stream, *cut))
    return tuple(cuts)


def _write_exits(paths: AttemptPaths, doc: dict[str, Any]) -> None:
    """On a full disk the record is sealed from memory; the file is for whoever comes after a killed supervisor."""
    with contextlib.suppress(OSError):
        replace_file(paths.exits, encode({"version": 1, **doc}))


def _show(show: Callable[[Shown], None] | None, what: Shown) -> Callable[[Shown], None] | None:
    """A display that fails must not end a run: it is dropped."""
    if show is not None:
        try:
            show(what)
        except Exception:  # whatever a display raises
            return None
    return show
