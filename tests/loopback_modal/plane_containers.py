"""Containers: when one starts, what it is given, and what happens to its input when it ends, well or badly.

Each is a real process: `python -m modal._container_entrypoint`, the SDK's own, in a mount namespace where volumes and
code lie at the paths that the function asked for. A container that dies with work in hand loses it back to the queue,
as a pre-empted one does; one that dies before it takes any is started again, three times in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib.server import Server
from modal._utils.grpc_utils import custom_detail_codec
from modal_proto import api_pb2 as pb
from plane_state import Input, Result, State, Task, build
from plane_volumes import tree

_NAMESPACE = Path(__file__).with_name("namespace.py")
#: A container that dies before it takes its input is started this often; the service gives up as well, later.
_STARTS = 3
#: A container that dies with its input is pre-empted, as far as anybody can tell; the input is given out this often.
_DEATHS = 8
#: How long a pre-empted container may go on after it was told (modal.com/docs/guide/preemption: 30 s).
_GRACE_S = 3.0


def inner(pid: int) -> int | None:
    """The container's first process: `unshare` waits for it outside, and takes no orders."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


class Containers:
    """Scheduling, and the RPCs that containers make."""

    state: State
    task: Task | None
    handler: Callable[[Task], Any]

    def schedule(self) -> None:
        """Start containers for inputs that have none."""
        state = self.state
        waiting = {item.function for item in state.inputs.values() if item.state == "pending"}
        for function in set() if state.faults.no_capacity else waiting:
            live = [t for t in state.tasks.values() if t.function == function and not t.exited.is_set()]
            idle = [t for t in live if not t.stop and not t.inputs and not t.served]
            todo = sum(item.state == "pending" and item.function == function for item in state.inputs.values())
            most = state.functions[function].autoscaler_settings.max_containers or 8
            for _ in range(max(0, min(todo - len(idle), most - len(live)))):
                state.background(self._run(function))
        state.background(state.notify())

    def kill(self, task: Task, number: int) -> None:
        """Signal a container and all it started."""
        if task.process is not None and task.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.process.pid, number)

    async def preempt(self, task: Task) -> None:
        """Tell a container that it has to go, and take it away a little later."""
        inside = None if task.process is None else inner(task.process.pid)
        if inside is not None:
            os.kill(inside, signal.SIGINT)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(task.exited.wait(), _GRACE_S)
        self.kill(task, signal.SIGKILL)

    async def _run(self, function_id: str) -> None:
        """One container from its first file to its last."""
        state = self.state
        app = state.function_apps[function_id]
        number = state.new_id("ta")
        task = Task(number, function_id, app, state.root / "tasks" / number)
        state.tasks[number] = task
        task.directory.mkdir(parents=True)
        socket = task.directory / "worker.sock"
        task.server = Server([self.handler(task)], status_details_codec=custom_detail_codec)
        await task.server.start(path=str(socket))
        await asyncio.sleep(state.faults.slow_start_s)
        crash = state.faults.crash_before_input > 0
        state.faults.crash_before_input -= crash
        command = ["sh", "-c", "echo 'the container dies'; exit 71"] if crash else self._command(task)
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environment(task, socket), start_new_session=True, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 24,
        )  # fmt: skip
        task.process = process
        assert process.stdout is not None
        async for line in process.stdout:
            state.logs.append((app, number, line.decode(errors="replace"), time.time()))
        status = await process.wait()
        task.server.close()
        if status == 0:
            self.commit_all(task)  # type: ignore[attr-defined]  # plane_volumes
        self._take_back(task, status)
        task.exited.set()
        for view in task.views.values():
            shutil.rmtree(view, ignore_errors=True)
        self.schedule()

    def _command(self, task: Task) -> list[str]:
        """Lay out what the container will see, and say how to start it."""
        state, function = self.state, self.state.functions[task.function]
        binds, copies = [], []
        for mount in function.volume_mounts:
            view = task.directory / "volumes" / mount.volume_id
            shutil.copytree(state.volume_directory(mount.volume_id), view, symlinks=True)
            task.views[mount.volume_id], task.bases[mount.volume_id] = view, tree(view)
            binds.append([str(view), mount.mount_path, bool(mount.read_only)])
        for bucket in function.cloud_bucket_mounts:
            source = state.root / "buckets" / bucket.bucket_name / bucket.key_prefix.strip("/")
            source.mkdir(parents=True, exist_ok=True)
            binds.append([str(source), bucket.mount_path, bool(bucket.read_only)])
        code = task.directory / "code"
        mounts = [*self.image_mounts(function.image_id), *function.mount_ids]  # type: ignore[attr-defined]
        for file in (file for mount in mounts for file in state.mounts.get(mount, [])):
            path = code / file.filename.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(state.files[file.sha256_hex])
            copies.append([str(path), file.filename])
        arguments = pb.ContainerArguments(
            task_id=task.id, function_id=task.function, app_id=task.app, function_def=function,
            environment_name="main", app_layout=self.layout(task.app),  # type: ignore[attr-defined]  # plane_calls
        )  # fmt: skip
        (task.directory / "arguments.pb").write_bytes(arguments.SerializeToString())
        layout = {"work": str(task.directory), "binds": binds, "copies": copies, "cwd": "/root"}
        (task.directory / "namespace.json").write_text(json.dumps(layout))
        return [
            "unshare", *(["-mpf"] if os.geteuid() == 0 else ["-Urmpf"]), "--kill-child", sys.executable, str(_NAMESPACE),
            str(task.directory / "namespace.json"), sys.executable, "-m", "modal._container_entrypoint",
        ]  # fmt: skip

    def _environment(self, task: Task, socket: Path) -> dict[str, str]:
        function = self.state.functions[task.function]
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LANEMARK_MIN_FREE_MB") if name in os.environ}
        secrets = [self.state.secrets[number] for number in function.secret_ids]
        return {
            **kept,
            "HOME": "/root",
            **self.image_environment(function.image_id),  # type: ignore[attr-defined]  # plane_objects
            **{name: value for secret in secrets for name, value in secret.items()},
            "MODAL_SERVER_URL": f"unix://{socket}",
            "MODAL_TASK_ID": task.id,
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(task.directory / "arguments.pb"),
            "MODAL_IMAGE_ID": function.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOOPBACK",
            "MODAL_REGION": "loopback-1",
            "MODAL_HEARTBEAT_INTERVAL": "5",
            "PYTHONUNBUFFERED": "1",
            # Another SDK than the installed one, for everybody: `PYTHONPATH=DIR LOOPBACK_SDK=DIR pytest ...`.
            "PYTHONPATH": ":".join(filter(None, ("/root", os.environ.get("LOOPBACK_SDK", "")))),
        }

    def _take_back(self, task: Task, status: int) -> None:
        """What becomes of the inputs of a container that ended."""
        for item in list(task.inputs.values()):
            if item.state != "running":
                continue
            item.deaths += 1
            if item.cancelled or item.deaths >= _DEATHS:
                code = Result.GENERIC_STATUS_TERMINATED if item.cancelled else Result.GENERIC_STATUS_INTERNAL_FAILURE
                self.state.finish(item, Result(status=code, exception=f"container exited with {status}"))
            else:
                item.state, item.task = "pending", ""
        task.inputs.clear()
        if status == 0 or task.served:
            return
        crashes = self.state.crashes[task.function] = self.state.crashes.get(task.function, 0) + 1
        if crashes < _STARTS:
            return
        said = "".join(text for _, number, text, _ in self.state.logs if number == task.id)[-2000:]
        failure = Result(
            status=Result.GENERIC_STATUS_INIT_FAILURE, exception=f"container failed to start ({status}): {said}"
        )
        for item in self.state.inputs.values():
            if item.function == task.function and item.state == "pending":
                self.state.finish(item, failure)

    # what containers ask

    async def ContainerHello(self, request: Any) -> Any:
        return Empty()

    async def ContainerHeartbeat(self, request: Any) -> Any:
        """Held open for a while, so that a cancellation reaches the container at once.

        It is told again until the input has ended: a container that has only just been given an input does not know it
        yet, and lets the first word pass.
        """
        task = self._task()
        if not task.cancel:
            task.wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(task.wake.wait(), 4)
        elif task.told:
            await asyncio.sleep(1)
        task.cancel = [number for number in task.cancel if number in task.inputs]
        task.told = bool(task.cancel)
        if not task.cancel:
            return pb.ContainerHeartbeatResponse()
        return pb.ContainerHeartbeatResponse(cancel_input_event=pb.CancelInputEvent(input_ids=task.cancel))

    async def FunctionGetInputs(self, request: Any) -> Any:
        task, state = self._task(), self.state
        function = state.functions[task.function]
        single = function.single_use_containers
        ends = time.monotonic() + state.faults.no_input_after_s
        while not task.stop and not (single and task.served) and time.monotonic() < ends:
            for item in state.inputs.values():
                if item.state == "pending" and item.function == task.function:
                    item.state, item.task, item.started = "running", task.id, time.time()
                    task.inputs[item.id] = item
                    task.served += 1
                    limit_s = state.faults.time_limit_s or function.timeout_secs
                    if limit_s:
                        state.background(self._deadline(task, item, item.deaths, limit_s))
                    given = pb.FunctionGetInputsItem(
                        input_id=item.id, input=item.item, function_call_id=item.call, retry_count=item.retry,
                        function_call_invocation_type=state.calls[item.call].invocation,
                    )  # fmt: skip
                    return pb.FunctionGetInputsResponse(inputs=[given])
            await state.wait_changed(0.5)
        task.stop = True
        return pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])

    async def _deadline(self, task: Task, item: Input, deaths: int, seconds: float) -> None:
        """The service's own time-out, which a worker never sees coming."""
        await asyncio.sleep(seconds)
        if item.state == "running" and item.task == task.id and item.deaths == deaths:
            task.inputs.pop(item.id, None)
            why = f"Task's current input hit its timeout of {seconds}s"
            self.state.finish(item, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=why))
            task.stop = True
            self.kill(task, signal.SIGKILL)

    async def FunctionPutOutputs(self, request: Any) -> Any:
        task = self._task()
        for output in request.outputs:
            item = self.state.inputs[output.input_id]
            task.inputs.pop(item.id, None)
            if item.state != "running" or item.task != task.id:
                continue
            result = Result()
            result.CopyFrom(output.result)
            if result.status == Result.GENERIC_STATUS_TERMINATED and not result.exception:
                result.exception = "Input was cancelled by user"
            self.state.finish(item, result, output.data_format)
        await self.state.notify()
        return Empty()

    async def TaskResult(self, request: Any) -> Any:
        """A container could not import its function: what waits for it fails."""
        task = self._task()
        for item in self.state.inputs.values():
            if item.function == task.function and item.state == "pending":
                self.state.finish(item, request.result)
        task.stop = True
        return Empty()

    async def ContainerStop(self, request: Any) -> Any:
        task = self.state.tasks[request.task_id]
        task.stop = True
        self.kill(task, signal.SIGTERM)
        await self.state.notify()
        return build(pb.ContainerStopResponse)

    def _task(self) -> Task:
        assert self.task is not None, "only a container asks this"
        return self.task
