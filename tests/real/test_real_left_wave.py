"""A wave of the promotion lane that is left: its launcher, its terminal and its driver die, and no case is lost or run twice."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.left_waves import LeftWave, LeftWavePlace
from lanemark.launch import guard
from lanemark.launch.local_detached import signal_supervisor
from lanemark.launch.processes import read_stat
from lanemark.records.attempt import Home
from lanemark.records.encoding import decode

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(400)]
WAVE = {
    "candidates": ["sdpa_flash", "missing_kernels:attend", "sdpa_math"], "dtypes": ["bf16"], "directions": ["forward"],
    "cases": ["causal-s48-d64-h2"],
}  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LANEMARK_")}
    return {**kept, "LANEMARK_HOME": str(home)}


def lanemark(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "lanemark", *args]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, env=environment(home), cwd=home
    )


def wait_for(what: Callable[[], bool], timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():  # a condition, asked until it holds
        assert time.monotonic() < end, "timed out waiting"
        time.sleep(0.05)


@contextlib.contextmanager
def ended(home: Path, place: LeftWavePlace) -> Any:
    """Whatever goes wrong, nothing of it is left running."""
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            signal_supervisor(place.read().driver, signal.SIGKILL)
        for paths in map(Home(home).attempt, os.listdir(Home(home).attempts)):
            with contextlib.suppress(Exception):
                signal_supervisor(json.loads(paths.manifest.read_bytes())["ids"], signal.SIGKILL)
            guard.kill_marked(guard.marker(str(paths.root)))


def test_a_left_wave_outlives_its_launcher_and_goes_on_where_its_driver_was_killed(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(WAVE), encoding="utf-8")
    place = LeftWavePlace(Home(tmp_path).left_waves, "first")

    def wave() -> LeftWave:
        return place.read()

    # The launcher's shell has a terminal and stays; then all of it is killed, and the terminal hangs up.
    master, slave = pty.openpty()
    command = f"'{sys.executable}' -m lanemark run promotion --preset own.json --wave first --detach --json; sleep 300"
    shell = subprocess.Popen(
        ["sh", "-c", command], stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True, cwd=tmp_path,
        env=environment(tmp_path),
    )  # fmt: skip
    wait_for(lambda: place.exists() and bool(wave().driver))
    with ended(tmp_path, place):
        os.killpg(shell.pid, signal.SIGKILL)
        os.close(slave)
        os.close(master)
        assert shell.wait(20) == -signal.SIGKILL
        assert shell.stdout is not None
        shell.stdout.close()
        driver = int(wave().driver["pid"])
        stat = read_stat(driver)
        assert stat is not None
        assert stat.session == driver, "it leads a session of its own"
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(driver, number)
        assert place.is_driven(), "a hang-up ends nothing"
        again = lanemark(tmp_path, "promotion", "resume", "first")
        assert again.returncode == 2, "one driver at a time"
        assert "a driver is at the wave" in again.stderr

        wait_for(lambda: wave().cases[0].run_id is not None)
        os.kill(driver, signal.SIGKILL)
        wait_for(lambda: not place.is_driven())
        stopped = lanemark(tmp_path, "collect", "--wait")
        assert stopped.returncode == 1
        assert "lanemark promotion resume first" in stopped.stderr
        first = wave().cases[0].run_id
        assert first is not None

        gone_on = lanemark(tmp_path, "promotion", "resume", "first", "--json")
        assert gone_on.returncode == 0, gone_on.stderr
        assert json.loads(gone_on.stdout)["wave"]["state"] == str(place.state)
        collected = lanemark(tmp_path, "collect", "--wait", "--json")
        assert not place.is_driven()
        assert place.log.read_text(encoding="utf-8").count("Traceback") == 0
        runs = json.loads(collected.stdout)["runs"]
        ids = [each.run_id for each in wave().cases]
        known = {run["run_id"] for run in runs}
        assert set(ids) <= known, "collect has all of them"
        assert known - set(ids) == {run for each in wave().cases for run in each.earlier}

    manifest = decode((Home(tmp_path).waves / "first.json").read_bytes())
    assert manifest["whole"] is True
    assert [row["run_id"] for row in manifest["records"]] == ids
    assert [row["candidate"] for row in manifest["records"]] == WAVE["candidates"]
    assert {row["lifecycle"] for row in manifest["records"]} == {"detached"}
    assert manifest["summary"]["detached"] == 3
    shown = lanemark(tmp_path, "promotion", "wave", "first")
    assert shown.returncode == 0, shown.stderr
    assert "left detached" in shown.stdout
    nothing = lanemark(tmp_path, "promotion", "resume", "first")
    assert "every case has ended well" in nothing.stdout
    taken = lanemark(tmp_path, "run", "promotion", "--preset", "own.json", "--wave", "first", "--detach")
    assert taken.returncode == 2
