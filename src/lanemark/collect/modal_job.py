"""What a container on Modal runs: one function, which claims an execution, runs the worker beside itself, and carries.

    claim ─▶ worker in a process of its own ─▶ carry now and then ─▶ carry at the end, manifest last ─▶ commit ─▶ return

The worker (`lanemark.collect.rented`) is a process of its own because this one belongs to the SDK: its threads, its
event loop and its signal handlers are here, and a supervisor needs its signals for itself. This process ends the worker
politely when it is told to go, and carries what the worker sealed. What it writes to stderr is in the service's logs.

What ends this function, and what it does then:

    the worker ended              carry, manifest `final`, return a small envelope
    a person cancelled            the worker seals `cancelled`; carry, manifest `final`, raise on
    the container is taken away   the worker seals what it can; carry, manifest not `final`, raise on: the service will
                                  begin again with the same input, and the run is not over
    anything else                 carry what there is, return an envelope that says so

Nothing of another kind may leave this function. A `TimeoutError` raised here would read "no output yet" in a collector,
and a `SystemExit` would end it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from lanemark.collect.gathering import read_json
from lanemark.launch.modal_request import CACHE, DATA, RESULTS, SEALING_S
from lanemark.launch.modal_results import (
    ATTEMPT,
    CLAIM,
    DONE,
    CarriedFile,
    Done,
    chosen,
    execution_directory,
)
from lanemark.measure.durable import replace_file
from lanemark.observe.clock import stamp
from lanemark.observe.reading import reason_of
from lanemark.observe.redaction import redact_text
from lanemark.records.encoding import encode, safe_text
from lanemark.records.observation import value_of

#: How often what the ranks left so far is carried to the Volume: a container that is killed outright leaves this much.
CARRY_EVERY_S: Final = 30.0
#: How long the worker has to seal when it is told to end. The service allows 30 s to a container that it takes away.
GRACE_S: Final = 20.0
_POLL_S: Final = 0.2
#: Made by the worker in its scratch directory once signals to it no longer kill it.
BEGAN: Final = "began"
#: Not carried: locks and sockets are of one host, and reserved bytes are of one disk.
_LEFT_HERE: Final = ("supervisor.lock", "reserve")


@dataclass(frozen=True)
class Container:
    """What the SDK gives a worker: who it is, and a Volume that can be committed.

    Attributes:
        about: observations in JSON form (`modal_inside.where`).
        commit: make what was written to the results Volume visible.
        reload: see what others committed to it.
        cancelled, taken_away: what is raised here when a person cancels, and when the container has to go.
        results, cache, data: where the Volumes are mounted.
        sleep: waits between two looks at the worker; the SDK raises into it.
    """

    about: Mapping[str, Mapping[str, Any]]
    commit: Callable[[], None]
    reload: Callable[[], None]
    cancelled: type[BaseException]
    taken_away: type[BaseException] = KeyboardInterrupt
    results: Path = Path(RESULTS)
    cache: Path = Path(CACHE)
    data: Path = Path(DATA)
    sleep: Callable[[float], None] = time.sleep


def run_job(payload: dict[str, Any]) -> dict[str, Any]:
    """The function that Modal calls. Returns the envelope; raises only what the SDK itself raised into it."""
    from lanemark.launch import modal_inside

    volume, environment = payload["results"], payload.get("environment")
    return run_in(
        Container(
            about=modal_inside.where(),
            commit=lambda: modal_inside.commit(volume, environment),
            reload=lambda: modal_inside.reload(volume, environment),
            cancelled=modal_inside.CANCELLED,
            taken_away=modal_inside.TAKEN_AWAY,
        ),
        payload,
    )


def run_in(container: Container, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`run_job` with what the SDK gives it spelled out."""
    try:
        container.reload()
    except Exception as error:  # a container that has just started sees what was committed anyway
        _say(f"the results Volume was not reloaded ({reason_of(error)})")
    root = container.results / payload["run_id"]
    earlier = _manifests(root)
    over = chosen(earlier)
    if over is not None:
        return _envelope(over, adopted=True)
    execution = _Execution(container, payload, root)
    try:
        execution.claim()
        execution.start()
        execution.attend()
    except container.cancelled:
        execution.wind_up("a person cancelled the call", final=True)
        raise
    except container.taken_away:
        execution.wind_up("the container is taken away", final=False)
        raise
    except BaseException as error:  # whatever it is, it must not reach a collector as an exception
        done = execution.wind_up(f"the worker's keeper failed: {reason_of(error)}", final=True)
        return {**_envelope(done), "error": redact_text(safe_text(reason_of(error)))[:300]}
    return _envelope(execution.carry_all(final=True))


def _say(line: str) -> None:
    sys.stderr.write(f"lanemark: {line}\n")


def _manifests(root: Path) -> list[Done]:
    found = []
    for path in sorted(root.glob(f"executions/*/{DONE}")):
        try:
            found.append(Done.from_json(read_json(path)))
        except ValueError:
            continue
    return found


def _envelope(done: Done, *, adopted: bool = False) -> dict[str, Any]:
    """What the call returns: small, because an output is kept for a week and a Volume is where files go."""
    doc = {name: value for name, value in done.to_json().items() if name != "files"}
    return {**doc, "num_files": len(done.files), **({"adopted": True} if adopted else {})}


class _Execution:
    """One execution: its number, its worker, and its part of the results Volume."""

    def __init__(self, container: Container, payload: Mapping[str, Any], root: Path) -> None:
        self._container = container
        self._payload = payload
        self._root = root
        self._scratch = Path(tempfile.mkdtemp(prefix="lanemark-"))
        self._claims = [claim for path in sorted(root.glob(f"executions/*/{CLAIM}")) if (claim := read_json(path))]
        numbers = [int(path.parent.name) for path in root.glob("executions/*/*") if path.parent.name.isdecimal()]
        self.number = max(numbers, default=0) + 1
        self._there = root / execution_directory(self.number)
        self._deadline_s = time.time()
        self._worker: subprocess.Popen[bytes] | None = None
        self._carried: dict[str, CarriedFile] = {}

    @property
    def _attempt(self) -> Path:
        return self._scratch / "home" / "attempts" / str(self._payload["run_id"])

    def claim(self) -> None:
        """Say that this execution has begun, before anything else, so that every beginning can be counted."""
        now_s = time.time()
        # The deadline is of the run and not of an execution: the service gives each its whole time anew.
        deadlines = [float(claim["deadline_at_s"]) for claim in self._claims if "deadline_at_s" in claim]
        deadline_s = min(deadlines, default=now_s + float(self._payload["timeout_s"]))
        self._deadline_s = min(deadline_s, now_s + float(self._payload["timeout_s"])) - SEALING_S
        mine = {name: value for name, seen in self._container.about.items() if (value := value_of(dict(seen)))}
        claim = {**mine, "execution": self.number, "begun_at": stamp(), "deadline_at_s": deadline_s}
        os.makedirs(self._there, exist_ok=True)
        (self._there / CLAIM).write_bytes(encode(claim))
        try:
            self._container.commit()
        except Exception as error:  # the service commits in the background too; a run is worth more than a count
            _say(f"the claim was not committed at once ({reason_of(error)})")
        self._claims.append(claim)

    def start(self) -> None:
        """Start the worker: the same one whichever box it is rented from."""
        job = {
            **self._payload,
            "about": {name: dict(seen) for name, seen in self._container.about.items()},
            "execution": self.number,
            "executions": self._claims,
            "deadline_in_s": self._deadline_s - time.time(),
            "scratch": str(self._scratch),
            "cache_volume": str(self._container.cache),
            "data_volume": str(self._container.data),
        }
        path = self._scratch / "job.json"
        path.write_bytes(encode(job))
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "lanemark.collect.rented", str(path)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the SDK's process group is for this process to pass on
        )

    def attend(self) -> None:
        """Wait for the worker, and carry what there is now and then."""
        assert self._worker is not None
        carry_at_s = time.monotonic() + CARRY_EVERY_S
        while self._worker.poll() is None:
            self._container.sleep(_POLL_S)
            if time.monotonic() >= carry_at_s:
                self._carry_quietly()
                carry_at_s = time.monotonic() + CARRY_EVERY_S

    def wind_up(self, why: str, *, final: bool) -> Done:
        """End the worker and carry what it leaves. Who is told twice to go still carries."""
        try:
            self.end(why)
        except (self._container.cancelled, self._container.taken_away):
            _say("told again to go: what is there is carried now")
        except Exception as error:  # it must not take the place of what ended the function
            _say(f"the worker could not be ended ({reason_of(error)})")
        return self.carry_all(final=final)

    def end(self, why: str) -> None:
        """End the worker politely: it seals on its way out.

        One that has not begun yet is let begin first, and where there is none it is started for this alone: a signal to
        an interpreter that is still importing ends it without a record.
        """
        _say(f"{why}; the worker is told to end")
        if self._worker is None:
            self.start()
        worker = self._worker
        assert worker is not None
        ends_s = time.monotonic() + GRACE_S
        while worker.poll() is None and not (self._scratch / BEGAN).exists() and time.monotonic() < ends_s:
            time.sleep(_POLL_S / 4)
        for number, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
            if worker.poll() is not None:
                return
            worker.send_signal(number)
            try:
                worker.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue

    def carry_all(self, *, final: bool) -> Done:
        """Carry every file, then the manifest, then commit. What fails on the way is told in the manifest."""
        said = read_json(self._scratch / "ended.json") or {}
        problem = self._carry_quietly(commit=False)
        state = str(said.get("state", "lost"))
        reason = str(said.get("reason", "the worker ended without a word"))
        record = said.get("record_id")
        done = Done(
            run_id=str(self._payload["run_id"]),
            execution=self.number,
            state=state,
            final=final,
            reason=reason[:500] if problem is None else f"{reason[:300]}; {problem}",
            ended_at=stamp(),
            record_id=str(record) if record and "record.json" in self._carried else None,
            files=tuple(self._carried[name] for name in sorted(self._carried)),
        )
        try:
            os.makedirs(self._there, exist_ok=True)
            replace_file(self._there / DONE, encode(done.to_json()))
            self._container.commit()
        except Exception as error:  # the service commits at shutdown as well; the envelope is returned either way
            _say(f"the results were not committed ({reason_of(error)})")
        shutil.rmtree(self._scratch, ignore_errors=True)
        return done

    def _carry_quietly(self, *, commit: bool = True) -> str | None:
        """Carry what changed. Returns a sentence on what did not work, or None."""
        try:
            self._carry()
            if commit:
                self._container.commit()
        except Exception as error:  # a full or missing Volume must not end the run; the end tries again
            return f"results could not be carried ({reason_of(error)})"
        return None

    def _carry(self) -> None:
        """Copy files whose bytes are not there yet. Links and sockets stay: a rank could have planted them."""
        for directory, _, names in os.walk(self._attempt):
            for name in names:
                path = Path(directory, name)
                inside = path.relative_to(self._attempt).as_posix()
                if name in _LEFT_HERE or name.startswith(".") or path.is_symlink() or not path.is_file():
                    continue
                data = path.read_bytes()
                about = CarriedFile(inside, len(data), sha256(data).hexdigest())
                if self._carried.get(inside) == about:
                    continue
                target = self._there / ATTEMPT / inside
                os.makedirs(target.parent, exist_ok=True)
                replace_file(target, data)
                self._carried[inside] = about
