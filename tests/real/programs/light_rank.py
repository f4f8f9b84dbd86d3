"""A rank without torch: it marks steps, as two lines in a script do, and may fail in several ways.

python light_rank.py STEPS [fail|vanish|exit|sleep]

With `vanish` rank 1 goes once the test has left `go` in the attempt, and every other rank waits, as for a peer that is gone.
"""

import os
import sys
import time
from pathlib import Path

import lanemark

steps, how = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
rank = int(os.environ.get("RANK", "0"))
first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
for number, _batch in enumerate(lanemark.steps(range(steps), tokens=100)):
    time.sleep(0.002)
    lanemark.note(loss=1.0 / (number + 1))
    if how == "restart" and first_life and number == steps // 2 and rank == 1:
        raise RuntimeError("the first life ends here")
    if how == "fail" and number == steps // 2 and rank == 1:
        raise RuntimeError("rank 1 has a reason of its own")
    while how == "vanish" and number == steps // 2:
        time.sleep(0.02)
        if rank == 1 and (Path(os.environ["LANEMARK_ATTEMPT_DIR"]) / "go").exists():
            os._exit(9)
if how == "sleep":
    time.sleep(600)
if how == "exit":
    os._exit(0)
