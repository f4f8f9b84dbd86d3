"""What detectors look at: one frozen picture of an attempt, with nothing left to read. Pure.

The looks taken while the ranks ran are in it too (`lanemark.records.look`, where the supervisor can make them without
knowing what will be concluded from them), so what is named live and what is named afterwards come from one function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lanemark.records.look import Look

SignalSender = Literal["nobody", "supervisor", "other", "unknown"]


@dataclass(frozen=True)
class RankState:
    """One rank as the evidence has it. A field is None where nothing was seen, which is not the same as nothing.

    Attributes:
        rank: global rank.
        ended_ns: CLOCK_MONOTONIC when the supervisor saw it end; None while it ran to the last look.
        status: exit status, when it exited.
        signal: name of the signal that ended it (`SIGKILL`), when one did.
        signal_by: who sent that signal; `nobody` when none did.
        end_marker: whether it left its clean end marker.
        exception: type and message of the exception it reported, one line.
        stderr_tail: the last lines it printed to stderr.
        phase: last phase on its beacon page; a rank that raised shows `failed`.
        failed_in, failed_ns: the phase it was in when it entered `failed`, and CLOCK_MONOTONIC then; None where it did
            not, or where no span says so.
        label: what the phase was about (a collective, a compilation).
        step: last step on its beacon page.
        process_state: last /proc state letter seen while it lived (`T` is stopped).
        found: of a launched command, whether a process said that it is this rank; True for ranks that we start.
        elsewhere: of a launched command, whether that process is on another host: nobody here saw when it went.
    """

    rank: int
    ended_ns: int | None = None
    status: int | None = None
    signal: str | None = None
    signal_by: SignalSender = "nobody"
    end_marker: bool = False
    exception: str | None = None
    stderr_tail: str = ""
    phase: str | None = None
    label: str | None = None
    step: int | None = None
    process_state: str | None = None
    failed_in: str | None = None
    failed_ns: int | None = None
    found: bool = True
    elsewhere: bool = False

    @property
    def stage(self) -> str | None:
        """The phase it worked in last: `failed` says only that it went wrong."""
        return self.failed_in if self.phase == "failed" else self.phase


@dataclass(frozen=True)
class Snapshot:
    """An attempt at the moment its supervision ended.

    Attributes:
        ranks: one entry a requested rank.
        ended_because: why supervision stopped (`all_ended`, `rank_failed`, `stalled`, `stopped`, `wall_limit`,
            `interrupted`, `start_failed`), or None when the supervisor left no word.
        interrupted_by: the signal the supervisor itself was sent, or None.
        start_error: why the ranks could not be started, or None.
        supervisor_error: what went wrong in the supervisor itself once they were, or None.
        oom_kills: kernel OOM kills counted in our cgroup (or host-wide) during the run; None when not readable.
        free_bytes: free space of the attempt's file system at the end; None when not readable.
        stall_s, wall_s: the limits that were in force.
        supervisor_alive: False when the supervisor died without sealing.
        looks: what was seen from outside while the ranks ran, oldest first; empty when no look was taken or kept.
        settings: names of the environment settings that the ranks ran under, each with its origin and value as
            `operator: ib0` or `lanemark: lo`; a variable that the launcher took out reads `scrubbed`, and one that it
            has no opinion on `environment: eth0`.
        collective_timeout_s: the process group's timeout after pre-warm; None when not known.
        preset: name of the model's preset; None when not known.
        warmup: leading steps that are never measured; None when not known.
        arrivals: a rank to {step: CLOCK_MONOTONIC ns at which it entered that step's first collective}.
        command_status: of a launched command, how it ended, negative for a signal; None where ranks are our own.
        command_said: the last lines that the command printed to stderr, its ranks' among them.
        world_sizes: of a launched command, the sizes of the world that its ranks found themselves in.
    """

    ranks: tuple[RankState, ...]
    ended_because: str | None
    interrupted_by: str | None = None
    start_error: str | None = None
    supervisor_error: str | None = None
    oom_kills: int | None = None
    free_bytes: int | None = None
    stall_s: float = 0.0
    wall_s: float = 0.0
    supervisor_alive: bool = True
    looks: tuple[Look, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    collective_timeout_s: float | None = None
    preset: str | None = None
    warmup: int | None = None
    arrivals: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    command_status: int | None = None
    command_said: str = ""
    world_sizes: tuple[int, ...] = ()
