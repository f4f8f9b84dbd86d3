"""What the host can say about why a rank ended: the kernel's out-of-memory counters, free disk, process states.

Counters are taken before the ranks start and after they ended; only their difference means anything, and it is for a
detector to draw the conclusion. Each is an observation, so that a container which hides them is not read as innocent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanemark.records.observation import Observation, absent, observed, unavailable


@dataclass(frozen=True)
class OomCounters:
    """Processes killed for memory so far: in this process's control group, and on the whole host."""

    cgroup: Observation[int]
    host: Observation[int]

    def to_json(self) -> dict[str, Any]:
        return {"cgroup": self.cgroup.to_json(), "host": self.host.to_json()}


@dataclass(frozen=True)
class RankState:
    """A rank's process at the moment the run was judged: state letter and the kernel function it slept in."""

    rank: int
    state: Observation[str]
    wait_channel: Observation[str]

    def to_json(self) -> dict[str, Any]:
        return {"rank": self.rank, "state": self.state.to_json(), "wait_channel": self.wait_channel.to_json()}


@dataclass(frozen=True)
class Evidence:
    """Host evidence of one supervision.

    States and free space are from the moment of the decision, before any signal was sent and any log was shortened:
    ended ranks give back what their unnamed files held.
    """

    states: tuple[RankState, ...]
    oom_before: OomCounters
    oom_after: OomCounters
    free_disk_bytes: Observation[int]
    free_inodes: Observation[int]

    def to_json(self) -> dict[str, Any]:
        return {
            "states": [state.to_json() for state in self.states],
            "oom_before": self.oom_before.to_json(),
            "oom_after": self.oom_after.to_json(),
            "free_disk_bytes": self.free_disk_bytes.to_json(),
            "free_inodes": self.free_inodes.to_json(),
        }


def read_oom_counters(root: Path = Path("/")) -> OomCounters:
    """Both counters now. `root` is where `/proc` and `/sys` are looked for."""
    return OomCounters(_cgroup_counter(root), _counter(root / "proc/vmstat", "oom_kill"))


def cgroup_candidates(membership: str) -> list[tuple[str, str]]:
    """Files that may hold this process's counter, most telling first, from the text of `/proc/self/cgroup`.

    Returns:
        Pairs of a path below `/sys/fs/cgroup` and the counter's name. Version 2 keeps it in `memory.events`, version 1
        in `memory.oom_control` (source: the kernel's cgroup-v2 and cgroup-v1/memory documents). Inside a container
        the named group may not be visible, and the mount's root is then the container's own group.
    """
    pairs: list[tuple[str, str]] = []
    for line in membership.splitlines():
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = path.lstrip("/")
        if hierarchy == "0" and controllers == "":
            pairs += [(f"{base}{inside}/memory.events", "oom_kill") for base in ("", "unified/")]
            pairs.append(("memory.events", "oom_kill"))
        elif "memory" in controllers.split(","):
            pairs.append((f"memory/{inside}/memory.oom_control", "oom_kill"))
            pairs.append(("memory/memory.oom_control", "oom_kill"))
    return pairs


def parse_counter(text: str, name: str) -> int | None:
    """The number after `name` at the beginning of a line, or None."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def read_free_disk(path: Path) -> tuple[Observation[int], Observation[int]]:
    """Bytes and inodes that an ordinary user may still take on the file system of `path`."""
    source = "statvfs of the attempt directory"
    try:
        status = os.statvfs(path)
    except OSError as error:
        failed: Observation[int] = unavailable(source, str(error.strerror))
        return failed, failed
    inodes: Observation[int] = observed(status.f_favail, source)
    if status.f_files == 0:
        inodes = absent(source, "this file system does not count inodes")
    return observed(status.f_bavail * status.f_frsize, source), inodes


def _cgroup_counter(root: Path) -> Observation[int]:
    try:
        membership = (root / "proc/self/cgroup").read_text("utf-8", "replace")
    except OSError as error:
        return unavailable("/proc/self/cgroup", str(error.strerror))
    for name, counter in cgroup_candidates(membership):
        found = _counter(root / "sys/fs/cgroup" / name, counter)
        if found.status == "observed":
            return found
    return unavailable("/sys/fs/cgroup", "no memory controller with an oom_kill counter is visible")


def _counter(path: Path, name: str) -> Observation[int]:
    source = f"{name} in {path}"
    try:
        value = parse_counter(path.read_text("utf-8", "replace"), name)
    except OSError as error:
        return unavailable(source, str(error.strerror))
    return absent(source, "the kernel does not count it there") if value is None else observed(value, source)
