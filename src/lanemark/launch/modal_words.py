"""From what the Modal SDK raises to the word a collector acts on. Pure: by the names of classes, so it needs no SDK.

    builtin TimeoutError        no output yet: the call graph says whether a container has it
    FunctionTimeoutError        the service ended the execution at its own limit
    OutputExpiredError          it ended, and its output is no longer kept (after 7 days)
    ImageBuildError             the image could not be built: no rank ran
    RemoteError                 cancelled, stopped or never started: the call graph says which
    InternalFailure             the service's own fault
    AuthError, PermissionDenied the credentials were refused: nothing is known of the run
    NotFoundError               the service does not know the call
    ConnectionError, ServiceError, ClientClosed, ...   it could not be asked
    anything else               the function raised it, and the SDK raised it again here: a `SystemExit` is one of them

`FunctionTimeoutError` and `OutputExpiredError` are no builtin TimeoutError, and a builtin TimeoutError that a remote
function raises looks exactly like "no output yet"; the call graph's own status tells them apart.
"""

from __future__ import annotations

from typing import Final

from lanemark.launch.detached import FailureKind, Status
from lanemark.records.encoding import safe_text

#: Statuses of an input in the call graph that are an end, and no good one (modal.types.InputStatus).
BAD: Final = frozenset({"FAILURE", "INIT_FAILURE", "TERMINATED", "TIMEOUT"})
#: As `lineage` names them: the service was not asked, or did not answer.
_SILENT: Final = frozenset(
    {
        "modal.ConnectionError", "modal.ServiceError", "modal.ClientClosed", "modal.ResourceExhaustedError",
        "modal.InternalError", "modal.UnimplementedError", "grpclib.StreamTerminatedError", "grpclib.GRPCError",
        "lanemark.Silence", "builtins.OSError", "asyncio.CancelledError", "aiohttp.ClientError",
    }
)  # fmt: skip
_FAILURES: Final[dict[str, FailureKind]] = {
    "modal.FunctionTimeoutError": "timed_out",
    "modal.ImageBuildError": "start_failed",
    "modal.InternalFailure": "infrastructure",
}
#: As `lineage` names them.
REFUSED: Final = frozenset({"modal.AuthError", "modal.PermissionDeniedError"})


def lineage(error: BaseException) -> list[str]:
    """`module.name` of an error's class and of all it is derived from."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__]


def said(error: BaseException) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return safe_text(f"{type(error).__name__}: {text}" if text else type(error).__name__)[:300]


def waiting(status: str | None, task: str | None) -> Status:
    """What a call without an output is doing.

    Args:
        status: of its input in the call graph; None where the graph does not have it.
        task: the container that has the input, or None.
    """
    if status == "TIMEOUT":
        return Status("failed", "the service ended it at its own limit", kind="timed_out")
    if status == "INIT_FAILURE":
        return Status("failed", "no container could be started", kind="start_failed")
    if status == "TERMINATED":
        return Status("cancelled", "the call was cancelled or its app stopped")
    if status == "FAILURE":
        return Status("failed", "the function raised TimeoutError, which a function must not", kind="raised")
    if task:
        return Status("running", f"container {task} has it")
    return Status("queued", "no container has taken it yet")


def ended(error: BaseException, status: str | None) -> Status | None:
    """The word for what asking for an output raised; None where it says that there is none yet.

    Args:
        error: as it was raised.
        status: of the call's input in the call graph; None where that is not known.
    """
    kinds = lineage(error)
    detail = said(error)
    if kinds[0] == "builtins.TimeoutError":
        return None
    for kind in kinds:
        if kind in _FAILURES:
            return Status("failed", detail, kind=_FAILURES[kind])
    if "modal.OutputExpiredError" in kinds:
        return Status("expired", "the service keeps outputs for 7 days")
    if "modal.RemoteError" in kinds:
        return _remote(str(error), detail, status)
    if REFUSED & set(kinds):
        return Status("unreachable", f"the credentials were refused ({detail})")
    if "modal.NotFoundError" in kinds:
        return Status("unknown", f"the service does not know the call ({detail})")
    # A function may raise an OSError as well; only the call graph can tell that one from a network's.
    if _SILENT & set(kinds) and status not in BAD:
        return Status("unreachable", detail)
    return Status("failed", detail, kind="raised")


def _remote(text: str, detail: str, status: str | None) -> Status:
    """A RemoteError: the service's own word, in which a call was stopped or never began."""
    if status == "INIT_FAILURE" or (status is None and "failed to start" in text):
        return Status("failed", detail, kind="start_failed")
    if status == "TERMINATED" or (status is None and "cancel" in text.lower()):
        return Status("cancelled", detail)
    return Status("failed", detail, kind="raised")
