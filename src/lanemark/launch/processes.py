"""What the kernel says about processes: `/proc/PID/stat`, `prctl`, process file descriptors. Linux only.

Parsing is pure; reading is thin. A process that has gone is None here, which is an answer and not a failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

# Option numbers of prctl(2) (source: linux/prctl.h).
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessStat:
    """One line of `/proc/PID/stat` (source: proc_pid_stat(5)).

    Attributes:
        state: one letter: R running, S sleeping, D in an uninterruptible wait, T stopped by a signal, t stopped by a
            debugger, Z ended and not yet reaped.
        cpu_s: user and system time, with that of children already waited for.
        start_ticks: when it started, in clock ticks since boot: with the pid, it names a process for good.
        command: the program's name as the kernel has it, at most 15 bytes.
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu_s: float
    start_ticks: int
    command: str


def parse_stat(text: str) -> ProcessStat:
    """Parse the line. The command name may hold spaces and brackets, so fields are counted from its last bracket.

    Raises:
        ValueError: the text is no such line.
    """
    opening, closing = text.find("("), text.rfind(")")
    fields = text[closing + 1 :].split()
    if opening < 1 or closing < opening or len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    ticks = sum(int(field) for field in fields[11:15])
    return ProcessStat(
        pid=int(text[:opening]),
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_s=ticks / _TICKS_PER_S,
        start_ticks=int(fields[19]),
        command=text[opening + 1 : closing],
    )


def read_stat(pid: int) -> ProcessStat | None:
    """The process's line now, or None when there is no such process (any more)."""
    try:
        fd = os.open(
            f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC
        )  # plain calls: this runs for every rank each round
    except OSError:
        return None
    try:
        return parse_stat(os.read(fd, 4096).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def read_wait_channel(pid: int) -> str | None:
    """The kernel function the process sleeps in, or None where the kernel does not say (`0`, or no permission)."""
    try:
        fd = os.open(f"/proc/{pid}/wchan", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 256).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if text in ("", "0") else text


def children(pid: int) -> list[ProcessStat]:
    """The processes whose parent is `pid`, zombies included."""
    found = (read_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [stat for stat in found if stat is not None and stat.parent == pid]


class Descendants:
    """Which programs run below given processes, looked up again and again at little cost.

    A process belongs to the one whose session it is in, or from which it descends: a compiler that a rank started is
    found also when the shell between them has gone. A process that was once seen to belong to none never will, so its
    line is not read again for as long as its number is in use without a gap.
    """

    def __init__(self) -> None:
        self._foreign: set[int] = set()

    def commands(self, roots: Collection[int]) -> dict[int, tuple[str, ...]]:
        """For each of `roots`, the commands of its live descendants, itself left out, sorted. Raises OSError."""
        pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        self._foreign &= pids
        stats = {pid: stat for pid in pids - self._foreign if (stat := read_stat(pid)) is not None}
        found: dict[int, list[str]] = {root: [] for root in roots}
        for pid, stat in stats.items():
            root = _root_of(pid, stats, roots)
            if root is None:
                self._foreign.add(pid)
            elif pid != root and stat.state != "Z":
                found[root].append(stat.command)
        return {root: tuple(sorted(commands)) for root, commands in found.items()}


def _root_of(pid: int, stats: Mapping[int, ProcessStat], roots: Collection[int]) -> int | None:
    """The root that a process belongs to, or None."""
    for _ in range(64):  # deeper than any build goes; a bound, because lines read one by one may contradict each other
        if pid in roots:
            return pid
        stat = stats.get(pid)
        if stat is None:
            return None
        if stat.session in roots:
            return stat.session
        pid = stat.parent
    return None


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; False when nobody is in it. Call it while its leader is not reaped.

    Until then its number cannot be given to another process, so no innocent is hit.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `SIG77` for a number without a name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def dies_with_parent() -> Callable[[], None]:
    """What a child runs between fork and exec so that it is killed when its parent dies, however that happens.

    Everything is looked up here, before the fork: after it, in a process with threads, only plain calls are safe. The
    signal is tied to the thread that forks, so launch from a thread that lives as long as the run.
    """
    libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter lock: nothing to take again after a fork
    prctl, parent, kill = libc.prctl, os.getpid(), int(signal.SIGKILL)
    getppid, leave = os.getppid, os._exit

    def after_fork() -> None:
        prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if getppid() != parent:  # it died before the request stood, so no signal will come
            leave(127)

    return after_fork


def adopt_orphans(*, enabled: bool) -> bool:
    """Make this process the parent of descendants whose own parent died (PR_SET_CHILD_SUBREAPER).

    Returns:
        What was set before, to be put back. False where the kernel cannot do it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0)
    return bool(before.value)


def reap(pid: int) -> None:
    """Take a dead child's status, if it is ours and dead, so that it leaves the process table."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None on kernels without pidfd_open (before 5.3)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
