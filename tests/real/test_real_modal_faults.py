"""Every fault that the loopback Modal can make, with real containers: no run is lost, and none is run to its end twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.lock import AttemptLock
from lanemark.collect.modal_launch import launching_surface
from lanemark.collect.preparing import prepare
from lanemark.launch.detached import Handle, Status, Submission
from lanemark.launch.modal import ModalSurface
from lanemark.launch.modal_request import Bucket, Rental
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import RunFailed, SurfaceError
from modal_plane import IMAGE, ModalPlane, healed_plane

CASE = Case(
    lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", surface="modal",
)  # fmt: skip
#: Ends at once, but for a first execution, which waits to be taken away.
SECOND_ENDS = 'grep -q \'"execution":2\' "$LANEMARK_ATTEMPT_DIR/executions.json" || sleep 60'


plane = pytest.fixture(healed_plane)


class Run:
    """One run, handed over."""

    def __init__(self, home: Path, does: str, rental: Rental = Rental(image=IMAGE)) -> None:  # noqa: B008 - frozen
        case = replace(CASE, command=("sh", "-c", does))
        self.surface: ModalSurface = launching_surface(rental)
        self.attempt = prepare(Home(home), case, argv=["lanemark", "run"], placement={}, data={})
        lock = AttemptLock(self.attempt.paths.lock)
        assert lock.take()
        placement = Placement(Home(home))
        submission = Submission(
            self.attempt.paths, case, self.surface.request(case, placement), placement, lock.fileno()
        )
        self.noted: dict[str, str] = {}
        try:
            self.handle = self.surface.submit(submission, self.noted.update)
        finally:
            lock.release()

    def until(self, *words: str, seconds: float = 60) -> Status:
        ends = time.monotonic() + seconds
        while (status := self.surface.probe(self.handle)).word not in words:
            assert time.monotonic() < ends, status
            time.sleep(0.05)
        return status

    def task(self, plane: ModalPlane) -> str:
        """The container that has the run, once its worker has begun."""
        inputs = plane.until(
            lambda seen: [i for i in seen["inputs"].values() if i["call"] == self.handle.ids["call_id"] and i["task"]]
        )
        task = str(inputs[0]["task"])
        results = Path(plane.order("look")["volumes"]["lanemark-results"]) / self.handle.run_id / "executions"
        plane.until(lambda _: any(task in path.read_text() for path in results.glob("*/claim.json")))
        return task

    def predicate(self) -> dict[str, Any]:
        fetched = self.surface.fetch(self.handle, self.attempt.paths)
        assert fetched.problems == ()
        found: dict[str, Any] = json.loads(self.attempt.paths.record.read_bytes())["predicate"]
        return found


def executions(run: Run, plane: ModalPlane) -> int:
    results = Path(plane.order("look")["volumes"]["lanemark-results"]) / run.handle.run_id / "executions"
    return len(list(results.iterdir()))


@pytest.mark.parametrize("how", ["kill", "preempt"])
def test_a_container_that_is_taken_away_shows_as_a_second_execution(
    plane: ModalPlane, tmp_path: Path, how: str
) -> None:
    before = len(plane.requests("FunctionMap"))
    run = Run(tmp_path, SECOND_ENDS)
    plane.order(how, task=run.task(plane))
    run.until("finished")
    seen = run.predicate()
    assert seen["attempt"] == 2
    (finding,) = [found for found in seen["findings"] if found["kind"] == "begun_again"]
    assert len(finding["evidence"]) == 2
    assert executions(run, plane) == 2
    assert len(plane.requests("FunctionMap")) == before + 1, "the call was made once"


def test_containers_that_die_before_they_begin_cost_time_and_no_execution(plane: ModalPlane, tmp_path: Path) -> None:
    plane.order("fault", crash_before_input=2)
    run = Run(tmp_path, "exit 0")
    run.until("finished")
    assert run.predicate()["attempt"] == 1
    plane.order("fault", crash_before_input=9)
    never = Run(tmp_path, "exit 0")
    status = never.until("failed")
    assert status.kind == "start_failed"
    assert "the container dies" in status.detail or "failed to start" in status.detail
    assert never.surface.fetch(never.handle, never.attempt.paths).files == ()


def test_a_result_that_expired_is_read_from_the_volume(plane: ModalPlane, tmp_path: Path) -> None:
    run = Run(tmp_path, "exit 0")
    run.until("finished")
    for fault in ("expire_results", "hide_calls"):
        plane.order("heal")
        plane.order("fault", **{fault: True})
        status = run.surface.probe(run.handle)
        assert (status.word, status.completed_at is not None) == ("expired", True)
        assert "on the Volume" in status.detail
    assert run.predicate()["run_id"] == run.handle.run_id


def test_no_capacity_is_a_queue_and_a_queued_run_can_be_cancelled(plane: ModalPlane, tmp_path: Path) -> None:
    plane.order("fault", no_capacity=True)
    run = Run(tmp_path, "exit 0")
    assert run.surface.probe(run.handle).word == "queued"
    assert run.surface.call_graph(run.handle)["inputs"][0]["status"] == "PENDING"
    run.surface.cancel(run.handle, "no longer wanted")
    assert run.until("cancelled").word == "cancelled"
    plane.order("fault", no_capacity=False, slow_start_s=0.5)
    late = Run(tmp_path, "exit 0")
    assert late.surface.probe(late.handle).word == "queued"
    late.until("finished")


def test_a_cancelled_run_is_fetched_once_its_worker_has_sealed(plane: ModalPlane, tmp_path: Path) -> None:
    """A service may call a run ended before it is: what its worker is about to seal is waited for."""
    plane.order("fault", cancelled_at_once=True)
    run = Run(tmp_path, "echo on; sleep 60")
    run.task(plane)
    run.until("running")
    run.surface.cancel(run.handle, "no longer wanted")
    run.until("cancelled")
    seen = run.predicate()
    assert (seen["outcome"]["state"], seen["outcome"]["receipt"]) == ("cancelled", False)


def test_an_image_that_cannot_be_built_launches_nothing(plane: ModalPlane, tmp_path: Path) -> None:
    plane.order("fault", image_failure="manifest unknown")
    before = len(plane.requests("FunctionMap"))
    with pytest.raises(RunFailed, match="manifest unknown") as caught:
        Run(tmp_path, "exit 0")
    assert caught.value.slug == "run-failed"
    assert len(plane.requests("FunctionMap")) == before


@pytest.mark.parametrize("fault", ["unavailable", "lost_answer"])
def test_a_call_whose_answer_is_lost_is_made_once(plane: ModalPlane, tmp_path: Path, fault: str) -> None:
    """The SDK asks again with the same key; one call comes of it."""
    plane.order("fault", **{fault: {"FunctionMap": [1], "AppCreate": [1], "FunctionCreate": [1]}})
    before = len({item["call"] for item in plane.order("look")["inputs"].values()})
    run = Run(tmp_path, "exit 0")
    run.until("finished")
    assert len({item["call"] for item in plane.order("look")["inputs"].values()}) == before + 1
    assert executions(run, plane) == 1


def test_a_service_that_is_down_is_silence_and_no_end(plane: ModalPlane, tmp_path: Path) -> None:
    run = Run(tmp_path, "sleep 60")
    run.task(plane)
    run.until("running")
    every = {name: list(range(1, 100)) for name in ("FunctionGetOutputs", "FunctionCallCancel", "FunctionGetCallGraph",
                                                    "VolumeGetOrCreate")}  # fmt: skip
    plane.order("fault", unavailable=every)
    assert run.surface.probe(run.handle).word == "unreachable"
    with pytest.raises(SurfaceError) as caught:
        run.surface.cancel(run.handle, "x")
    assert caught.value.slug == "surface-unreachable"
    plane.order("heal")
    assert run.surface.probe(run.handle).word == "running"
    run.surface.cancel(run.handle, "the test is over")
    run.until("cancelled")


def test_a_launcher_that_died_before_its_call_left_an_app_that_can_be_ended(plane: ModalPlane, tmp_path: Path) -> None:
    """Between the intent and the call: what was never called is told from what is not known."""
    plane.order("fault", unavailable={"FunctionMap": list(range(1, 100))})
    with pytest.raises(SurfaceError) as caught:
        Run(tmp_path, "exit 0")
    assert caught.value.slug == "surface-unreachable"
    run_id = next(path.name for path in (tmp_path / "attempts").iterdir())
    plane.order("heal")
    surface = ModalSurface()
    found = surface.probe(Handle(run_id, "modal", {}))
    assert found.word in ("unknown", "absent")
    surface.cancel(Handle(run_id, "modal", dict(found.ids)), "it will never begin")
    assert surface.probe(Handle(run_id, "modal", {})).word == "absent"


def test_secrets_and_a_bucket_reach_the_run_and_no_file_that_is_kept(plane: ModalPlane, tmp_path: Path) -> None:
    plane.order("secret", name="hub", variables={"HUB_WORD": "sesame-of-the-hub"})
    bucket = plane.root / "buckets" / "tokens" / "fineweb"
    bucket.mkdir(parents=True)
    (bucket / "shard.bin").write_bytes(b"x")
    does = """test "$(printf %s "$HUB_WORD" | sha256sum | cut -c1-8)" = 01ab00d3 && test -f /lanemark/bucket/shard.bin \\
        && ! touch /lanemark/bucket/mine && echo "{}" > "$LANEMARK_RANK_DIR/end.json\""""
    run = Run(tmp_path, does, Rental(image=IMAGE, secrets=("hub",), bucket=Bucket("tokens", "fineweb/")))
    run.until("finished")
    run.predicate()
    assert run.attempt.paths.rank(0).end.is_file(), plane.logs()[-2000:]
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"sesame-of-the-hub" in path.read_bytes()]
    assert kept == []
    (made,) = plane.requests("FunctionCreate")[-1:]
    assert made["function"]["cloud_bucket_mounts"][0]["read_only"] is True


# the first five seconds


def asked(plane: ModalPlane, home: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`lanemark run --surface modal …`, refused before anything is launched."""
    command = [sys.executable, "-m", "lanemark", "run", "training", "--surface", "modal", "--image", IMAGE, "--gpu", "cpu",
               "--data", "synthetic", *more]  # fmt: skip
    env = {**os.environ, **plane.environment, "LANEMARK_HOME": str(home), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_what_is_wrong_with_the_service_is_said_at_once_with_what_to_do(plane: ModalPlane, tmp_path: Path) -> None:
    before = len(plane.requests("AppCreate"))
    for slug, advice, more, environment in (
        ("modal-credentials-missing", "modal setup", (), {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}),
        ("modal-denied", "modal setup", (), {"MODAL_TOKEN_SECRET": "wrong"}),
        ("modal-unreachable", "network", (), {"MODAL_SERVER_URL": "http://127.0.0.1:9"}),
        ("modal-secret-missing", "modal secret create hf-none", ("--secret", "hf-none"), {}),
    ):
        done = asked(plane, tmp_path, *more, **environment)
        assert done.returncode == 4, (slug, done.stderr)
        assert done.stderr.strip().endswith(f"[{slug}]"), done.stderr
        assert advice in done.stderr
        assert "Traceback" not in done.stderr
    assert len(plane.requests("AppCreate")) == before
    assert not list(tmp_path.glob("attempts/*/attempt.json"))


def test_without_the_sdk_a_launch_is_refused_and_a_plan_is_made(tmp_path: Path) -> None:
    block = tmp_path / "block" / "sitecustomize.py"
    block.parent.mkdir()
    block.write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'modal' else real(name, package)\n"
    )
    env = {**os.environ, "LANEMARK_HOME": str(tmp_path / "home"), "PYTHONPATH": str(block.parent)}
    words = ["training", "--surface", "modal", "--image", IMAGE, "--gpu", "cpu", "--data", "synthetic"]
    for verb, code in (("plan", 0), ("run", 4)):
        done = subprocess.run([sys.executable, "-m", "lanemark", verb, *words], capture_output=True, text=True,
                              timeout=60, check=False, env=env)  # fmt: skip
        assert done.returncode == code, done.stderr
    assert "[modal-extra-missing]" in done.stderr
