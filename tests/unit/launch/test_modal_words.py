"""From what the SDK raises to one word: every class of it, by its name alone, and what only the call graph can tell."""

from __future__ import annotations

import pytest

from lanemark.launch.detached import Handle
from lanemark.launch.modal import ModalSurface
from lanemark.launch.modal_words import ended, waiting

exception = pytest.importorskip("modal.exception", reason="the SDK's own classes are what is mapped")


@pytest.mark.parametrize(
    ("error", "status", "word", "kind"),
    [
        (exception.FunctionTimeoutError("hit its timeout"), "TIMEOUT", "failed", "timed_out"),
        (exception.OutputExpiredError(), None, "expired", None),
        (exception.ImageBuildError("no such image", "im-1"), None, "failed", "start_failed"),
        (exception.InternalFailure("lost"), "FAILURE", "failed", "infrastructure"),
        (exception.RemoteError("cancelled"), "TERMINATED", "cancelled", None),
        (exception.RemoteError("Input was cancelled by user"), None, "cancelled", None),
        (exception.RemoteError("container failed to start (71)"), "INIT_FAILURE", "failed", "start_failed"),
        (exception.RemoteError("container failed to start (71)"), None, "failed", "start_failed"),
        (exception.RemoteError("boom"), "FAILURE", "failed", "raised"),
        (exception.AuthError("bad token"), None, "unreachable", None),
        (exception.PermissionDeniedError("no"), None, "unreachable", None),
        (exception.NotFoundError("no such call"), None, "unknown", None),
        (exception.ConnectionError("refused"), None, "unreachable", None),
        (exception.ServiceError("down"), None, "unreachable", None),
        (OSError("network is unreachable"), None, "unreachable", None),
        (OSError("the function could not open a file"), "FAILURE", "failed", "raised"),
        (ValueError("theirs"), "FAILURE", "failed", "raised"),
        (SystemExit(3), "FAILURE", "failed", "raised"),
        (KeyboardInterrupt(), None, "failed", "raised"),
    ],
)
def test_every_error_has_its_word(error: BaseException, status: str | None, word: str, kind: str | None) -> None:
    found = ended(error, status)
    assert found is not None
    assert (found.word, found.kind) == (word, kind)


def test_only_the_builtin_timeout_means_that_there_is_no_output_yet() -> None:
    assert ended(TimeoutError(), None) is None
    assert ended(exception.TimeoutError("x"), None) is not None


@pytest.mark.parametrize(
    ("status", "task", "word"),
    [
        ("PENDING", None, "queued"), ("PENDING", "ta-1", "running"), (None, None, "queued"), ("TIMEOUT", "ta-1", "failed"),
        ("INIT_FAILURE", None, "failed"), ("TERMINATED", None, "cancelled"), ("FAILURE", "ta-1", "failed"),
    ],
)  # fmt: skip
def test_without_an_output_the_call_graph_says_what_is_going_on(
    status: str | None, task: str | None, word: str
) -> None:
    """A TimeoutError that the function itself raised has a status of FAILURE, and would be waited for otherwise."""
    assert waiting(status, task).word == word


def test_a_run_that_ends_between_the_two_questions_is_asked_about_once_more(monkeypatch):
    """No output, then a graph that says it has ended: the service's own words are in the output by then."""

    class Asked:
        """The client, as far as a probe needs it."""

        answers = [TimeoutError(), exception.RemoteError("container failed to start (71): out of disk")]  # noqa: RUF012

        def output(self, call_id):
            raise self.answers.pop(0)

        def call_graph(self, call_id):
            return [{"call_id": call_id, "status": "INIT_FAILURE"}]

    monkeypatch.setattr("lanemark.launch.modal.client", Asked)
    found = ModalSurface().probe(Handle("training-20260101T000000Z-00000000", "modal", {"call_id": "fc-1"}))
    assert (found.word, found.kind) == ("failed", "start_failed")
    assert "out of disk" in found.detail

    Asked.answers = [TimeoutError(), TimeoutError()]
    found = ModalSurface().probe(Handle("training-20260101T000000Z-00000000", "modal", {"call_id": "fc-1"}))
    assert (found.word, found.kind) == ("failed", "start_failed"), "without them the graph's word stands"
