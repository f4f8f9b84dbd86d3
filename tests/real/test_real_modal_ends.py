"""How a run on Modal ends that does not end by itself: the service's own time limit, and a person's Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch.programs import RANK_PROGRAMS
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from modal_many import results
from modal_plane import IMAGE, ModalPlane, healed_plane

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(300)]
WORDS = ["training", "--surface", "modal", "--image", IMAGE, "--gpu", "cpu", "--data", "synthetic", "--nproc", "2",
         "--steps", "100000", "--warmup", "2", "--sequence", "32", "--micro-batch", "1"]  # fmt: skip
#: A rank inside a container, by its command line.
RANK = RANK_PROGRAMS["training"]


plane = pytest.fixture(healed_plane)


def environment(plane: ModalPlane, home: Path) -> dict[str, str]:
    return {**os.environ, **plane.environment, "LANEMARK_HOME": str(home)}


def lanemark(plane: ModalPlane, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanemark", *args], capture_output=True, text=True, timeout=240, check=False,
        env=environment(plane, home),
    )  # fmt: skip


def interrupted(plane: ModalPlane, home: Path, *words: str, when: Callable[[str], bool]) -> tuple[str, int, str]:
    """Start `lanemark run`, press Ctrl-C once `when` holds of its manifest. Returns run id, status, what was said."""
    with subprocess.Popen(
        [sys.executable, "-m", "lanemark", "run", *WORDS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(plane, home),
    ) as launcher:  # fmt: skip
        ends = time.monotonic() + 90
        while not (found := [p for p in home.glob("attempts/*/attempt.json") if when(p.read_text())]):
            assert launcher.poll() is None, launcher.communicate()
            assert time.monotonic() < ends, plane.logs()[-3000:]
            time.sleep(0.02)
        launcher.send_signal(signal.SIGINT)
        _, said = launcher.communicate(timeout=120)
    return found[0].parent.name, launcher.returncode, said


def predicate(plane: ModalPlane, home: Path, run_id: str) -> dict[str, Any]:
    shown = lanemark(plane, home, "show", run_id, "--json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)["statement"]["predicate"]
    return found


def one_record_and_nobody_left(plane: ModalPlane, home: Path, run_id: str) -> None:
    """Whoever collects again finds it done; the ledger has it once; no process of it is left on this machine."""
    again = lanemark(plane, home, "collect", run_id, "--json")
    assert json.loads(again.stdout)["runs"][0]["outcome"] == "done"
    assert [row.run_id for row in Ledger(Home(home).ledger).list().rows] == [run_id]
    assert lanemark(plane, home, "verify", run_id).returncode == 0
    ends = time.monotonic() + 30
    while left := processes(run_id):
        assert time.monotonic() < ends, left
        time.sleep(0.1)


def processes(run_id: str) -> list[str]:
    """Processes whose environment or command line names the run, containers' own included."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            named = run_id.encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if named and int(path.name) != os.getpid():
            found.append((path / "cmdline").read_text(errors="replace"))
    return found


def test_ctrl_c_on_a_run_that_is_waited_for_cancels_it_there_and_brings_its_record_home(
    plane: ModalPlane, tmp_path: Path
) -> None:
    def runs_there(manifest: str) -> bool:
        doc = json.loads(manifest)
        return "call_id" in doc.get("ids", {}) and any(RANK in command for command in processes(doc["run_id"]))

    run_id, status, said = interrupted(plane, tmp_path, "--json", when=runs_there)
    assert status == 1
    assert "[run-cancelled]" in said
    assert "Traceback" not in said
    seen = predicate(plane, tmp_path, run_id)
    assert (seen["outcome"]["state"], seen["outcome"]["receipt"]) == ("cancelled", False)
    assert seen["transitions"][-1]["state"] == "cancelled"
    assert len(list((results(plane) / run_id / "executions").iterdir())) == 1
    one_record_and_nobody_left(plane, tmp_path, run_id)


def test_ctrl_c_before_the_call_is_made_launches_nothing_and_says_so(plane: ModalPlane, tmp_path: Path) -> None:
    plane.order("fault", unavailable={"VolumePutFiles2": list(range(1, 200))})
    before = len(plane.requests("FunctionMap"))
    run_id, status, said = interrupted(plane, tmp_path, when=lambda manifest: '"app_id"' in manifest)
    plane.order("heal")
    assert status == 1
    assert "SIGINT came before" in said
    assert "[run-cancelled]" in said
    assert "Traceback" not in said
    assert len(plane.requests("FunctionMap")) == before
    seen = predicate(plane, tmp_path, run_id)
    assert seen["outcome"]["state"] == "cancelled"
    assert [step["state"] for step in seen["transitions"]] == ["prepared", "detached", "cancelled"]
    one_record_and_nobody_left(plane, tmp_path, run_id)


def test_ctrl_c_while_the_call_is_made_is_carried_out_once_its_id_is_known(plane: ModalPlane, tmp_path: Path) -> None:
    """Nobody may be left with a run that is paid for and whose id nobody has."""
    plane.order("fault", unavailable={"FunctionMap": list(range(1, 4))}, no_capacity=True)
    before = len(plane.requests("FunctionMap"))
    run_id, status, said = interrupted(
        plane, tmp_path, when=lambda _: len(plane.requests("FunctionMap")) > before
    )  # fmt: skip
    assert status == 1
    assert "SIGINT: asking for the end of" in said
    assert "[run-cancelled]" in said
    seen = predicate(plane, tmp_path, run_id)
    assert seen["outcome"]["state"] == "cancelled"
    assert seen["surface"]["call_id"]["value"].startswith("fc-")
    one_record_and_nobody_left(plane, tmp_path, run_id)


def test_a_run_that_the_service_ends_at_its_own_limit_is_an_error_that_says_so(
    plane: ModalPlane, tmp_path: Path
) -> None:
    plane.order("fault", time_limit_s=3.0)
    left = lanemark(plane, tmp_path, "run", *WORDS, "--detach", "--json")
    assert left.returncode == 0, left.stderr
    run_id = json.loads(left.stdout)["run_id"]
    done = lanemark(plane, tmp_path, "collect", run_id, "--wait", "--json")
    assert done.returncode == 1, done.stderr
    seen = predicate(plane, tmp_path, run_id)
    assert (seen["outcome"]["state"], seen["outcome"]["receipt"]) == ("error", False)
    cause = seen["outcome"]["first_cause"]
    assert cause["kind"] == "surface_failed"
    assert "timeout" in cause["summary"]
    (finding,) = [found for found in seen["findings"] if found["kind"] == "surface_failed"]
    assert finding["evidence"] == ["kind: timed_out"]
    assert "snapshots/failed.json" in {item["name"] for item in seen["evidence"]}, "the call graph is kept"
    graph = json.loads((tmp_path / "attempts" / run_id / "snapshots" / "failed.json").read_bytes())
    assert [node["status"] for node in graph["call_graph"]["inputs"]] == ["TIMEOUT"]
    assert len(list((results(plane) / run_id / "executions").iterdir())) == 1, "it is not begun again"
    one_record_and_nobody_left(plane, tmp_path, run_id)
