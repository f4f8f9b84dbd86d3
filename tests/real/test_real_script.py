"""Unmodified training scripts under their own launchers, with torch: what is seen of them and what is not claimed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lanemark.lanes.rules import broken_rules
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from lanemark.records.observation import value_of
from lanemark.records.reading import read_record

PROGRAMS = Path(__file__).parent / "programs"
TINY = str(PROGRAMS / "train_tiny.py")
pytestmark = [pytest.mark.torch, pytest.mark.slow]


def run(home: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`lanemark run training … --json`: what it printed, and the record's predicate."""
    done = subprocess.run(
        [sys.executable, "-m", "lanemark", "run", "training", "--json", "--gpu", "cpu", *words],
        capture_output=True, text=True, timeout=170, check=False, cwd=home,
        env={**os.environ, "LANEMARK_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = json.loads(done.stdout) if done.stdout else {}
    assert "record_path" in said, done.stderr
    predicate = read_record(Path(said["record_path"]).read_bytes()).predicate
    assert broken_rules(predicate) == ()
    return said, predicate


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """One launch by torchrun, which most of this module looks at."""
    home = tmp_path_factory.mktemp("torchrun")
    command = ["--", sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", TINY, "30"]
    return (home, *run(home, "--steps", "24", "--warmup", "4", *command))


def test_an_unmodified_script_under_torchrun_has_steps_a_second_and_no_tokens(launched: Any) -> None:
    _, said, predicate = launched
    assert said["receipt"], said
    training = predicate["training"]
    script = training["script"]
    assert value_of(script["measured_by"]) == "hooks"
    assert (script["tokens"], script["ranks_found"], script["restarts"]) == ("absent", 2, 0)
    assert value_of(script["steps_per_s"]) > 0
    assert training["tokens_per_s"]["status"] == "unavailable"
    assert len(training["samples"]["measured"]) == 20  # two forwards to a step are one step
    assert {"data_own", "loss_unseen"} <= {finding["kind"] for finding in predicate["findings"]}


def test_what_ran_is_observed_and_not_declared(launched: Any) -> None:
    _, _, predicate = launched
    seen = predicate["distributed"]["observed"]
    assert (value_of(seen["mode"]), value_of(seen["backend"]), value_of(seen["world_size"])) == ("ddp", "gloo", 2)
    assert predicate["distributed"]["requested"]["mode"] == "any"
    assert value_of(predicate["compile"]["observed"]["posture"]) == "eager"
    assert value_of(predicate["hardware"]["observed"]["device_class"]) == "cpu"
    assert value_of(predicate["training"]["model"]["parameters"]) == 8 * 16 + 16 + 16 * 8 + 8
    assert value_of(predicate["training"]["script"]["parameter_dtypes"]) == ["float32"]
    assert value_of(predicate["startup"]["purpose"])["kind"] == "not_compiled"
    assert {phase["phase"] for phase in predicate["training"]["ranks"][1]["phases"]} >= {
        "import", "init_process_group", "build", "warmup", "window", "drain",
    }  # fmt: skip


def test_the_ranks_children_and_the_launcher_took_nobodys_place(launched: Any) -> None:
    home, said, _ = launched
    attempt = Path(said["record_path"]).parent
    assert sorted(path.name for path in (attempt / "ranks").iterdir()) == ["0", "1"]
    claims = [json.loads((attempt / "ranks" / str(rank) / "claim.json").read_bytes()) for rank in (0, 1)]
    assert [claim["life"] for claim in claims] == [0, 0]
    assert home.joinpath("home", "attempts").is_dir()


def test_it_is_shown_cited_and_verified(launched: Any, tmp_path: Path) -> None:
    home, said, _ = launched

    def lanemark(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lanemark", *words]
        env = {**os.environ, "LANEMARK_HOME": str(home / "home")}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)

    shown = lanemark("show", said["record_id"])
    assert "steps/s over 20 measured steps" in shown.stdout, shown.stderr
    assert "optimizer steps, no line changed" in shown.stdout
    assert lanemark("verify", said["record_id"]).returncode == 0
    cited = lanemark("cite", said["record_id"])
    assert cited.returncode in (0, 1)
    assert "train_tiny.py" in cited.stdout + cited.stderr or "STEADY" in cited.stdout + cited.stderr
    assert lanemark("report", said["record_id"], "-o", str(tmp_path / "page.html")).returncode == 0
    assert "steps/s" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert lanemark("doctor", said["run_id"]).returncode == 0


def test_a_rank_that_is_killed_and_started_again_by_torchelastic_leaves_one_record(tmp_path: Path) -> None:
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
        "--monitor-interval", "0.1", str(PROGRAMS / "train_restarted.py"), "16", str(tmp_path),
    ]  # fmt: skip
    said, predicate = run(tmp_path, "--steps", "16", "--warmup", "4", "--nproc", "2", "--", *torchrun)
    assert said["receipt"], said
    script = predicate["training"]["script"]
    assert (script["ranks_found"], script["restarts"], value_of(script["measured_by"])) == (2, 1, "marks")
    assert "restarted" in {finding["kind"] for finding in predicate["findings"]}
    # Both ranks began anew, and the window is of their last life alone: twelve steps, and never nine more.
    assert len(predicate["training"]["samples"]["measured"]) == 12
    assert predicate["training"]["tokens_per_step"] == 20
    attempt = Path(said["record_path"]).parent
    for rank in (0, 1):
        place = attempt / "ranks" / str(rank)
        now, before = (json.loads((life / "claim.json").read_bytes()) for life in (place, place / "earlier" / "0"))
        assert [(life["restart"], life["life"]) for life in (before, now)] == [(0, 0), (1, 1)]
        assert before["pid"] != now["pid"]
        assert (place / "earlier" / "0" / "samples.bin").exists()
        assert not (place / "earlier" / "1").exists()
    # One attempt, one row of the ledger: the life that was killed is no run of its own.
    home = Home(tmp_path / "home")
    assert [path.name for path in home.attempts.iterdir()] == [said["run_id"]]
    assert [row.id for row in Ledger(home.ledger).list().rows] == [said["record_id"]]


def test_two_nodes_by_rendezvous_are_two_supervisors_and_one_record(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two", "--local-addr", "127.0.0.1", TINY, "16",
    ]  # fmt: skip
    env = {**os.environ, "LANEMARK_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "lanemark", "run", "training", "--json"]
    words = ["--gpu", "cpu", "--steps", "14", "--warmup", "4", "--nproc", "2"]
    first = subprocess.Popen(
        [*start, *words, "--", *torchrun], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    )
    try:
        attempts = tmp_path / "home" / "attempts"
        deadline = time.monotonic() + 60
        while not list(attempts.glob("*/launch.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        run_id = next(attempts.glob("*/launch.json")).parent.name
        joined = subprocess.run(
            [*start, "--join", run_id, "--", *torchrun],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            env=env,
        )
        assert joined.returncode == 0, joined.stderr
        assert json.loads(joined.stdout) == {"run_id": run_id, "node": 1, "status": 0}
        said = json.loads(first.communicate(timeout=100)[0])
    finally:
        first.kill()
        first.wait()
    assert said["receipt"], said
    predicate = read_record(Path(said["record_path"]).read_bytes()).predicate
    assert broken_rules(predicate) == ()
    assert predicate["training"]["script"]["ranks_found"] == 2
    assert value_of(predicate["distributed"]["observed"]["world_size"]) == 2
    assert "nodes/1/end.json" in {entry["name"] for entry in predicate["evidence"]}
    assert len(list(attempts.iterdir())) == 1


def test_a_group_that_never_formed_is_named_as_one(tmp_path: Path) -> None:
    with socket.socket() as held:  # bound and never listening: whoever connects is refused
        held.bind(("127.0.0.1", 0))
        meet = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        (tmp_path / "train.py").write_text(
            "import datetime\nimport torch.distributed as dist\n"
            f"dist.init_process_group('gloo', '{meet}', datetime.timedelta(seconds=2), rank=1, world_size=2)\n"
        )
        (tmp_path / "train.sh").write_text(f"RANK=1 WORLD_SIZE=2 {sys.executable} train.py\n")
        said, predicate = run(tmp_path, "--nproc", "2", "--", "sh", "train.sh")
    assert said["state"] == "error"
    assert predicate["outcome"]["first_cause"]["kind"] == "bootstrap_failed", predicate["outcome"]


def test_a_hang_of_a_command_is_named_as_one_of_our_own(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    rank = f"MASTER_ADDR=127.0.0.1 MASTER_PORT={port} WORLD_SIZE=2 {sys.executable} {PROGRAMS / 'diverging.py'}"
    (tmp_path / "train.sh").write_text(f"RANK=1 {rank} & RANK=0 {rank}; wait\n")
    words = ["--nproc", "2", "--steps", "14", "--warmup", "4", "--stall-timeout", "8", "--", "sh", "train.sh"]
    said, predicate = run(tmp_path, *words)
    assert said["state"] == "error"
    assert predicate["outcome"]["first_cause"]["kind"] == "collective_mismatch"
    summary = predicate["outcome"]["first_cause"]["summary"]
    assert "rank 0 in all_reduce" in summary
    assert "rank 1 in broadcast" in summary


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("program", "way", "tokens_per_step", "needs"),
    [
        (EXAMPLES / "train_hf.py", "callback", 4 * 2 * 32, "transformers"),
        (EXAMPLES / "train_lightning.py", "callback", 8 * 2, "lightning"),
        (PROGRAMS / "train_accelerate.py", "callback", 8, "accelerate"),
    ],
    ids=["hf", "lightning", "accelerate"],
)
def test_a_frameworks_callback_counts_its_steps(
    tmp_path: Path, program: Path, way: str, tokens_per_step: int, needs: str
) -> None:
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    said, predicate = run(tmp_path, "--steps", "14", "--warmup", "4", "--", sys.executable, str(program), "16")
    assert said["receipt"], said
    training = predicate["training"]
    assert value_of(training["script"]["measured_by"]) == way
    assert training["tokens_per_step"] == tokens_per_step
    assert value_of(training["tokens_per_s"]) > 0


def test_accelerate_launch_starts_two_ranks_that_are_found(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    # With --cpu it starts one process; what it starts as for GPUs, the script may keep on the CPU.
    accelerate = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", str(PROGRAMS / "train_accelerate.py"), "16",
    ]  # fmt: skip
    said, predicate = run(tmp_path, "--nproc", "2", "--steps", "14", "--warmup", "4", "--", *accelerate)
    assert said["receipt"], said
    script = predicate["training"]["script"]
    assert (script["ranks_found"], script["restarts"], script["found_by"]) == (2, 0, ["environment"])
    seen = predicate["distributed"]["observed"]
    assert (value_of(seen["mode"]), value_of(seen["world_size"])) == ("ddp", 2)
    assert predicate["training"]["tokens_per_step"] == 16  # two ranks, two batches of four a step


def test_the_nanogpt_style_example_has_a_throughput_a_loss_and_a_data_path(tmp_path: Path) -> None:
    data = tmp_path / "bytes.bin"
    data.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 8000)
    command = [sys.executable, str(EXAMPLES / "train_gpt.py"), "--data", str(data), "--steps", "24"]
    said, predicate = run(tmp_path, "--steps", "22", "--warmup", "4", "--", *command)
    assert said["receipt"], said
    assert predicate["training"]["tokens_per_step"] == 8 * 64
    assert value_of(predicate["training"]["loss"]["last"]) is not None
    assert value_of(predicate["data"]["path_class"]) is not None
    assert predicate["data"]["paths"][0]["name"] == "bytes.bin"
    assert "loss_unseen" not in {finding["kind"] for finding in predicate["findings"]}
