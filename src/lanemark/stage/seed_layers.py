"""The four kinds of layer behind one small protocol: a checked manifest, and a way to write its files somewhere fresh.

However the bytes arrive, they are held to the same manifest: sizes and hashes are checked as they are written, and what
does not agree is `Unusable`. Only the archive has a form of its own to check (`lanemark.stage.seed_archive`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from lanemark.lanes.cache_manifest import MAX_MANIFEST_BYTES, Manifest, manifest_name, read_manifest
from lanemark.lanes.coverage import compile_question, question_differences
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile
from lanemark.observe.reading import reason_of
from lanemark.records.case import Case
from lanemark.stage.coverage import manifests, read_bounded
from lanemark.stage.seed_archive import create, make_directories, other_content, reading, write_all
from lanemark.stage.seed_member import Unusable
from lanemark.stage.seed_remote import NotThere, Unreachable, below, fetch, stream
from lanemark.stage.seed_source import Source

#: Single files are fetched side by side: most of the time of each goes into waiting for its first byte.
_AT_ONCE: Final = 8
_CHUNK_BYTES: Final = 1 << 20


class Layer(Protocol):
    """A source whose manifest was read and checked."""

    @property
    def manifest(self) -> Manifest:
        """What it says it holds."""

    def extract(self, into: Path) -> str:
        """Write every file below a fresh directory, checked; returns the layer's digest.

        Raises:
            Unusable: a file is not what the manifest says.
            Unreachable: it stopped answering.
            OSError: the directory cannot be written.
        """


@contextmanager
def open_layer(source: Source, case: Case) -> Iterator[Layer]:
    """Open a source as far as its manifest.

    Raises:
        Unusable, Unreachable, OSError, ModuleNotFoundError: what each means for a layer, `seeding` says.
    """
    if source.kind == "image_directory":
        yield _Directory(source.path, case)
        return
    if source.kind == "per_file":
        yield _PerFile(source.text, case)
        return
    opened: AbstractContextManager[object] = (
        _archive_file(source.path) if source.kind == "archive" else stream(source.text)
    )
    with opened as readable, reading(readable) as archive:  # type: ignore[arg-type]  # both give a Readable
        yield archive


@contextmanager
def _archive_file(path: Path) -> Iterator[object]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotThere("there is no such file") from None
    except OSError as error:
        raise Unreachable(f"it cannot be opened: {reason_of(error)}") from None
    with os.fdopen(fd, "rb", buffering=0) as file:
        if os.fstat(fd).st_size == 0:
            raise Unusable("empty", "the file is empty")
        yield file


class _Directory:
    """A directory in the form of a cache: files, and beside them `coverage/` with the manifest."""

    def __init__(self, base: Path, case: Case) -> None:
        self._base = base
        if not base.is_dir():
            raise NotThere("there is no such directory")
        name = manifest_name(compile_question(case))
        try:
            data = read_bounded(base / COVERAGE_DIRECTORY / name)
        except FileNotFoundError:
            raise self._without(case) from None
        self.manifest = _checked(data, name)
        self._digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def extract(self, into: Path) -> str:
        make_directories(into, self.manifest.files)
        for file in self.manifest.files:
            copy_file(f"{self._base}/{file.path}", f"{into}/{file.path}", file)
        return self._digest

    def _without(self, case: Case) -> Unusable:
        """Why there is no manifest for this case: another case's seed, files that nothing speaks for, or nothing."""
        question = compile_question(case)
        others = [found for found in manifests(self._base).values() if isinstance(found, Manifest)]
        if others:
            near = min(others, key=lambda found: len(question_differences(found.question, question)))
            return Unusable("incompatible", "; ".join(question_differences(near.question, question)[:3]))
        if any(self._base.iterdir()):
            return Unusable("refused", f"it has files and no manifest of a seed ({COVERAGE_DIRECTORY}/*.json)")
        return Unusable("empty", "the directory is empty")


class _PerFile:
    """Such a directory behind a server or a bucket's prefix: the manifest first, then each file that it names."""

    def __init__(self, url: str, case: Case) -> None:
        self._url = url
        name = manifest_name(compile_question(case))
        try:
            data = fetch(below(url, f"{COVERAGE_DIRECTORY}/{name}"), MAX_MANIFEST_BYTES)
        except NotThere:
            raise Unusable(
                "empty", f"it has no manifest of a seed for this case ({COVERAGE_DIRECTORY}/{name})"
            ) from None
        self.manifest = _checked(data, name)
        self._digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def extract(self, into: Path) -> str:
        make_directories(into, self.manifest.files)

        def one(file: ListedFile) -> None:
            try:
                self._fetch(f"{into}/{file.path}", file)
            except NotThere:
                raise Unusable("damaged", f"{file.path!r} is named by its manifest and is not there") from None

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="seed-fetch") as pool:
            jobs = [pool.submit(one, file) for file in self.manifest.files]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise
        return self._digest

    def _fetch(self, path: str, file: ListedFile) -> None:
        content = hashlib.sha256()
        size = 0
        with stream(below(self._url, file.path)) as source, create(path) as fd:
            while piece := source.read(_CHUNK_BYTES):
                size += len(piece)
                if size > file.bytes:
                    raise Unusable("refused", f"{file.path!r} is longer than its manifest says")
                content.update(piece)
                write_all(fd, piece)
        if size < file.bytes:
            raise Unusable("damaged", f"{file.path!r} is truncated: {size} of {file.bytes} bytes")
        if content.hexdigest() != file.sha256:
            raise other_content(file)


def copy_file(source: str, target: str, file: ListedFile) -> None:
    """One file of a directory, read once and hashed on its way."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unusable("damaged", f"{file.path!r} is named by its manifest and is not there") from None
    except OSError as error:
        raise Unusable("refused", f"{file.path!r} cannot be opened: {reason_of(error)}") from None
    with os.fdopen(fd, "rb", buffering=0) as reader, create(target) as out:
        content = hashlib.sha256()
        left = file.bytes
        while left and (piece := reader.read(min(left, _CHUNK_BYTES))):
            content.update(piece)
            write_all(out, piece)
            left -= len(piece)
        if left:
            raise Unusable("damaged", f"{file.path!r} is truncated: {file.bytes - left} of {file.bytes} bytes")
        if reader.read(1) or content.hexdigest() != file.sha256:
            raise other_content(file)


def _checked(data: bytes, name: str) -> Manifest:
    try:
        manifest = read_manifest(data)
    except ValueError as error:
        raise Unusable("refused", f"its manifest cannot be used: {error}") from None
    if manifest.name != name:
        raise Unusable("refused", "its manifest is not named after its question")
    return manifest
