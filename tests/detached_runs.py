"""Runs that were left somewhere, for tests and benchmarks of whoever collects them.

A far side in a directory (`FakeDetached`) whose runs end with the files that a real run left: one is conducted for real,
with ranks that need no torch, and its files stand for those of all others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lanemark.collect.handing_over import Handover, hand_over
from lanemark.collect.manifest import Manifest
from lanemark.collect.preparing import prepare
from lanemark.collect.starting import Start
from lanemark.launch.detached import plain_names
from lanemark.launch.fake import FakeSurface
from lanemark.launch.fake_detached import FakeDetached
from lanemark.launch.surface import Placement
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case

PROGRAMS = Path(__file__).resolve().parent / "real" / "programs"
#: Files of a run that its far side never has: they are the collector's.
_HERE = ("attempt.json", "case.json", "record.json", "supervisor.lock", "reserve")
DONE_AT = "2026-11-28T15:00:05.000Z"


def real_run(place: Path, *, nproc: int = 1, steps: int = 6) -> tuple[Case, dict[str, bytes]]:
    """Conduct one run and return its case and the files it left."""
    rank = [sys.executable, str(PROGRAMS / "rank_program.py"), "ok"]
    program = [sys.executable, str(PROGRAMS / "conduct_program.py"), str(place), str(nproc), str(steps), "30"]
    done = subprocess.run([*program, *rank], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (root,) = (place / "attempts").iterdir()
    case = Case.from_json(json.loads((root / "case.json").read_bytes()))
    return case, {name: (root / name).read_bytes() for name in plain_names(root) if name not in _HERE}


def leave_one(home: Home, far: FakeDetached, case: Case) -> AttemptPaths:
    """Prepare a run and leave it with the far side."""
    asked = replace(case, surface="fake")
    attempt = prepare(home, asked, argv=["lanemark", "run"], placement={"cwd": os.getcwd()}, data={}, hold=True)
    placement = Placement(home)
    request = FakeSurface().request(asked, placement)
    hand_over(home, attempt, far, request, Handover(attempt.manifest, placement, Start()))
    return attempt.paths


def finish(far: FakeDetached, run_id: str, files: dict[str, bytes]) -> None:
    """The run ends by itself."""
    far.leave(run_id, files)
    far.say(run_id, "finished", "the function returned", completed_at=DONE_AT)


def manifest_of(paths: AttemptPaths) -> Manifest:
    """What `attempt.json` says now."""
    return Manifest.from_json(json.loads(paths.manifest.read_bytes()))
