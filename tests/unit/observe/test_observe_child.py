"""The helper runner: bounded in time and in output."""

from __future__ import annotations

import sys
import time

import pytest

from lanemark.observe.child import run_child


def python(code: str, *, timeout_s: float = 20, max_bytes: int = 256 * 1024) -> tuple[int | None, str, str]:
    result = run_child([sys.executable, "-c", code], timeout_s=timeout_s, max_bytes=max_bytes)
    return result.returncode, result.stdout, result.stderr


def test_output_and_status() -> None:
    assert python("import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)") == (3, "a\n", "b\n")


def test_flood_is_capped_and_does_not_block() -> None:
    status, out, _ = python("print('x' * 5_000_000)", max_bytes=1000)
    assert (status, out) == (0, "x" * 1000)


def test_deadline_ends_the_group() -> None:
    began = time.monotonic()
    status, out, _ = python("import time; print('up', flush=True); time.sleep(60)", timeout_s=1.0)
    assert status is None
    assert out == "up\n"
    assert time.monotonic() - began < 15


def test_grandchild_holding_the_pipe_does_not_hang_us() -> None:
    code = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)']); print('done')"
    )
    began = time.monotonic()
    status, out, _ = python(code, timeout_s=30)
    assert (status, out) == (0, "done\n")
    assert time.monotonic() - began < 20


def test_signal_and_missing_program() -> None:
    assert python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")[0] == -11
    with pytest.raises(FileNotFoundError):
        run_child(["/no/such/program"], timeout_s=1)
