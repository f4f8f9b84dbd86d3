"""A supervisor in a process of its own: supervisor_program.py HOME RUN_ID NPROC STEPS COMMAND...

Prints `started`, then, when it is over, the supervision as one JSON line. SIGTERM and SIGINT ask it to stop.
"""

import json
import signal
import sys
from pathlib import Path

from lanemark.launch.local import LocalSurface
from lanemark.launch.supervise import Limits, supervise
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode

asked: list[str] = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda received, _: asked.append(signal.Signals(received).name))

home = Home(Path(sys.argv[1]))
case = Case(
    lane="training", preset="none", nproc=int(sys.argv[3]), mode="ddp", compile="eager", dtype="fp32",
    steps=int(sys.argv[4]), warmup=1, sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
    command=tuple(sys.argv[5:]),
)  # fmt: skip
paths = home.attempt(sys.argv[2])
paths.root.mkdir(parents=True)
paths.case.write_bytes(encode(case.to_json()))
surface = LocalSurface()
launched = surface.launch(surface.request(case, Placement(home)), paths)
print("started", flush=True)
result = supervise(
    surface, launched, paths, limits=Limits(stall_s=60, wall_s=60, grace_s=3.0),
    interrupted=lambda: asked[0] if asked else None,
)  # fmt: skip
print(json.dumps(result.to_json()), flush=True)
