"""A rank without torch: steps through a short loop with the real session, and misbehaves where it is told to.

Usage: rank_program.py MODE [RANK [ARGUMENT]]: `MODE` is what rank `RANK` does; every other rank steps until it is done.
"""

import os
import resource
import signal
import subprocess
import sys
import time

from lanemark.measure.peaks import memory_peaks
from lanemark.measure.samples import read_samples
from lanemark.measure.session import RankSession


def steps(session: RankSession, pause_s: float) -> None:
    recorder = session.recorder()
    recorder.begin()
    for step in range(session.case.steps):
        if step == session.case.warmup:
            recorder.open_window()
        recorder.data_ready()
        time.sleep(pause_s)
        recorder.end_step()
    recorder.close_window()
    recorder.close()


def stepped(session: RankSession, rank: int) -> bool:
    try:
        return bool(read_samples(session.paths.root.parent / str(rank) / "samples.bin").rows)
    except (OSError, ValueError):
        return False


def misbehave(session: RankSession, mode: str, argument: str) -> None:
    session.beacon.enter("load")
    if mode == "raise":
        raise RuntimeError("planted: the third shard is missing")
    if mode == "exit0":
        sys.exit(0)
    if mode == "exit3":
        os._exit(3)
    if mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "sigstop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if mode == "memory":
        limit = 1 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(len(bytearray(4 * limit)))
    if mode == "print":
        line = b"x" * 1023 + b"\n"
        os.write(1, b"first line\n")
        for _ in range(int(argument) // len(line)):
            os.write(1, line)
        os.write(1, b"last line\n")
    if mode == "hang":
        session.beacon.enter("init_process_group")
        time.sleep(3600)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    if mode == "children":
        offspring()
        time.sleep(3600)
    if mode == "leave_children":
        offspring()
    if mode == "fill":
        # The others have all their room by the time they step; before that the full disk would hit them as well.
        while not all(stepped(session, rank) for rank in range(session.case.nproc) if rank != session.rank):
            time.sleep(0.01)
        with open(session.paths.root / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 65536)
    if mode == "garbage":
        for path in (session.paths.beacon, session.paths.samples, session.paths.observed):
            path.with_suffix(".new").write_bytes(os.urandom(5000))
            os.replace(path.with_suffix(".new"), path)
        time.sleep(1.0)


def offspring() -> None:
    """One child in our group, one in a session of its own, one that was forked and never executed anything."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
    pids = [subprocess.Popen(sleeper).pid, subprocess.Popen(sleeper, start_new_session=True).pid]
    forked = os.fork()
    if forked == 0:
        os.setsid()
        time.sleep(3600)
        os._exit(0)
    print("children", *pids, forked, flush=True)


def main() -> None:
    mode, who, argument = [*sys.argv[1:], "0", ""][:3] if len(sys.argv) < 4 else sys.argv[1:4]
    with RankSession.from_environment(os.environ) as session:
        session.write_observed({"rank": session.rank})
        if mode != "ok" and session.rank == int(who):
            misbehave(session, mode, argument)
            if mode in ("print", "leave_children", "garbage"):
                steps(session, 0.001)
        else:
            steps(session, 0.001 if mode in ("ok", "print", "leave_children", "garbage") else 0.2)
        session.write_end({"peaks": memory_peaks()})


main()
