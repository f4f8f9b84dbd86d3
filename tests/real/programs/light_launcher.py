"""A launcher as torchrun is one, without torch: it starts ranks with their variables, and again when one fails.

python light_launcher.py RANKS RESTARTS PROGRAM ARGUMENT...

When a rank has failed the others are ended; with "vanish" among the arguments, once the test has left `noticed`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ranks, restarts, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for life in range(restarts + 1):
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
                "TORCHELASTIC_RESTART_COUNT": str(life),
            },
        )
        for rank in range(ranks)
    ]  # fmt: skip
    while True:
        codes = [process.poll() for process in started]
        if all(code == 0 for code in codes):
            sys.exit(0)
        if any(code not in (None, 0) for code in codes):
            break
        time.sleep(0.02)
    noticed = Path(os.environ["LANEMARK_ATTEMPT_DIR"]) / "noticed"
    while "vanish" in command and not noticed.exists():
        time.sleep(0.02)
    for process in started:
        process.terminate()
        process.wait()
sys.exit(1)
