"""What is read of the host and its processes, and what is kept of a log."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.launch import guard, logs
from lanemark.launch.evidence import cgroup_candidates, parse_counter, read_free_disk, read_oom_counters
from lanemark.launch.logs import HEAD_BYTES, TAIL_BYTES, compact, hole, relieve
from lanemark.launch.processes import parse_stat, read_stat, signal_name

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def test_stat_of_a_process_with_a_hostile_name() -> None:
    text = "42 (a) R (b) S 7 42 41 0 -1 4194304 1 2 3 4 100 50 25 25 20 0 1 0 987654 1 2 3\n"
    stat = parse_stat(text)
    assert (stat.pid, stat.state, stat.parent, stat.group, stat.session) == (42, "S", 7, 42, 41)
    assert stat.start_ticks == 987654
    assert stat.cpu_s == 200 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("text", ["", "42", "42 (python", "42 (python) S 1 2", ") ("])
def test_other_text_is_no_stat(text: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(text)


def test_own_stat_and_nobodys() -> None:
    mine = read_stat(os.getpid())
    assert mine is not None
    assert mine.parent == os.getppid()
    assert read_stat(2**22 + 1) is None


def test_signal_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 5) == f"SIG{signal.SIGRTMIN + 5}"


def test_marked_processes_are_found_and_ended_and_others_are_not() -> None:
    mark = guard.marker("/attempts/planted 1")
    env = {**os.environ, "LANEMARK_ATTEMPT_DIR": "/attempts/planted 1"}
    near = {
        **os.environ,
        "LANEMARK_ATTEMPT_DIR": "/attempts/planted 11",
        "X_LANEMARK_ATTEMPT_DIR": "/attempts/planted 1",
    }
    marked = subprocess.Popen(SLEEP, env=env, start_new_session=True)
    other = subprocess.Popen(SLEEP, env=near)
    try:
        while guard.marked_pids(mark) != [marked.pid]:  # in the middle of its exec it shows no environment
            time.sleep(0.01)
        assert guard.kill_marked(mark) == [marked.pid]
        assert marked.wait(10) == -signal.SIGKILL
        assert guard.kill_marked(mark) == []
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize(("word", "survives"), [(b"done", True), (b"", False), (b"don", False)])
def test_guard_ends_the_rest_unless_it_is_told_that_all_is_done(word: bytes, survives: bool) -> None:
    directory = f"/attempts/guarded-{word.decode()}"
    marked = subprocess.Popen(SLEEP, env={**os.environ, "LANEMARK_ATTEMPT_DIR": directory})
    try:
        subprocess.run([sys.executable, "-I", "-S", guard.__file__, directory], input=word, check=True, timeout=30)
        assert (marked.poll() is None) == survives
    finally:
        marked.kill()
        marked.wait()


def test_guard_imports_nothing_of_ours() -> None:
    program = (
        f"import runpy, sys; runpy.run_path({guard.__file__!r}); print([n for n in sys.modules if 'lanemark' in n])"
    )
    out = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


@given(size=st.integers(0, 1 << 40))
@settings(deadline=None)
def test_hole_leaves_both_ends(size: int) -> None:
    offset, length = hole(size)
    assert length >= 0
    assert length % 4096 == 0
    if length:
        assert offset >= HEAD_BYTES
        assert offset + length <= size - TAIL_BYTES


def test_short_log_is_kept_whole(tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    log.write_bytes(b"a" * (HEAD_BYTES + TAIL_BYTES))
    assert compact(log) is None
    assert log.read_bytes() == b"a" * (HEAD_BYTES + TAIL_BYTES)
    assert compact(tmp_path / "missing") is None
    assert not relieve(tmp_path / "missing")


def test_running_log_gives_back_its_middle_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RUNNING_BYTES", 1 << 20)
    log = tmp_path / "stdout.log"
    with open(log, "ab", buffering=0) as file:
        file.write(b"head\n" + b"m" * (4 << 20))
        if not relieve(log):
            pytest.skip("this file system has no holes")
        assert os.stat(log).st_blocks * 512 < 1 << 20
        assert not relieve(log)
        file.write(b"tail\n")
    size = os.stat(log).st_size
    assert compact(log) == (size, size - HEAD_BYTES - TAIL_BYTES)
    kept = log.read_bytes()
    assert kept.startswith(b"head\nmmm")
    assert kept.endswith(b"mmmtail\n")
    assert b"\0" not in kept


def test_log_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "replace_file", full)
    log = tmp_path / "stdout.log"
    log.write_bytes(b"x" * (1 << 20))
    assert compact(log) is not None
    assert log.stat().st_size == 1 << 20


def test_oom_counter_files_of_both_versions() -> None:
    assert cgroup_candidates("0::/user.slice/a:b\n") == [
        ("user.slice/a:b/memory.events", "oom_kill"),
        ("unified/user.slice/a:b/memory.events", "oom_kill"),
        ("memory.events", "oom_kill"),
    ]
    assert cgroup_candidates("4:memory:/box\n2:cpu,cpuacct:/\n")[0] == ("memory/box/memory.oom_control", "oom_kill")
    assert cgroup_candidates("nonsense\n\n") == []


def test_counters_are_observed_absent_or_unavailable(tmp_path: Path) -> None:
    counters = read_oom_counters(tmp_path)
    assert (counters.cgroup.status, counters.host.status) == ("unavailable", "unavailable")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/box").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 3\n")
    (tmp_path / "sys/fs/cgroup/box/memory.events").write_text("oom 2\noom_kill 1\noom_group_kill 0\n")
    counters = read_oom_counters(tmp_path)
    assert (counters.cgroup.value, counters.host.status) == (1, "absent")
    (tmp_path / "proc/vmstat").write_text("oom_kill 5\n")
    assert read_oom_counters(tmp_path).host.value == 5
    assert parse_counter("oom_kill many\n", "oom_kill") is None


def test_free_disk(tmp_path: Path) -> None:
    free, inodes = read_free_disk(tmp_path)
    assert free.value is not None
    assert free.value > 0
    assert inodes.status in ("observed", "absent")
    assert read_free_disk(tmp_path / "missing")[0].status == "unavailable"
