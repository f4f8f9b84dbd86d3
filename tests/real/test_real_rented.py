"""The function that a rented container runs, with a real worker and a directory for a Volume: every way it may end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.manifest import load
from lanemark.collect.modal_job import Container, run_in
from lanemark.collect.preparing import prepare
from lanemark.launch.modal_results import Done, chosen
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import observed

CASE = Case(
    lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", surface="modal",
)  # fmt: skip


class Cancelled(BaseException):
    """As the SDK's own: no Exception."""


class TakenAway(BaseException):
    """As KeyboardInterrupt."""


@dataclass
class Box:
    """One rented box: what `modal_inside` would give its worker, over directories of this host."""

    root: Path
    commits: list[str] = field(default_factory=list)
    #: Called at each commit: where a test breaks in.
    at_commit: Callable[[], None] = lambda: None

    def container(self, **changes: Any) -> Container:
        def commit() -> None:
            self.commits.append(time.strftime("%H:%M:%S"))
            self.at_commit()

        about = {"task_id": observed("ta-1", "MODAL_TASK_ID").to_json(), "call_id": observed("fc-1", "sdk").to_json(),
                 "app_id": observed("ap-1", "sdk").to_json()}  # fmt: skip
        made = Container(
            about=about, commit=commit, reload=lambda: None, cancelled=Cancelled, taken_away=TakenAway,
            results=self.root / "results", cache=self.root / "cache", data=self.root / "data",
        )  # fmt: skip
        return replace(made, **changes)

    def payload(self, does: str = "exit 0", **changes: Any) -> dict[str, Any]:
        case = replace(CASE, command=("sh", "-c", does))
        attempt = prepare(Home(self.root / "launcher"), case, argv=["lanemark", "run"], placement={}, data={})
        return {
            "run_id": attempt.paths.run_id, "case": case.to_json(), "manifest": load(attempt.paths).to_json(),
            "timeout_s": 600, "results": "r", **changes,
        }  # fmt: skip

    def manifests(self, payload: dict[str, Any]) -> list[Done]:
        paths = (self.root / "results" / payload["run_id"]).glob("executions/*/done.json")
        return [Done.from_json(json.loads(path.read_bytes())) for path in sorted(paths)]

    def predicate(self, payload: dict[str, Any], execution: int = 1) -> dict[str, Any]:
        path = self.root / "results" / payload["run_id"] / "executions" / str(execution) / "attempt" / "record.json"
        found: dict[str, Any] = json.loads(path.read_bytes())["predicate"]
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_run_is_sealed_on_the_box_and_carried_with_its_manifest_last(box: Box) -> None:
    payload = box.payload()
    given = run_in(box.container(), payload)
    (done,) = box.manifests(payload)
    assert (given["state"], given["execution"], given["record_id"]) == (done.state, 1, done.record_id)
    assert done.final
    assert {"record.json", "host.json", "executions.json", "exits.json"} <= {file.name for file in done.files}
    seen = box.predicate(payload)
    assert seen["run_id"] == payload["run_id"]
    assert (seen["surface"]["app_id"]["value"], seen["surface"]["call_id"]["value"]) == ("ap-1", "fc-1")
    assert seen["attempt"] == 1
    assert seen["transitions"][0]["at"] == payload["manifest"]["transitions"][0]["at"], "the launcher's attempt goes on"
    assert "monotonic_s" not in seen["transitions"][0], "the launcher's clock is not this box's"
    assert len(box.commits) >= 2, "the claim, and the results"


def test_a_run_that_is_over_is_not_begun_again(box: Box) -> None:
    payload = box.payload()
    first = run_in(box.container(), payload)
    again = run_in(box.container(), payload)
    assert again == {**first, "adopted": True}
    assert len(box.manifests(payload)) == 1


def raising(box: Box, what: type[BaseException]) -> Callable[[float], None]:
    """A sleep that raises once the rank has printed something, as the SDK's signal handlers do."""
    began = time.monotonic()

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        assert time.monotonic() - began < 60
        printed = list((box.root / "tmp").glob("lanemark-*/home/attempts/*/ranks/0/stdout.log"))
        if printed and printed[0].stat().st_size:
            raise what

    return sleep


@pytest.fixture
def scratch(box: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    (box.root / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(box.root / "tmp"))
    return box


def test_a_box_that_is_taken_away_ends_no_run_and_the_next_begins_again(scratch: Box) -> None:
    payload = scratch.payload(
        'grep -q \'"execution":2\' "$LANEMARK_ATTEMPT_DIR/executions.json" || { echo on; sleep 60; }'
    )
    with pytest.raises(TakenAway):
        run_in(scratch.container(sleep=raising(scratch, TakenAway)), payload)
    (first,) = scratch.manifests(payload)
    assert (first.final, first.state) == (False, "cancelled")
    assert chosen([first]) is None
    given = run_in(scratch.container(), payload)
    assert given["execution"] == 2
    over = chosen(scratch.manifests(payload))
    assert over is not None
    assert over.execution == 2
    seen = scratch.predicate(payload, 2)
    assert seen["attempt"] == 2
    (finding,) = [found for found in seen["findings"] if found["kind"] == "begun_again"]
    assert len(finding["evidence"]) == 2
    assert scratch.predicate(payload, 1)["outcome"]["receipt"] is False


def test_a_person_s_cancellation_is_the_run_s_end(scratch: Box) -> None:
    payload = scratch.payload("echo on; sleep 60")
    with pytest.raises(Cancelled):
        run_in(scratch.container(sleep=raising(scratch, Cancelled)), payload)
    (done,) = scratch.manifests(payload)
    assert (done.final, done.state) == (True, "cancelled")


def test_time_that_is_up_is_sealed_and_not_run_into(box: Box) -> None:
    """The deadline is of the run: an execution that begins after it seals why it does not begin."""
    payload = box.payload("sleep 60", timeout_s=121)
    given = run_in(box.container(), payload)
    assert given["state"] == "error"
    seen = box.predicate(payload)
    assert "too few to run" in seen["outcome"]["first_cause"]["summary"]
    assert seen["outcome"]["receipt"] is False


def test_data_that_the_volume_lacks_or_that_is_another_starts_no_run(box: Box) -> None:
    payload = box.payload(data="ab" * 16)
    assert run_in(box.container(), payload)["state"] == "error"
    assert "has no" in box.predicate(payload)["outcome"]["first_cause"]["summary"]


def test_a_worker_that_fails_is_told_in_the_envelope_and_raises_nothing(box: Box) -> None:
    payload = box.payload()
    payload["case"] = {"no": "case"}
    given = run_in(box.container(), payload)
    assert given["state"] == "lost"
    assert "the worker failed" in given["reason"]


def test_a_volume_that_cannot_be_committed_is_told_and_raises_nothing(box: Box) -> None:
    """A builtin TimeoutError out of the function would read `no output yet` for ever."""

    def refuse() -> None:
        raise TimeoutError("no commit")

    box.at_commit = refuse
    payload = box.payload()
    given = run_in(box.container(), payload)
    assert "error" not in given
    (done,) = box.manifests(payload)
    assert done.final
    assert "could not be" not in done.reason, "files were carried; only making them visible is left to the service"
