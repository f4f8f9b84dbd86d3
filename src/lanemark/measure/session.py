"""`RankSession`: what a rank program opens first and closes last.

```
with RankSession.from_environment(os.environ) as session:
    recorder = session.recorder()
    ...
    session.write_end({...})
```

It makes the beacon before anything heavy is imported, reads the case, and leaves a reason behind when the program
fails: `error.json` in the layout of torchelastic's error files, so that one reader serves our ranks and anyone's. The
bytes for it are allocated at the start, because a full disk is one of the failures it must be able to tell about.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from lanemark.measure.beacon import Beacon
from lanemark.measure.control import open_control_plane
from lanemark.measure.durable import preallocate, replace_file, write_all
from lanemark.measure.recorder import StepRecorder
from lanemark.measure.samples import SampleFile
from lanemark.records.attempt import AttemptPaths, RankPaths
from lanemark.records.case import Case
from lanemark.records.encoding import encode, safe_text
from lanemark.records.errors import UsageError

#: Room kept for `error.json`. A Python stack of 60 frames is about 8 KiB.
ERROR_BYTES: Final = 16 * 1024
_MESSAGE_CHARS: Final = 2_000
_STACK_CHARS: Final = 6_000


class RankSession:
    """One rank's place in an attempt.

    Attributes:
        rank, world_size, local_rank: as the launcher set them.
        case: what is asked.
        attempt: file names of the attempt; `paths`: file names of this rank.
        data_dir: directory of token shards, or None for made-up tokens.
        listen_fd: on rank 0, an inherited socket that already listens on MASTER_PORT; None elsewhere.
        beacon: this rank's page, in phase `start`.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        local_rank: int,
        case: Case,
        attempt: AttemptPaths,
        paths: RankPaths,
        data_dir: Path | None,
        listen_fd: int | None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.case = case
        self.attempt = attempt
        self.paths = paths
        self.data_dir = data_dir
        self.listen_fd = listen_fd
        self.beacon = Beacon.create(paths.beacon, rank=rank, world_size=world_size)
        self._reserve = paths.error.with_name("error.reserve")
        self._recorder: StepRecorder | None = None
        self._close_control: Callable[[], None] = lambda: None

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> RankSession:
        """Open the session that the launcher described in `env`.

        Raises:
            UsageError: the environment is not one that a Lanemark launcher made (`value-invalid`).
            OSError: the rank's directory cannot be written.
        """
        attempt = AttemptPaths(Path(_required(env, "LANEMARK_ATTEMPT_DIR")))
        try:
            case = Case.from_json(json.loads(attempt.case.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(
                "value-invalid",
                f"the case file {str(attempt.case)!r} cannot be read ({type(error).__name__}: {error})",
                "start ranks with `lanemark run`, which writes it",
            ) from error
        data_dir = env.get("LANEMARK_DATA_DIR")
        return cls(
            rank=_number(env, "RANK"),
            world_size=_number(env, "WORLD_SIZE"),
            local_rank=_number(env, "LOCAL_RANK"),
            case=case,
            attempt=attempt,
            paths=RankPaths(Path(_required(env, "LANEMARK_RANK_DIR"))),
            data_dir=Path(data_dir) if data_dir else None,
            listen_fd=_number(env, "LANEMARK_LISTEN_FD") if env.get("LANEMARK_LISTEN_FD") else None,
        )

    def recorder(self, *, stamps_data: bool = False) -> StepRecorder:
        """The step recorder, with room for every step of the case. Call it once, before the first step.

        Args:
            stamps_data: the loop calls `data_ready` in every step, the first included, so that waiting for the very
                first tokens is seen from outside too.

        Raises:
            OSError: ENOSPC when the disk cannot hold every row.
        """
        if self._recorder is not None:
            raise ValueError("a session has one recorder")
        file = SampleFile.create(self.paths.samples, rank=self.rank, warmup=self.case.warmup, rows=self.case.steps)
        self._recorder = StepRecorder(file, self.beacon, stamps_data=stamps_data)
        return self._recorder

    def open_to_looks(self) -> dict[str, Any]:
        """Let the supervisor ask this rank for its stacks and its flight recorder while it hangs. Imports torch.

        Returns:
            An observation in JSON form: whether it can be asked, or why not.
        """
        self._close_control, seen = open_control_plane(self.paths.control)
        return seen

    def write_observed(self, doc: dict[str, Any]) -> None:
        """Publish what this rank saw of itself (`observed.json`); may be called again, the last one counts."""
        replace_file(self.paths.observed, encode(doc))

    def write_result(self, doc: dict[str, Any]) -> None:
        """Publish what a lane without steps found (`result.json`), before the end marker."""
        replace_file(self.paths.result, encode(doc))

    def write_end(self, doc: dict[str, Any]) -> None:
        """Publish the end marker (`end.json`), last of all: it says that everything before it was done."""
        self._close_control()
        replace_file(self.paths.end, encode(doc))
        self.beacon.enter("done")

    def __enter__(self) -> RankSession:
        preallocate(self._reserve, ERROR_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_control()
        failed = error is not None and not (isinstance(error, SystemExit) and error.code in (0, None))
        # Nothing here may replace the exception that is on its way out, whatever else is broken by now.
        if failed and error is not None:
            with contextlib.suppress(Exception):
                self.beacon.enter("failed", type(error).__name__)
            with contextlib.suppress(Exception):
                self._write_error(error, trace)
        else:
            with contextlib.suppress(OSError):
                os.unlink(self._reserve)
        with contextlib.suppress(Exception):
            if self._recorder is not None:
                self._recorder.close()
            self.beacon.close()

    def _write_error(self, error: BaseException, trace: TracebackType | None) -> None:
        """Write into the blocks that were set aside, then move them to `error.json`."""
        data = error_document(error, trace, at=int(time.time()))
        fd = os.open(self._reserve, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(fd, data)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(self._reserve, self.paths.error)


def error_document(error: BaseException, trace: TracebackType | None, *, at: int) -> bytes:
    """`error.json` (source: torch.distributed.elastic.multiprocessing.errors, ErrorHandler.record_exception).

    Long texts are cut, the call stack from its outer end, so that the document fits the bytes set aside for it.

    Args:
        error: what was raised.
        trace: where.
        at: seconds since the epoch.
    """
    message = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
    stack = "".join(traceback.format_exception(type(error), error, trace))[-_STACK_CHARS:]
    document = {"message": {"message": message, "extraInfo": {"py_callstack": stack, "timestamp": str(at)}}}
    data = json.dumps(document, ensure_ascii=False, allow_nan=False)
    encoded = safe_text(data).encode("utf-8")
    # Text outside ASCII takes more bytes than characters; escapes bound it no better, so the stack goes first.
    if len(encoded) > ERROR_BYTES:
        document["message"]["extraInfo"] = {"py_callstack": "", "timestamp": str(at)}
        document["message"]["message"] = message[: _MESSAGE_CHARS // 2]
        encoded = safe_text(json.dumps(document, ensure_ascii=False)).encode("utf-8")
    return encoded


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name)
    if not value:
        raise UsageError("value-invalid", f"{name} is not set, so this is no rank of an attempt", _REMEDY)
    return value


def _number(env: Mapping[str, str], name: str) -> int:
    value = _required(env, name)
    if not (value.isascii() and value.isdigit()):
        raise UsageError("value-invalid", f"{name} is {value[:40]!r}, which is no number", _REMEDY)
    return int(value)


_REMEDY: Final = "start ranks with `lanemark run`"
