"""Run one short helper process that can neither hang us, flood us nor ask anybody anything.

`subprocess.run(timeout=...)` is not enough here: after its timeout it waits for the killed child without bound, and a
child stuck in a driver call (state D) does not die. It also keeps all output in memory. This runner caps the output,
gives the whole process group a deadline, and walks away from a child that even SIGKILL does not end.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Longest wait for a killed child to be reaped before it is left to the kernel, seconds.
REAP_S: Final = 1.0
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class ChildResult:
    """How a helper process ended.

    Attributes:
        returncode: exit status, negative for a signal; None when the deadline passed first.
        stdout: what it printed, undecodable bytes escaped, at most the cap.
        stderr: likewise.
    """

    returncode: int | None
    stdout: str
    stderr: str

    @property
    def timed_out(self) -> bool:
        return self.returncode is None


def importable(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with this package on the path: it may have been laid beside an interpreter without being installed."""
    here = str(Path(__file__).resolve().parents[2])
    before = environ.get("PYTHONPATH")
    return {**environ, "PYTHONPATH": here if not before else f"{here}{os.pathsep}{before}"}


def run_child(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    max_bytes: int = 256 * 1024,
) -> ChildResult:
    """Run `argv` without a shell, standard input closed. Raises OSError when it cannot be started.

    Args:
        argv: the program and its arguments.
        timeout_s: its whole group is killed after this long.
        env: its environment; ours when None.
        cwd: its working directory.
        max_bytes: of each stream, how much is kept; the rest is read and dropped so that the child never blocks.
    """
    deadline = time.monotonic() + timeout_s
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        kept = _drain(process, deadline, max_bytes)
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _end_group(process)
            return ChildResult(None, *kept)
        return ChildResult(process.returncode, *kept)
    finally:
        if process.poll() is None:
            _end_group(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _drain(process: subprocess.Popen[bytes], deadline: float, max_bytes: int) -> tuple[str, str]:
    """Read both pipes until they close, the child has gone, or the deadline passes."""
    kept = {"out": bytearray(), "err": bytearray()}
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        assert process.stderr is not None
        selector.register(process.stdout, selectors.EVENT_READ, "out")
        selector.register(process.stderr, selectors.EVENT_READ, "err")
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            ready = selector.select(min(left_s, 0.2))
            # A grandchild that inherited the pipe may hold it open for ever: the child's own end is what counts.
            if not ready and process.poll() is not None:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                room = max_bytes - len(kept[key.data])
                kept[key.data] += chunk[: max(0, room)]
    return tuple(kept[name].decode("utf-8", "backslashreplace") for name in ("out", "err"))  # type: ignore[return-value]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the child's own session and reap it, or leave it when not even SIGKILL ends it (a wedged driver)."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)
