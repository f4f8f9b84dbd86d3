"""A whole run in a process of its own: conduct_program.py HOME NPROC STEPS STALL_S RANK_COMMAND...

Prepares and conducts one attempt of the training lane whose ranks are the command given (reporting like the reference
stack), tries again where `lanemark run` would, and prints the outcome as one JSON line. Signals end it the way they end
`lanemark run`. CONDUCT_PRESET is the preset that the case names.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

from lanemark.collect.conduct import Conducted, conduct
from lanemark.collect.preparing import prepare
from lanemark.collect.retrying import with_one_retry
from lanemark.collect.signals import StopSignals
from lanemark.launch.local import LocalSurface
from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import decode
from lanemark.records.finding import Finding


class OtherRanks(LocalSurface):
    """The local surface, starting another program than the reference stack in its place."""

    def request(self, case: Case, placement: Placement) -> LaunchRequest:
        return dataclasses.replace(super().request(case, placement), argv=tuple(sys.argv[5:]))


home = Home(Path(os.fsdecode(sys.argv[1])))
case = Case(
    lane="training", preset=os.environ.get("CONDUCT_PRESET", "dense-nano"), nproc=int(sys.argv[2]), mode="ddp", compile="eager", dtype="fp32",
    steps=int(sys.argv[3]), warmup=1, sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="any",
    stall_s=float(sys.argv[4]), wall_s=60.0,
)  # fmt: skip
with StopSignals() as stop:

    def once(findings: tuple[Finding, ...]) -> Conducted:
        attempt = prepare(home, case, argv=["lanemark", "run", "training"], placement={"cwd": os.getcwd()}, data={})
        print(attempt.paths.run_id, flush=True)
        return conduct(
            home, attempt, OtherRanks(), Placement(home), environ=os.environ, on_tick=lambda tick: None,
            interrupted=stop, findings=findings,
        )  # fmt: skip

    done = with_one_retry(once, interrupted=stop, announce=lambda line: print(line, file=sys.stderr))
outcome = decode(done.record.data)["predicate"]["outcome"]
print(json.dumps({"record_id": done.record.id, "notice": done.notice, "outcome": outcome}), flush=True)
