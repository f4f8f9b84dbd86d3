"""Volumes, with the service's semantics: a container sees what was committed when it started, and writes to a view.

`commit` carries what changed in the view into the committed tree, last writer wins per file; `reload` takes the
committed tree into the view. What is not committed when a container is killed is lost; a container that ends by itself
is committed by the plane, as the service does at shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb
from plane_state import State, Task, build

#: Volumes of version 2 carry files in blocks of this size (modal/_utils/blob_utils.py: BLOCK_SIZE).
BLOCK_BYTES = 8 * 1024 * 1024
Tree = dict[str, tuple[int, int, int]]


def tree(directory: Path) -> Tree:
    """Size, time and inode of every file, by its path: enough to see which ones a container wrote."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            found[str(path.relative_to(directory))] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def commit(view: Path, base: Tree, committed: Path) -> Tree:
    """Carry what changed in a view since `base` into the committed tree. Returns the new base."""
    now = tree(view)
    for name, about in now.items():
        if base.get(name) != about:
            target = committed / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(view / name, target)
    for name in set(base) - set(now):
        (committed / name).unlink(missing_ok=True)
    return now


def reload(view: Path, committed: Path) -> Tree:
    """Make a view what is committed. Returns the new base."""
    for path in list(view.rglob("*")):
        if path.is_file() and not (committed / path.relative_to(view)).exists():
            path.unlink()
    shutil.copytree(committed, view, dirs_exist_ok=True, symlinks=True)
    return tree(view)


class Volumes:
    """RPCs of volumes, from outside and from containers."""

    state: State
    task: Task | None

    async def VolumeGetOrCreate(self, request: Any) -> Any:
        key = ("vo", request.environment_name or "main", request.deployment_name)
        volume = self.state.names.get(key)
        if volume is None:
            if request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise GRPCError(Status.NOT_FOUND, f"Volume '{request.deployment_name}' not found")
            volume = self.state.new_id("vo")
            self.state.names[key] = volume
            self.state.volumes[volume] = pb.VolumeMetadata(
                version=request.version or pb.VOLUME_FS_VERSION_V1, name=request.deployment_name,
                creation_info=pb.CreationInfo(created_at=time.time()),
            )  # fmt: skip
            self.state.volume_directory(volume).mkdir(parents=True)
        about = self.state.volumes[volume]
        return build(pb.VolumeGetOrCreateResponse, volume_id=volume, version=about.version, metadata=about)

    async def VolumeHeartbeat(self, request: Any) -> Any:
        return Empty()

    async def VolumeCommit(self, request: Any) -> Any:
        view = self._view(request.volume_id)
        task, committed = self.task, self.state.volume_directory(request.volume_id)
        assert task is not None
        task.bases[request.volume_id] = await asyncio.to_thread(commit, view, task.bases[request.volume_id], committed)
        return build(pb.VolumeCommitResponse, skip_reload=False)

    async def VolumeReload(self, request: Any) -> Any:
        view = self._view(request.volume_id)
        assert self.task is not None
        committed = self.state.volume_directory(request.volume_id)
        commit(view, self.task.bases[request.volume_id], committed)
        self.task.bases[request.volume_id] = reload(view, committed)
        return Empty()

    def _view(self, volume: str) -> Path:
        if self.task is None or volume not in self.task.views:
            raise GRPCError(Status.NOT_FOUND, "the volume is not mounted in this container")
        return self.task.views[volume]

    def commit_all(self, task: Task) -> None:
        """What the service does when a container ends by itself."""
        for volume, view in task.views.items():
            task.bases[volume] = commit(view, task.bases[volume], self.state.volume_directory(volume))

    # from outside

    def _place(self, volume: str, path: str) -> Path:
        root = self.state.volume_directory(volume).resolve()
        found = (root / path.strip("/")).resolve()
        if not found.is_relative_to(root):
            raise GRPCError(Status.INVALID_ARGUMENT, "the path leaves the volume")
        return found

    def _entries(self, request: Any) -> list[Any]:
        root = self.state.volume_directory(request.volume_id).resolve()
        at = self._place(request.volume_id, request.path)
        if not at.exists():
            raise GRPCError(Status.NOT_FOUND, f"{request.path}: no such file or directory")
        paths = [at] if at.is_file() else sorted(at.rglob("*") if request.recursive else at.iterdir())
        return [
            pb.FileEntry(
                path=str(path.relative_to(root)), size=path.stat().st_size, mtime=int(path.stat().st_mtime),
                type=pb.FileEntry.DIRECTORY if path.is_dir() else pb.FileEntry.FILE,
            )
            for path in paths
        ]  # fmt: skip

    async def VolumeListFiles(self, request: Any) -> AsyncIterator[Any]:
        yield pb.VolumeListFilesResponse(entries=self._entries(request))

    async def VolumeListFiles2(self, request: Any) -> AsyncIterator[Any]:
        yield pb.VolumeListFiles2Response(entries=self._entries(request))

    async def VolumeGetFile2(self, request: Any) -> Any:
        path = self._place(request.volume_id, request.path)
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"{request.path}: no such file")
        size = path.stat().st_size
        name = path.relative_to(self.state.root.resolve())
        urls = [f"{self.state.http}/volume/{number}/{name}" for number in range(-(-size // BLOCK_BYTES))]
        return pb.VolumeGetFile2Response(size=size, start=0, len=size, get_urls=urls)

    async def VolumePutFiles2(self, request: Any) -> Any:
        missing = [
            pb.VolumePutFiles2Response.MissingBlock(
                file_index=number, block_index=index,
                put_url=f"{self.state.http}/block/{block.contents_sha256.hex()}",
            )
            for number, file in enumerate(request.files)
            for index, block in enumerate(file.blocks)
            if block.contents_sha256 not in self.state.blocks
        ]  # fmt: skip
        if not missing:
            for file in request.files:
                target = self._place(request.volume_id, file.path)
                if request.disallow_overwrite_existing_files and target.exists():
                    raise GRPCError(Status.ALREADY_EXISTS, f"{file.path} already exists")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"".join(self._blocks(file)))
        return pb.VolumePutFiles2Response(missing_blocks=missing)

    def _blocks(self, file: Any) -> Iterator[bytes]:
        """A file's blocks in their full lengths: the SDK leaves zeros at a block's end out."""
        for index, block in enumerate(file.blocks):
            data = self.state.blocks[block.contents_sha256]
            yield data.ljust(min(BLOCK_BYTES, file.size - index * BLOCK_BYTES), b"\0")

    async def VolumeRemoveFile2(self, request: Any) -> Any:
        path = self._place(request.volume_id, request.path)
        if not path.exists():
            raise GRPCError(Status.NOT_FOUND, request.path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return Empty()
