"""A Modal control plane on loopback, for tests: the unmodified SDK in, the SDK's real container entrypoint out.

    serve.py ROOT [--token ID=SECRET]

writes `ROOT/ready.json` (`url`, `http`, `pid`) once it listens, and ends by SIGTERM with every container it started.
What it does wrong is told to it at `http/admin` (see `plane_state.Faults`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp.web as web
import grpclib.server
from modal._utils.grpc_utils import custom_detail_codec
from modal_proto import api_pb2 as pb
from plane_service import Plane, service
from plane_state import Faults, State
from plane_volumes import BLOCK_BYTES


class BlobHalf:
    """The HTTP half: blobs and volume blocks, and the address at which tests command the plane."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.state = plane.state

    def routes(self) -> list[Any]:
        return [
            web.put("/blob/{id}", self.put_blob), web.get("/blob/{id}", self.get_blob),
            web.put("/block/{sha}", self.put_block), web.get("/volume/{number}/{path:.*}", self.get_file),
            web.post("/admin", self.admin),
        ]  # fmt: skip

    async def put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        self.state.blobs[request.match_info["id"]] = data
        return web.Response(headers={"ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'})

    async def get_blob(self, request: web.Request) -> web.Response:
        return web.Response(body=self.state.blobs[request.match_info["id"]])

    async def put_block(self, request: web.Request) -> web.Response:
        data = await request.read()
        self.state.blocks[hashlib.sha256(data).digest()] = data
        return web.Response(body=request.match_info["sha"].encode())

    async def get_file(self, request: web.Request) -> web.Response:
        root = self.state.root.resolve()
        path = (root / request.match_info["path"]).resolve()
        if not path.is_relative_to(root / "volumes"):
            raise web.HTTPForbidden
        self.state.reading += 1
        self.state.most_reading = max(self.state.most_reading, self.state.reading)
        try:
            await asyncio.sleep(self.state.faults.slow_file_s)
            with path.open("rb") as file:
                file.seek(int(request.match_info["number"]) * BLOCK_BYTES)
                return web.Response(body=file.read(BLOCK_BYTES))
        finally:
            self.state.reading -= 1

    async def admin(self, request: web.Request) -> web.Response:
        order = await request.json()
        what = order.pop("do")
        if what == "fault":
            for name, value in order.items():
                if name not in {known.name for known in dataclasses.fields(Faults)}:
                    raise web.HTTPBadRequest(text=name)
                setattr(self.state.faults, name, value)
            self.plane.schedule()
        elif what == "heal":
            self.state.faults = Faults()
            self.state.seen.clear()
            self.state.crashes.clear()
            self.plane.schedule()
        elif what == "secret":
            self.state.names["st", order["name"]] = number = self.state.new_id("st")
            self.state.secrets[number] = order["variables"]
        elif what == "kill":
            self.plane.kill(self.state.tasks[order["task"]], signal.SIGKILL)
        elif what == "preempt":
            await self.plane.preempt(self.state.tasks[order["task"]])
        elif what == "logs":
            return web.json_response([text for _, _, text, _ in self.state.logs])
        elif what == "forget_apps":
            self.state.apps.clear()
        elif what == "forget_volume":
            number = self.state.names.pop(("vo", "main", order["name"]))
            del self.state.volumes[number]
            shutil.rmtree(self.state.volume_directory(number))
        elif what == "clone":
            return web.json_response(self.plane.clone(order["call"], order["calls"]))
        return web.json_response(self._summary())

    def _summary(self) -> dict[str, Any]:
        state = self.state
        return {
            "apps": {
                app.id: {"state": pb.AppState.Name(app.state), "tags": app.tags, "name": app.description}
                for app in state.apps.values()
            },
            "tasks": {
                task.id: {"app": task.app, "status": task.process.returncode if task.process else None}
                for task in state.tasks.values()
            },
            "inputs": {
                item.id: {"state": item.state, "task": item.task, "call": item.call, "deaths": item.deaths}
                for item in state.inputs.values()
            },
            "most_reading": state.most_reading,
            "volumes": {key[2]: str(state.volume_directory(v)) for key, v in state.names.items() if key[0] == "vo"},
        }


async def serve(root: Path, tokens: dict[str, str]) -> None:
    plane = Plane(State(root, tokens))
    app = web.Application(client_max_size=1 << 32)
    app.add_routes(BlobHalf(plane).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plane.state.http = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = grpclib.server.Server([service(plane)], status_details_codec=custom_detail_codec)
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    ready = root / "ready.json"
    ready.with_suffix(".tmp").write_text(
        json.dumps({"url": f"http://127.0.0.1:{port}", "http": plane.state.http, "pid": os.getpid()})
    )
    ready.with_suffix(".tmp").rename(ready)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    for task in plane.state.tasks.values():
        plane.kill(task, signal.SIGKILL)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(t.exited.wait() for t in plane.state.tasks.values())), 5)
    server.close()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--token", default="ak-loopback=as-loopback")
    asked = parser.parse_args()
    asked.root.mkdir(parents=True, exist_ok=True)
    name, _, secret = asked.token.partition("=")
    asyncio.run(serve(asked.root.resolve(), {name: secret}))
