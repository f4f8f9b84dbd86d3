"""The results Volume: how a worker inside a container and a collector anywhere find the same files. Pure.

    <run-id>/intent.json                        written by the launcher, before the call is made
    <run-id>/cancel.json                        written by whoever asks for the run's end, before asking
    <run-id>/executions/<n>/claim.json          written by a container before it does anything else
    <run-id>/executions/<n>/attempt/...         the attempt directory, carried over now and then and at the end
    <run-id>/executions/<n>/done.json           the manifest of what was carried, written last

The service may take a container away and begin again with the same input, whether or not retries were asked for. Each
such beginning is an *execution* with a number of its own, so that nothing is written twice under one name, and the
record says which one it is of. `done.json` says whether the run is over (`final`) or only this execution of it; the
first final one is the run's, and no execution begins after it. So there is one record, whoever was killed when.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = 1
INTENT: Final = "intent.json"
CANCEL: Final = "cancel.json"
CLAIM: Final = "claim.json"
DONE: Final = "done.json"
ATTEMPT: Final = "attempt"
_EXECUTION: Final = re.compile(r"executions/([0-9]{1,6})/(.+)")
#: An attempt of 8 ranks leaves about 80 files; a list far beyond that was not written by a worker of ours.
MAX_FILES: Final = 20_000
_HEX: Final = re.compile(r"[0-9a-f]{64}")


def execution_directory(number: int) -> str:
    """Where an execution's files lie, below the run's directory."""
    return f"executions/{number}"


@dataclass(frozen=True)
class CarriedFile:
    """One file as it was when it was carried."""

    name: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Done:
    """The manifest of one execution.

    Attributes:
        run_id: the run.
        execution: its number, from 1.
        state: what the attempt ended in; `running` where its container was told to go before it ended.
        final: whether the run is over with it. A container that is taken away is not the end of the run.
        reason: one phrase.
        ended_at: RFC 3339, the container's clock.
        record_id: of the sealed record; None where none could be sealed.
        files: what was carried of the attempt directory.
    """

    run_id: str
    execution: int
    state: str
    final: bool
    reason: str
    ended_at: str
    record_id: str | None
    files: tuple[CarriedFile, ...]

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "format": FORMAT,
            "run_id": self.run_id,
            "execution": self.execution,
            "state": self.state,
            "final": self.final,
            "reason": self.reason,
            "ended_at": self.ended_at,
            "files": [file.to_json() for file in self.files],
        }
        return doc if self.record_id is None else doc | {"record_id": self.record_id}

    @classmethod
    def from_json(cls, doc: Any) -> Done:
        """Read back `to_json`. Raises ValueError when the document is none: it came over a network from another box."""
        try:
            if doc["format"] != FORMAT or len(doc["files"]) > MAX_FILES:
                raise ValueError(f"format {doc['format']!r}")
            files = tuple(CarriedFile(file["name"], int(file["bytes"]), file["sha256"]) for file in doc["files"])
            if any(not plain(file.name) or not _HEX.fullmatch(file.sha256) for file in files):
                raise ValueError("a file's name or digest is none")
            record = doc.get("record_id")
            return cls(
                str(doc["run_id"]), int(doc["execution"]), str(doc["state"]), doc["final"] is True,
                str(doc["reason"]), str(doc["ended_at"]), None if record is None else str(record), files,
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest of results ({type(error).__name__})") from None


def plain(name: object) -> bool:
    """Whether a name stays inside the directory that it is joined to."""
    if not isinstance(name, str) or not name or len(name) > 512 or name.startswith("/") or "\0" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


@dataclass(frozen=True)
class Listing:
    """What lies in the Volume for one run.

    Attributes:
        executions: number → names below its directory.
        intent: whether the launcher announced its call.
        cancel: whether somebody asked for the run's end.
    """

    executions: Mapping[int, frozenset[str]]
    intent: bool
    cancel: bool = False

    @property
    def done(self) -> tuple[int, ...]:
        """Executions whose manifest is there, in order."""
        return tuple(number for number in sorted(self.executions) if DONE in self.executions[number])

    @property
    def last(self) -> int | None:
        """The execution that was begun last."""
        return max(self.executions, default=None)


def listing(run_id: str, paths: Iterable[str]) -> Listing:
    """Sort the Volume's paths (`/`-separated, from its root). What has another form is nobody's."""
    found: dict[int, set[str]] = {}
    plain_files = set()
    for path in paths:
        name = path.strip("/").removeprefix(f"{run_id}/")
        plain_files.add(name)
        match = _EXECUTION.fullmatch(name)
        if match is not None and plain(match[2]):
            found.setdefault(int(match[1]), set()).add(match[2])
    executions = {number: frozenset(names) for number, names in found.items()}
    return Listing(executions, INTENT in plain_files, CANCEL in plain_files)


def chosen(manifests: Iterable[Done]) -> Done | None:
    """The execution that stands for the run: the first that is final; None where none is, and the run goes on."""
    return next((done for done in sorted(manifests, key=lambda done: done.execution) if done.final), None)
