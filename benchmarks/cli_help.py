"""What `lanemark --help` costs: the price every use of the command pays before it does anything.

CPU time (user + system) of the installed console script in a fresh process, as the kernel accounts it to the child.
The interpreter alone is measured in turns with it and told beside it, since no code of ours can go below that.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPEATS = 15


def cpu_ms(command: list[str]) -> float:
    """User + system time of `command` and its children, milliseconds. Raises RuntimeError when it fails."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode(errors='replace')[-200:]}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    script = Path(sys.executable).with_name("lanemark")
    ours, bare = [], []
    cpu_ms([str(script), "--help"])  # the first run compiles bytecode and fills the page cache: not an ordinary use
    for _ in range(REPEATS):
        ours.append(cpu_ms([str(script), "--help"]))
        bare.append(cpu_ms([sys.executable, "-c", ""]))
    value = statistics.median(ours)
    method = (
        f"median user + system time of {REPEATS} fresh processes of the installed script after an unmeasured one "
        f"({min(ours):.0f} to {max(ours):.0f} ms); {statistics.median(bare):.0f} ms for the interpreter alone"
    )
    target_ms = 100
    return [
        {
            "name": "cli.help_cpu_ms",
            "value": value,
            "unit": "ms",
            "target": f"<= {target_ms}",
            "ok": value <= target_ms,
            "method": method,
        }
    ]
