"""What the boot clocks tell of a host: whether it is fresh, stood still, or came out of a memory snapshot.

Three readings, and what must not be concluded from each. The age of the first process of our process namespace is the
age of the container, or of the host outside of one. CLOCK_BOOTTIME runs on while a host is suspended and
CLOCK_MONOTONIC does not, so their difference is how long it stood still: a laptop does, a rented box should not, and
nothing says why it did. A time namespace shifts the clocks of a restored process so that they go on where the saved
one stopped (time_namespaces(7)): an offset in ours means that this process tree was set up that way.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, Final

from lanemark.observe.reading import from_error, guarded, read_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: The two clocks are read one after the other; less than this between them is the reading, seconds.
_READ_APART_S: Final = 0.01
_STAT: Final = "/proc/1/stat"
_OFFSETS: Final = "/proc/self/timens_offsets"
_CLOCKS: Final = "CLOCK_BOOTTIME less CLOCK_MONOTONIC"
NAMES: Final = ("container_age_s", "asleep_s", "time_shift_s")


def parse_start_ticks(stat: str) -> int:
    """Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the process's start. Raises ValueError.

    Counted after the command name, which may itself hold spaces and parentheses.
    """
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError("too few fields")
    return int(fields[19])


def parse_offset_s(text: str) -> float:
    """The boot clock's offset in `/proc/<pid>/timens_offsets`, seconds. Raises ValueError when it has no such line."""
    match = re.search(r"^\s*(?:boottime|7)\s+(-?[0-9]+)\s+([0-9]+)\s*$", text, re.MULTILINE)
    if match is None:
        raise ValueError("it has no line for the boot clock")
    return int(match[1]) + int(match[2]) / 1e9


def asleep_s(boottime_s: float, monotonic_s: float) -> float:
    """Seconds the host stood still since boot; 0.0 where the two clocks agree as well as they can be read."""
    apart = boottime_s - monotonic_s
    return apart if apart > _READ_APART_S else 0.0


def boot_clocks(root: Path = Path("/")) -> dict[str, Observation[Any]]:
    """`container_age_s`, `asleep_s` and `time_shift_s`, seconds. Never raises.

    Args:
        root: where `proc` is mounted; `/` but in tests.
    """
    probes = {
        "container_age_s": (_STAT, lambda: _container_age(root)),
        "asleep_s": (_CLOCKS, _asleep),
        "time_shift_s": (_OFFSETS, lambda: _time_shift(root)),
    }
    return {name: guarded(source, probe) for name, (source, probe) in probes.items()}


def _container_age(root: Path) -> Observation[float]:
    try:
        ticks = parse_start_ticks(read_text(root / _STAT[1:]))
    except OSError as error:
        return from_error(_STAT, error)
    # The start is counted on the boot clock, which a time namespace shifts for us and not for the file.
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    if age_s < 0:
        return unavailable(_STAT, "the first process starts after now, so the clock is not the one it is counted on")
    return observed(age_s, f"{_STAT} and CLOCK_BOOTTIME")


def _asleep() -> Observation[float]:
    monotonic_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    return observed(asleep_s(time.clock_gettime(time.CLOCK_BOOTTIME), monotonic_s), _CLOCKS)


def _time_shift(root: Path) -> Observation[float]:
    try:
        return observed(parse_offset_s(read_text(root / _OFFSETS[1:])), _OFFSETS)
    except FileNotFoundError:
        return absent(_OFFSETS, "this kernel has no time namespaces")
    except OSError as error:
        return from_error(_OFFSETS, error)
