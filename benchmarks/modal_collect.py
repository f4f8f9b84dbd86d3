"""A thousand ended runs on Modal, collected by a machine that has nothing but their manifests.

The control plane is the tests' own, on loopback (`tests/loopback_modal`): the SDK's client asks it for every output and
every file, over gRPC and HTTP. One run of two ranks is executed in a container there; a thousand others are made of it,
each with its names and digests (`tests/modal_many.py`). The clock covers `lanemark collect` in a process of its own:
asking about each call, reading its manifest of results, fetching its files and holding each to its digest, taking over
its record, and appending that with the evidence to the ledger, with every fsync that makes it durable. The plane
answers from the same two cores meanwhile. Its answers take no time on a network: a real one adds its round trips, which
at most 32 runs wait for at once.

Collected is what the ledger has once, and what a second `collect` finds done and does not ask about again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = 1000

COLLECT = """
import resource, sys, time
began_s = time.perf_counter()
from lanemark.cli.main import main
status = main(["collect", "--json"])
used = resource.getrusage(resource.RUSAGE_SELF)
seen = (time.perf_counter() - began_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
print(*seen, file=open(sys.argv[1], "w"))
sys.exit(status)
"""


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def results() -> list[dict[str, Any]]:
    """Both figures of this file."""
    sys.path.insert(0, str(ROOT / "tests"))
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.attempt import Home
    from modal_many import Left, execute, leave
    from modal_plane import modal_plane

    with modal_plane() as plane, tempfile.TemporaryDirectory(prefix="lanemark-bench-") as directory:
        os.environ.update(plane.environment)
        place = Path(directory)
        home = Home(place / "home")
        one = execute(plane, place / "one")
        ids = leave(plane, one, home, [Left()] * RUNS)
        env = {**os.environ, "LANEMARK_HOME": str(home.root)}
        server = int(json.loads((plane.root / "ready.json").read_text())["pid"])
        os.sync()  # what making them left to be written is not the collector's
        before_s = cpu_s(server)
        command = [sys.executable, "-c", COLLECT, str(place / "took")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800, env=env)
        served_s = cpu_s(server) - before_s
        seconds, used_s, peak_mib = (float(word) for word in (place / "took").read_text().split())
        outcomes = {run["run_id"]: (run["state"], run["outcome"]) for run in json.loads(done.stdout)["runs"]}
        asked = len(plane.requests("FunctionGetOutputs"))
        again = subprocess.run(
            [sys.executable, "-m", "lanemark", "collect", "--json"], capture_output=True, text=True, check=False,
            timeout=300, env=env,
        )  # fmt: skip
        settled = {run["run_id"] for run in json.loads(again.stdout)["runs"] if run["outcome"] == "done"}
        asked_again = len(plane.requests("FunctionGetOutputs")) - asked
        times = Counter(row.run_id for row in Ledger(home.ledger).list().rows)
    good = [i for i in ids if outcomes.get(i) == ("ok", "sealed") and times[i] == 1 and i in settled]
    how = (
        f"`lanemark collect` in a fresh process over {RUNS} manifests, against the loopback control plane, which used "
        f"{served_s:.0f} s of CPU on the same cores; {len(one.files)} files a run"
    )
    return [
        {
            "name": "modal.collect_lost",
            "value": len(ids) - len(good) + sum(times.values()) - len(times) + asked_again,
            "method": f"{how}; runs that are not in the ledger exactly once or not done for a second collect, and "
            "questions that the second one asked",
        },
        {
            "name": "modal.collect_thousand_s",
            "value": round(seconds, 1),
            "method": f"{how}; {used_s:.0f} s of CPU and a peak of {peak_mib:.0f} MiB in the collector",
        },
    ]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
