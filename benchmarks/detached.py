"""Runs that are left alone: how soon `run --detach` is back, and how long a thousand finished runs take to collect.

A thousand runs were launched by a thousand launchers that have gone; each has a directory of its own, and a far side
that says `finished` and has the files which a real run of two ranks left. The clock covers what `lanemark collect` does
with them in a process of its own: finding them, taking each lock, asking, noting the end, fetching every file, sealing,
and appending record and evidence to the ledger, with every fsync that makes it durable. Making them is not timed.

`run --detach` is timed in a real process of the real command, from the moment when nothing is left to be validated to
the moment when its parent sees it gone: preparing, writing down, handing over, starting the supervisor, saying so, and
leaving the interpreter.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = 1000
COLLECT_TARGET_S = 30.0
RETURN_TARGET_S = 1.0
REPEATS = 5

COLLECT = """
import json, sys, time
from pathlib import Path
began, cpu = time.perf_counter(), time.process_time()
from collections import Counter
from lanemark.collect.collecting import collect_many
from lanemark.collect.named import named_attempts
from lanemark.launch.fake_detached import FakeDetached
from lanemark.records.attempt import Home
home, far = Home(Path(sys.argv[1])), FakeDetached(Path(sys.argv[2]))
done = Counter(
    (one.outcome, one.manifest.state.value, one.manifest.appended)
    for one in collect_many(home, named_attempts(home, []), {"fake": far})
)
print(json.dumps([time.perf_counter() - began, time.process_time() - cpu, [[*key, n] for key, n in done.items()]]))
"""

#: What `lanemark run` does, with a stamp between its last check and its first act.
LEAVE = """
import sys, time
import lanemark.cli.run as run
checked = run.prepare_run
def stamped(*args):
    decided = checked(*args)
    print(time.monotonic_ns(), file=sys.stderr, flush=True)
    return decided
run.prepare_run = stamped
from lanemark.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def collected(num_runs: int) -> tuple[float, float]:
    """Seconds and seconds of CPU to collect so many finished runs. Raises RuntimeError when one was not collected."""
    sys.path.insert(0, str(ROOT / "tests"))
    from detached_runs import DONE_AT, leave_one, real_run
    from lanemark.launch.fake_detached import FakeDetached
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.attempt import Home

    with tempfile.TemporaryDirectory(prefix="lanemark-bench-") as directory:
        place = Path(directory)
        case, files = real_run(place / "real", nproc=2, steps=20)
        home, far = Home(place / "home"), FakeDetached(place / "far")
        for name, data in files.items():
            (place / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "files" / name).write_bytes(data)

        def leave(number: int) -> None:
            paths = leave_one(home, far, replace(case, seed=number))
            there = place / "far" / paths.run_id / "files"
            for name in files:
                (there / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(place / "files" / name, there / name)
            # No two runs leave the same: what they printed, here, stands for what differs between real ones.
            for rank in range(2):
                (there / f"ranks/{rank}/stdout.log").unlink(missing_ok=True)
            far.leave(
                paths.run_id, {f"ranks/{rank}/stdout.log": f"{paths.run_id} {rank}\n".encode() for rank in range(2)}
            )
            far.say(paths.run_id, "finished", "the function returned", completed_at=DONE_AT)

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(leave, range(num_runs)))
        os.sync()  # what making them left to be written is not the collector's
        command = [sys.executable, "-c", COLLECT, str(home.root), str(place / "far")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        seconds, cpu_s, outcomes = json.loads(done.stdout)
        if outcomes != [["sealed", "ok", True, num_runs]] or len(Ledger(home.ledger).list().rows) != num_runs:
            raise RuntimeError(f"not every run was collected: {outcomes}")
    return seconds, cpu_s


def returned() -> list[float]:
    """Seconds from the end of validation until `run --detach` was gone, each time."""
    took = []
    with tempfile.TemporaryDirectory(prefix="lanemark-bench-") as directory:
        environ = {**os.environ, "LANEMARK_HOME": directory}
        words = (
            "run",
            "training",
            "--preset",
            "diagnostic",
            "--steps",
            "500",
            "--data",
            "synthetic",
            "--detach",
            "--json",
        )
        for _ in range(REPEATS):
            process = subprocess.Popen(
                [sys.executable, "-c", LEAVE, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environ,
            )
            out, err = process.communicate(timeout=120)
            gone_ns = time.monotonic_ns()
            run_id = json.loads(out)["run_id"]
            checked_ns = next(int(line) for line in err.splitlines() if line.isdigit())
            took.append((gone_ns - checked_ns) / 1e9)
            cancel = [sys.executable, "-m", "lanemark", "cancel", run_id]
            subprocess.run(cancel, env=environ, check=True, capture_output=True, timeout=120)
    return took


def results() -> list[dict[str, Any]]:
    """Both figures, as the benchmark runner collects them."""
    seconds, cpu_s = collected(RUNS)
    took = returned()
    value = statistics.median(took)
    return [
        {
            "name": "collect.thousand_s",
            "value": round(seconds, 2),
            "unit": "s",
            "target": f"<= {COLLECT_TARGET_S:g}",
            "ok": seconds <= COLLECT_TARGET_S,
            "method": (
                f"one process that collects {RUNS} finished detached runs of two ranks each: asks, notes, fetches, "
                f"seals and appends all of them durably; {cpu_s:.1f} s of CPU; every record is in the ledger afterwards"
            ),
        },
        {
            "name": "detach.return_s",
            "value": round(value, 3),
            "unit": "s",
            "target": f"<= {RETURN_TARGET_S:g}",
            "ok": value <= RETURN_TARGET_S,
            "method": (
                f"median of {REPEATS} real `lanemark run training --detach`, from the end of validation until its "
                f"parent saw it gone; worst {max(took):.3f} s; the supervisor and its rank start meanwhile"
            ),
        },
    ]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
