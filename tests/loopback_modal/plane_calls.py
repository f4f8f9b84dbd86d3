"""Functions and their calls: creating, calling, results, the call graph, cancelling."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal._serialization import serialize_data_format
from modal_proto import api_pb2 as pb
from plane_state import Call, Input, Result, State, Task, build


class Calls:
    """RPCs of functions and calls."""

    state: State
    task: Task | None

    # functions

    def handle(self, function_id: str) -> Any:
        """What the SDK keeps of a function beside its id."""
        function = self.state.functions[function_id]
        return pb.FunctionHandleMetadata(
            function_name=function.function_name, function_type=function.function_type,
            definition_id="de-" + function_id[3:], function_schema=function.function_schema,
            app_id=self.state.function_apps[function_id],
            supported_input_formats=function.supported_input_formats,
            supported_output_formats=function.supported_output_formats,
        )  # fmt: skip

    def layout(self, app_id: str) -> Any:
        """The objects of an app. The container entrypoint looks every dependency of a function up here."""
        ids = self.state.apps[app_id].functions
        objects = [pb.Object(object_id=number, function_handle_metadata=self.handle(number)) for number in ids.values()]
        needed = {dep.object_id for number in ids.values() for dep in self.state.functions[number].object_dependencies}
        for number in sorted(needed):
            about = self.state.volumes.get(number)
            objects.append(
                pb.Object(object_id=number) if about is None else pb.Object(object_id=number, volume_metadata=about)
            )
        return pb.AppLayout(function_ids=ids, objects=objects)

    async def AppGetLayout(self, request: Any) -> Any:
        return pb.AppGetLayoutResponse(app_layout=self.layout(request.app_id))

    async def FunctionPrecreate(self, request: Any) -> Any:
        number = request.existing_function_id or self.state.new_id("fu")
        self.state.function_apps[number] = request.app_id
        self.state.functions[number] = pb.Function(
            function_name=request.function_name, function_type=request.function_type,
            function_schema=request.function_schema, supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )  # fmt: skip
        return pb.FunctionPrecreateResponse(function_id=number, handle_metadata=self.handle(number))

    async def FunctionCreate(self, request: Any) -> Any:
        number = request.existing_function_id or self.state.new_id("fu")
        function = request.function
        data = None
        if request.HasField("function_data"):
            data = request.function_data
            if data.ranked_functions:  # from SDK 1.6 on, and for lists of GPUs: the first is the preferred one
                function = data.ranked_functions[0].function
        kind = function.resources.gpu_config.gpu_type.rstrip("!+")
        if kind and kind not in self.state.gpus:
            raise GRPCError(Status.INVALID_ARGUMENT, f"invalid GPU type {kind}")
        self.state.functions[number], self.state.function_apps[number] = function, request.app_id
        if data is None:
            data = pb.FunctionData(
                function_name=function.function_name, module_name=function.module_name,
                timeout_secs=function.timeout_secs,
                ranked_functions=[pb.FunctionData.RankedFunction(rank=0, function=function)],
            )  # fmt: skip
        return build(
            pb.FunctionCreateResponse, function_id=number, function=function, function_data=data,
            handle_metadata=self.handle(number),
        )  # fmt: skip

    # calls

    def _call(self, call_id: str) -> Call:
        if call_id not in self.state.calls or self.state.faults.hide_calls:
            raise GRPCError(Status.NOT_FOUND, f"Function call {call_id} not found")
        return self.state.calls[call_id]

    def _add(self, call: Call, put: Any) -> Any:
        item = Input(self.state.new_id("in"), call.id, put.idx, put.input, call.function)
        call.inputs.append(item)
        self.state.inputs[item.id] = item
        return pb.FunctionPutInputsResponseItem(idx=put.idx, input_id=item.id, input_jwt=f"{call.id}/{item.id}")

    def clone(self, call_id: str, wanted: list[dict[str, Any]]) -> list[str]:
        """Calls like one that has ended, without executing anything: many ended runs for a collector. Returns their ids.

        Each has one of `output` (what it returned), `raised` (a text), `expired`, `unknown` or `running`.
        """
        model = self.state.calls[call_id]
        found = []
        for about in wanted:
            call = Call(self.state.new_id("fc"), model.function, model.app, model.invocation, "")
            found.append(call.id)
            if "unknown" in about:
                continue
            self.state.calls[call.id] = call
            (ended,) = model.inputs
            item = replace(ended, id=self.state.new_id("in"), call=call.id)
            call.inputs.append(item)
            self.state.inputs[item.id] = item
            if "output" in about:
                data = serialize_data_format(about["output"], item.data_format)
                item.result = Result(status=Result.GENERIC_STATUS_SUCCESS, data=data)
            elif "raised" in about:
                item.result = Result(status=Result.GENERIC_STATUS_FAILURE, exception=about["raised"])
            elif "running" in about:
                item.state, item.result = "running", None
            else:
                item.state, item.result = "expired", Result(status=Result.GENERIC_STATUS_SUCCESS)
        return found

    async def FunctionMap(self, request: Any) -> Any:
        if request.function_id not in self.state.functions:
            raise GRPCError(Status.NOT_FOUND, "no such function")
        call = Call(
            self.state.new_id("fc"), request.function_id, self.state.function_apps[request.function_id],
            request.function_call_invocation_type, request.parent_input_id,
        )  # fmt: skip
        self.state.calls[call.id] = call
        items = [self._add(call, put) for put in request.pipelined_inputs]
        self.schedule()  # type: ignore[attr-defined]  # plane_containers
        return build(
            pb.FunctionMapResponse, function_call_id=call.id, pipelined_inputs=items, function_call_jwt=call.id,
            retry_policy=self.state.functions[call.function].retry_policy, sync_client_retries_enabled=False,
            max_inputs_outstanding=1000,
        )  # fmt: skip

    async def FunctionPutInputs(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        items = [self._add(call, put) for put in request.inputs]
        self.schedule()  # type: ignore[attr-defined]  # plane_containers
        return pb.FunctionPutInputsResponse(inputs=items)

    async def FunctionFinishInputs(self, request: Any) -> Any:
        return Empty()

    async def FunctionCallFromId(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        about = pb.FunctionCallHandleMetadata(app_id=call.app, function_id=call.function)
        return build(
            pb.FunctionCallFromIdResponse, function_call_id=call.id, num_inputs=len(call.inputs), metadata=about
        )

    async def FunctionGetOutputs(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        ends = time.monotonic() + request.timeout
        while True:
            done = [item for item in call.inputs if item.state == "done"]
            left_s = ends - time.monotonic()
            if done or left_s <= 0:
                break
            await self.state.wait_changed(left_s)
        if (self.state.faults.expire_results and done) or any(item.state == "expired" for item in call.inputs):
            return pb.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        outputs = [
            pb.FunctionGetOutputsItem(
                result=item.result, idx=item.index, input_id=item.id, data_format=item.data_format, task_id=item.task,
                input_started_at=item.started, output_created_at=item.ended, retry_count=item.retry,
            )
            for item in done
        ]  # fmt: skip
        unfinished = sum(item.state != "done" for item in call.inputs)
        return pb.FunctionGetOutputsResponse(last_entry_id="1-0", num_unfinished_inputs=unfinished, outputs=outputs)

    async def FunctionGetCallGraph(self, request: Any) -> Any:
        root = self._call(request.function_call_id)
        while root.parent in self.state.inputs:
            root = self.state.calls[self.state.inputs[root.parent].call]
        seen, todo = [], [root]
        while todo:
            call = todo.pop()
            seen.append(call)
            below = {item.id for item in call.inputs}
            todo += [other for other in self.state.calls.values() if other.parent in below]
        return pb.FunctionGetCallGraphResponse(
            function_calls=[
                pb.FunctionCallCallGraphInfo(
                    function_call_id=call.id, parent_input_id=call.parent,
                    function_name=self.state.functions[call.function].function_name,
                    module_name=self.state.functions[call.function].module_name,
                )
                for call in seen
            ],
            inputs=[
                pb.InputCallGraphInfo(
                    input_id=item.id, function_call_id=call.id, task_id=item.task,
                    status=item.result.status if item.result is not None else Result.GENERIC_STATUS_UNSPECIFIED,
                )
                for call in seen
                for item in call.inputs
            ],
        )  # fmt: skip

    async def FunctionCallCancel(self, request: Any) -> Any:
        """A pending input is cancelled at once; a running one is told through its container's heartbeat."""
        cancelled = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="cancelled")
        for item in self._call(request.function_call_id).inputs:
            if item.state == "pending":
                self.state.finish(item, cancelled)
            elif item.state == "running":
                item.cancelled = True
                task = self.state.tasks[item.task]
                if request.terminate_containers:
                    self.state.finish(item, cancelled)
                    self.kill(task, signal.SIGKILL)  # type: ignore[attr-defined]  # plane_containers
                else:
                    task.cancel.append(item.id)
                    task.wake.set()
                    if self.state.faults.cancelled_at_once:
                        self.state.finish(item, cancelled)
        await self.state.notify()
        return Empty()
