"""Starting and dismissing the guard of an attempt (`lanemark.launch.guard` is what runs there)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Final

from lanemark.launch import guard
from lanemark.records.attempt import AttemptPaths

_DISMISS_S: Final = 5.0


def start_guard(paths: AttemptPaths) -> subprocess.Popen[bytes] | None:
    """The guard's process. Without one the run goes on: it matters only if the supervisor is killed with -9."""
    command = [sys.executable, "-I", "-S", guard.__file__, str(paths.root)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},  # the guard must not carry the mark, nor hold the operator's secrets longer than the run
            start_new_session=True,
            bufsize=0,
        )
    except OSError:
        return None


def dismiss_guard(process: subprocess.Popen[bytes]) -> None:
    """Tell the guard that nothing is left to end, and wait for it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(guard.DONE)
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_DISMISS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
