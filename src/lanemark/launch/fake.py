"""A surface in memory: scripted ranks on a clock of its own. It passes the contract tests that `local` passes.

For tests of everything above `launch/`: a run of an hour takes a millisecond, and a rank can end at an exact moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lanemark.launch.environment import choose_cache_directory, rank_environment, rank_variables
from lanemark.launch.surface import (
    Launched,
    LaunchedRank,
    LaunchRequest,
    Placement,
    RankStatus,
    SignalSent,
    SurfaceStatus,
)
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.errors import RunFailed


@dataclass(frozen=True)
class FakeRank:
    """What a scripted rank does.

    Attributes:
        ends_after_s: when it ends by itself; None for never.
        status, signal: how it ends then. A rank that is signalled by nobody ends with a status.
        stops_after_s: when a signal stops it (state T); None for never.
        writes_end: whether it leaves `end.json` when it ends with status 0.
        ignores_term: whether only SIGKILL ends it.
        cannot_start: whether starting it fails.
    """

    ends_after_s: float | None = None
    status: int | None = 0
    signal: str | None = None
    stops_after_s: float | None = None
    writes_end: bool = True
    ignores_term: bool = False
    cannot_start: bool = False


class FakeSurface:
    """Scripted ranks; the last script serves all ranks beyond it. Time passes only in `wait` and `stop`."""

    name = "fake"

    def __init__(self, script: Sequence[FakeRank] = (FakeRank(ends_after_s=1.0),)) -> None:
        self._script = tuple(script)
        self._now_ns = 1_000_000_000
        self._started_ns = 0
        self._paths: AttemptPaths | None = None
        self._ended: dict[int, RankStatus] = {}
        self.cleaned = 0

    def clock_ns(self) -> int:
        """The surface's own clock, for `supervise(clock_ns=...)`."""
        return self._now_ns

    def request(self, case: Case, placement: Placement) -> LaunchRequest:
        """See `Surface.request`."""
        home = placement.home.root
        cache = choose_cache_directory(placement.cache_dir, home=home, temp=home, uid=0)
        _, settings = rank_environment({}, case=case, cuda=False, usable_cores=case.nproc, cache=cache)
        return LaunchRequest(
            surface=self.name,
            argv=case.command or ("fake-rank",),
            reference_stack=not case.command,
            working_directory=None,
            settings=settings,
            rank_variables=tuple(rank_variables(case, rank, placement.data_dir) for rank in range(case.nproc)),
            cache_dir=None,
            cache_reason="nothing is compiled",
        )

    def launch(self, request: LaunchRequest, paths: AttemptPaths) -> Launched:
        """See `Surface.launch`."""
        for rank in range(request.nproc):
            if self._of(rank).cannot_start:
                raise RunFailed("run-failed", f"rank {rank} could not be started", "mend the script")
            paths.rank(rank).root.mkdir(parents=True, exist_ok=True)
        self._paths = paths
        self._started_ns = self._now_ns
        ranks = tuple(LaunchedRank(rank, None, None, self._now_ns) for rank in range(request.nproc))
        return Launched(self.name, paths.run_id, ranks, self._now_ns)

    def poll(self, launched: Launched) -> SurfaceStatus:
        """See `Surface.poll`."""
        return SurfaceStatus(tuple(self._status(each.rank) for each in launched.ranks))

    def wait(self, launched: Launched, timeout_s: float) -> None:  # noqa: ARG002 - one launch, one clock
        """See `Surface.wait`."""
        self._now_ns += int(timeout_s * 1e9)

    def stop(self, launched: Launched, reason: str, *, grace_s: float = 10.0) -> tuple[SignalSent, ...]:
        """See `Surface.stop`."""
        sent: list[SignalSent] = []
        for name in ("SIGTERM", "SIGKILL"):
            for rank in self.poll(launched).ranks:
                if not rank.alive:
                    continue
                sent.append(SignalSent(rank.rank, name, self._now_ns, reason))
                if name == "SIGKILL" or not self._of(rank.rank).ignores_term:
                    ended = dataclasses.replace(rank, alive=False, signal=name, ended_ns=self._now_ns)
                    self._ended[rank.rank] = dataclasses.replace(ended, state=None, stopped_since_ns=None)
            if name == "SIGTERM" and self.poll(launched).alive:
                self._now_ns += int(grace_s * 1e9)
        return tuple(sent)

    def cleanup(self, launched: Launched) -> None:
        """See `Surface.cleanup`."""
        if self.poll(launched).alive:
            self.stop(launched, "cleanup", grace_s=0.0)
        self.cleaned += 1

    def _of(self, rank: int) -> FakeRank:
        return self._script[min(rank, len(self._script) - 1)]

    def _status(self, rank: int) -> RankStatus:
        if rank in self._ended:
            return self._ended[rank]
        script = self._of(rank)
        end_ns = None if script.ends_after_s is None else self._started_ns + int(script.ends_after_s * 1e9)
        if end_ns is not None and self._now_ns >= end_ns:
            if script.status == 0 and script.writes_end and script.signal is None and self._paths is not None:
                self._paths.rank(rank).end.write_bytes(b"{}\n")
            status = None if script.signal else script.status
            self._ended[rank] = RankStatus(
                rank, None, alive=False, status=status, signal=script.signal, ended_ns=end_ns
            )
            return self._ended[rank]
        stop_ns = None if script.stops_after_s is None else self._started_ns + int(script.stops_after_s * 1e9)
        if stop_ns is not None and self._now_ns >= stop_ns:
            return RankStatus(rank, None, alive=True, state="T", stopped_since_ns=stop_ns)
        return RankStatus(rank, None, alive=True, state="S")
