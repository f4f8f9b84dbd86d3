"""Who is rank n of a launched command: one small file beside the rank's pages, `claim.json`.

A command starts many processes and several of them look like the same rank: the rank, the helpers that inherited its
variables, the one that torchelastic starts in its place after a failure. The file names the one that counts, by pid and
start time, and each change of it goes through a lock.

    nobody holds it, or its holder has gone    taken
    its holder lives                           refused, unless the holder took no step and the claimant has one to take

What an earlier holder that took steps left behind is moved to `earlier/<n>/`: a restarted rank begins with fresh pages,
its first life stays evidence, and no figure is ever made of both.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.measure.durable import replace_file
from lanemark.records.attempt import RankPaths
from lanemark.records.encoding import encode

#: How a rank was found: by its environment, because it imported torch, by its process group, by a step that it took.
FoundBy = Literal["environment", "import", "process_group", "step"]
_MAX_BYTES: Final = 64 * 1024
#: Files of a life, which a later one does not write into.
_OF_A_LIFE: Final = ("beacon.page", "samples.bin", "observed.json", "end.json", "error.json", "claim.json")


@dataclass(frozen=True)
class Claim:
    """One process that is, or was, a rank.

    Attributes:
        start_ticks: when it started, in clock ticks since boot: with the pid, it names a process for good.
        local_rank: on its node, where it said so.
        restart: torchelastic's count of restarts as the process found it; 0 without torchelastic.
        life: which holder of the place that took steps this is, from 0.
        host: boot id of the host that the pid belongs to.
        took_over: it took the place of a live process that had taken no step.
    """

    rank: int
    world_size: int
    local_rank: int | None
    pid: int
    start_ticks: int
    restart: int
    life: int
    host: str
    found_by: FoundBy
    took_over: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, doc: Any) -> Claim:
        """Read back `to_json`. Raises ValueError for what is no claim."""
        try:
            return cls(**{"local_rank": None, **doc})
        except TypeError as error:
            raise ValueError(f"not a claim: {error}") from None


def read_claim(path: Path) -> Claim | None:
    """The claim in a file, or None when there is none to believe."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return Claim.from_json(json.loads(os.read(fd, _MAX_BYTES)))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def start_ticks(pid: int) -> int | None:
    """When a process started, or None when there is none of that number, or only what is left of one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Counted after the command's name, which may itself hold spaces and brackets (source: proc_pid_stat(5)).
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] == b"Z" else int(fields[19])


def host_id() -> str:
    """The boot id: pids of another host, or of another boot, say nothing here."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"


def is_alive(claim: Claim) -> bool:
    """Whether the holder runs. One on another host is taken to: only its own supervisor can tell."""
    return claim.host != host_id() or start_ticks(claim.pid) == claim.start_ticks


def take(paths: RankPaths, mine: Claim, *, has_steps: bool) -> Claim | None:
    """Take the rank's place if it may be taken.

    Args:
        paths: of the rank; its directory is made where it is missing.
        mine: who claims; `life` and `took_over` are decided here.
        has_steps: whether the claimant is about to record a step.

    Returns:
        The claim as it was written, or None when the place belongs to another.

    Raises:
        OSError: the directory cannot be written.
    """
    paths.root.mkdir(parents=True, exist_ok=True)
    with _locked(paths.root / "claim.lock"):
        holder = read_claim(paths.claim)
        took_over = False
        life = 0
        if holder is not None:
            stepped = paths.samples.exists()
            if is_alive(holder) and not _is_same(holder, mine):
                if stepped or not has_steps:
                    return None
                took_over = True
            life = holder.life
            if stepped:
                _set_aside(paths, life)
                life += 1
        written = Claim(**{**asdict(mine), "life": life, "took_over": took_over})
        replace_file(paths.claim, encode(written.to_json()))
        return written


def _is_same(holder: Claim, mine: Claim) -> bool:
    return (holder.pid, holder.start_ticks, holder.host) == (mine.pid, mine.start_ticks, mine.host)


def _set_aside(paths: RankPaths, life: int) -> None:
    kept = paths.root / "earlier" / str(life)
    kept.mkdir(parents=True, exist_ok=True)
    for name in _OF_A_LIFE:
        with contextlib.suppress(FileNotFoundError):
            os.replace(paths.root / name, kept / name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
