"""A far side in a directory: runs that begin, end, expire and vanish when a test says so, with files to be fetched.

It lives on disk and not in memory, so that a launcher and a collector may be processes of their own, and be killed.
Each launch leaves a line, so that a test can count them. It passes the contract tests of every detached surface.

    <root>/down                  while it is there, nothing answers
    <root>/<run-id>/launches     one line a launch
    <root>/<run-id>/status.json  the word and what goes with it; replaced atomically
    <root>/<run-id>/files/…      what can be fetched
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanemark.launch.detached import FailureKind, Fetched, Handle, Note, Status, Submission, Word, plain_names
from lanemark.measure.durable import replace_file, replace_files
from lanemark.records.attempt import AttemptPaths
from lanemark.records.encoding import encode
from lanemark.records.errors import RunFailed, SurfaceError


class FakeDetached:
    """See the module. Everything it knows lies below `root`; two objects over one root are one surface."""

    name = "fake"
    supervised_here = False

    def __init__(self, root: Path, *, concurrency: int = 32, refuses: bool = False) -> None:
        self._root = root
        self._refuses = refuses
        self.concurrency = concurrency

    # --- what a collector asks

    def submit(self, submission: Submission, note: Note) -> Handle:
        """See `DetachedSurface.submit`. The launch lies between the two notes."""
        self._answer()
        if self._refuses:
            raise RunFailed("run-failed", f"{submission.run_id} was refused by the far side", "mend the script")
        far = self._root / submission.run_id
        far.mkdir(parents=True, exist_ok=True)
        note({"app_id": f"app-{submission.run_id}"})
        fd = os.open(far / "launches", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"launched\n")
        finally:
            os.close(fd)
        if not (far / "status.json").exists():
            self.say(submission.run_id, "queued", "waiting for a machine")
        ids = {"app_id": f"app-{submission.run_id}", "call_id": f"call-{submission.run_id}"}
        note(ids)
        return Handle(submission.run_id, self.name, ids, str(submission.paths.root))

    def probe(self, handle: Handle) -> Status:
        """See `DetachedSurface.probe`."""
        if self._is_down:
            return Status("unreachable", "the far side does not answer")
        far = self._root / handle.run_id
        try:
            doc = json.loads((far / "status.json").read_bytes())
        except FileNotFoundError:
            if self.launches(handle.run_id):
                return Status("unknown", "it was launched, and nothing is told of it yet")
            return Status("absent", "nothing was launched under this run id")
        ids = {"app_id": f"app-{handle.run_id}", "call_id": f"call-{handle.run_id}"}
        return Status(
            doc["word"],
            doc["detail"],
            doc.get("kind"),
            {name: value for name, value in ids.items() if handle.ids.get(name) != value},
            doc.get("completed_at"),
            doc.get("progress"),
        )

    def fetch(self, handle: Handle, into: AttemptPaths) -> Fetched:
        """See `DetachedSurface.fetch`."""
        self._answer()
        files = self._root / handle.run_id / "files"
        names = plain_names(files) if files.is_dir() else []
        return Fetched(tuple(replace_files(into.root, ((name, (files / name).read_bytes()) for name in names))))

    def cancel(self, handle: Handle, reason: str) -> None:
        """See `DetachedSurface.cancel`."""
        self._answer()
        if self.probe(handle).word in ("queued", "running"):
            self.say(handle.run_id, "cancelled", reason, completed_at="2026-01-01T00:00:09.000Z")

    def call_graph(self, handle: Handle) -> dict[str, Any]:
        """See `DetachedSurface.call_graph`."""
        self._answer()
        return {"function": "run", "call": handle.ids.get("call_id", "not known"), "children": []}

    # --- what a test lets happen on the far side

    def say(
        self,
        run_id: str,
        word: Word,
        detail: str,
        *,
        kind: FailureKind | None = None,
        completed_at: str | None = None,
        progress: str | None = None,
    ) -> None:
        """From now on this is what is said of the run."""
        told = {"kind": kind, "completed_at": completed_at, "progress": progress}
        doc = {"word": word, "detail": detail} | {name: value for name, value in told.items() if value is not None}
        (self._root / run_id).mkdir(parents=True, exist_ok=True)
        replace_file(self._root / run_id / "status.json", encode(doc))

    def leave(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Files that can be fetched from now on."""
        for name, data in files.items():
            target = self._root / run_id / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def fall_silent(self, *, silent: bool = True) -> None:
        """Nothing answers any more, or everything again."""
        self._root.mkdir(parents=True, exist_ok=True)
        if silent:
            (self._root / "down").touch()
        else:
            (self._root / "down").unlink(missing_ok=True)

    def launches(self, run_id: str) -> int:
        """How often the run was launched."""
        try:
            return len((self._root / run_id / "launches").read_bytes().splitlines())
        except FileNotFoundError:
            return 0

    @property
    def _is_down(self) -> bool:
        return (self._root / "down").exists()

    def _answer(self) -> None:
        if self._is_down:
            raise SurfaceError("surface-unreachable", "the fake far side does not answer", "try again")
