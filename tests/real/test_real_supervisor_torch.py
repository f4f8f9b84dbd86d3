"""Ranks with torch under the supervisor: the port that is held for a command, and collectives that FSDP2 makes."""

import json
import sys
from pathlib import Path

import pytest

from lanemark.launch.local import LocalSurface
from lanemark.launch.supervise import Limits, supervise
from lanemark.launch.surface import Placement
from lanemark.measure.beacon import read_beacon
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode

PROGRAM = Path(__file__).parent / "programs" / "collective_program.py"


@pytest.mark.torch
def test_command_meets_on_the_held_port_and_its_collectives_are_seen(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    case = Case(
        lane="training", preset="none", nproc=2, mode="fsdp2", compile="eager", dtype="fp32", steps=4, warmup=1,
        sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", command=(sys.executable, str(PROGRAM)),
    )  # fmt: skip
    paths = Home(tmp_path).attempt("training-20260101T000000Z-00000000")
    paths.root.mkdir(parents=True)
    paths.case.write_bytes(encode(case.to_json()))
    surface = LocalSurface()
    launched = surface.launch(surface.request(case, Placement(Home(tmp_path))), paths)
    result = supervise(surface, launched, paths, limits=Limits(stall_s=100.0, wall_s=120.0))
    assert result.reason == "all_ended", paths.rank(0).stderr.read_text()[-2000:]
    for rank in (0, 1):
        end = json.loads(paths.rank(rank).end.read_bytes())
        assert end["watching"]["status"] == "observed"
        # Two sharded layers: at least an all-gather each forward and a reduce-scatter each backward.
        assert end["sharded"] >= 4
        view = read_beacon(paths.rank(rank).beacon)
        assert (view.phase, view.depth) == ("done", 0)
        assert view.collectives > end["sharded"]  # the barrier
