"""Leave a run with a local supervisor and go: detach_program.py HOME COMMAND...

The ranks are the command given. Prints the run id. LEAVE_HOW says how to go: by returning, by `kill -9` of itself, or
not at all (it waits until it is ended, as a shell does that stays open).
"""

import fcntl
import os
import signal
import sys
import termios
import time
from pathlib import Path

from lanemark.collect.handing_over import Handover, hand_over
from lanemark.collect.preparing import prepare
from lanemark.collect.starting import Start
from lanemark.launch.local import LocalSurface
from lanemark.launch.local_detached import LocalDetached
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked

if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # ours from now on: when it closes, the kernel hangs up on us
home = Home(Path(os.fsdecode(sys.argv[1])))
case = Case(
    lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=6, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", command=tuple(sys.argv[2:]), stall_s=60.0,
    wall_s=60.0,
)  # fmt: skip
attempt = prepare(home, case, argv=["lanemark", "run"], placement={"cwd": os.getcwd()}, data={}, hold=True)
placement = Placement(home)
request = LocalSurface().request(case, placement)
hand_over(home, attempt, LocalDetached(), request, Handover(attempt.manifest, placement, Start()))
print(attempt.paths.run_id, flush=True)
how = os.environ.get("LEAVE_HOW", "return")
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "stay":
    time.sleep(600)
