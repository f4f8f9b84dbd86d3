"""`Attempt`: one launch of a case, failures included. Its states, and the one class that owns every file name.

attempts/<run-id>/
case.json           the case, written once before anything starts
attempt.json        state, transitions, supervisor identity, placement; replaced atomically
host.json           what the supervisor's host looked like before the ranks started
handover.json       what a launcher that leaves hands over: manifest, placement, what was done before the launch
launch.json         the exact request: argv, environment settings with their reasons; rank pids
executions.json     on a rented box: every beginning of the run, the last being this one
rental.json         on a rented box: the exact request that it was rented with
exits.json          each rank's end as the supervisor saw it; replaced atomically as they come
looks.jsonl         what the ranks looked like from outside when nothing moved; one look a line, appended
named.jsonl         what was concluded from the looks while the ranks ran, and when; one finding a line, appended
looks/              what hung ranks answered, verbatim: <look>-<rank>-flight.json, <look>-<rank>-stack.txt
polls.jsonl         what collectors saw of a detached run; one look a line, appended
snapshots/          call graphs of a detached run, taken on time-out or error
supervisor.log      what a detached supervisor printed: nothing, unless it broke
stdout.log, stderr.log   of a launched command, whose ranks share them
nodes/<n>/          of another node's command that joined: end.json, stdout.log, stderr.log
reserve             preallocated bytes, given back when the record must be written to a full disk
supervisor.lock     held (flock) by whoever writes here: launcher, then supervisor; or a collector
record.json         the sealed bytes, once there are any
ranks/<n>/
beacon.page     mmap'd: where the rank is, readable from outside at any time (measure/beacon.py)
samples.bin     mmap'd: one fixed-size row a step (measure/samples.py)
control.sock    while it lives: where it can be asked for its stacks (measure/control.py)
observed.json   what the rank saw of itself: device, torch, process group, data files
result.json     what a lane without steps found (sparse, promotion): the record's lane part is built from it
bench_telemetry.json, backend_identity.json   which kernel ran: all names seen, and what follows from them
proofs/RUNG.json   promotion lane: what shows that a candidate holds a rung of the proof ladder
end.json        the clean end marker: losses, peaks, tokens; written last
error.json      what the rank said when it failed (the TORCHELASTIC_ERROR_FILE layout)
stdout.log, stderr.log
claim.json      of a launched command: which process is the rank (measure/claim.py)
earlier/<n>/    of a launched command: the same files of the rank's earlier lives
"""

from __future__ import annotations

import enum
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final


class State(str, enum.Enum):
    """Where an attempt is in its life. The allowed moves are `lanemark.collect.states.MOVES`."""

    PREPARED = "prepared"  #: its directory and case exist; nothing was started
    DETACHED = "detached"  #: handed to a surface; no rank was seen yet
    RUNNING = "running"  #: ranks were started
    OK = "ok"  #: every rank ended cleanly and the record is sealed
    ERROR = "error"  #: something failed; the record names it
    CANCELLED = "cancelled"  #: a person or a signal ended it
    LOST = "lost"  #: the supervisor died without sealing; sealed later from what was on disk

    @property
    def final(self) -> bool:
        """Whether a record of this state may be sealed."""
        return self in (State.OK, State.ERROR, State.CANCELLED, State.LOST)


RUN_ID: Final = re.compile(r"[a-z]+-[0-9]{8}T[0-9]{6}Z-[0-9a-z]{8}")
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter that reads as a digit


def new_run_id(lane: str, now: datetime) -> str:
    """`training-20261122T152233Z-7k3f9q2x`: sorts by time within a lane, safe as a file name, 40 random bits.

    `now` must be aware and in UTC.
    """
    suffix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return f"{lane}-{now:%Y%m%dT%H%M%SZ}-{suffix}"


@dataclass(frozen=True)
class RankPaths:
    """File names of one rank. Pure: builds paths, touches nothing."""

    root: Path

    @property
    def beacon(self) -> Path:
        return self.root / "beacon.page"

    @property
    def samples(self) -> Path:
        return self.root / "samples.bin"

    @property
    def control(self) -> Path:
        """A socket while the rank lives, and nothing afterwards (measure/control.py)."""
        return self.root / "control.sock"

    @property
    def observed(self) -> Path:
        return self.root / "observed.json"

    @property
    def result(self) -> Path:
        """What a lane without steps found; written before the end marker."""
        return self.root / "result.json"

    @property
    def telemetry(self) -> Path:
        """All that a profiler saw in a lane that tells which kernel ran; evidence, read by nobody."""
        return self.root / "bench_telemetry.json"

    @property
    def identity(self) -> Path:
        """What the worker itself concludes from it, by the function that the record is built with; evidence."""
        return self.root / "backend_identity.json"

    def proof(self, rung: str) -> Path:
        """What shows that a candidate holds a rung of the proof ladder; one file each, so that each is evidence."""
        return self.root / "proofs" / f"{rung}.json"

    @property
    def end(self) -> Path:
        return self.root / "end.json"

    @property
    def error(self) -> Path:
        return self.root / "error.json"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr.log"

    @property
    def claim(self) -> Path:
        """Which process of a launched command is this rank (measure/claim.py)."""
        return self.root / "claim.json"


@dataclass(frozen=True)
class AttemptPaths:
    """File names of one attempt. Pure: builds paths, touches nothing."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def case(self) -> Path:
        return self.root / "case.json"

    @property
    def manifest(self) -> Path:
        return self.root / "attempt.json"

    @property
    def host(self) -> Path:
        return self.root / "host.json"

    @property
    def host_end(self) -> Path:
        return self.root / "host_end.json"

    @property
    def launch(self) -> Path:
        return self.root / "launch.json"

    @property
    def exits(self) -> Path:
        return self.root / "exits.json"

    @property
    def executions(self) -> Path:
        """Every beginning of the run on a rented box; missing elsewhere."""
        return self.root / "executions.json"

    @property
    def rental(self) -> Path:
        """What was asked of the place that rents boxes; missing elsewhere."""
        return self.root / "rental.json"

    @property
    def looks(self) -> Path:
        return self.root / "looks.jsonl"

    @property
    def named(self) -> Path:
        return self.root / "named.jsonl"

    @property
    def look_dumps(self) -> Path:
        """Directory of what ranks answered when they were asked."""
        return self.root / "looks"

    @property
    def handover(self) -> Path:
        return self.root / "handover.json"

    @property
    def polls(self) -> Path:
        return self.root / "polls.jsonl"

    @property
    def snapshots(self) -> Path:
        """Directory of call graphs."""
        return self.root / "snapshots"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def nodes(self) -> Path:
        """Directory of what other nodes left that joined a launched command's attempt."""
        return self.root / "nodes"

    def node(self, number: int) -> Path:
        """What node `number` left: `end.json` and its command's logs."""
        return self.nodes / str(number)

    @property
    def command_stdout(self) -> Path:
        """What a launched command printed, its ranks together."""
        return self.root / "stdout.log"

    @property
    def command_stderr(self) -> Path:
        return self.root / "stderr.log"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def ranks(self) -> Path:
        return self.root / "ranks"

    def rank(self, rank: int) -> RankPaths:
        """Paths of rank `rank` (global rank, from 0)."""
        return RankPaths(self.ranks / str(rank))


@dataclass(frozen=True)
class Home:
    """`$LANEMARK_HOME`: where attempts, the ledger and the default caches live. Pure: builds paths, touches nothing."""

    root: Path

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def ledger_copies(self) -> Path:
        """Copies and indexes of ledgers on remote storage, one directory each; all of it may be deleted."""
        return self.root / "ledger-copies"

    @property
    def rented_waves(self) -> Path:
        """State of waves of rented runs, one file each (`lanemark.collect.modal_waves`)."""
        return self.root / "rented-waves"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def waves(self) -> Path:
        """Manifests of waves of the promotion lane, one file each."""
        return self.root / "waves"

    @property
    def left_waves(self) -> Path:
        """Waves of the promotion lane that were left on this host (`lanemark.collect.left_waves`)."""
        return self.root / "left-waves"

    def attempt(self, run_id: str) -> AttemptPaths:
        return AttemptPaths(self.attempts / run_id)


@dataclass(frozen=True)
class Transition:
    """One move of an attempt's state.

    Attributes:
        state: the state entered.
        at: wall-clock time, RFC 3339 UTC with milliseconds; may step backwards with the host's clock.
        monotonic_s: seconds since the attempt was prepared, from a clock that never steps; None where another host
            or a later boot made the move.
        reason: one phrase.
    """

    state: State
    at: str
    monotonic_s: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {"state": self.state.value, "at": self.at, "reason": self.reason}
        if self.monotonic_s is not None:
            doc["monotonic_s"] = self.monotonic_s
        return doc
