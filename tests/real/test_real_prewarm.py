"""Compiling ahead, with real ranks and real compilers: what would hang passes, and nothing that is measured changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the reference stack needs torch")

from stack_ranks import Ended, a_case, run_ranks

from lanemark.records.case import Case
from lanemark.records.observation import Observation

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAMS = Path(__file__).resolve().parent / "programs"
#: Shorter than the cold compilation here, about 20 s of processor time, and far above a step on a busy host.
SHORT_S = 12.0


def regional(**changes: Any) -> Case:
    return a_case(**{"mode": "fsdp2", "compile": "regional", "dtype": "bf16", "steps": 5, "warmup": 2, **changes})


def cache_variables(root: Path) -> dict[str, str]:
    """What a rank is told of its cache."""
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    return {
        "LANEMARK_CACHE_DIR": str(root),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        "TMPDIR": str(root / "tmp"),
    }


def used(ended: Ended) -> Any:
    """What a rank said of its cache as its last word."""
    assert ended.end is not None, ended.stderr
    seen = Observation.from_json(ended.end["compile_cache"])
    assert seen.status == "observed", seen
    return seen.value


def prewarmed(ended: Ended) -> Any:
    assert ended.observed is not None, ended.stderr
    return ended.observed["prewarm"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that one rank filled in a sharded run of its own, without compiling ahead."""
    root = tmp_path_factory.mktemp("caches") / "warm"
    (ended,) = run_ranks(root.parent / "filling", regional(), env=cache_variables(root))
    assert ended.status == 0, ended.stderr
    assert prewarmed(ended) == {
        "done": False, "planned": False, "reason": "one rank waits for nobody", "seconds": 0.0, "compilations": 0,
    }  # fmt: skip
    assert used(ended)["hits"] == {"fx": 0, "aot": 0}
    return root


def test_ranks_of_which_one_is_cold_meet_after_compiling(tmp_path: Path, warm: Path) -> None:
    """The layout that hangs otherwise: one rank finds everything, the other nothing, and nobody may wait long."""
    caches = [tmp_path / "rank-0", tmp_path / "rank-1"]
    shutil.copytree(warm, caches[0], symlinks=True)
    case = regional(nproc=2, collective_timeout_s=SHORT_S)
    ranks = run_ranks(tmp_path / "mixed", case, rank_env=lambda rank: cache_variables(caches[rank]))
    for ended in ranks:
        assert ended.status == 0, ended.stderr
        assert prewarmed(ended)["done"] is True
        assert prewarmed(ended)["compilations"] >= 1
        assert ended.samples is not None
        # Nothing is compiled in the window, and the hooks outlived the compiler's reset: step 0 traced again.
        assert ended.samples.rows[1].compile_ns == ended.samples.rows[-1].compile_ns
        assert ended.end is not None
        assert ended.end["compilations"] > prewarmed(ended)["compilations"]
    first, second = (used(ended) for ended in ranks)
    # An unsharded block looked up what a sharded one had stored: the keys are the same.
    assert first["misses"] == {"fx": 0, "aot": 0}
    # On the empty cache only compiling ahead missed: two graphs and their joint one; the first step then hit them all.
    assert second["misses"] == second["hits"] == {"fx": 2, "aot": 1}
    for kind in ("fx", "aot", "binaries"):
        assert first[kind] == second[kind] != []
    for root, seen in zip(caches, (first, second), strict=True):
        assert all((root / path).is_file() for path in seen["binaries"])

    plain = run_ranks(tmp_path / "plain", regional(nproc=2, prewarm="off"), env=cache_variables(warm))
    assert [ended.status for ended in plain] == [0, 0]
    assert prewarmed(plain[0])["reason"] == "switched off by the case"
    assert used(plain[0])["misses"] == {"fx": 0, "aot": 0}
    for key in ("first", "last"):
        assert {ended.loss(key) for ended in ranks} == {ended.loss(key) for ended in plain}


def test_a_recompilation_in_the_window_is_an_error_and_the_cache_is_still_reported(tmp_path: Path, warm: Path) -> None:
    (ended,) = run_ranks(
        tmp_path / "attempt", regional(), env=cache_variables(warm), program=PROGRAMS / "recompiling_rank.py"
    )
    assert ended.status != 0
    assert ended.end is None
    assert ended.error is not None
    assert ended.error["message"]["message"].startswith("RuntimeError: Detected recompile when torch.compile stance is")
    assert ended.samples is not None
    assert len(ended.samples.rows) == 3
    assert ended.value("compile_cache")["hits"] == {"fx": 2, "aot": 1}


@pytest.mark.parametrize("mode", ["fsdp2", "ddp"])
def test_a_whole_model_is_found_again_after_it_was_wrapped(warm: Path, mode: str) -> None:
    """Under FSDP2 the graph ends at every block and under DDP at every bucket, and so do the stand-in's."""
    program = [sys.executable, str(PROGRAMS / "prewarm_keys.py"), mode, "model", "fp32", "diagnostic"]
    environment = {**os.environ, **cache_variables(warm), "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    ahead, after = (json.loads(ran.stdout)[when] for when in ("ahead", "after"))
    assert ahead["misses"]["fx"] >= 1
    assert after["misses"] == ahead["misses"], "the wrapped model looked for something else"
    assert after["hits"]["fx"] == 2 * ahead["hits"]["fx"] + ahead["misses"]["fx"], "as many graphs as before, all found"
    assert json.loads(ran.stdout)["same_random_state"] is True
