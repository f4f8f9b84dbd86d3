"""Commands of the user's own, with real processes and no torch: whoever starts the ranks, they are found and watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.conduct import conduct
from lanemark.collect.preparing import prepare
from lanemark.lanes.rules import broken_rules
from lanemark.launch.command import CommandSurface
from lanemark.launch.supervise import Tick
from lanemark.launch.surface import Placement
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import decode
from lanemark.records.observation import value_of
from lanemark.records.reading import read_record
from lanemark.records.script import ScriptAsked

PROGRAMS = Path(__file__).parent / "programs"
RANK, LAUNCHER = str(PROGRAMS / "light_rank.py"), str(PROGRAMS / "light_launcher.py")


def run(
    home: Path,
    *command: str,
    nproc: int = 1,
    steps: int = 12,
    interrupt_when: str | None = None,
    stall_s: float = 60.0,
    watch: Callable[[AttemptPaths, Tick], None] | None = None,
) -> tuple[AttemptPaths, dict[str, Any]]:
    """One attempt from prepared to sealed, shown to `watch` in every round.

    `interrupt_when` is a phase: once every rank is in it, the supervisor is told to stop.
    """
    case = Case(
        lane="training", preset="script", nproc=nproc, mode="any", compile="any", dtype="any", steps=steps, warmup=2,
        sequence=1, micro_batch=1, data=DataAsked("own"), gpu="cpu", command=command, script=ScriptAsked(),
        stall_s=stall_s, wall_s=120.0,
    )  # fmt: skip
    attempt = prepare(Home(home), case, argv=["lanemark"], placement={}, data={})
    told: list[str] = []

    def tick(seen: Tick) -> None:
        if interrupt_when is not None and all(page and page.phase == interrupt_when for page in seen.beacons):
            told.append("SIGTERM")
        if watch is not None:
            watch(attempt.paths, seen)

    environ = {name: value for name, value in os.environ.items() if not name.startswith("LANEMARK_")}
    done = conduct(
        Home(home), attempt, CommandSurface(environ), Placement(Home(home)), environ=environ, on_tick=tick,
        interrupted=lambda: told[0] if told else None,
    )  # fmt: skip
    predicate = read_record(done.record.data).predicate
    assert broken_rules(predicate) == ()
    assert decode(done.record.data)["predicate"]["case"] == case.to_json()
    return attempt.paths, predicate


def test_a_single_program_is_its_own_rank_and_its_marks_make_a_receipt(tmp_path: Path) -> None:
    _, predicate = run(tmp_path, sys.executable, RANK, "15")
    part = predicate["training"]
    assert predicate["outcome"]["receipt"], predicate["outcome"]
    assert value_of(predicate["outcome"]["ranks"][0]["status"]) == 0  # the command is the rank: its status is seen
    assert (part["tokens_per_step"], part["script"]["tokens"]) == (100, "counted")
    assert value_of(part["script"]["measured_by"]) == "marks"
    assert part["script"]["found_by"] == ["step"]
    assert value_of(part["loss"]["finite"]) is True
    # What needs torch to be seen is not seen, and says so.
    assert predicate["hardware"]["observed"]["device_class"]["status"] == "unavailable"
    assert {"ranks/0/claim.json", "ranks/0/samples.bin"} <= {entry["name"] for entry in predicate["evidence"]}


def test_ranks_of_a_launcher_are_found_by_their_variables_and_restarted_ones_are_counted(tmp_path: Path) -> None:
    command = (sys.executable, LAUNCHER, "2", "1", RANK, "15", "restart")
    paths, predicate = run(tmp_path, *command, nproc=2)
    assert predicate["outcome"]["receipt"], predicate["outcome"]
    script = predicate["training"]["script"]
    assert (script["ranks_found"], script["restarts"], script["found_by"]) == (2, 1, ["environment"])
    assert "restarted" in {finding["kind"] for finding in predicate["findings"]}
    assert len(predicate["training"]["samples"]["measured"]) == 10
    # The first life is evidence of its own place, and no figure is made of both.
    assert (paths.rank(1).root / "earlier" / "0" / "samples.bin").exists()
    assert json.loads(paths.rank(1).claim.read_bytes())["restart"] == 1


def both_are_there(seen: Tick) -> bool:
    return all(rank.pid is not None for rank in seen.status.ranks)


def one_after_the_other(paths: AttemptPaths, seen: Tick) -> None:
    """Rank 1 goes once both are watched, and the launcher ends rank 0 once a round has seen that."""
    if both_are_there(seen):
        (paths.root / "go").touch()
    elif (paths.root / "go").exists() and seen.status.ranks[1].pid is None:
        (paths.root / "noticed").touch()


def at_one_look(paths: AttemptPaths, seen: Tick) -> None:
    """The supervisor, held up in a round that has seen both, finds both gone in the next."""
    if both_are_there(seen):
        (paths.root / "noticed").touch()
        (paths.root / "go").touch()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{rank.pid}").exists() for rank in seen.status.ranks) and time.monotonic() < deadline:
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("how", "watch", "kind", "words"),
    [
        ("fail", None, "rank_raised", "a reason of its own"),
        ("vanish", one_after_the_other, "rank_vanished", "rank 1 was the first to go"),
    ],
    ids=["fail", "vanish"],
)
def test_the_rank_that_failed_first_is_named_though_its_launcher_took_its_status(
    tmp_path: Path, how: str, watch: Callable[[AttemptPaths, Tick], None] | None, kind: str, words: str
) -> None:
    command = (sys.executable, LAUNCHER, "2", "0", RANK, "60", how)
    _, predicate = run(tmp_path, *command, nproc=2, steps=60, watch=watch)
    cause = predicate["outcome"]["first_cause"]
    assert (predicate["outcome"]["state"], cause["kind"], cause.get("rank")) == ("error", kind, 1)
    assert words in cause["summary"]
    assert value_of(predicate["training"]["script"]["command_status"]) == 1


def test_ranks_that_were_gone_at_one_look_are_not_told_apart(tmp_path: Path) -> None:
    command = (sys.executable, LAUNCHER, "2", "0", RANK, "60", "vanish")
    _, predicate = run(tmp_path, *command, nproc=2, steps=60, watch=at_one_look)
    cause = predicate["outcome"]["first_cause"]
    assert (predicate["outcome"]["state"], cause["kind"]) == ("error", "command_failed")
    assert "rank" not in cause
    assert "ranks 0 and 1 were gone at one look" in str(predicate["findings"])


def test_a_command_that_is_left_alone_is_collected_with_its_ranks(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LANEMARK_")}

    def lanemark(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "lanemark", *words], capture_output=True, text=True, timeout=120,
            env={**environ, "LANEMARK_HOME": str(tmp_path)}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    asked = ("--detach", "--gpu", "cpu", "--nproc", "2", "--steps", "12", "--warmup", "2")
    left = lanemark("run", "training", *asked, "--json", "--", sys.executable, LAUNCHER, "2", "0", RANK, "15")
    assert left["state"] == "detached"
    (row,) = lanemark("collect", left["run_id"], "--wait", "--json")["runs"]
    assert (row["state"], row["appended"]) == ("ok", True)
    predicate = read_record(Home(tmp_path).attempt(left["run_id"]).record.read_bytes()).predicate
    assert broken_rules(predicate) == ()
    assert predicate["outcome"]["receipt"], predicate["outcome"]
    assert [step["state"] for step in predicate["transitions"]] == ["prepared", "detached", "running", "ok"]
    assert predicate["training"]["script"]["ranks_found"] == 2
    assert predicate["training"]["tokens_per_step"] == 200


def test_a_script_that_leaves_through_os_exit_has_left_its_end_marker_before(tmp_path: Path) -> None:
    _, predicate = run(tmp_path, sys.executable, RANK, "20", "exit")
    assert predicate["outcome"]["receipt"], predicate["outcome"]


def test_a_script_that_takes_too_few_steps_ends_well_and_without_a_receipt(tmp_path: Path) -> None:
    _, predicate = run(tmp_path, sys.executable, RANK, "7")
    assert predicate["outcome"]["state"] == "ok"
    assert predicate["outcome"]["receipt_reason"] == ("rank 0 took 7 steps of the 12 declared: ask for --steps 7")


def test_a_command_that_fails_without_a_word_and_one_that_is_no_python(tmp_path: Path) -> None:
    _, predicate = run(tmp_path, "sh", "-c", "echo out of luck >&2; exit 3")
    assert predicate["outcome"]["first_cause"]["kind"] == "command_failed"
    assert "with status 3" in predicate["outcome"]["first_cause"]["summary"]
    _, predicate = run(tmp_path, "true")
    assert predicate["outcome"]["receipt_reason"].startswith("rank 0 was never found")


def test_another_world_than_was_asked_for_is_an_error_that_says_so(tmp_path: Path) -> None:
    _, predicate = run(tmp_path, sys.executable, LAUNCHER, "2", "0", RANK, "15", nproc=1)
    assert predicate["outcome"]["first_cause"]["kind"] == "world_differs"
    assert "ask for --nproc 2" in str(predicate["findings"])


def test_a_command_that_is_interrupted_is_ended_with_all_its_ranks(tmp_path: Path) -> None:
    paths, predicate = run(
        tmp_path, sys.executable, LAUNCHER, "2", "0", RANK, "12", "sleep", nproc=2, interrupt_when="drain"
    )
    assert predicate["outcome"]["state"] == "cancelled"
    for rank in (0, 1):
        pid = json.loads(paths.rank(rank).claim.read_bytes())["pid"]
        assert not Path(f"/proc/{pid}").exists()


def test_helpers_of_a_rank_are_no_ranks_and_an_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import os; os.environ['OWN_CUSTOMIZE'] = 'ran'\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import os, subprocess, sys\n"
        "assert os.environ['OWN_CUSTOMIZE'] == 'ran'\n"
        "import lanemark\n"
        "if len(sys.argv) > 1: sys.exit(0)\n"
        "for number in lanemark.steps(range(12), tokens=1):\n"
        "    if number == 1: subprocess.run([sys.executable, __file__, 'helper'], check=True)\n"
        "    if number == 2 and os.fork() == 0: os._exit(0)\n"
    )
    script = tmp_path / "train.sh"
    script.write_text(f"export RANK=0 WORLD_SIZE=1 PYTHONPATH=$PYTHONPATH:{own}\n{sys.executable} {program}\n")
    _, predicate = run(tmp_path, "sh", str(script))
    assert predicate["outcome"]["receipt"], predicate["outcome"]
    assert predicate["training"]["script"]["restarts"] == 0


def test_what_a_command_is_given_changes_nothing_of_its_speed(tmp_path: Path) -> None:
    operator = {
        "OMP_NUM_THREADS": "3", "RANK": "5", "LANEMARK_ATTEMPT_DIR": "/elsewhere", "PYTHONPATH": "lib",
        "TRITON_CACHE_DIR": "/mine",
    }  # fmt: skip
    case = Case.from_json(
        {
            "lane": "training", "preset": "script", "nproc": 2, "mode": "any", "compile": "any", "dtype": "any",
            "steps": 9, "warmup": 2, "data": {"kind": "own"}, "command": ["x"], "script": {},
        }
    )  # fmt: skip
    request = CommandSurface(operator).request(case, Placement(Home(tmp_path)))
    settings = {setting.name: setting for setting in request.settings}
    assert {name for name, setting in settings.items() if setting.origin == "lanemark"} == {
        "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR", "TORCH_FR_BUFFER_SIZE",
    }  # fmt: skip
    assert {name for name, setting in settings.items() if setting.origin == "scrubbed"} == {
        "RANK", "LANEMARK_ATTEMPT_DIR",
    }  # fmt: skip
    assert settings["TRITON_CACHE_DIR"].origin == "operator"
    assert str(settings["PYTHONPATH"].value).endswith("/measure/hook:lib")
    assert request.nproc == 2
    assert request.argv == ("x",)
