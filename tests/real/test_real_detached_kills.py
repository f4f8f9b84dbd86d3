"""Launchers and collectors that are killed between any two calls to the system, with a far side that counts launches.

One process forks the one that dies, for each call that it makes, and judges what it left: what was launched comes home
with one record, what was not is accounted for, nothing is launched or sealed twice. Forking spares starting an
interpreter each time; the kills are real.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from detached_runs import real_run

pytestmark = [pytest.mark.timeout(170), pytest.mark.slow]

TESTS = Path(__file__).resolve().parents[1]

COMMON = textwrap.dedent(
    """
    import json, os, pickle, shutil, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from detached_runs import finish, leave_one, manifest_of
    from lanemark.collect.collecting import collect_one
    from lanemark.collect.sweep import attempts
    from lanemark.launch.fake_detached import FakeDetached
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.attempt import AttemptPaths, Home
    from lanemark.records.encoding import digest

    CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "close", "posix_fallocate")
    work = Path(sys.argv[1])
    case, files = pickle.loads(Path(sys.argv[3]).read_bytes())

    def die_at(number):
        made = 0
        def dying(call):
            def function(*args, **kwargs):
                nonlocal made
                made += 1
                if made == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)
            return function
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))

    def forked(act, number):
        # True: it was killed; False: it came to its end.
        pid = os.fork()
        if pid == 0:
            try:
                die_at(number)
                act()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status == signal.SIGKILL

    def records(home, run_id):
        return [row for row in Ledger(home.ledger, {}).list().rows if row.run_id == run_id]
    """
)

#: Each launcher has a home of its own, so that what one left is all there is.
LAUNCHER = COMMON + textwrap.dedent(
    """
    kills = {"nothing": 0, "lost": 0, "ok": 0}
    number = 0
    while True:
        number += 1
        shutil.rmtree(work, ignore_errors=True)
        home, far = Home(work / "home"), FakeDetached(work / "far")
        if not forked(lambda: leave_one(home, far, case), number):
            break
        known, problems = attempts(home)
        names = os.listdir(home.attempts) if home.attempts.is_dir() else []
        bare = [name for name in names if not os.listdir(home.attempts / name)]
        assert len(known) + len(problems) == len(names) - len(bare) <= 1, (names, problems)
        far_side = [name for name in os.listdir(work / "far")] if (work / "far").is_dir() else []
        if not known:
            assert not far_side, "a run that was launched is known"
            kills["nothing"] += 1
            continue
        paths = home.attempt(known[0].run_id)
        launched = far.launches(paths.run_id)
        assert launched <= 1
        if launched:
            finish(far, paths.run_id, files)
        done = collect_one(home, paths, {"fake": far})
        assert done.outcome == "sealed", (number, done)
        state = done.manifest.state.value
        # A launch that the far side had not begun to keep an account of is not known to have happened: it must say so.
        assert state == ("ok" if launched else "lost"), (number, state, launched)
        assert far.launches(paths.run_id) == launched
        assert len(records(home, paths.run_id)) == 1
        assert collect_one(home, paths, {"fake": far}).outcome == "done"
        kills[state] += 1
    print(json.dumps({**kills, "all": number - 1}))
    """
)

COLLECTOR = COMMON + textwrap.dedent(
    """
    stride_in_ledger = int(sys.argv[4])
    saved = work.with_name("saved")
    far = FakeDetached(work / "far")
    paths = leave_one(Home(work / "home"), far, case)
    home = Home(work / "home")
    finish(far, paths.run_id, files)
    shutil.copytree(work, saved)
    kills = {"before": 0, "sealed": 0}
    number = 1
    while True:
        shutil.rmtree(work)
        shutil.copytree(saved, work)
        if not forked(lambda: collect_one(home, paths, {"fake": far}), number):
            break
        left = paths.record.read_bytes() if paths.record.exists() else None
        kills["before" if left is None else "sealed"] += 1
        if number % 9 == 0:
            # Two come at once, and one of them is killed again somewhere.
            second = os.fork()
            if second == 0:
                die_at(40)
                collect_one(home, paths, {"fake": far})
                os._exit(0)
            collect_one(home, paths, {"fake": far})
            os.waitpid(second, 0)
        done = collect_one(home, paths, {"fake": far})
        assert done.manifest.state.value == "ok", (number, done)
        assert done.manifest.appended
        assert left is None or paths.record.read_bytes() == left, "a record is never replaced"
        rows = records(home, paths.run_id)
        assert len(rows) == 1
        assert digest(paths.record.read_bytes()) == rows[0].id
        assert manifest_of(paths).record_id == rows[0].id
        assert far.launches(paths.run_id) == 1
        # Once the record is there, what remains is the ledger's, whose own tests kill it at every call.
        number += 1 if left is None else stride_in_ledger
    print(json.dumps({**kills, "all": number}))
    """
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("real")
    kept = place / "run.pickle"
    kept.write_bytes(pickle.dumps(real_run(place / "home")))
    return kept


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing: a killed process loses nothing that it wrote, on whatever file system."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="lanemark-test-") as directory:
        yield Path(directory)


def run(program: str, *args: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_launcher_killed_at_any_call_loses_no_run_and_launches_none_twice(in_memory: Path, ran: Path) -> None:
    kills = run(LAUNCHER, str(in_memory / "work"), str(TESTS), str(ran))
    assert kills["all"] > 40
    assert min(kills["nothing"], kills["lost"], kills["ok"]) > 3, kills


def test_a_collector_killed_at_any_call_leaves_one_record_for_the_next(in_memory: Path, ran: Path) -> None:
    kills = run(COLLECTOR, str(in_memory / "work"), str(TESTS), str(ran), "12")
    assert kills["before"] > 60
    assert kills["sealed"] > 3
