"""`ModalSurface`: runs on boxes rented from Modal, left there and collected later by ids alone.

The launcher makes one app with one function and one call, and leaves. Inside its container the worker of the local
surface runs the ranks and seals the record (`lanemark.collect.modal_job`); files come back through a Volume, because an
output is kept for seven days and a Volume until somebody deletes it. The SDK is imported when it is first needed, so
that a plan needs neither it nor a network nor credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lanemark.launch import modal_words
from lanemark.launch.detached import Fetched, Handle, Note, Status, Submission
from lanemark.launch.modal_request import ModalRequest, Rental, modal_request
from lanemark.launch.modal_results import (
    ATTEMPT,
    CANCEL,
    DONE,
    INTENT,
    CarriedFile,
    Done,
    Listing,
    chosen,
    execution_directory,
    listing,
    plain,
)
from lanemark.launch.programs import RANK_PROGRAMS
from lanemark.launch.surface import Placement
from lanemark.measure.durable import place_staged, staged_name
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.encoding import encode
from lanemark.records.errors import GateRefused, LanemarkError, SurfaceError

#: The collector's own files of an attempt, which no far side writes.
_OURS: Final = frozenset({"attempt.json", "case.json", "handover.json", "supervisor.lock", "reserve"})
_MANIFEST_BYTES: Final = 8 * 1024 * 1024
#: Logs are cut by the supervisor to a few MiB (launch/logs.py); sample files of a long run are larger.
_FILE_BYTES: Final = 1024 * 1024 * 1024
_STOP_S: Final = 60.0
#: A worker that is told to end has 20 s (collect/modal_job.py), and carrying takes a while: after this it is gone.
WIND_UP_S: Final = 90.0


def client() -> ModuleType:
    """The module that speaks to the SDK. Raises GateRefused `modal-extra-missing`."""
    if find_spec("modal") is None:
        raise GateRefused(
            "modal-extra-missing",
            "the surface `modal` needs the package `modal`, which this interpreter does not have",
            "pip install 'lanemark[modal]'",
        )
    from lanemark.launch import modal_client

    return modal_client


class ModalSurface:
    """Runs on Modal.

    Args:
        rental: what is rented; a collector needs none, and takes names from a run's own ids.
        worker: the function that the container is to run, where runs are submitted (`modal_job.run_job`).
        payload: what it is given, from a submission.
        interrupted: the name of a signal that asks for a launch not to be made, or None.
    """

    name = "modal"
    supervised_here = False
    concurrency = 32

    def __init__(
        self,
        rental: Rental | None = None,
        *,
        worker: Callable[..., Any] | None = None,
        payload: Callable[[Submission], Mapping[str, Any]] | None = None,
        interrupted: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._rental = rental
        self._worker = worker
        self._payload = payload
        self._interrupted = interrupted

    def request(self, case: Case, placement: Placement) -> ModalRequest:
        """See `Surface.request`. Raises UsageError where the request could not be a receipt, or not be carried out."""
        assert self._rental is not None, "only a surface that was told what to rent can launch"
        assert (case.script is None) == (self._rental.code is None), "a command goes with its code"
        compiled = case.compile != "eager"
        return ModalRequest(
            surface=self.name,
            argv=("python", "-m", RANK_PROGRAMS[case.lane]) if case.script is None else case.command,
            reference_stack=case.script is None,
            working_directory=None,
            settings=(),
            rank_variables=tuple({} for _ in range(case.nproc)),
            cache_dir=None,
            cache_reason=_cache_reason(case) if compiled else "not compiled",
            cache_layout=placement.cache_layout,
            rental=modal_request(case, self._rental),
        )

    def submit(self, submission: Submission, note: Note) -> Handle:
        """See `DetachedSurface.submit`."""
        assert self._worker is not None, "only a surface that was told what to run can launch"
        assert self._payload is not None
        assert self._rental is not None
        assert isinstance(submission.request, ModalRequest)
        ids = {"results": self._rental.results}
        if self._rental.environment is not None:
            ids["environment"] = self._rental.environment
        note(ids)
        spawned = client().launch(
            submission.request.rental, submission.run_id, self._worker, self._payload(submission), note,
            interrupted=self._interrupted,
        )  # fmt: skip
        ids |= {"app_id": spawned.app_id, "call_id": spawned.call_id}
        return Handle(submission.run_id, self.name, ids, str(submission.paths.root))

    def probe(self, handle: Handle) -> Status:
        """See `DetachedSurface.probe`."""
        try:
            asked = client()
        except LanemarkError as error:
            return Status("unreachable", error.what)
        call_id = handle.ids.get("call_id")
        try:
            return self._found(handle) if call_id is None else self._called(asked, handle, call_id)
        except Exception as error:
            return Status("unreachable", modal_words.said(error))

    def _called(self, asked: ModuleType, handle: Handle, call_id: str) -> Status:
        """The word for a call whose id is known."""
        for _ in range(2):
            try:
                given = asked.output(call_id)
            except (
                BaseException
            ) as error:  # the SDK raises here whatever the function raised there, SystemExit included
                failure = error
            else:
                return _returned(given)
            status, task = self._graph_of(asked, call_id)
            word = modal_words.ended(failure, status)
            if word is not None or status not in modal_words.BAD:
                break  # else it ended between the two questions, and its output says why in the service's words
        if word is None:
            return modal_words.waiting(status, task)
        if word.word == "cancelled" and self._winding_up(handle):
            return Status("running", "it was cancelled, and its worker is sealing what it has")
        if word.word in ("unknown", "expired"):
            done = self._final(handle)
            if done is not None:
                return Status("expired", f"{word.detail}; its results are on the Volume", completed_at=done.ended_at)
        return word

    def _winding_up(self, handle: Handle) -> bool:
        """Whether a cancelled run's worker may still be sealing. The service may call a run ended before it is."""
        try:
            there = self._listing(handle)
            asked_at = self._json(handle, CANCEL).get("asked_at_s") if there.cancel else None
        except Exception:  # not known: then the service's word stands
            return False
        began = there.last is not None and there.last not in there.done
        return began and isinstance(asked_at, float) and 0 <= time.time() - asked_at < WIND_UP_S

    def _graph_of(self, asked: ModuleType, call_id: str) -> tuple[str | None, str | None]:
        """Status and container of a call's own input; None where the graph does not tell."""
        try:
            nodes = asked.call_graph(call_id)
        except Exception:  # best effort on the service's side as well: what was raised before is the answer
            return None, None
        mine: dict[str, Any] = next((node for node in nodes if node.get("call_id") == call_id), {})
        return mine.get("status"), mine.get("task_id")

    def _found(self, handle: Handle) -> Status:
        """The word for a run whose launcher noted no call: what the results Volume has of it."""
        there = self._listing(handle)
        if there.last is not None:
            claim = self._json(handle, f"{execution_directory(there.last)}/claim.json")
            ids = {name: str(claim[name]) for name in ("app_id", "call_id") if claim.get(name)}
            if "call_id" in ids:
                results = {"results": self._volume(handle)[0]} if "results" not in handle.ids else {}
                known = self._called(client(), handle, ids["call_id"])
                return Status(
                    known.word, known.detail, kind=known.kind, ids={**results, **ids}, completed_at=known.completed_at
                )
            return Status("unknown", f"execution {there.last} has begun, and its claim cannot be read")
        if not there.intent:
            return Status("absent", "nothing was handed over: the results Volume has no intent of it")
        intent = self._json(handle, INTENT)
        app_id = str(intent.get("app_id", ""))
        if app_id and _stopped(app_id, self._volume(handle)[1]):
            return Status("absent", f"app {app_id} has stopped, and no container ever began")
        return Status("unknown", "it was to be handed over, and no container has begun", ids={"app_id": app_id})

    # files

    def _volume(self, handle: Handle) -> tuple[str, str | None]:
        rental = self._rental or Rental(image="")
        return handle.ids.get("results", rental.results), handle.ids.get("environment", rental.environment)

    def _listing(self, handle: Handle) -> Listing:
        return listing(handle.run_id, client().list_volume(*self._volume(handle), f"/{handle.run_id}"))

    def _read(self, handle: Handle, name: str, limit_bytes: int) -> bytes:
        data: bytes = client().read_volume(*self._volume(handle), f"{handle.run_id}/{name}", limit_bytes)
        return data

    def _json(self, handle: Handle, name: str) -> dict[str, Any]:
        """A small JSON object of the Volume; empty where there is none, or it is none."""
        try:
            doc = json.loads(self._read(handle, name, _MANIFEST_BYTES))
        except (ValueError, FileNotFoundError, RecursionError):
            return {}
        return doc if isinstance(doc, dict) else {}

    def _manifests(self, handle: Handle, there: Listing) -> list[Done]:
        found = []
        for number in there.done:
            with contextlib.suppress(ValueError):
                done = Done.from_json(self._json(handle, f"{execution_directory(number)}/{DONE}"))
                if done.run_id == handle.run_id and done.execution == number:
                    found.append(done)
        return found

    def _final(self, handle: Handle) -> Done | None:
        try:
            return chosen(self._manifests(handle, self._listing(handle)))
        except Exception:  # then it is not known, which is what None says here
            return None

    def fetch(self, handle: Handle, into: AttemptPaths) -> Fetched:
        """See `DetachedSurface.fetch`. A file whose bytes are not those of the manifest is not brought."""
        try:
            there = self._listing(handle)
            done = chosen(self._manifests(handle, there))
            number = done.execution if done is not None else there.last
            if number is None:
                return Fetched(problems=("no container began: the results Volume has nothing of the run",))
            prefix = f"{ATTEMPT}/"
            names = {name.removeprefix(prefix) for name in there.executions[number] if name.startswith(prefix)}
            expected: dict[str, CarriedFile | None] = dict.fromkeys(names)
            if done is not None:
                expected = {file.name: file for file in done.files}
            wanted = {name: about for name, about in expected.items() if name not in _OURS and plain(name)}
            told = self._bring(handle, number, wanted, into)
        except LanemarkError:
            raise
        except Exception as error:
            raise _unreachable(handle, error) from None
        missing = {problem.partition(":")[0] for problem in told}
        if done is None:
            told.append(f"execution {number} left no manifest: what it had carried until then is all there is")
        return Fetched(tuple(sorted(set(wanted) - missing)), tuple(told), None if done is None else done.ended_at)

    def _bring(
        self, handle: Handle, number: int, files: Mapping[str, CarriedFile | None], into: AttemptPaths
    ) -> list[str]:
        """Files, each whole or not at all, and all of them durable. Returns a sentence for each that is not brought.

        They go straight to disk, beside where they belong, and are moved once they are what the manifest names.
        """
        asked, there = client(), f"{handle.run_id}/{execution_directory(number)}/{ATTEMPT}"
        names = [name for name, about in sorted(files.items()) if about is None or not _has(into.root / name, about)]
        staged = {name: staged_name(into.root / name) for name in names}
        for parent in {path.parent for path in staged.values()}:
            parent.mkdir(parents=True, exist_ok=True)
        wanted = []
        for name in names:
            about = files[name]
            limit = _FILE_BYTES if about is None else min(_FILE_BYTES, about.bytes)
            wanted.append(asked.Wanted(f"{there}/{name}", staged[name], limit))
        told, whole = [], []
        try:
            brought = asked.bring(*self._volume(handle), wanted)
            for name, found in zip(names, brought, strict=True):
                problem = _wrong(name, found, files[name], staged[name], handle.run_id)
                if problem is None:
                    whole.append((name, staged[name]))
                else:
                    told.append(problem)
            place_staged(into.root, whole)
        finally:
            for path in staged.values():
                path.unlink(missing_ok=True)
        return told

    def cancel(self, handle: Handle, reason: str) -> None:
        """See `DetachedSurface.cancel`. When it was asked for is noted on the Volume, where every collector sees it."""
        try:
            call_id = handle.ids.get("call_id") or self._found(handle).ids.get("call_id")
            if call_id is not None:
                note = {"reason": reason, "asked_at_s": time.time()}
                files = {f"/{handle.run_id}/{CANCEL}": encode(note)}
                client().write_volume(*self._volume(handle), files, client().QUESTION_S)
                client().cancel(call_id)
                return
            app_id = handle.ids.get("app_id") or self._json(handle, INTENT).get("app_id")
            if app_id:
                _modal("app", "stop", "--yes", str(app_id))
        except LanemarkError:
            raise
        except Exception as error:
            if "NotFoundError" in type(error).__name__:
                return  # nothing is there to be ended
            raise _unreachable(handle, error) from None

    def call_graph(self, handle: Handle) -> dict[str, Any]:
        """See `DetachedSurface.call_graph`."""
        try:
            call_id = handle.ids.get("call_id") or self._found(handle).ids.get("call_id")
            return {} if call_id is None else {"call_id": call_id, "inputs": client().call_graph(call_id)}
        except LanemarkError:
            raise
        except Exception as error:
            raise _unreachable(handle, error) from None


def _cache_reason(case: Case) -> str:
    if case.script is not None:
        return "a directory of the container, empty at the start: what covers a command is not known before it runs"
    return "a directory of the container, seeded from the cache Volume"


def _returned(given: Any) -> Status:
    """The word for an output: the worker's small envelope, or something that no worker of ours returns."""
    if not isinstance(given, dict) or "state" not in given:
        return Status("failed", f"the function returned a {type(given).__name__} and no envelope", kind="raised")
    at = str(given["ended_at"]) if given.get("ended_at") else None
    if given.get("error"):
        return Status("failed", f"the worker: {str(given['error'])[:300]}", kind="raised", completed_at=at)
    number = given.get("execution", 1)
    again = "" if number == 1 else f", in execution {number}"
    return Status("finished", f"the worker sealed {given['state']}{again}", completed_at=at)


def _wrong(
    name: str, found: str | FileNotFoundError | ValueError, about: CarriedFile | None, staged: Path, run_id: str
) -> str | None:
    """Why a file that was asked for is not taken; None where it is."""
    if isinstance(found, FileNotFoundError):
        return f"{name}: the Volume does not have it"
    if isinstance(found, ValueError):
        return f"{name}: {found}"
    if about is not None and found != about.sha256:
        return f"{name}: its bytes are not those that the manifest names"
    if name == "record.json" and not _is_of(staged.read_bytes(), run_id):
        return f"{name}: it is the record of another run"
    return None


def _has(target: Path, about: CarriedFile) -> bool:
    """Whether a file is here already as it is meant to be."""
    try:
        return (
            not target.is_symlink()
            and target.stat().st_size == about.bytes
            and hashlib.sha256(target.read_bytes()).hexdigest() == about.sha256
        )
    except OSError:
        return False


def _is_of(data: bytes, run_id: str) -> bool:
    try:
        return bool(json.loads(data)["predicate"]["run_id"] == run_id)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _unreachable(handle: Handle, error: BaseException) -> SurfaceError:
    return SurfaceError(
        "surface-unreachable", f"Modal could not be asked about {handle.run_id} ({modal_words.said(error)})",
        f"try `lanemark collect {handle.run_id}` again later",
    )  # fmt: skip


def _modal(*arguments: str) -> str:
    """What the SDK's own command prints: some of what it can do has no function that one may call."""
    done = subprocess.run(
        [sys.executable, "-m", "modal", *arguments], capture_output=True, text=True, timeout=_STOP_S, check=False
    )
    if done.returncode != 0:
        raise OSError((done.stderr or done.stdout).strip()[-200:])
    return done.stdout


def _stopped(app_id: str, environment: str | None) -> bool:
    """Whether an app is known to have stopped. An app that the service no longer lists is not known to."""
    where = ("--env", environment) if environment is not None else ()
    try:
        entries = json.loads(_modal("app", "list", "--json", *where))
        return any(entry["app_id"] == app_id and entry["state"] == "stopped" for entry in entries)
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return False
