"""A command of the user's own on this host: one process is started, and its ranks are found among its descendants.

`torchrun`, `accelerate launch`, a shell script or `python train.py` start ranks in their own ways. Each
rank's Python says so itself: an import hook writes `claim.json` into the rank's directory (`lanemark.measure.finding`),
and from then on its process is watched from here by pid and start time.

What is different from ranks of our own:

* A rank is its launcher's child, so its exit status is not ours to see; what is seen is when it went, and the status of
  the command, which answers for all of them.
* A rank that has gone may come back: torchelastic starts another in its place. So a rank has ended when the command
  has, and not before; when it was last seen to go tells which went first.
* Nothing is known before a rank says so. Until then it counts as alive, as the command does.

As for our own ranks, the command leads a session of its own and dies with the supervisor, and the guard ends whatever
carries the attempt's mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lanemark
from lanemark.launch import guard
from lanemark.launch.command_environment import command_settings, hook_path
from lanemark.launch.environment import apply_settings, choose_cache_directory
from lanemark.launch.guarding import dismiss_guard, start_guard
from lanemark.launch.local import LocalSurface
from lanemark.launch.processes import (
    ProcessStat,
    adopt_orphans,
    children,
    dies_with_parent,
    open_process,
    read_stat,
    reap,
    signal_group,
    signal_name,
)
from lanemark.launch.surface import (
    Launched,
    LaunchedRank,
    LaunchRequest,
    Placement,
    RankStatus,
    SignalSent,
    Surface,
    SurfaceStatus,
)
from lanemark.measure.claim import Claim, host_id, read_claim
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.errors import RunFailed

_KILL_WAIT_S: Final = 5.0


@dataclass
class _Seen:
    """One rank as it was last seen."""

    rank: int
    stamp: tuple[int, int] | None = None
    claim: Claim | None = None
    pidfd: int | None = None
    gone_ns: int | None = None
    stopped_since_ns: int | None = None


@dataclass
class _Run:
    """One launch as this process holds it."""

    mark: bytes
    paths: AttemptPaths
    process: subprocess.Popen[bytes]
    pidfd: int | None
    started_ns: int
    ranks: list[_Seen]
    guard: subprocess.Popen[bytes] | None = None
    adopted_before: bool = False
    ended_ns: int | None = None
    #: How the command ended, or, on several nodes, how the first of them did that ended badly.
    status: int = 0
    node: int | None = None
    #: When the present round looks: ranks that are found gone in one round went in an order that nobody saw.
    looks_ns: int = 0
    host: str = field(default_factory=host_id)


def local_surface(case: Case, operator: Mapping[str, str] | None = None) -> Surface:
    """The surface of this host for a case: commands of the user's own are launched once, our ranks one by one."""
    return LocalSurface(operator) if case.script is None else CommandSurface(operator)


class CommandSurface:
    """The local surface, for commands. Launch from a thread that lives as long as the run: PDEATHSIG is tied to it.

    Args:
        operator: the environment to build the command's from; by default this process's.
        node: of a node that joins another's attempt, its number, from 1. Such a one has marks and logs of its own, and
            leaves the end of its command in `nodes/<n>/end.json`, for which the attempt's own supervisor waits.
    """

    name = "local"

    def __init__(self, operator: Mapping[str, str] | None = None, node: int | None = None) -> None:
        self._operator = dict(os.environ if operator is None else operator)
        self._node = node
        self._runs: dict[str, _Run] = {}

    def request(self, case: Case, placement: Placement) -> LaunchRequest:
        """See `Surface.request`."""
        cache = choose_cache_directory(
            None if placement.cache_dir is None else placement.cache_dir.absolute(),
            home=placement.home.root.absolute(),
            temp=Path(tempfile.gettempdir()),
            uid=os.getuid(),
        )
        package = Path(lanemark.__file__).absolute().parent
        settings = (*command_settings(self._operator, cache=cache), hook_path(self._operator, package))
        return LaunchRequest(
            surface=self.name,
            argv=case.command,
            reference_stack=False,
            working_directory=str(Path.cwd()),
            settings=settings,
            rank_variables=tuple({} for _ in range(case.nproc)),
            cache_dir=str(cache.path),
            cache_reason=cache.reason,
        )

    def launch(self, request: LaunchRequest, paths: AttemptPaths) -> Launched:
        """See `Surface.launch`.

        Raises:
            RunFailed: the command could not be started.
            OSError: the attempt directory cannot be written.
        """
        root = AttemptPaths(paths.root.absolute())
        environment = apply_settings(self._operator, request.settings)
        # Another spelling of the same directory, so that no node's clean-up takes another's processes for its own.
        marked = root if self._node is None else AttemptPaths(root.node(self._node) / ".." / "..")
        environment |= {"LANEMARK_ATTEMPT_DIR": str(marked.root), "LANEMARK_COMMAND": "1"}
        if request.cache_dir is not None:  # what ranks loaded from their cache is named relative to it
            environment["LANEMARK_CACHE_DIR"] = request.cache_dir
        launched_ns = time.monotonic_ns()
        adopted_before = adopt_orphans(enabled=True)
        watcher = start_guard(marked)
        try:
            process = _start(request, root if self._node is None else AttemptPaths(root.node(self._node)), environment)
        except (OSError, subprocess.SubprocessError) as error:
            if watcher is not None:
                dismiss_guard(watcher)
            adopt_orphans(enabled=adopted_before)
            raise RunFailed(
                "run-failed",
                f"the command {request.argv[0][:200]!r} could not be started ({error})",
                "check that it exists and that this user may start it",
            ) from error
        self._runs[root.run_id] = _Run(
            mark=guard.marker(str(marked.root)),
            paths=root,
            process=process,
            pidfd=open_process(process.pid),
            started_ns=launched_ns,
            ranks=[_Seen(rank) for rank in range(request.nproc)],
            guard=watcher,
            adopted_before=adopted_before,
            node=self._node,
        )
        return Launched(
            surface=self.name,
            key=root.run_id,
            ranks=tuple(LaunchedRank(rank, None, None, launched_ns) for rank in range(request.nproc)),
            launched_ns=launched_ns,
            guard=watcher.pid if watcher else None,
        )

    def poll(self, launched: Launched) -> SurfaceStatus:
        """See `Surface.poll`."""
        run = self._runs[launched.key]
        stats = _take_end(run)
        return SurfaceStatus(tuple(_status(run, rank, stat) for rank, stat in zip(run.ranks, stats, strict=True)))

    def wait(self, launched: Launched, timeout_s: float) -> None:
        """See `Surface.wait`: also when a rank has gone, so that the first to go is seen first."""
        run = self._runs[launched.key]
        own = run.pidfd if run.process.returncode is None else None
        held = [own, *(rank.pidfd for rank in run.ranks)]
        pidfds = [pidfd for pidfd in held if pidfd is not None]
        if not pidfds:
            time.sleep(min(timeout_s, 0.05))
            return
        poller = select.poll()
        for pidfd in pidfds:
            poller.register(pidfd, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def stop(self, launched: Launched, reason: str, *, grace_s: float = 10.0) -> tuple[SignalSent, ...]:
        """See `Surface.stop`. The command is asked, not its ranks: a launcher ends its own in its own way."""
        run = self._runs[launched.key]
        sent: list[SignalSent] = []
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
            _take_end(run)
            if run.ended_ns is not None:
                break
            signal_group(run.process.pid, number)
            at_ns = time.monotonic_ns()
            sent += [SignalSent(rank.rank, number.name, at_ns, reason) for rank in run.ranks]
            signal_group(run.process.pid, signal.SIGCONT)
            deadline = time.monotonic() + wait_s
            while run.ended_ns is None and (left_s := deadline - time.monotonic()) > 0:
                self.wait(launched, min(left_s, 0.2))
                self.poll(launched)
        return tuple(sent)

    def cleanup(self, launched: Launched) -> None:
        """See `Surface.cleanup`."""
        run = self._runs.get(launched.key)
        if run is not None:
            _release(run)

    def command_end(self, launched: Launched) -> dict[str, int | str]:
        """How the command itself ended: its `status`, or the `signal` that ended it; empty while it runs."""
        run = self._runs[launched.key]
        if run.ended_ns is None:
            return {}
        code = run.process.returncode
        return {"status": code} if code >= 0 else {"signal": signal_name(-code)}


def _start(request: LaunchRequest, paths: AttemptPaths, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    after_fork = dies_with_parent()
    with contextlib.ExitStack() as opened, warnings.catch_warnings():
        # As for ranks of our own: what runs between fork and exec was looked up before and takes no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            request.argv,
            stdin=subprocess.DEVNULL,
            stdout=opened.enter_context(open(paths.command_stdout, "ab", buffering=0)),
            stderr=opened.enter_context(open(paths.command_stderr, "ab", buffering=0)),
            env=dict(environment),
            cwd=request.working_directory,
            start_new_session=True,
            preexec_fn=after_fork,  # noqa: PLW1509 - see dies_with_parent
        )


def _take_end(run: _Run) -> list[ProcessStat | None]:
    """One round: look at every rank, then at the command. Returns what was seen of each rank that is still there."""
    if run.ended_ns is not None:
        return [None] * len(run.ranks)
    stats = _look_at_all(run)  # first, while the command is there: who went before it went before it
    code = run.process.poll()
    others = _others(run)
    if code is not None and others is not None:
        run.ended_ns, run.status = time.monotonic_ns(), code or others
        for rank in run.ranks:
            _look(run, rank)
            if rank.gone_ns is None:
                rank.gone_ns = run.ended_ns
    return stats


def _look_at_all(run: _Run) -> list[ProcessStat | None]:
    """One round of looks, repeated until none more is found gone.

    Ranks are looked at one after another, so one may go right after its look and another for it before its own: the
    first would then seem to have outlived it. Looked at again, both are gone in this round, and neither went first.
    """
    run.looks_ns = time.monotonic_ns()
    while True:
        before = [rank.gone_ns for rank in run.ranks]
        stats = [_look(run, rank) for rank in run.ranks]
        if [rank.gone_ns for rank in run.ranks] == before:
            return stats


def _others(run: _Run) -> int | None:
    """How the other nodes' commands ended: 0 when all did well, or none joined; None while one runs."""
    if run.node is not None:
        return 0
    try:
        names = sorted(os.listdir(run.paths.nodes))
    except OSError:
        return 0
    worst = 0
    for name in names:
        try:
            status = json.loads((run.paths.nodes / name / "end.json").read_bytes())["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        worst = worst or (status if isinstance(status, int) else 1)
    return worst


def _look(run: _Run, rank: _Seen) -> ProcessStat | None:
    """Who the rank is now, and whether it is still there."""
    path = run.paths.rank(rank.rank).claim
    try:
        info = os.stat(path)
    except OSError:
        return None
    stamp = (info.st_mtime_ns, info.st_ino)
    if stamp != rank.stamp:
        claim = read_claim(path)
        if claim is not None and claim != rank.claim:
            _let_go(rank)
            rank.claim, rank.gone_ns, rank.stopped_since_ns = claim, None, None
            rank.pidfd = open_process(claim.pid) if claim.host == run.host else None
        rank.stamp = stamp
    if rank.claim is None or rank.gone_ns is not None:
        return None
    if rank.claim.host != run.host:
        return None  # on another node: its own supervisor sees it
    stat = read_stat(rank.claim.pid)
    if stat is None or stat.start_ticks != rank.claim.start_ticks or stat.state == "Z":
        rank.gone_ns = run.looks_ns
        _let_go(rank)
        return None
    return stat


def _status(run: _Run, rank: _Seen, stat: ProcessStat | None) -> RankStatus:
    pid = None if rank.claim is None or rank.claim.host != run.host else rank.claim.pid
    if run.ended_ns is not None:
        code = run.process.returncode
        own = pid == run.process.pid  # the command is the rank: its status is the rank's
        return RankStatus(
            rank=rank.rank,
            pid=pid,
            alive=False,
            status=code if own and code >= 0 else None,
            signal=signal_name(-code) if own and code < 0 else None,
            ended_ns=rank.gone_ns,
            command_status=run.status,
        )
    state = None if stat is None else stat.state
    if state != "T":
        rank.stopped_since_ns = None
    elif rank.stopped_since_ns is None:
        rank.stopped_since_ns = time.monotonic_ns()
    return RankStatus(
        rank=rank.rank,
        pid=pid if rank.gone_ns is None else None,
        alive=True,
        state=state,
        stopped_since_ns=rank.stopped_since_ns,
        cpu_s=None if stat is None else stat.cpu_s,
    )


def _let_go(rank: _Seen) -> None:
    if rank.pidfd is not None:
        os.close(rank.pidfd)
        rank.pidfd = None


def _release(run: _Run) -> None:
    """End everything that carries the attempt's mark, and let go of what is held."""
    if run.ended_ns is None:
        signal_group(run.process.pid, signal.SIGKILL)
    killed = set(guard.kill_marked(run.mark))
    deadline = time.monotonic() + _KILL_WAIT_S
    while run.ended_ns is None and time.monotonic() < deadline:
        _take_end(run)
        time.sleep(0.02)
    # Orphans of the command are our children now; other code's children are not touched.
    for child in children(os.getpid()):
        if (
            child.state == "Z"
            and child.pid != run.process.pid
            and (child.pid in killed or child.session == run.process.pid)
        ):
            reap(child.pid)
    for rank in run.ranks:
        _let_go(rank)
    if run.pidfd is not None:
        os.close(run.pidfd)
        run.pidfd = None
    if run.guard is not None:
        dismiss_guard(run.guard)
        run.guard = None
        adopt_orphans(enabled=run.adopted_before)
