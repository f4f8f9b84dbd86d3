"""One compile cache for all ranks, or one each: what a rank is given, what is made for it, and what the request says."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch.environment import CACHE_VARIABLES, rank_cache_root
from lanemark.launch.local import LocalSurface
from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked

CASE = Case(
    lane="training", preset="diagnostic", nproc=2, mode="ddp", compile="regional", dtype="fp32", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", command=(sys.executable, "-c", "pass"),
)  # fmt: skip
NAMES = [name for name, _ in CACHE_VARIABLES]


def ask(home: Path, layout: Any, case: Case = CASE, **operator: str) -> LaunchRequest:
    placement = Placement(Home(home), cache_dir=home / "cache", cache_layout=layout)
    return LocalSurface(operator, usable_cores=4).request(case, placement)


def settings(request: LaunchRequest) -> dict[str, str | None]:
    return {setting.name: setting.value for setting in request.settings}


def test_a_shared_cache_is_a_setting_of_all_ranks(tmp_path: Path) -> None:
    request = ask(tmp_path, "shared")
    assert {name: settings(request)[name] for name in NAMES} == {
        name: str(tmp_path / "cache" / below) for name, below in CACHE_VARIABLES
    }
    for variables in request.rank_variables:
        assert variables["LANEMARK_CACHE_DIR"] == str(tmp_path / "cache")
        assert not set(NAMES) & set(variables)
    assert request.to_json()["cache"]["layout"] == "shared"


def test_a_cache_each_is_a_variable_of_each_rank(tmp_path: Path) -> None:
    request = ask(tmp_path, "per_rank")
    assert not set(NAMES) & set(settings(request))
    for rank, variables in enumerate(request.rank_variables):
        root = rank_cache_root(tmp_path / "cache", "per_rank", rank)
        assert root == tmp_path / "cache" / f"rank-{rank}"
        assert variables["LANEMARK_CACHE_DIR"] == str(root)
        assert {name: variables[name] for name in NAMES} == {name: str(root / below) for name, below in CACHE_VARIABLES}
    assert request.to_json()["cache"] == {
        "directory": str(tmp_path / "cache"), "layout": "per_rank", "reason": "asked for",
    }  # fmt: skip


def test_an_eager_rank_is_led_to_no_cache(tmp_path: Path) -> None:
    request = ask(tmp_path, "per_rank", replace(CASE, compile="eager"))
    assert not {"LANEMARK_CACHE_DIR", *NAMES} & set(request.rank_variables[0])
    assert request.cache_dir is None


@pytest.mark.parametrize("layout", ["shared", "per_rank"])
def test_the_directories_exist_before_a_rank_starts(layout: Any, tmp_path: Path) -> None:
    """A compiler that is led to a TMPDIR that is not there falls back to the system's, which is no part of the cache."""
    look = (
        "import os; [os.stat(os.environ[name]) for name in ('TORCHINDUCTOR_CACHE_DIR', 'TRITON_CACHE_DIR', 'TMPDIR')]"
    )
    home = Home(tmp_path)
    surface = LocalSurface(dict(os.environ) | dict.fromkeys(NAMES, ""), usable_cores=2)
    request = surface.request(
        replace(CASE, command=(sys.executable, "-c", look)),
        Placement(home, cache_dir=tmp_path / "cache", cache_layout=layout),
    )
    launched = surface.launch(request, home.attempt("training-20261122T152233Z-aaaaaaaa"))
    try:
        while surface.poll(launched).alive:
            surface.wait(launched, 1.0)
        assert [rank.status for rank in surface.poll(launched).ranks] == [0, 0]
    finally:
        surface.cleanup(launched)
    roots = {rank_cache_root(tmp_path / "cache", layout, rank) for rank in range(2)}
    assert {path.name for root in roots for path in root.iterdir()} == {"inductor", "triton", "tmp"}
