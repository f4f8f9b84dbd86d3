"""Runs on Modal end to end: the command line, two real ranks in a real container, a launcher that is gone, a collector."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.source import lanemark_digest
from lanemark.records.shards import header
from lanemark.stage.staging import stage
from modal_plane import IMAGE, ModalPlane, healed_plane
from record_difference import differences

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]
WORDS = ["training", "--nproc", "2", "--steps", "8", "--warmup", "2", "--sequence", "32", "--micro-batch", "1"]
RENT = ["--surface", "modal", "--image", IMAGE]


plane = pytest.fixture(scope="module")(healed_plane)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    draw = random.Random(7)
    tokens = [draw.randrange(4096) for _ in range(40_000)]
    (directory / "text_train_000000.bin").write_bytes(header(len(tokens)) + struct.pack(f"<{len(tokens)}H", *tokens))
    return directory


def environment(plane: ModalPlane, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "LANEMARK_"))}
    return {**kept, **plane.environment, "LANEMARK_HOME": str(home)}


def lanemark(plane: ModalPlane, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanemark", *args], capture_output=True, text=True, timeout=240, check=False,
        env=environment(plane, home),
    )  # fmt: skip


def predicate(plane: ModalPlane, home: Path, run_id: str) -> dict[str, Any]:
    shown = lanemark(plane, home, "show", run_id, "--json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)["statement"]["predicate"]
    return found


def launch_and_kill(plane: ModalPlane, home: Path, *args: str) -> str:
    """Start a launcher that would wait, and kill it once its call's id is noted. Returns the run id."""
    with subprocess.Popen(
        [sys.executable, "-m", "lanemark", "run", *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment(plane, home), start_new_session=True,
    ) as launcher:  # fmt: skip
        ends = time.monotonic() + 60
        while not (found := [p for p in home.glob("attempts/*/attempt.json") if '"call_id"' in p.read_text()]):
            assert launcher.poll() is None
            assert time.monotonic() < ends, "the launcher launched nothing"
            time.sleep(0.02)
        os.killpg(launcher.pid, signal.SIGKILL)
    return found[0].parent.name


@pytest.fixture(scope="module")
def collected(plane: ModalPlane, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run, launched by a launcher that was killed, and collected by another process."""
    home, built = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("built")
    (built / "fused.cubin").write_bytes(b"kernel")
    stage(str(built), home / "pinned", artifacts=True)
    pinned = ("--artifacts", str(home / "pinned"))
    run_id = launch_and_kill(plane, home, *WORDS, *RENT, "--gpu", "cpu", "--data", str(shards), *pinned)
    done = lanemark(plane, home, "collect", run_id, "--wait", "--json")
    assert done.returncode == 0, done.stderr + plane.logs()[-3000:]
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["state"], run["appended"]) == ("ok", True)
    return home, run_id


def test_a_run_whose_launcher_was_killed_is_collected_verified_and_a_receipt(
    plane: ModalPlane, collected: tuple[Path, str]
) -> None:
    home, run_id = collected
    verified = lanemark(plane, home, "verify", run_id, str(home / "attempts" / run_id / "record.json"))
    assert verified.returncode == 0, verified.stdout
    seen = predicate(plane, home, run_id)
    assert seen["outcome"]["receipt"] is True
    assert [step["state"] for step in seen["transitions"]] == ["prepared", "detached", "running", "ok"]
    assert seen["surface"]["name"] == "modal"
    assert seen["surface"]["app_id"]["value"].startswith("ap-")
    assert seen["surface"]["call_id"]["value"].startswith("fc-")
    assert seen["environment"]["variables"]["MODAL_REGION"] == "loopback-1"
    assert seen["environment"]["variables"]["MODAL_TASK_ID"].startswith("ta-")
    assert seen["image"]["reference"]["value"].startswith("im-")
    assert seen["image"]["digest"]["status"] == "unavailable"
    assert seen["source"]["lanemark_digest"]["value"] == lanemark_digest().value, "what was laid there is what is here"
    assert seen["data"]["token_parity"]["value"] is True
    assert [entry["name"] for entry in seen["toolchain"]["artifacts"]["value"]["entries"]] == ["fused.cubin"]
    assert {"rental.json", "executions.json"} <= {item["name"] for item in seen["evidence"]}


def test_nothing_of_the_service_s_credentials_is_in_what_was_kept(
    plane: ModalPlane, collected: tuple[Path, str]
) -> None:
    home, _ = collected
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if b"as-loopback" in path.read_bytes()] == []


def here(home: Path, *args: str) -> dict[str, Any]:
    """The predicate of the same run on this host, in the environment that a container starts with."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "LANEMARK_MIN_FREE_MB") if name in os.environ}
    environ = {**kept, "LANEMARK_HOME": str(home), "PYTHONUNBUFFERED": "1"}

    def said(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "lanemark", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environ)
        assert done.returncode == 0, done.stderr
        doc: dict[str, Any] = json.loads(done.stdout)
        return doc

    found: dict[str, Any] = said("show", said("run", *args)["run_id"])["statement"]["predicate"]
    return found


def test_the_record_says_what_one_of_this_host_says_but_for_the_surface(
    plane: ModalPlane, collected: tuple[Path, str], shards: Path, tmp_path: Path
) -> None:
    home, run_id = collected
    pinned = ("--artifacts", str(home / "pinned"))
    local = here(tmp_path, *WORDS, "--gpu", "cpu", "--data", str(shards), *pinned)
    rented = predicate(plane, home, run_id)
    assert differences(local, rented) == []
    assert [step["state"] for step in local["transitions"]] == ["prepared", "running", "ok"]
    losses = [[end["losses"] for end in (json.loads(path.read_bytes()) for path in sorted(place.glob("ranks/*/end.json")))]
              for place in (home / "attempts" / run_id, next(tmp_path.glob("attempts/*")))]  # fmt: skip
    assert losses[0] == losses[1], "the same steps were taken"


def test_a_difference_that_is_not_listed_is_found(plane: ModalPlane, collected: tuple[Path, str]) -> None:
    rented = predicate(plane, *collected)
    assert differences(rented, rented) == []
    for path, value in (
        (("toolchain", "torch_build", "value"), "2.0.0"),
        (("environment", "variables", "NCCL_DEBUG"), "INFO"),
        (("data", "dataset_digest", "value"), "sha256:" + "0" * 64),
        (("outcome", "receipt"), False),
        (("training", "tokens_per_s", "value"), "fast"),
        (("case", "surface"), "fake"),
        (("findings",), [{"kind": "ranks_disagree"}]),
    ):
        other = json.loads(json.dumps(rented))
        place = other
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
        assert differences(rented, other), path
    other = json.loads(json.dumps(rented))
    del other["training"]["loss"]
    assert differences(rented, other), "what one lacks is a difference"
    other = {**rented, "findings": [*rented["findings"], {"kind": "stalls_in_window"}]}
    assert differences(rented, other) == [], "what follows from times alone is none"


def test_the_request_that_was_made_is_the_one_that_was_planned(plane: ModalPlane, collected: tuple[Path, str]) -> None:
    home, run_id = collected
    planned = json.loads((home / "attempts" / run_id / "rental.json").read_bytes())
    (made,) = [r for r in plane.requests("AppCreate") if r["description"] == run_id]
    assert made["app_state"] == "APP_STATE_DETACHED"
    assert made["tags"] == {**planned["app"]["tags"], "run_id": run_id}
    app_id = predicate(plane, home, run_id)["surface"]["app_id"]["value"]
    (function,) = [r["function"] for r in plane.requests("FunctionCreate") if r["app_id"] == app_id]
    assert function["timeout_secs"] == planned["function"]["timeout_s"]
    assert function["concurrency_limit"] == 1
    assert function["single_use_containers"] is True
    assert "retries" not in function.get("retry_policy", {}), "no retry of the service's own"
    assert sorted(mount["mount_path"] for mount in function["volume_mounts"]) == sorted(planned["volumes"])


def test_another_device_than_the_pinned_one_fails_the_receipt_and_not_the_run(
    plane: ModalPlane, tmp_path: Path
) -> None:
    """The plane has no GPU: what was asked for and what was served differ, as they can on the service."""
    left = lanemark(
        plane, tmp_path, "run", "training", "--steps", "4", "--warmup", "1", "--sequence", "32", *RENT, "--gpu", "H100!",
        "--dtype", "fp32", "--data", "synthetic", "--detach", "--json",
    )  # fmt: skip
    assert left.returncode == 0, left.stderr
    run_id = json.loads(left.stdout)["run_id"]
    done = lanemark(plane, tmp_path, "collect", run_id, "--wait")
    assert done.returncode == 0, done.stderr
    seen = predicate(plane, tmp_path, run_id)
    assert seen["outcome"]["state"] == "ok"
    assert seen["outcome"]["receipt"] is False
    assert "pinned" in seen["outcome"]["receipt_reason"]
    assert any(finding["kind"] == "gpu_substituted" for finding in seen["findings"])
    (asked,) = [r for r in plane.requests("FunctionCreate") if r["app_id"] == seen["surface"]["app_id"]["value"]]
    assert asked["function"]["resources"]["gpu_config"] == {"gpu_type": "H100!", "count": 1}


SPARSE = {"backends": ["gather", "union"], "repeats": 2, "cases": [
    {"name": "local", "sequence": 200, "topk": 16, "heads": 2, "kv_heads": 1, "head_dim": 32, "index_set": "local"},
]}  # fmt: skip


def test_the_sparse_lane_is_left_there_and_collected_with_every_backend_observed(
    plane: ModalPlane, tmp_path: Path
) -> None:
    cases = tmp_path / "own.json"
    cases.write_text(json.dumps(SPARSE))
    run_id = launch_and_kill(plane, tmp_path, "sparse", "--preset", str(cases), *RENT, "--gpu", "cpu")
    done = lanemark(plane, tmp_path, "collect", run_id, "--wait")
    assert done.returncode == 0, done.stderr + plane.logs()[-3000:]
    assert lanemark(plane, tmp_path, "verify", run_id).returncode == 0
    seen = predicate(plane, tmp_path, run_id)
    assert seen["outcome"]["receipt"] is True
    assert seen["sparse"]["collector"]["lifecycle"] == "detached"
    assert seen["surface"]["call_id"]["value"].startswith("fc-")
    local = here(tmp_path / "here", "sparse", "--preset", str(cases), "--gpu", "cpu")
    assert differences(local, seen) == []


def test_the_promotion_lane_s_launcher_is_killed_and_its_ladder_comes_home(plane: ModalPlane, tmp_path: Path) -> None:
    asked = ["promotion", "--candidate", "sdpa_math", "--direction", "forward", "--dtype", "fp32", "--gpu", "cpu"]
    run_id = launch_and_kill(plane, tmp_path, *asked, *RENT)
    done = lanemark(plane, tmp_path, "collect", run_id, "--wait")
    assert done.returncode == 0, done.stderr + plane.logs()[-3000:]
    assert lanemark(plane, tmp_path, "verify", run_id).returncode == 0
    seen = predicate(plane, tmp_path, run_id)
    assert seen["outcome"]["state"] == "ok"
    assert seen["promotion"]["collector"]["lifecycle"] == "detached"
    assert seen["surface"]["call_id"]["value"].startswith("fc-")
    assert differences(here(tmp_path / "here", *asked), seen) == []
