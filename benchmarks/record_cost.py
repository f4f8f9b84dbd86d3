"""What leaving a record costs the process that leaves it: CPU time of sealing and appending, in a fresh interpreter.

The process that leaves a record is the one that prepared the attempt, observed the host and watched the ranks, so that
is what it has imported before the clock starts, and the standard library with it. Inside the clock is all that leaving
the record adds: importing the sealing and appending modules (with sqlite3), the lane's rules, encoding, hashing,
publishing with its fsyncs, opening and writing the index. The method also gives the figure from a bare interpreter,
where importing the standard library is most of it. The clock is CPU time of the process; waiting for the disk is not
CPU. The record is one of the test corpus, grown to the length of a real run, appended to a ledger that exists, as all
but the first one are.
"""

from __future__ import annotations

import json
import marshal
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAME = "record.seal_append_cpu_ms"
TARGET_MS = 20.0
REPEATS = 15
STEPS = 200
ROOT = Path(__file__).resolve().parents[1]

#: `marshal` and `time` are built into the interpreter: reading the input costs no import that sealing would need too.
PROGRAM = """
import time
import marshal, sys
with open(sys.argv[1], "rb") as file:
    predicate, subjects, evidence = marshal.load(file)
predicate["attempt"] = int(sys.argv[3])
bare = time.process_time()
import lanemark.collect.preparing, lanemark.observe.snapshot, lanemark.lanes.presets
import lanemark.launch.local, lanemark.launch.supervise, lanemark.collect.picture, lanemark.diagnose.first_cause
import lanemark.collect.starting
begin = time.process_time()
from pathlib import Path
import lanemark.collect.sealing, lanemark.collect.appending
from lanemark.lanes.rules import broken_rules
from lanemark.ledger.ledger import Ledger
from lanemark.records.statement import seal
assert not broken_rules(predicate)
record = seal(predicate, subjects)
appended = Ledger(Path(sys.argv[2])).append(record.data, [("ranks/0/samples.bin", evidence)] * 2)
assert not appended.notices
end = time.process_time()
print(len(record.data), end - begin, end - bare)
"""


def realistic() -> tuple[dict[str, Any], list[dict[str, Any]], bytes]:
    """A sealed record's predicate and subjects with 200 measured steps, and 10 kB of evidence."""
    from lanemark.lanes.figures import step_time, tokens_per_s
    from lanemark.records.case import Case

    doc = json.loads((ROOT / "tests/assets/records/good/fsdp2_regional_warm.json").read_bytes())
    predicate, training = doc["predicate"], doc["predicate"]["training"]
    measured = [124_000_000 + 350_000 * (step * 7 % 11) for step in range(STEPS)]
    predicate["case"] |= {"steps": STEPS + 2}
    predicate["plan_digest"] = Case.from_json(predicate["case"]).digest
    training["window"] = {"steps": STEPS + 2, "warmup": 2, "measured": STEPS}
    training["samples"]["measured"] = measured
    training["step_time"]["value"] = step_time(measured)
    training["tokens_per_s"]["value"] = tokens_per_s(training["tokens_per_step"], measured)
    for rank in training["ranks"]:
        rank["tokens"]["value"] = training["tokens_per_step"] * STEPS // len(training["ranks"])
    return predicate, doc["subject"], b"\0" * 10_000


def results() -> list[dict[str, Any]]:
    """The figure, as the benchmark runner collects it."""
    times, whole, size = [], [], 0
    with tempfile.TemporaryDirectory() as directory:
        # Bytecode lies ready, as for any installed package, whatever the caller's environment says about writing it.
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": f"{directory}/bytecode"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        given = Path(directory) / "record.marshal"
        given.write_bytes(marshal.dumps(realistic()))
        for repeat in range(REPEATS + 1):
            command = [sys.executable, "-c", PROGRAM, str(given), f"{directory}/ledger", str(repeat + 1)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environ)
            printed = done.stdout.split()
            size = int(printed[0])
            if repeat:  # the first one compiles the bytecode and makes the ledger
                times.append(float(printed[1]) * 1000)
                whole.append(float(printed[2]) * 1000)
    value = statistics.median(times)
    return [
        {
            "name": NAME,
            "value": round(value, 2),
            "unit": "ms",
            "target": f"<= {TARGET_MS:g}",
            "ok": value <= TARGET_MS,
            "method": (
                f"median of {REPEATS} fresh processes that have imported what prepares, observes and watches a run; "
                f"CPU time of importing the sealing and appending modules, checking the lane's rules, sealing and "
                f"appending a record of {size} bytes ({STEPS} measured steps) with two pieces of evidence; from a bare "
                f"interpreter, its modules and the standard library in it, {statistics.median(whole):.0f} ms"
            ),
        }
    ]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
