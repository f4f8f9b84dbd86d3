"""What the loopback control plane knows: apps, functions, calls, containers, volumes, and the faults it is told to make.

One `State` per server. Nothing here answers a request; the `plane_*` modules beside it do, each for one part of the
service, over this one state. Every request is written to `rpc.jsonl` as it came: that file is what tests assert on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from modal_proto import api_pb2 as pb

Result = pb.GenericResult


@dataclass
class Faults:
    """What the plane does wrong on purpose. Tests set these by name over the admin address.

    Attributes:
        slow_start_s: a container waits this long before its process starts.
        no_capacity: no container starts while this is set; inputs stay pending.
        crash_before_input: how many more containers die before they take an input.
        image_failure: what building an image fails with; empty for success.
        expire_results: outputs are gone, as the service's are after seven days.
        cancelled_at_once: a cancelled call has ended for everybody who asks, while its container still winds up.
        hide_calls: no call is known by its id.
        unavailable: RPC → numbers of calls (from 1) that are answered UNAVAILABLE and do nothing.
        lost_answer: RPC → numbers of calls that are carried out and answered UNAVAILABLE.
        no_input_after_s: how long a container that has nothing to do lives.
        time_limit_s: an input is ended by the service after so long, whatever its function asked for; 0 for that.
        slow_file_s: a block of a Volume's file is served this much later.
    """

    slow_start_s: float = 0.0
    no_capacity: bool = False
    crash_before_input: int = 0
    image_failure: str = ""
    expire_results: bool = False
    cancelled_at_once: bool = False
    hide_calls: bool = False
    unavailable: dict[str, list[int]] = field(default_factory=dict)
    lost_answer: dict[str, list[int]] = field(default_factory=dict)
    no_input_after_s: float = 2.0
    time_limit_s: float = 0.0
    slow_file_s: float = 0.0


@dataclass
class Input:
    """One input of a call: what a container takes, and what becomes of it."""

    id: str
    call: str
    index: int
    item: Any
    function: str
    state: str = "pending"  # pending | running | backoff | done | expired
    task: str = ""
    retry: int = 0
    deaths: int = 0
    cancelled: bool = False
    result: Any = None
    data_format: int = 0
    started: float = 0.0
    ended: float = 0.0


@dataclass
class Call:
    """One function call, by whichever way it was made."""

    id: str
    function: str
    app: str
    invocation: int
    parent: str
    inputs: list[Input] = field(default_factory=list)


@dataclass
class Task:
    """One container. RPCs of a container carry no task id, so each has a server of its own on a unix socket."""

    id: str
    function: str
    app: str
    directory: Path
    process: asyncio.subprocess.Process | None = None
    server: Any = None
    inputs: dict[str, Input] = field(default_factory=dict)
    served: int = 0
    stop: bool = False
    cancel: list[str] = field(default_factory=list)
    told: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    #: Volume id → this container's view of it, and what the view held when it was last in step.
    views: dict[str, Path] = field(default_factory=dict)
    bases: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)


@dataclass
class App:
    """One app. `functions` is filled when it is published, which is when containers may start."""

    id: str
    state: int
    description: str
    tags: dict[str, str]
    functions: dict[str, str] = field(default_factory=dict)
    heartbeats: int = 0


class State:
    """Everything one server knows. Ids are counted, so that a test's files read the same each time."""

    def __init__(self, root: Path, tokens: dict[str, str]) -> None:
        self.root = root
        self.tokens = tokens
        self.http = ""  # address of the blob half, once it listens
        self.faults = Faults()
        self.gpus = {
            "T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H200", "B200", "B300",
        }  # fmt: skip
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Any] = {}
        self.function_apps: dict[str, str] = {}
        self.images: dict[str, Any] = {}
        self.mounts: dict[str, list[Any]] = {}
        self.names: dict[tuple[str, ...], str] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.volumes: dict[str, Any] = {}
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.blocks: dict[bytes, bytes] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}
        self.tasks: dict[str, Task] = {}
        self.crashes: dict[str, int] = {}
        self.reading = self.most_reading = 0  # blocks of files that are being served: now, and at most so far
        self.answered: dict[tuple[str, str], Any] = {}
        self.seen: dict[str, int] = {}
        self.logs: list[tuple[str, str, str, float]] = []  # app, task, line, time
        self.changed = asyncio.Condition()
        self._count = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._log = open(root / "rpc.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - lives with the server

    def new_id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count:022d}"

    def record(self, method: str, who: str, request: Any) -> int:
        """Write a request down. Returns the how manyth of its method it is, from 1."""
        self.seen[method] = self.seen.get(method, 0) + 1
        doc = MessageToDict(request, preserving_proto_field_name=True)
        self._log.write(json.dumps({"at": time.time(), "method": method, "who": who, "request": doc}) + "\n")
        return self.seen[method]

    async def notify(self) -> None:
        """Wake everybody who waits for something to change."""
        async with self.changed:
            self.changed.notify_all()

    async def wait_changed(self, timeout_s: float) -> None:
        try:
            async with self.changed:
                await asyncio.wait_for(self.changed.wait(), timeout_s)
        except asyncio.TimeoutError:
            return

    def background(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something beside the request that started it, and keep hold of it."""
        task = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def volume_directory(self, volume_id: str) -> Path:
        """Where the committed files of a volume lie."""
        return self.root / "volumes" / volume_id

    def finish(self, item: Input, result: Any, data_format: int = 0) -> None:
        """Give an input its result. It keeps the first one."""
        if item.state == "done":
            return
        item.state, item.result, item.data_format, item.ended = "done", result, data_format, time.time()
        self.background(self.notify())


def build(message: type[Any], **fields: Any) -> Any:
    """A message, without the fields that this SDK's stubs do not know: one plane for a range of SDK versions."""
    known = message.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    return message(**{name: value for name, value in fields.items() if name in known})
