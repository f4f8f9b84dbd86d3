"""Several runs with real ranks: in turns, compared at the end, and stopped without losing what was made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(400)]
LANEMARK = [sys.executable, "-m", "lanemark"]
SMALL = ("training", "--preset", "diagnostic", "--data", "synthetic", "--warmup", "1")


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "LANEMARK_"))}
    return {**kept, "LANEMARK_HOME": str(home)}


def test_two_sides_in_turns_end_in_a_verdict_on_what_was_asked(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LANEMARK, "run", *SMALL, "--steps", "5", "--repeat", "2", "--against", "--dtype bf16", "--json"],
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-800:] + done.stdout
    doc = json.loads(done.stdout)
    assert doc["complete"] is True
    assert (len(doc["a"]), len(doc["b"])) == (2, 2)
    assert doc["question"] == ["dtype"]
    assert doc["verdict"] == "comparable_with_caveats"
    assert "STEADINESS_UNKNOWN" in [reason["code"] for reason in doc["reasons"]]
    assert doc["effects"][0]["verdict"] in ("unreplicated", "faster", "slower", "inconclusive", "equivalent")
    listed = subprocess.run(
        [*LANEMARK, "list", "--json"], capture_output=True, text=True, timeout=60, check=True, env=environment(tmp_path)
    )
    rows = json.loads(listed.stdout)["records"]
    assert [row["dtype"] for row in reversed(rows)] == ["fp32", "bf16", "fp32", "bf16"]


def test_ctrl_c_ends_the_run_that_goes_on_and_keeps_its_record(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [*LANEMARK, "run", *SMALL, "--steps", "200000", "--repeat", "3", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not list(tmp_path.glob("attempts/*/ranks/0/samples.bin")):
            time.sleep(0.2)
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=150)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(30)
    assert child.returncode == 1, err[-800:]
    doc = json.loads(out)
    assert doc["complete"] is False
    assert len(doc["a"]) == 1
    assert "the series ended early, with 1 records" in err
    assert len(list(tmp_path.glob("attempts/*"))) == 1
