"""Apps, images, mounts, blobs and secrets: what a launch puts together before it calls anything."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb
from plane_state import App, Result, State, Task, build

#: An image builder version that the SDK accepts (modal/builder).
BUILDER = "2025.06"


class Objects:
    """RPCs of a client that has nothing running yet."""

    state: State
    task: Task | None

    async def ClientHello(self, request: Any) -> Any:
        return build(pb.ClientHelloResponse, image_builder_version=BUILDER)

    async def AuthTokenGet(self, request: Any) -> Any:
        def part(doc: dict[str, Any]) -> str:
            return base64.urlsafe_b64encode(json.dumps(doc).encode()).rstrip(b"=").decode()

        token = ".".join([part({"alg": "none"}), part({"exp": int(time.time()) + 3600}), "x"])
        return pb.AuthTokenGetResponse(token=token)

    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        settings = pb.EnvironmentSettings(image_builder_version=BUILDER)
        about = pb.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-main", metadata=about)

    # apps

    async def AppCreate(self, request: Any) -> Any:
        app = App(self.state.new_id("ap"), request.app_state, request.description, dict(request.tags))
        self.state.apps[app.id] = app
        return pb.AppCreateResponse(app_id=app.id, app_page_url=f"{self.state.http}/apps/{app.id}")

    async def AppPublish(self, request: Any) -> Any:
        app = self.app(request.app_id)
        app.functions, app.state = dict(request.function_ids), request.app_state
        return build(pb.AppPublishResponse, url="", deployed_at=time.time())

    async def AppHeartbeat(self, request: Any) -> Any:
        self.app(request.app_id).heartbeats += 1
        return Empty()

    async def AppSetTags(self, request: Any) -> Any:
        self.app(request.app_id).tags = dict(request.tags)
        return Empty()

    async def AppGetTags(self, request: Any) -> Any:
        return pb.AppGetTagsResponse(tags=self.app(request.app_id).tags)

    async def AppClientDisconnect(self, request: Any) -> Any:
        """A detached app outlives its launcher; an ephemeral one ends with it."""
        app = self.app(request.app_id)
        if app.state == pb.APP_STATE_DETACHED:
            app.state = pb.APP_STATE_DETACHED_DISCONNECTED
        elif app.state != pb.APP_STATE_DETACHED_DISCONNECTED:
            await self._stop(app)
        return Empty()

    async def AppStop(self, request: Any) -> Any:
        await self._stop(self.app(request.app_id))
        return Empty()

    async def AppGetLifecycle(self, request: Any) -> Any:
        return pb.AppGetLifecycleResponse(lifecycle=pb.AppLifecycle(app_state=self.app(request.app_id).state))

    async def AppList(self, request: Any) -> Any:
        """What `modal app list` shows; an app that stopped stays for a while."""
        stats = [
            pb.AppListResponse.AppListItem(
                app_id=app.id, description=app.description, state=app.state, created_at=time.time()
            )
            for app in self.state.apps.values()
        ]
        return pb.AppListResponse(apps=stats)

    async def AppGetLogs(self, request: Any) -> AsyncIterator[Any]:
        lines = [entry for entry in self.state.logs if entry[0] == request.app_id]
        for number, (_, task, text, at) in enumerate(lines):
            item = pb.TaskLogs(data=text, file_descriptor=pb.FILE_DESCRIPTOR_STDOUT, timestamp=at)
            yield pb.TaskLogsBatch(task_id=task, entry_id=str(number + 1), items=[item])
        yield pb.TaskLogsBatch(app_done=True)

    def app(self, app_id: str) -> App:
        if app_id not in self.state.apps:
            raise GRPCError(Status.NOT_FOUND, f"App {app_id} not found")
        return self.state.apps[app_id]

    async def _stop(self, app: App) -> None:
        app.state = pb.APP_STATE_STOPPED
        for call in [call for call in self.state.calls.values() if call.app == app.id]:
            for item in call.inputs:
                self.state.finish(item, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="app stopped"))
        for task in self.state.tasks.values():
            if task.app == app.id and not task.exited.is_set():
                task.stop = True
                task.wake.set()
                self.kill(task, signal.SIGTERM)  # type: ignore[attr-defined]  # plane_containers
        await self.state.notify()

    # images: never built, but named by their content; their ENV lines hold at run time

    async def ImageGetOrCreate(self, request: Any) -> Any:
        image_id = "im-" + hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()[:22]
        self.state.images.setdefault(image_id, request.image)
        about = pb.ImageMetadata(
            image_builder_version=request.builder_version, python_version_info=sys.version, workdir="/root"
        )
        result = Result(status=Result.GENERIC_STATUS_SUCCESS)
        if self.state.faults.image_failure:
            result = Result(status=Result.GENERIC_STATUS_FAILURE, exception=self.state.faults.image_failure)
        return pb.ImageGetOrCreateResponse(image_id=image_id, result=result, metadata=about)

    async def ImageJoinStreaming(self, request: Any) -> AsyncIterator[Any]:
        result = Result(status=Result.GENERIC_STATUS_SUCCESS)
        if self.state.faults.image_failure:
            result = Result(status=Result.GENERIC_STATUS_FAILURE, exception=self.state.faults.image_failure)
        yield pb.ImageJoinStreamingResponse(result=result)

    def image_environment(self, image_id: str) -> dict[str, str]:
        image = self.state.images.get(image_id)
        if image is None:
            return {}
        found: dict[str, str] = {}
        for base in image.base_images:
            found |= self.image_environment(base.image_id)
        for line in image.dockerfile_commands:
            if line.startswith("ENV "):
                found |= dict(word.split("=", 1) for word in shlex.split(line[4:]))
        return found

    def image_mounts(self, image_id: str) -> list[str]:
        """Mounts that an image's own layers were given (`add_local_dir(copy=True)`), nearest last."""
        image = self.state.images.get(image_id)
        if image is None:
            return []
        inherited = [mount for base in image.base_images for mount in self.image_mounts(base.image_id)]
        return [*inherited, *([image.context_mount_id] if image.context_mount_id else [])]

    # blobs, and mounts, which are lists of files by digest

    async def BlobCreate(self, request: Any) -> Any:
        blob = self.state.new_id("bl")
        url = f"{self.state.http}/blob/{blob}"
        return build(
            pb.BlobCreateResponse, blob_id=blob, upload_url=url, blob_ids=[blob],
            upload_urls=pb.UploadUrlList(items=[url]),
        )  # fmt: skip

    async def BlobGet(self, request: Any) -> Any:
        return pb.BlobGetResponse(download_url=f"{self.state.http}/blob/{request.blob_id}")

    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [sha for sha in request.sha256_hex_hashes if sha not in self.state.files]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any) -> Any:
        kind = request.WhichOneof("data_oneof")
        if kind:
            data = request.data if kind == "data" else self.state.blobs[request.data_blob_id]
            if hashlib.sha256(data).hexdigest() != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "the file's bytes are not those of its digest")
            self.state.files[request.sha256_hex] = data
        return pb.MountPutFileResponse(exists=request.sha256_hex in self.state.files)

    async def MountGetOrCreate(self, request: Any) -> Any:
        if request.deployment_name:  # the SDK's own, which this interpreter has already
            mount = self.state.names.setdefault(("mo", request.deployment_name), self.state.new_id("mo"))
            self.state.mounts.setdefault(mount, [])
        else:
            mount = self.state.new_id("mo")
            self.state.mounts[mount] = list(request.files)
        about = pb.MountHandleMetadata(content_checksum_sha256_hex=hashlib.sha256(mount.encode()).hexdigest())
        return pb.MountGetOrCreateResponse(mount_id=mount, handle_metadata=about)

    # secrets

    async def SecretGetOrCreate(self, request: Any) -> Any:
        if not request.deployment_name:
            secret = self.state.new_id("st")
            self.state.secrets[secret] = dict(request.env_dict)
        else:
            found = self.state.names.get(("st", request.deployment_name))
            if found is None:
                raise GRPCError(Status.NOT_FOUND, f"Secret '{request.deployment_name}' not found")
            secret = found
            missing = [key for key in request.required_keys if key not in self.state.secrets[secret]]
            if missing:
                raise GRPCError(Status.NOT_FOUND, f"Secret is missing key(s) {missing}")
        about = build(pb.SecretMetadata, name=request.deployment_name, keys=list(self.state.secrets[secret]))
        return build(pb.SecretGetOrCreateResponse, secret_id=secret, metadata=about)
