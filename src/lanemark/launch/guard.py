"""The guard: one small process an attempt, which ends what is left when the supervisor was killed with -9.

A rank dies with its supervisor by PDEATHSIG. What the rank itself started (data loaders, compilers) would live on: the
signal does not reach grandchildren, and a killed supervisor ends nobody. The guard waits on a pipe that only the
supervisor holds; when it closes without the word `done`, the guard kills every process of the attempt and leaves.

Processes of an attempt are known by `LANEMARK_ATTEMPT_DIR=<directory>` in the environment they were started with: it is
inherited through forks, execs and new sessions, where parent and group are not, and no other process carries it. Each
is held by a process descriptor while it is checked and killed, so a recycled pid is never hit.

This file is run by its path, with `-I -S`, in about 15 ms: it imports the standard library and nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

DONE = b"done"
#: A rank that forks without end is outrun by looking again: each round kills all that the one before it left or missed.
_ROUNDS = 50
_ROUND_S = 0.02


def marker(attempt_dir: str) -> bytes:
    """The environment entry that every process of the attempt carries."""
    return b"LANEMARK_ATTEMPT_DIR=" + os.fsencode(attempt_dir)


def marked_pids(mark: bytes) -> list[int]:
    """Processes that carry the mark, without this one. Zombies carry nothing and are not among them."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _is_marked(pid, mark)]


def kill_marked(mark: bytes) -> list[int]:
    """Kill every process that carries the mark, until none is left. Returns the pids that were killed.

    Two looks in a row must find nothing: in the middle of an exec a process shows no environment for a moment.
    """
    killed: list[int] = []
    empty = 0
    for _ in range(_ROUNDS):
        pids = marked_pids(mark)
        empty = 0 if pids else empty + 1
        if empty == 2:
            break
        killed += [pid for pid in pids if pid not in killed and _kill(pid, mark)]
        time.sleep(_ROUND_S)
    return killed


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it has gone, or belongs to somebody else
        return False
    try:
        data = b""
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    except OSError:
        return False
    finally:
        os.close(fd)
    return mark in data.split(b"\0")


def _kill(pid: int, mark: bytes) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except AttributeError:  # Python built against a C library without it: the check just before is all there is
        if _is_marked(pid, mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return True
    except OSError:
        return False
    try:
        if not _is_marked(pid, mark):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def watch(pipe: int, attempt_dir: str) -> None:
    """Wait for the supervisor's word, or for its death."""
    word = b""
    while chunk := os.read(pipe, 64):
        word += chunk
    if word != DONE:
        kill_marked(marker(attempt_dir))


if __name__ == "__main__":
    # The terminal's signals are for the supervisor, which tells the guard when the run is over.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(0, sys.argv[1])
