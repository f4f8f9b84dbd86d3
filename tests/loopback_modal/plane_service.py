"""The plane as one gRPC service: every RPC of the SDK's own stubs is written down, held to its token, and dispatched.

An RPC that no `plane_*` module answers is UNIMPLEMENTED, by name, so that a new SDK's new needs are seen at once.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_grpc
from plane_calls import Calls
from plane_containers import Containers
from plane_objects import Objects
from plane_state import State, Task
from plane_volumes import Volumes

#: RPCs that make something: repeated with the same key, the first answer is given again.
_ONCE = ("FunctionMap", "FunctionPutInputs", "AppCreate", "FunctionCreate")


class Plane(Objects, Volumes, Calls, Containers):
    """All parts of the plane over one state, for clients or for one container."""

    def __init__(self, state: State, task: Task | None = None) -> None:
        self.state = state
        self.task = task
        self.handler = lambda started: service(Plane(state, started))


def _admit(plane: Plane, metadata: Any) -> str:
    """Who asks. Raises GRPCError UNAUTHENTICATED for a client without the right token."""
    if plane.task is not None:
        return plane.task.id
    who = str(metadata.get("x-modal-token-id", ""))
    if not who or plane.state.tokens.get(who) != metadata.get("x-modal-token-secret"):
        raise GRPCError(Status.UNAUTHENTICATED, "Token ID or secret is wrong")
    return who


def _rpc(plane: Plane, name: str) -> Any:
    body = getattr(plane, name, None)

    async def answer(_: Any, stream: Any) -> None:
        request = await stream.recv_message()
        metadata = stream.metadata or {}
        who = plane.task.id if plane.task else str(metadata.get("x-modal-token-id", "nobody"))
        count = plane.state.record(name, who, request)
        _admit(plane, metadata)
        if body is None:
            raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not part of the loopback control plane")
        if count in plane.state.faults.unavailable.get(name, ()):
            raise GRPCError(Status.UNAVAILABLE, f"{name} is made unavailable, the {count}. time")
        if inspect.isasyncgenfunction(body):
            async for message in body(request):
                await stream.send_message(message)
            return
        key = (name, str(metadata.get("x-idempotency-key", "")))
        response = plane.state.answered.get(key)
        if response is None:
            try:
                response = await body(request)
            except (GRPCError, asyncio.CancelledError):
                raise
            except Exception:
                traceback.print_exc()
                raise
            if key[1] and name in _ONCE:
                plane.state.answered[key] = response
        if count in plane.state.faults.lost_answer.get(name, ()):
            raise GRPCError(Status.UNAVAILABLE, f"the answer of {name} is lost, the {count}. time")
        await stream.send_message(response)

    return answer


def service(plane: Plane) -> Any:
    """The plane bound to the stubs' own service class."""
    names = api_grpc.ModalClientBase.__abstractmethods__
    kind = type("LoopbackModal", (api_grpc.ModalClientBase,), {name: _rpc(plane, name) for name in names})
    return kind()
