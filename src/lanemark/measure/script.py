"""One rank of a launched command, from inside: its pages, its steps, its markers. Without torch until torch is there.

`script()` is this process's one `Script`. It becomes a rank when a claim succeeds and a recorder when steps come; in
every other process of the command, and everywhere outside Lanemark, it does nothing.

    start ─▶ import ─▶ build ─▶ warmup ─▶ window ─▶ drain ─▶ done
             torch              K steps   N-K steps  whatever the script does afterwards

The window is the case's: after K steps the device is synchronised, the rank reports what it is (`observed.json`), and
measuring begins; after N the device is synchronised again, the window is closed, and `end.json` is written at once, not
at the end of the process: a script may leave through `os._exit`, and its exit status is seen from outside. What comes
after is not measured; only the step on the page still moves, so that the script is seen to be alive.

One way measures: the first that begins, or one that marks steps by name before a step was counted without it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from types import TracebackType
from typing import Any, Final, Literal, Protocol

from lanemark.measure.beacon import Beacon, Phase
from lanemark.measure.claim import Claim, FoundBy, host_id, read_claim, start_ticks, take
from lanemark.measure.durable import replace_file
from lanemark.measure.peaks import memory_peaks
from lanemark.measure.recorder import StepRecorder
from lanemark.measure.reported import Reported
from lanemark.measure.samples import SampleFile
from lanemark.measure.session import error_document
from lanemark.records.attempt import AttemptPaths, RankPaths
from lanemark.records.encoding import encode
from lanemark.records.observation import observed

#: How steps are counted: `marks`, two lines in the script; `callback`, a framework's own; `hooks`, by optimizer steps.
Way = Literal["marks", "callback", "hooks"]
#: Where two ways could count, the one that knows more about steps has it.
_RANKED: Final = {"hooks": 0, "callback": 1, "marks": 2}


class Script:
    """This process's part in a launched command.

    Attributes:
        claim_held: the claim, once this process is a rank.
        way: how its steps are counted, once they are.
        reported: what the script says of itself.
        probes: looks at torch, put here by `torch_hooks` when torch is imported: called outside the window.
    """

    def __init__(self, attempt: AttemptPaths | None) -> None:
        self.attempt = attempt
        self.claim_held: Claim | None = None
        self.way: Way | None = None
        self.reported = Reported()
        self.probes: Probes | None = None
        self.beacon: Beacon | None = None
        self.recorder: StepRecorder | None = None
        self.tokens = 0
        self.counts_tokens = False
        self._pid = os.getpid()
        self._paths: RankPaths | None = None
        self._steps = self._warmup = 0
        self._boundary = 0
        self._tokens_at_window = 0
        self._began_ns = monotonic_ns()
        self._end: dict[str, Any] | None = None
        self._refused = False

    # -- being a rank

    def claim(
        self, found_by: FoundBy, *, rank: int | None = None, world_size: int | None = None, has_steps: bool = False
    ) -> bool:
        """Become the rank that the arguments, or else the environment, say. True when this process is a rank now."""
        if self.attempt is None or self._pid != os.getpid():
            return False
        if self.claim_held is not None:
            return True
        if self._refused and not has_steps:
            return False
        mine = Claim(
            rank=_number("RANK", 0) if rank is None else rank,
            world_size=_number("WORLD_SIZE", 1) if world_size is None else world_size,
            local_rank=_number("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else None,
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            restart=_number("TORCHELASTIC_RESTART_COUNT", 0),
            life=0,
            host=host_id(),
            found_by=found_by,
        )
        paths = self.attempt.rank(mine.rank)
        held = take(paths, mine, has_steps=has_steps)
        self._refused = held is None
        if held is None:
            return False
        self.claim_held, self._paths = held, paths
        self.beacon = Beacon.create(paths.beacon, rank=mine.rank, world_size=mine.world_size)
        atexit.register(self._at_exit)
        sys.excepthook = self._excepthook(sys.excepthook)
        if "torch" in sys.modules:
            self.beacon.enter("build")
            if self.probes is not None:
                self.probes.watch(self.beacon, paths)
        return True

    def enter(self, phase: Phase) -> None:
        """Say where the rank is, before its steps begin. Without effect where this process is none."""
        if self.beacon is not None and self.recorder is None and self._is_mine():
            self.beacon.enter(phase)
        self._began_ns = monotonic_ns()

    def torch_came(self, probes: Probes) -> None:
        """Torch is imported: its probes can be asked from now on."""
        self.probes = probes
        self.enter("build")
        if self.attempt is not None and self.claim_held is None and self._case()["nproc"] == 1:
            self.claim("import")
        elif self.beacon is not None and self._paths is not None:
            probes.watch(self.beacon, self._paths)

    def _is_mine(self) -> bool:
        """False in a forked child of a rank, which shares everything and is none."""
        return self._pid == os.getpid()

    def forked(self) -> None:
        """In a forked child. Of a rank it is a helper; of what is no rank, such as a launcher, it may become one."""
        if self.claim_held is None:
            self._pid, self._refused, self._began_ns = os.getpid(), False, monotonic_ns()

    # -- taking steps

    def begin(self, way: Way, *, since_ns: int | None = None) -> StepRecorder | None:
        """The first step begins. None where nothing is to be recorded here: no attempt, no rank, or another way counts.

        A way that marks steps takes over from one that knows less of them, as long as that one counted none.
        """
        if self.attempt is None or not self._is_mine():
            return None
        if self.way is not None:
            ours = self.recorder
            if way == self.way or ours is None:
                return ours if way == self.way else None
            if _RANKED[way] <= _RANKED[self.way] or ours.step:
                return None
            self.way = way
            return ours
        try:
            if not self._claim_with_steps():
                return None
            case = self._case()
            self._steps, self._warmup = int(case["steps"]), int(case["warmup"])
            self._boundary = self._warmup
            assert self._paths is not None
            assert self.beacon is not None
            assert self.claim_held is not None
            file = SampleFile.create(
                self._paths.samples, rank=self.claim_held.rank, warmup=self._warmup, rows=self._steps
            )
            self.recorder = StepRecorder(file, self.beacon, stamps_data=way == "marks")
            self.recorder.begin(self._began_ns if since_ns is None else since_ns)
        except Exception as error:  # a full disk, a damaged attempt: the script goes on, and its record says less
            self.attempt = None
            complain(error)
            return None
        self.way = way
        return self.recorder

    def _claim_with_steps(self) -> bool:
        """A step is at hand. Whoever is rank n by its process group is it, whatever the environment says."""
        known = self.probes.group() if self.probes is not None else None
        if known is None:
            return self.claim("step", has_steps=True)
        held = self.claim_held
        if held is not None and (held.rank, held.world_size) == known:
            return True
        self.claim_held = None
        return self.claim("step", rank=known[0], world_size=known[1], has_steps=True)

    @property
    def boundary(self) -> int:
        """The number of steps after which `at_boundary` wants to be called."""
        return self._boundary

    def at_boundary(self) -> int:
        """The steps counted so far fill the warm-up, or the window. Returns the next boundary; 0: none any more."""
        recorder = self.recorder
        if recorder is None:
            return 0
        try:
            if recorder.step == self._warmup:
                self._open(recorder)
                self._boundary = self._steps
            elif recorder.step >= self._steps:
                self._boundary = 0
                self._close(recorder)
        except Exception as error:  # measuring ends here and the script goes on
            self._boundary = 0
            complain(error)
        return self._boundary

    def end_step(self, tokens: int = 0) -> None:
        """One step is over: for ways that are called at the end of each. Never raises."""
        recorder = self.recorder
        if recorder is None or not self._is_mine():
            return
        self.tokens += tokens
        if not self._boundary:
            self.after_window()
            return
        recorder.end_step()
        if recorder.step == self._boundary:
            self.at_boundary()

    def after_window(self) -> None:
        """A step that nothing measures: seen on the page and nowhere else."""
        if self.beacon is not None:
            self._steps += 1
            self.beacon.at_step(self._steps)

    def _open(self, recorder: StepRecorder) -> None:
        """The warm-up is over. What is looked at here takes its time between two steps, in none of them."""
        assert self._paths is not None
        assert self.claim_held is not None
        probes = self.probes
        if probes is not None:
            probes.synchronize()
        doc: dict[str, Any] = {
            "rank": self.claim_held.rank,
            "world_size": self.claim_held.world_size,
            "pid": self._pid,
            "way": observed(self.way, "lanemark.measure.script").to_json(),
            "prewarm": {"planned": False, "done": False, "reason": "a command of the user's own compiles when it does"},
        }
        if probes is not None:
            doc |= probes.facts()
        replace_file(self._paths.observed, encode(doc))
        self._tokens_at_window = self.tokens
        recorder.open_window()

    def _close(self, recorder: StepRecorder) -> None:
        assert self._paths is not None
        assert self.claim_held is not None
        probes = self.probes
        if probes is not None:
            probes.synchronize()
        recorder.close_window()
        end: dict[str, Any] = {
            "rank": self.claim_held.rank,
            "memory": memory_peaks(),
            "compilations": self.beacon.compilations if self.beacon else 0,
            "compile_ns": self.beacon.compile_ns if self.beacon else 0,
            "losses": self.reported.losses(),
            "reported_tokens_per_s": self.reported.rate(),
        }
        if self.counts_tokens:
            end["tokens"] = self.tokens - self._tokens_at_window
            end["tokens_warmup"] = self._tokens_at_window
        if probes is not None:
            end |= probes.at_end()
        self._end = end
        self._write_end()

    def _write_end(self) -> None:
        if self._paths is not None and self._end is not None and self._still_holds():
            replace_file(self._paths.end, encode(self._end))

    # -- going

    def _still_holds(self) -> bool:
        """Whether the place is still this process's: a later life must not find this one's words in it."""
        held = self.claim_held
        return held is not None and self._paths is not None and read_claim(self._paths.claim) == held

    def _excepthook(self, other: Callable[..., Any]) -> Callable[..., Any]:
        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self.failed(error, trace)
            other(kind, error, trace)

        return hook

    def failed(self, error: BaseException, trace: TracebackType | None) -> None:
        """The script leaves with an exception: what it was, for the record. Never raises."""
        if not self._is_mine() or self.beacon is None or self._paths is None:
            return
        with contextlib.suppress(Exception):
            self.beacon.enter("failed", type(error).__name__)
            if self._still_holds():
                replace_file(self._paths.error, error_document(error, trace, at=int(time.time())))

    def _at_exit(self) -> None:
        if not self._is_mine() or self.beacon is None:
            return
        with contextlib.suppress(Exception):
            if self.probes is not None:
                self.probes.close()
            if self._end is not None and self.reported.late:
                self._end["reported_tokens_per_s"] = self.reported.rate()
                self._write_end()
            if self.beacon.phase != "failed":
                self.beacon.enter("done")
            self.beacon.close()

    def _case(self) -> dict[str, Any]:
        assert self.attempt is not None
        doc = json.loads(self.attempt.case.read_bytes())
        if not isinstance(doc, dict):
            raise TypeError("the case is no object")
        return doc


class Probes(Protocol):
    """What is asked of torch, by `torch_hooks`; here so that this module needs none."""

    def watch(self, beacon: Beacon, paths: RankPaths) -> None:
        """The rank has a page: collectives and compilations can be shown on it."""

    def group(self) -> tuple[int, int] | None:
        """Rank and world size by the process group, or None where there is none."""

    def synchronize(self) -> None:
        """Return when the device is done."""

    def facts(self) -> dict[str, Any]:
        """For `observed.json`."""

    def at_end(self) -> dict[str, Any]:
        """For `end.json`, beyond what needs no torch."""

    def close(self) -> None:
        """The process ends."""


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else otherwise


def complain(error: BaseException) -> None:
    """Say on stderr what went wrong with measuring; it must never be the script's failure."""
    with contextlib.suppress(Exception):
        sys.stderr.write(f"lanemark: this rank is not measured any further ({type(error).__name__}: {error})\n")


_SCRIPT: Script | None = None


def script() -> Script:
    """This process's `Script`; one that does nothing outside an attempt."""
    global _SCRIPT  # noqa: PLW0603 - one a process, whoever asks first
    if _SCRIPT is None:
        where = os.environ.get("LANEMARK_ATTEMPT_DIR")
        ours = where and os.environ.get("LANEMARK_COMMAND")
        _SCRIPT = Script(AttemptPaths(Path(where)) if where and ours else None)
        if _SCRIPT.attempt is not None:
            os.register_at_fork(after_in_child=_SCRIPT.forked)
    return _SCRIPT
