"""Local runs that are left alone: shells that close, launchers, supervisors and hosts that die, and who collects then."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detached_runs import manifest_of
from lanemark.cli.main import main
from lanemark.collect.collecting import cancel_one, collect_one
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest, save
from lanemark.launch import guard
from lanemark.launch.local_detached import LocalDetached, signal_supervisor
from lanemark.launch.processes import read_stat
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import AttemptPaths, Home

pytestmark = pytest.mark.timeout(170)

PROGRAM = Path(__file__).parent / "programs" / "detach_program.py"
LOCAL = {"local": LocalDetached()}
#: Each launch of the ranks leaves a line; then the rank waits, or is done.
COUNT = 'echo launched >> "$LANEMARK_ATTEMPT_DIR/launches"; '
STAYS = COUNT + "sleep 600"


def left(home: Path, does: str, **environ: str) -> AttemptPaths:
    """A run that was left by a launcher which has gone."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(home), "sh", "-c", does],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environ}, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return Home(home).attempt(done.stdout.strip())


def wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():  # a condition, asked until it holds
        assert time.monotonic() < end, "timed out waiting"
        time.sleep(0.05)


def launches(paths: AttemptPaths) -> int:
    try:
        return len((paths.root / "launches").read_text().splitlines())
    except FileNotFoundError:
        return 0


def running(paths: AttemptPaths) -> bool:
    return manifest_of(paths).state.value == "running" and launches(paths) == 1


def collect(home: Path, paths: AttemptPaths, until: tuple[str, ...] = ("sealed", "done", "appended")) -> Manifest:
    """Collect until it comes to an end; returns the manifest."""
    done: Any = None

    def over() -> bool:
        nonlocal done
        done = collect_one(Home(home), paths, LOCAL)
        return done.outcome in until

    wait_for(over)
    assert done.manifest is not None
    return done.manifest


def sealed(home: Path, paths: AttemptPaths) -> dict[str, Any]:
    """The one record, verified with its evidence; and nothing of the run is left in the process table."""
    ledger = Ledger(Home(home).ledger)
    rows = [row for row in ledger.list().rows if row.run_id == paths.run_id]
    assert len(rows) == 1
    report = ledger.verify(rows[0].id)
    assert report.ok, report.steps
    wait_for(lambda: guard.marked_pids(guard.marker(str(paths.root))) == [], timeout_s=20)
    predicate: dict[str, Any] = ledger.get(rows[0].id).doc["predicate"]
    return predicate


def supervisor(paths: AttemptPaths) -> int:
    return int(manifest_of(paths).ids["pid"])


@contextlib.contextmanager
def ended(home: Path, paths: AttemptPaths) -> Any:
    """Whatever a test does, nothing of its run stays."""
    try:
        yield paths
    finally:
        with contextlib.suppress(Exception):
            signal_supervisor(manifest_of(paths).ids, signal.SIGKILL)
        guard.kill_marked(guard.marker(str(paths.root)))


# --- outliving


def test_it_outlives_its_launcher_and_its_terminal_and_seals_by_itself(tmp_path: Path) -> None:
    """The launcher has a terminal, which closes: the kernel hangs up on everything that belongs to it."""
    done = tmp_path / "done"
    master, slave = pty.openpty()
    launcher = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path), "sh", "-c", f"{COUNT} until [ -e {done} ]; do sleep 0.05; done"],
        stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True, start_new_session=True,
        env={**os.environ, "LEAVE_HOW": "stay"},
    )  # fmt: skip
    assert launcher.stdout is not None
    paths = Home(tmp_path).attempt(launcher.stdout.readline().strip())
    with ended(tmp_path, paths):
        os.close(slave)
        os.close(master)
        assert launcher.wait(20) == -signal.SIGHUP
        launcher.stdout.close()
        wait_for(lambda: running(paths))
        pid = supervisor(paths)
        stat = read_stat(pid)
        assert stat is not None
        assert stat.session == pid, "it leads a session of its own"
        open_files = {fd.name: os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert open_files["0"] == "/dev/null"
        assert open_files["1"] == open_files["2"] == str(paths.supervisor_log)
        assert not any(name.startswith("/dev/pt") for name in open_files.values())
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(pid, number)
        assert collect_one(Home(tmp_path), paths, LOCAL).outcome == "waiting"
        assert running(paths), "a hang-up ends nothing"
        done.touch()
        manifest = collect(tmp_path, paths, ("done",))
    assert [step.state.value for step in manifest.transitions][:3] == ["prepared", "detached", "running"]
    predicate = sealed(tmp_path, paths)
    assert predicate["outcome"]["state"] in ("ok", "error")  # a command of one's own leaves no end marker
    assert launches(paths) == 1
    assert paths.supervisor_log.read_bytes() == b""


def test_nothing_of_the_launcher_but_the_lock_is_inherited(tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(tmp_path / "home"), "sh", "-c", STAYS],
            capture_output=True, text=True, timeout=60, pass_fds=(file.fileno(),), check=True,
        )  # fmt: skip
    paths = Home(tmp_path / "home").attempt(done.stdout.strip())
    with ended(tmp_path / "home", paths):
        wait_for(lambda: running(paths))
        names = [os.readlink(fd) for fd in Path(f"/proc/{supervisor(paths)}/fd").iterdir()]
        assert str(tmp_path / "secret") not in names
        assert names.count(str(paths.lock)) == 1
        ranks = guard.marked_pids(guard.marker(str(paths.root)))
        assert ranks
        for pid in ranks:
            assert str(paths.lock) not in [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]


# --- dying


def test_a_launcher_killed_right_after_the_launch_changes_nothing(tmp_path: Path) -> None:
    paths = left(tmp_path, COUNT + "true", LEAVE_HOW="kill")
    collect(tmp_path, paths)
    assert [step["state"] for step in sealed(tmp_path, paths)["transitions"]][:3] == ["prepared", "detached", "running"]
    assert launches(paths) == 1


def test_a_killed_supervisor_is_collected_as_lost_and_its_ranks_are_gone(tmp_path: Path) -> None:
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: running(paths))
        os.kill(supervisor(paths), signal.SIGKILL)
        manifest = collect(tmp_path, paths)
    assert manifest.state.value == "lost"
    predicate = sealed(tmp_path, paths)
    assert predicate["outcome"]["first_cause"]["kind"] == "supervisor_lost"
    assert launches(paths) == 1


@pytest.mark.parametrize("changed", ["boot_id", "start_ticks"])
def test_after_a_reboot_the_disk_is_all_there_is(tmp_path: Path, changed: str) -> None:
    """Another boot; or the same, and another process has the number by now."""
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: running(paths))
        os.kill(supervisor(paths), signal.SIGKILL)
        wait_for(lambda: guard.marked_pids(guard.marker(str(paths.root))) == [], timeout_s=20)
        manifest = manifest_of(paths)
        ids = {**manifest.ids, "pid": str(os.getpid())}
        ids[changed] = "1" if changed == "start_ticks" else "11111111-2222-3333-4444-555555555555"
        boot = ids["boot_id"] if changed == "boot_id" else manifest.boot_id
        save(paths, replace(manifest, ids=ids, boot_id=boot))
        assert collect(tmp_path, paths).state.value == "lost"
    assert [step["state"] for step in sealed(tmp_path, paths)["transitions"]] == [
        "prepared", "detached", "running", "lost",
    ]  # fmt: skip


def test_a_run_on_another_machine_is_not_said_to_be_over(tmp_path: Path) -> None:
    """Its directory was copied here while it ran there."""
    paths = left(tmp_path / "there", STAYS)
    with ended(tmp_path / "there", paths):
        wait_for(lambda: running(paths))
        copy = Home(tmp_path / "here").attempt(paths.run_id)
        shutil.copytree(paths.root, copy.root, ignore=shutil.ignore_patterns("control.sock"))
        assert collect_one(Home(tmp_path / "here"), copy, LOCAL).outcome == "waiting", (
            "its supervisor is seen from here"
        )
        manifest = manifest_of(copy)
        other = {**manifest.ids, "machine": "0" * 32, "boot_id": "11111111-2222-3333-4444-555555555555"}
        save(copy, replace(manifest, ids=other, directory="/somewhere/else/" + paths.run_id))
        done = collect_one(Home(tmp_path / "here"), copy, LOCAL)
        assert (done.outcome, done.slug) == ("problem", "surface-unreachable")
        assert not copy.record.exists()


#: Takes over an attempt as its supervisor, and is killed at its n-th call that could leave a trace.
KILLED_SUPERVISOR = """
import os, signal, sys
import lanemark.collect.supervisor as supervisor
made, last = 0, int(sys.argv[3])
def dying(call):
    def function(*args, **kwargs):
        global made
        made += 1
        if made == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return function
for name in ("write", "fsync", "replace", "link", "unlink", "mkdir", "open"):
    setattr(os, name, dying(getattr(os, name)))
code = supervisor.main(sys.argv[1:3])
print(made)
sys.exit(code)
"""


class KilledSupervisors(LocalDetached):
    """The local surface, whose supervisor is killed at its n-th call."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.process: subprocess.Popen[bytes] | None = None

    def submit(self, submission: Any, note: Any) -> Any:
        fd = submission.lock_fd
        command = [sys.executable, "-c", KILLED_SUPERVISOR, str(submission.paths.root), str(fd), str(self._number)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(fd,), start_new_session=True
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4, 8, 13, 60, 250, 460, 540, 580])
def test_a_supervisor_killed_at_any_call_leaves_a_run_that_is_sealed_once(tmp_path: Path, number: int) -> None:
    from lanemark.collect.handing_over import Handover, hand_over
    from lanemark.collect.preparing import prepare
    from lanemark.collect.starting import Start
    from lanemark.launch.local import LocalSurface
    from lanemark.launch.surface import Placement
    from lanemark.records.case import Case, DataAsked

    home = Home(tmp_path)
    case = Case(
        lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=6, warmup=1,
        sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", command=("sh", "-c", COUNT + "sleep 0.2"),
    )  # fmt: skip
    attempt = prepare(home, case, argv=["lanemark", "run"], placement={"cwd": os.getcwd()}, data={}, hold=True)
    placement = Placement(home)
    surface = KilledSupervisors(number)
    request = LocalSurface().request(case, placement)
    hand_over(home, attempt, surface, request, Handover(attempt.manifest, placement, Start()))
    assert surface.process is not None
    out, _ = surface.process.communicate(timeout=100)
    with ended(tmp_path, attempt.paths):
        manifest = collect(tmp_path, attempt.paths)
        again = collect_one(home, attempt.paths, LOCAL)
    assert again.outcome == "done"
    predicate = sealed(tmp_path, attempt.paths)
    assert predicate["outcome"]["state"] == manifest.state.value
    assert launches(attempt.paths) <= 1
    assert number > 400 or surface.process.returncode == -signal.SIGKILL, "it lived on"
    if surface.process.returncode == -signal.SIGKILL:
        assert out == b""
        if launches(attempt.paths) == 0 and not manifest.ids:
            assert predicate["outcome"]["first_cause"]["kind"] == "never_launched"


# --- a second supervisor


def test_whoever_starts_the_program_again_launches_nothing(tmp_path: Path) -> None:
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: running(paths))
        command = [sys.executable, "-m", "lanemark.collect.supervisor", str(paths.root), "99"]
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert again.returncode == 1
        assert "somebody else holds its lock" in again.stderr
        os.kill(supervisor(paths), signal.SIGKILL)
        wait_for(lambda: _free(paths))
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "it is running" in again.stderr
        assert launches(paths) == 1
        collect(tmp_path, paths)


def _free(paths: AttemptPaths) -> bool:
    lock = AttemptLock(paths.lock)
    taken = lock.take()
    lock.release()
    return taken


# --- cancelling


def test_cancel_ends_a_run_through_its_supervisor_which_seals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: running(paths))
        assert main(["cancel", paths.run_id, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["run_id"], row["state"], row["appended"]) == (paths.run_id, "cancelled", True)
    predicate = sealed(tmp_path, paths)
    assert predicate["outcome"]["first_cause"]["kind"] == "interrupted"
    assert "SIGTERM" in predicate["outcome"]["first_cause"]["summary"]
    assert main(["cancel", paths.run_id]) == 0
    assert main(["cancel", "training-20260101T000000Z-00000000"]) == 1


def test_a_run_cancelled_in_its_first_moment_is_cancelled_too(tmp_path: Path) -> None:
    """Its supervisor may not have begun: then it has no ids, or no ear for the signal yet."""
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: cancel_one(Home(tmp_path), paths, LOCAL).outcome in ("done", "sealed", "appended"))
    predicate = sealed(tmp_path, paths)
    assert predicate["outcome"]["state"] == "cancelled"
    assert launches(paths) <= 1


def test_a_supervisor_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    paths = left(tmp_path, STAYS)
    with ended(tmp_path, paths):
        wait_for(lambda: running(paths))
        os.kill(supervisor(paths), signal.SIGSTOP)
        assert cancel_one(Home(tmp_path), paths, LOCAL).outcome == "waiting"
        wait_for(
            lambda: cancel_one(Home(tmp_path), paths, LOCAL, give_up=True).outcome in ("done", "sealed", "appended")
        )
    predicate = sealed(tmp_path, paths)
    assert (predicate["outcome"]["state"], launches(paths)) == ("cancelled", 1)


# --- the verbs


@pytest.mark.torch
@pytest.mark.slow
def test_run_detach_returns_collect_waits_and_runs_shows_it(tmp_path: Path) -> None:
    environ = {**os.environ, "LANEMARK_HOME": str(tmp_path)}

    def lanemark(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lanemark", *args],
            capture_output=True,
            text=True,
            timeout=150,
            env=environ,
            check=False,
        )

    words = ("run", "training", "--preset", "diagnostic", "--steps", "8", "--data", "synthetic", "--detach", "--json")
    said = lanemark(*words)
    assert said.returncode == 0, said.stderr
    doc = json.loads(said.stdout)
    assert doc["state"] == "detached"
    paths = Home(tmp_path).attempt(doc["run_id"])
    assert doc["manifest"] == str(paths.manifest)
    with ended(tmp_path, paths):
        (row,) = json.loads(lanemark("runs", "--json").stdout)["runs"]
        assert row["detached"]
        assert row["age_s"] >= 0
        waited = lanemark("collect", paths.run_id, "--wait", "--json")
    assert waited.returncode == 0, waited.stderr
    (row,) = json.loads(waited.stdout)["runs"]
    assert (row["state"], row["how"], row["appended"]) == ("ok", "re-attached", True)
    assert "collecting" in waited.stderr
    predicate = sealed(tmp_path, paths)
    assert predicate["outcome"]["receipt"] is True
    assert [step["state"] for step in predicate["transitions"]] == ["prepared", "detached", "running", "ok"]
    assert lanemark("collect", str(paths.root)).returncode == 0
