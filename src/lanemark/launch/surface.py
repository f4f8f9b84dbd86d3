"""`Surface`: a place where a run happens, as five questions and two orders. One file implements one surface.

    request   what would be launched, as pure data: `lanemark plan` prints it and nothing else happens
    launch    start it; returns ids, never objects, so that another process may take over from a file
    poll      what is known of each rank now
    wait      return when something may have changed
    stop      end it, politely first; returns which signals were sent, and when
    cleanup   end whatever the ranks left behind, and let go; may be called again

A local surface has pids; a rented one has call ids and no pid, which is why every field of a rank's status that a
surface cannot know is None, and why nothing outside a surface's own file touches a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from lanemark.launch.environment import CacheLayout, Setting
from lanemark.records.attempt import AttemptPaths, Home
from lanemark.records.case import Case

#: Variables whose values exist only once an attempt does; `LaunchRequest.to_json` names them.
SET_AT_LAUNCH: Final = (
    "LANEMARK_ATTEMPT_DIR", "LANEMARK_LISTEN_FD", "LANEMARK_RANK_DIR", "MASTER_PORT", "TORCHELASTIC_ERROR_FILE",
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where a case happens to run: the attempt's business, never the case's.

    Attributes:
        home: where attempts, the ledger and the default caches live.
        data_dir: directory of token shards; None for made-up tokens.
        cache_dir: directory of the compile caches; None for the default below the home.
        cache_layout: `shared`: one cache for all ranks, whose locks then share the work; `per_rank`: each rank has its
            own below it, `rank-<r>`, as where nodes or containers keep theirs.
    """

    home: Home
    data_dir: Path | None = None
    cache_dir: Path | None = None
    cache_layout: CacheLayout = "shared"


@dataclass(frozen=True)
class LaunchRequest:
    """Exactly what will be started. Pure data.

    Attributes:
        surface: its name.
        argv: the command of every rank.
        reference_stack: whether the command is ours, and so knows the inherited socket and leaves an end marker.
        working_directory: of every rank; None for the rank's own directory.
        settings: variables all ranks share, with their reasons.
        rank_variables: variables of each rank, by rank, as far as known before the launch.
        cache_dir: directory of the compile caches; None when nothing is compiled.
        cache_reason: why there.
        cache_layout: whether ranks share it.
    """

    surface: str
    argv: tuple[str, ...]
    reference_stack: bool
    working_directory: str | None
    settings: tuple[Setting, ...]
    rank_variables: tuple[Mapping[str, str], ...]
    cache_dir: str | None
    cache_reason: str
    cache_layout: CacheLayout = "shared"

    @property
    def nproc(self) -> int:
        return len(self.rank_variables)

    def to_json(self) -> dict[str, Any]:
        """The request as `lanemark plan` prints it and `launch.json` keeps it."""
        return {
            "surface": self.surface,
            "argv": list(self.argv),
            "reference_stack": self.reference_stack,
            "working_directory": self.working_directory or "the rank's directory",
            "settings": [setting.to_json() for setting in self.settings],
            "rank_variables": [dict(variables) for variables in self.rank_variables],
            "set_at_launch": list(SET_AT_LAUNCH),
            "cache": {"reason": self.cache_reason}
            | ({} if self.cache_dir is None else {"directory": self.cache_dir, "layout": self.cache_layout}),
        }


@dataclass(frozen=True)
class LaunchedRank:
    """One started rank: how to find it again. `start_ticks` tells its pid from a later owner of the same number."""

    rank: int
    pid: int | None
    start_ticks: int | None
    started_ns: int

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {"rank": self.rank, "started_ns": self.started_ns}
        if self.pid is not None:
            doc["pid"] = self.pid
        if self.start_ticks is not None:
            doc["start_ticks"] = self.start_ticks
        return doc


@dataclass(frozen=True)
class Launched:
    """What a launch returned: ids, and nothing that dies with this process.

    Attributes:
        surface: its name.
        key: the surface's own id of this launch (an attempt's run id, a call id).
        ranks: by rank.
        launched_ns: `monotonic_ns` when the first rank was started.
        guard: pid of the process that ends what is left if the supervisor is killed; None where there is none.
    """

    surface: str
    key: str
    ranks: tuple[LaunchedRank, ...]
    launched_ns: int
    guard: int | None = None

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "surface": self.surface,
            "key": self.key,
            "launched_ns": self.launched_ns,
            "ranks": [rank.to_json() for rank in self.ranks],
        }
        if self.guard is not None:
            doc["guard"] = self.guard
        return doc


@dataclass(frozen=True)
class RankStatus:
    """One rank now.

    Attributes:
        alive: it was started and its end was not seen.
        status: exit status, when it ended by itself.
        signal: name of the signal that ended it (`SIGKILL`), when one did.
        ended_ns: when the end was seen.
        state: the kernel's state letter while it is alive; None where the surface cannot see it.
        stopped_since_ns: first seen stopped by a signal and not continued since.
        cpu_s: processor time so far.
        command_status: for a rank of a launched command, whose own status its launcher took: how the command itself
            ended, which answers for all of them; negative for a signal. None where ranks are started one by one.
    """

    rank: int
    pid: int | None
    alive: bool
    status: int | None = None
    signal: str | None = None
    ended_ns: int | None = None
    state: str | None = None
    stopped_since_ns: int | None = None
    cpu_s: float | None = None
    command_status: int | None = None


@dataclass(frozen=True)
class SurfaceStatus:
    """Every rank, by rank."""

    ranks: tuple[RankStatus, ...]

    @property
    def alive(self) -> bool:
        """Whether any rank is."""
        return any(rank.alive for rank in self.ranks)


@dataclass(frozen=True)
class SignalSent:
    """A signal that we sent, so that nobody mistakes it for the cause of what followed."""

    rank: int
    signal: str
    at_ns: int
    reason: str = field(default="")

    def to_json(self) -> dict[str, Any]:
        return {"rank": self.rank, "signal": self.signal, "at_ns": self.at_ns, "reason": self.reason}


class Surface(Protocol):
    """A place where a run happens. Implementations pass `tests/contract/test_contract_surface.py`."""

    @property
    def name(self) -> str:
        """As `--surface` names it."""

    def request(self, case: Case, placement: Placement) -> LaunchRequest:
        """What would be launched. Starts, writes and contacts nothing."""

    def launch(self, request: LaunchRequest, paths: AttemptPaths) -> Launched:
        """Start every rank, or none. Raises RunFailed `run-failed` when they cannot be started."""

    def poll(self, launched: Launched) -> SurfaceStatus:
        """Every rank now. Cheap: called several times a second."""

    def wait(self, launched: Launched, timeout_s: float) -> None:
        """Return when a rank has ended, or after the timeout."""

    def stop(self, launched: Launched, reason: str, *, grace_s: float = 10.0) -> tuple[SignalSent, ...]:
        """End every rank that is alive: ask, wait up to `grace_s`, then force."""

    def cleanup(self, launched: Launched) -> None:
        """End whatever the ranks left behind and let go of everything held. Without effect the second time."""
