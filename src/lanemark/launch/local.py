"""The local surface: one fresh interpreter a rank on this host, supervised from outside.

What holds, however a run ends:

* A rank is the leader of its own session and group, so a signal for it reaches what it started, and a terminal's
  Ctrl-C reaches only the supervisor, which decides.
* A rank dies with the supervisor (PDEATHSIG), and the guard ends what such a rank leaves behind.
* When a rank has ended its group is killed before its pid is given back to the kernel; at the end every process that
  still carries the attempt's mark is killed, whatever session it moved to.
* Rank 0 inherits a socket that already listens on MASTER_PORT: between choosing a port and using it nobody can take
  it. A command that is not ours does not know that socket; for it the port is held bound, not listening, which leaves
  it free for exactly such a bind.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import lanemark
from lanemark.launch import guard
from lanemark.launch.environment import (
    CACHE_VARIABLES,
    Setting,
    apply_settings,
    choose_cache_directory,
    rank_environment,
    rank_variables,
)
from lanemark.launch.guarding import dismiss_guard, start_guard
from lanemark.launch.processes import (
    adopt_orphans,
    children,
    dies_with_parent,
    open_process,
    read_stat,
    reap,
    signal_group,
    signal_name,
)
from lanemark.launch.programs import RANK_PROGRAMS
from lanemark.launch.surface import (
    Launched,
    LaunchedRank,
    LaunchRequest,
    Placement,
    RankStatus,
    SignalSent,
    SurfaceStatus,
)
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.errors import GateRefused, RunFailed

#: How long a killed process may take to go. One in an uninterruptible wait (a dead network mount) takes longer, and is
#: then left to its guard; waiting on would hang the supervisor with it.
_KILL_WAIT_S: Final = 5.0
_NVIDIA_CONTROL: Final = Path("/dev/nvidiactl")


@dataclass
class _Rank:
    """One rank as this process holds it."""

    rank: int
    process: subprocess.Popen[bytes]
    pidfd: int | None
    started_ns: int = field(default_factory=time.monotonic_ns)
    stopped_since_ns: int | None = None
    ended_ns: int | None = None
    #: Other code in this process took its status (or SIGCHLD is ignored); Popen would then say 0, which nobody saw.
    end_lost: bool = False


@dataclass
class _Run:
    """One launch as this process holds it."""

    mark: bytes
    ranks: list[_Rank] = field(default_factory=list)
    port: socket.socket | None = None
    port_number: int = 0
    guard: subprocess.Popen[bytes] | None = None
    adopted_before: bool = False

    @property
    def alive(self) -> list[_Rank]:
        return [rank for rank in self.ranks if rank.ended_ns is None]


class LocalSurface:
    """Ranks on this host. Launch from a thread that lives as long as the run: PDEATHSIG is tied to it.

    Args:
        operator: the environment to build the ranks' from; by default this process's.
        usable_cores: cores the ranks may use together; by default those this process may run on.
    """

    name = "local"

    def __init__(self, operator: Mapping[str, str] | None = None, usable_cores: int | None = None) -> None:
        self._operator = dict(os.environ if operator is None else operator)
        self._usable_cores = usable_cores or len(os.sched_getaffinity(0))
        self._runs: dict[str, _Run] = {}

    def request(self, case: Case, placement: Placement) -> LaunchRequest:
        """See `Surface.request`."""
        cache = choose_cache_directory(
            None if placement.cache_dir is None else placement.cache_dir.absolute(),
            home=placement.home.root.absolute(),
            temp=Path(tempfile.gettempdir()),
            uid=os.getuid(),
        )
        cuda = case.gpu != "cpu" and _NVIDIA_CONTROL.exists()
        _, settings = rank_environment(
            self._operator,
            case=case,
            cuda=cuda,
            usable_cores=self._usable_cores,
            cache=cache,
            layout=placement.cache_layout,
        )
        data_dir = None if placement.data_dir is None else placement.data_dir.absolute()
        compiled = case.compile != "eager"
        return LaunchRequest(
            surface=self.name,
            argv=case.command or (sys.executable, "-m", RANK_PROGRAMS[case.lane]),
            reference_stack=not case.command,
            # A rank of ours runs in its own directory, where no file can pass for a module that it imports.
            working_directory=str(Path.cwd()) if case.command else None,
            settings=(*settings, *_import_path(self._operator)),
            rank_variables=tuple(
                rank_variables(case, rank, data_dir, cache.path if compiled else None, placement.cache_layout)
                for rank in range(case.nproc)
            ),
            cache_dir=str(cache.path) if compiled else None,
            cache_reason=cache.reason if compiled else "nothing is compiled",
            cache_layout=placement.cache_layout,
        )

    def launch(self, request: LaunchRequest, paths: AttemptPaths) -> Launched:
        """See `Surface.launch`.

        Raises:
            RunFailed: a rank could not be started; those already started are ended.
            GateRefused: the cache directory cannot be used (`home-unwritable`).
            OSError: the attempt directory cannot be written.
        """
        root = AttemptPaths(paths.root.absolute())
        environment = apply_settings(self._operator, request.settings)
        _make_cache_directories(request, environment)
        run = _Run(guard.marker(str(root.root)))
        launched_ns = time.monotonic_ns()
        try:
            run.adopted_before = adopt_orphans(enabled=True)
            run.guard = start_guard(root)
            run.port = _hold_port(listening=request.reference_stack)
            run.port_number = run.port.getsockname()[1]
            after_fork = dies_with_parent()
            for rank in range(request.nproc):
                run.ranks.append(
                    _start_rank(request, root, rank, environment=environment, run=run, after_fork=after_fork)
                )
                if rank == 0 and request.reference_stack:
                    # Only rank 0 holds it from here: if that rank dies, the others are refused and not kept waiting.
                    run.port.close()
        except (OSError, subprocess.SubprocessError) as error:
            _release(run)
            raise RunFailed(
                "run-failed",
                f"rank {len(run.ranks)} could not be started ({error})",
                "check that the command exists and that this user may start processes",
            ) from error
        except BaseException:
            _release(run)
            raise
        self._runs[root.run_id] = run
        return Launched(
            surface=self.name,
            key=root.run_id,
            ranks=tuple(_launched_rank(rank) for rank in run.ranks),
            launched_ns=launched_ns,
            guard=run.guard.pid if run.guard else None,
        )

    def poll(self, launched: Launched) -> SurfaceStatus:
        """See `Surface.poll`."""
        run = self._runs[launched.key]
        return SurfaceStatus(tuple(_poll_rank(rank) for rank in run.ranks))

    def wait(self, launched: Launched, timeout_s: float) -> None:
        """See `Surface.wait`."""
        _wait_for_end(self._runs[launched.key].alive, timeout_s)

    def stop(self, launched: Launched, reason: str, *, grace_s: float = 10.0) -> tuple[SignalSent, ...]:
        """See `Surface.stop`. A stopped rank is asked first and continued then, so that it does nothing in between."""
        run = self._runs[launched.key]
        sent: list[SignalSent] = []
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
            for rank in run.alive:
                _poll_rank(rank)
                if rank.ended_ns is None and signal_group(rank.process.pid, number):
                    sent.append(SignalSent(rank.rank, number.name, time.monotonic_ns(), reason))
                    signal_group(rank.process.pid, signal.SIGCONT)
            deadline = time.monotonic() + wait_s
            while run.alive and (left_s := deadline - time.monotonic()) > 0:
                _wait_for_end(run.alive, min(left_s, 0.5))
                for rank in run.alive:
                    _poll_rank(rank)
        return tuple(sent)

    def cleanup(self, launched: Launched) -> None:
        """See `Surface.cleanup`."""
        run = self._runs.get(launched.key)
        if run is not None:
            _release(run)


def _import_path(operator: Mapping[str, str]) -> tuple[Setting, ...]:
    """Let ranks import the Lanemark that launched them, also when it was laid beside the image and not installed."""
    beside = Path(lanemark.__file__).absolute().parents[1]
    if beside.name in ("site-packages", "dist-packages"):
        return ()
    # Relative entries mean this directory, and a rank has another.
    others = [os.path.abspath(entry) for entry in operator.get("PYTHONPATH", "").split(os.pathsep) if entry]
    value = os.pathsep.join([str(beside), *(entry for entry in others if entry != str(beside))])
    return (Setting("PYTHONPATH", value, "lanemark", "ranks import the Lanemark that launched them"),)


def _make_cache_directories(request: LaunchRequest, environment: Mapping[str, str]) -> None:
    """Compilers expect their directories to exist, TMPDIR above all."""
    if request.cache_dir is None:
        return
    try:
        os.makedirs(request.cache_dir, mode=0o700, exist_ok=True)
        for variables in request.rank_variables:
            for name, _ in CACHE_VARIABLES:
                os.makedirs({**environment, **variables}[name], mode=0o700, exist_ok=True)
        # Below a temporary directory somebody else could have made it first, and fed us compiled code.
        if os.stat(request.cache_dir).st_uid != os.getuid():
            raise PermissionError(f"{request.cache_dir} belongs to another user")
    except OSError as error:
        raise GateRefused(
            "home-unwritable",
            f"the compile cache directory {request.cache_dir!r} cannot be used ({error})",
            "set LANEMARK_HOME to a directory you can write",
        ) from error


def _hold_port(*, listening: bool) -> socket.socket:
    """A socket on a free loopback port: listening for rank 0 to inherit, or only bound to keep the port ours."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen(socket.SOMAXCONN)
    except BaseException:
        held.close()
        raise
    return held


def _start_rank(
    request: LaunchRequest,
    paths: AttemptPaths,
    rank: int,
    *,
    environment: Mapping[str, str],
    run: _Run,
    after_fork: Callable[[], None],
) -> _Rank:
    here = paths.rank(rank)
    here.root.mkdir(parents=True, exist_ok=True)
    env = {
        **environment,
        **request.rank_variables[rank],
        "MASTER_PORT": str(run.port_number),
        "LANEMARK_ATTEMPT_DIR": str(paths.root),
        "LANEMARK_RANK_DIR": str(here.root),
        "TORCHELASTIC_ERROR_FILE": str(here.error),
    }
    inherited: tuple[int, ...] = ()
    if rank == 0 and request.reference_stack and run.port is not None:
        inherited = (run.port.fileno(),)
        env["LANEMARK_LISTEN_FD"] = str(run.port.fileno())
    with contextlib.ExitStack() as logs, warnings.catch_warnings():
        # Python 3.12 warns of code between fork and exec where threads exist (a progress display has one). What runs
        # there was looked up before the fork and takes no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = subprocess.Popen(
            request.argv,
            stdin=subprocess.DEVNULL,
            stdout=logs.enter_context(_log(here.stdout)),
            stderr=logs.enter_context(_log(here.stderr)),
            env=env,
            cwd=request.working_directory or here.root,
            start_new_session=True,
            pass_fds=inherited,
            preexec_fn=after_fork,  # noqa: PLW1509 - see dies_with_parent
        )
    return _Rank(rank, process, open_process(process.pid))


def _log(path: Path) -> BinaryIO:
    """Opened to append, so that a log whose middle was given back goes on where it was."""
    return open(path, "ab", buffering=0)


def _launched_rank(rank: _Rank) -> LaunchedRank:
    stat = read_stat(rank.process.pid)
    return LaunchedRank(rank.rank, rank.process.pid, stat.start_ticks if stat else None, rank.started_ns)


def _poll_rank(rank: _Rank) -> RankStatus:
    pid = rank.process.pid
    if rank.ended_ns is None:
        _take_end(rank)
    if rank.ended_ns is not None:
        code = rank.process.returncode
        if rank.end_lost:
            return RankStatus(rank=rank.rank, pid=pid, alive=False, ended_ns=rank.ended_ns)
        return RankStatus(
            rank=rank.rank,
            pid=pid,
            alive=False,
            status=code if code >= 0 else None,
            signal=signal_name(-code) if code < 0 else None,
            ended_ns=rank.ended_ns,
        )
    stat = read_stat(pid)
    state = stat.state if stat else None
    if state != "T":
        rank.stopped_since_ns = None
    elif rank.stopped_since_ns is None:
        rank.stopped_since_ns = time.monotonic_ns()
    return RankStatus(
        rank=rank.rank,
        pid=pid,
        alive=True,
        state=state,
        stopped_since_ns=rank.stopped_since_ns,
        cpu_s=stat.cpu_s if stat else None,
    )


def _take_end(rank: _Rank) -> None:
    """Take in the rank's end, if it has ended. (`kill -0` would find a zombie alive.)"""
    pid = rank.process.pid
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        signal_group(pid, signal.SIGKILL)  # before it is reaped: until then no other group can have its number
    except ChildProcessError:
        rank.end_lost = True
    rank.ended_ns = time.monotonic_ns()
    rank.process.wait()
    _close_pidfd(rank)


def _wait_for_end(ranks: list[_Rank], timeout_s: float) -> None:
    pidfds = [rank.pidfd for rank in ranks if rank.pidfd is not None]
    if len(pidfds) < len(ranks):
        time.sleep(min(timeout_s, 0.05))
        return
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    poller.poll(timeout_s * 1000)


def _close_pidfd(rank: _Rank) -> None:
    if rank.pidfd is not None:
        os.close(rank.pidfd)
        rank.pidfd = None


def _release(run: _Run) -> None:
    """End everything that carries the attempt's mark, and let go of what is held."""
    for rank in run.alive:
        signal_group(rank.process.pid, signal.SIGKILL)
    killed = set(guard.kill_marked(run.mark))
    leaders = {rank.process.pid for rank in run.ranks}
    for rank in run.alive:
        _wait_for_end([rank], _KILL_WAIT_S)
        _take_end(rank)
    # Orphans of the ranks are our children now; other code's children are not touched.
    for child in children(os.getpid()):
        if child.state == "Z" and child.pid not in leaders and (child.pid in killed or child.session in leaders):
            reap(child.pid)
    if run.port is not None:
        run.port.close()
    if run.guard is not None:
        dismiss_guard(run.guard)
        run.guard = None
        adopt_orphans(enabled=run.adopted_before)
