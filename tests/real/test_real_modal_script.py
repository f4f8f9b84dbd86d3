"""A command of one's own on Modal: its directory goes along, it is observed there as here, and what runs is what was planned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch.modal_code import pack, volume_path
from modal_plane import IMAGE, ModalPlane, healed_plane
from record_difference import differences

PROGRAMS = Path(__file__).parent / "programs"
RENT = ["--surface", "modal", "--image", IMAGE]
WORDS = ["training", "--gpu", "cpu", "--steps", "24", "--warmup", "4"]
COMMAND = ["--", sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "train_tiny.py", "30"]
pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(300)]


plane = pytest.fixture(scope="module")(healed_plane)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Where the command is typed."""
    place = tmp_path / "project"
    place.mkdir()
    shutil.copy(PROGRAMS / "train_tiny.py", place)
    (place / ".env").write_text("TOKEN=sesame-of-the-project")
    return place


def lanemark(plane: ModalPlane, project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "LANEMARK_MIN_FREE_MB") if name in os.environ}
    env = {**kept, **plane.environment, "LANEMARK_HOME": str(project.parent / "home"), "PYTHONUNBUFFERED": "1"}
    return subprocess.run(
        [sys.executable, "-m", "lanemark", *args], capture_output=True, text=True, timeout=240, check=False, env=env,
        cwd=project,
    )  # fmt: skip


def predicate(plane: ModalPlane, project: Path, run_id: str) -> dict[str, Any]:
    shown = lanemark(plane, project, "show", run_id, "--json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)["statement"]["predicate"]
    return found


def test_a_script_under_torchrun_is_left_there_and_its_record_says_what_one_of_this_host_says(
    plane: ModalPlane, project: Path
) -> None:
    planned = lanemark(plane, project, "plan", *WORDS, *RENT, *COMMAND)
    assert planned.returncode == 0, planned.stderr
    request = json.loads(planned.stdout)["request"]
    code, data = pack(project)
    assert request["argv"] == COMMAND[1:]
    assert request["modal"]["code"] == {**code.to_json(), "volume_path": f"/lanemark/data/{volume_path(code.digest)}"}
    assert b"sesame" not in data, "what is hidden stays here"

    left = lanemark(plane, project, "run", *WORDS, *RENT, "--detach", "--json", *COMMAND)
    assert left.returncode == 0, left.stderr
    run_id = json.loads(left.stdout)["run_id"]
    (project / "train_tiny.py").write_text("raise SystemExit('it was changed after it was launched')")
    done = lanemark(plane, project, "collect", run_id, "--wait")
    assert done.returncode == 0, done.stderr + plane.logs()[-3000:]
    assert lanemark(plane, project, "verify", run_id).returncode == 0
    there = predicate(plane, project, run_id)
    assert there["outcome"]["receipt"] is True
    assert there["training"]["script"]["ranks_found"] == 2
    kept = json.loads((project.parent / "home" / "attempts" / run_id / "rental.json").read_bytes())
    assert kept["code"]["digest"] == code.digest
    assert "rental.json" in {item["name"] for item in there["evidence"]}

    shutil.copy(PROGRAMS / "train_tiny.py", project)
    ran = lanemark(plane, project, "run", *WORDS, "--json", *COMMAND)
    assert ran.returncode == 0, ran.stderr
    assert differences(predicate(plane, project, json.loads(ran.stdout)["run_id"]), there) == []


def test_code_that_was_changed_on_the_volume_is_not_run(plane: ModalPlane, project: Path) -> None:
    (project / "train_tiny.py").write_text("print('as planned')")
    code, data = pack(project)
    volume = plane.order("look")["volumes"].get("lanemark-data")
    if volume is None:
        left = lanemark(plane, project, "run", *WORDS, *RENT, "--detach", "--json", *COMMAND)
        assert left.returncode == 0, left.stderr
        volume = plane.order("look")["volumes"]["lanemark-data"]
    archive = Path(volume) / volume_path(code.digest)
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(data.replace(b"as planned", b"as changed"))
    ran = lanemark(plane, project, "run", *WORDS, *RENT, "--json", *COMMAND)
    assert ran.returncode == 1
    said = json.loads(ran.stdout)
    assert (said["state"], said["receipt"]) == ("error", False)
    assert "not those that were planned" in said["first_cause"]["summary"]


def test_a_directory_that_is_too_large_is_refused_before_anything_is_asked(plane: ModalPlane, project: Path) -> None:
    with (project / "weights.bin").open("wb") as file:
        file.truncate(65 * 2**20)
    before = len(plane.requests("AppCreate"))
    for verb in ("plan", "run"):
        refused = lanemark(plane, project, verb, *WORDS, *RENT, *COMMAND)
        assert refused.returncode == 2
        assert "[modal-code-unfit]" in refused.stderr
    assert len(plane.requests("AppCreate")) == before
