"""A wave over the loopback: a dry run, a launch that is killed half-way, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from modal_plane import IMAGE, ModalPlane, healed_plane

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]
SMALL = ["training", "--surface", "modal", "--image", IMAGE, "--gpu", "cpu", "--data", "synthetic", "--steps", "4",
         "--warmup", "1", "--sequence", "16", "--micro-batch", "1"]  # fmt: skip


plane = pytest.fixture(scope="module")(healed_plane)


def environment(plane: ModalPlane, home: Path) -> dict[str, str]:
    return {**os.environ, **plane.environment, "LANEMARK_HOME": str(home)}


def wave(plane: ModalPlane, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanemark", "wave", *args], capture_output=True, text=True, timeout=200, check=False,
        env=environment(plane, home),
    )  # fmt: skip


def written(path: Path, **changes: Any) -> str:
    doc = {"name": "seeds", "at_once": 2, "max_dollars": 1.0, "common": SMALL, "matrix": {"--seed": [0, 1]}, **changes}
    path.write_text(json.dumps(doc))
    return str(path)


def test_a_dry_run_checks_every_run_and_contacts_nobody(plane: ModalPlane, tmp_path: Path) -> None:
    common = [word if word != "cpu" else "H100!" for word in SMALL]
    file = written(tmp_path / "wave.json", common=common, matrix={"--seed": [0, 1, 2]}, max_dollars=12)
    env = {k: v for k, v in environment(plane, tmp_path).items() if not k.startswith("MODAL_")}
    done = subprocess.run([sys.executable, "-m", "lanemark", "wave", file, "--json"], capture_output=True, text=True,
                          timeout=60, check=False, env={**env, "MODAL_SERVER_URL": "http://127.0.0.1:9"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    doc = json.loads(done.stdout)
    assert doc["states"] == {"waiting": 3}
    assert doc["dollars"]["at_most"] == pytest.approx(3 * 0.001097 * 4500, abs=1e-3)
    assert doc["dollars"]["prices"] == {
        "source": "modal.com/pricing",
        "seen": "2026-08",
        "covers": doc["dollars"]["prices"]["covers"],
    }
    bad = written(tmp_path / "bad.json", matrix={"--seed": [0, -1]})
    refused = wave(plane, tmp_path, bad)
    assert (refused.returncode, "run 1 of the wave" in refused.stderr) == (2, True)
    for changes in ({"name": "Two Words"}, {"surprise": 1}, {"max_dollars": 0}, {"matrix": {"--seed": []}},
                    {"common": ["training", "--gpu", "cpu"]}):  # fmt: skip
        assert wave(plane, tmp_path, written(tmp_path / "bad.json", **changes)).returncode == 2


def test_a_wave_that_is_killed_goes_on_and_launches_nothing_twice(plane: ModalPlane, tmp_path: Path) -> None:
    file = written(tmp_path / "wave.json")
    plane.order("fault", no_capacity=True)
    before = len(plane.requests("FunctionMap"))
    with subprocess.Popen(
        [sys.executable, "-m", "lanemark", "wave", file, "--launch"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment(plane, tmp_path), start_new_session=True,
    ) as first:  # fmt: skip
        ends = time.monotonic() + 60
        while len(plane.requests("FunctionMap")) == before:
            assert first.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
    plane.order("heal")
    done = wave(plane, tmp_path, file, "--launch", "--json")
    assert done.returncode == 0, done.stderr + plane.logs()[-2000:]
    doc = json.loads(done.stdout)
    assert doc["states"] == {"ok": 2}
    assert all(run["receipt"] for run in doc["runs"])
    assert len({run["run_id"] for run in doc["runs"]}) == 2
    assert len(plane.requests("FunctionMap")) - before == 2, "nothing was launched twice"
    first_one = doc["first_trustworthy"]
    assert first_one["run_id"] in {run["run_id"] for run in doc["runs"]}
    assert first_one["seconds"] > 0
    assert first_one["dollars"] == 0.0, "no GPU was rented"
    again = wave(plane, tmp_path, file, "--launch", "--json")
    assert again.returncode == 0
    assert len(plane.requests("FunctionMap")) - before == 2
    assert json.loads(again.stdout)["runs"] == doc["runs"]
