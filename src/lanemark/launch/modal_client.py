"""The Modal SDK, asked from outside: preflight, launch, output, call graph, cancellation, files of a Volume.

Everything here has a deadline of its own, because the SDK alone takes about a minute to say that a service cannot be
reached. Calls run on one loop in a thread of its own; callers are threads of a collector and wait with a time limit.

Objects are made at run time from a request's data: an app that is decorated at import would tie what is rented to which
module happened to be imported, and the SDK's own `modal run` to how it was started.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import modal
from modal.config import config

import lanemark
from lanemark.launch.modal_request import RESULTS
from lanemark.launch.modal_results import INTENT
from lanemark.launch.modal_words import REFUSED, lineage, said
from lanemark.records.encoding import encode
from lanemark.records.errors import GateRefused, RunFailed, SurfaceError

T = TypeVar("T")

#: All of a preflight. A service that takes longer to say hello will not start a run well either.
PREFLIGHT_S: Final = 3.0
#: One question about one run, the SDK's own repeats included.
QUESTION_S: Final = 30.0
#: One file of a Volume: an attempt's are small, and its logs are cut.
FILE_S: Final = 120.0
#: How often a person's wish to stop is looked for, and how long the SDK may take to let go then.
_ASK_S: Final = 0.1
_LET_GO_S: Final = 10.0
#: Volumes carry files in blocks of this size, and the SDK holds as many blocks of a file at once as this host has cores
#: (modal/_utils/blob_utils.py: BLOCK_SIZE; modal/volume.py: read_file, in 1.6.4).
BLOCK_BYTES: Final = 8 * 1024 * 1024
#: Files that are on their way at once in this process: 256 MiB at most, and 16 MiB a core.
SMALL_AT_ONCE: Final = 32
LARGE_AT_ONCE: Final = 2
#: How long the launcher may take to upload the package and create its objects. Building an image happens in it.
LAUNCH_S: Final = 3600.0


class Silence(Exception):  # noqa: N818 - not an error of anybody's: nothing was said
    """The service said nothing in time."""


class GivenUp(Exception):  # noqa: N818 - a person's decision, and no error
    """It was no longer wanted, and has been cancelled."""


class _Loop:
    """One event loop in a thread, for everybody in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(
        self,
        make: Callable[[], Awaitable[T]],
        timeout_s: float | None,
        unwanted: Callable[[], bool] | None = None,
    ) -> T:
        """Await what `make` makes, for at most `timeout_s` (None: it has limits of its own), and raise what it raises.

        Errors are carried across the loop as values: a `SystemExit` that a remote function raised would end the loop.
        And its own time limit must not be a TimeoutError, which is what the SDK raises for "no output yet".

        `unwanted` is asked now and then, on the loop: between its answer and the cancellation nothing moves on.

        Raises:
            Silence: the time is up.
            GivenUp: `unwanted` said so, and what `make` made was cancelled and has let go.
        """

        async def caught() -> tuple[T | None, BaseException | None]:
            try:
                return await make(), None
            except BaseException as error:
                return None, error

        async def limited() -> tuple[T | None, BaseException | None]:
            task = asyncio.ensure_future(caught())
            ends_s = None if timeout_s is None else time.monotonic() + timeout_s
            while True:
                left_s = None if ends_s is None else max(0.0, ends_s - time.monotonic())
                wait_s = left_s if unwanted is None else min(_ASK_S, _ASK_S if left_s is None else left_s)
                done, _ = await asyncio.wait({task}, timeout=wait_s)
                if done:
                    return task.result()
                if unwanted is not None and unwanted():
                    task.cancel()
                    await asyncio.wait({task}, timeout=_LET_GO_S)
                    return None, GivenUp()
                if ends_s is not None and time.monotonic() >= ends_s:
                    task.cancel()
                    return None, Silence(f"no answer within {timeout_s:g} s")

        value, error = asyncio.run_coroutine_threadsafe(limited(), self._started()).result()
        if error is not None:
            raise error
        return cast("T", value)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="lanemark-modal", daemon=True).start()
            return self._loop


_LOOP: Final = _Loop()
#: Of that loop alone.
_VOLUMES: Final[dict[tuple[str, str | None], modal.Volume]] = {}
_SMALL: Final = asyncio.Semaphore(SMALL_AT_ONCE)
_LARGE: Final = asyncio.Semaphore(LARGE_AT_ONCE)


# preflight


def preflight(secrets: tuple[str, ...] = (), environment: str | None = None) -> None:
    """Find out within five seconds whether a launch could work at all, and say what to do when not.

    Raises:
        GateRefused: `modal-credentials-missing`, `modal-unreachable`, `modal-denied` or `modal-secret-missing`.
    """
    if not (config["token_id"] and config["token_secret"]):
        raise GateRefused(
            "modal-credentials-missing",
            "there is no Modal token: neither MODAL_TOKEN_ID and MODAL_TOKEN_SECRET nor a configuration file has one",
            "run `modal setup`, or set both variables",
        )
    server = config["server_url"]

    async def greet() -> str | None:
        client: modal.Client = await modal.Client.from_env.aio()
        await client.hello.aio()  # type: ignore[no-untyped-call]
        for name in secrets:
            try:
                await modal.Secret.from_name(name, environment_name=environment).hydrate.aio(client)
            except modal.exception.NotFoundError:
                return name
        return None

    try:
        missing = _LOOP.run(greet, PREFLIGHT_S)
    except Exception as error:  # sorted below: every kind has its own remedy
        if REFUSED & set(lineage(error)):
            raise GateRefused(
                "modal-denied", f"Modal refuses the credentials ({said(error)})",
                "run `modal setup` again, or check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET",
            ) from None  # fmt: skip
        raise GateRefused(
            "modal-unreachable", f"Modal at {server} could not be asked ({said(error)})",
            "check the network and https://status.modal.com, then try again",
        ) from None  # fmt: skip
    if missing is not None:
        raise GateRefused(
            "modal-secret-missing", f"Modal knows no Secret named {missing!r}",
            f"create it (`modal secret create {missing} NAME=VALUE`), or leave --secret out",
        )  # fmt: skip


# launch


@dataclass(frozen=True)
class Spawned:
    """The ids of a launched call."""

    app_id: str
    call_id: str


def build_app(
    request: Mapping[str, Any], run_id: str, worker: Callable[..., Any]
) -> tuple[modal.App, modal.Function[Any, Any, Any]]:
    """The SDK's objects for a request. Contacts nothing."""
    wanted = request["function"]
    image = modal.Image.from_registry(request["image"]["registry"], add_python=request["image"].get("add_python"))
    overlay = request["image"]["overlay"]
    # Last, because nothing may be added to an image after local files that are not copied into it.
    image = image.add_local_dir(
        Path(lanemark.__file__).parent, f"{overlay['under']}/{overlay['package']}", ignore=list(overlay["ignore"])
    )
    environment = request["app"].get("environment")
    volumes: dict[Any, Any] = {
        at: modal.Volume.from_name(
            about["name"], environment_name=environment, create_if_missing=about["create_if_missing"],
            version=about["version"],
        )
        for at, about in request["volumes"].items()
    }  # fmt: skip
    bucket = request.get("bucket")
    if bucket is not None:
        secret = bucket.get("secret")
        volumes[bucket["at"]] = modal.CloudBucketMount(
            bucket["name"],
            key_prefix=bucket["prefix"] or None,
            read_only=True,
            secret=None if secret is None else modal.Secret.from_name(secret, environment_name=environment),
        )
    gpu = list(wanted["gpu"])
    optional: dict[str, Any] = {
        "gpu": (gpu[0] if len(gpu) == 1 else gpu) if gpu else None,
        "cpu": wanted.get("cpu"),
        "memory": wanted.get("memory_mib"),
        "ephemeral_disk": wanted.get("ephemeral_disk_mib"),
        "region": wanted.get("region"),
    }
    app = modal.App(run_id, include_source=False, tags={**request["app"]["tags"], "run_id": run_id})
    function = app.function(
        image=image,
        volumes=volumes,
        secrets=[modal.Secret.from_name(name, environment_name=environment) for name in request["secrets"]],
        timeout=wanted["timeout_s"],
        startup_timeout=wanted["startup_timeout_s"],
        retries=wanted["retries"],
        max_containers=wanted["max_containers"],
        single_use_containers=wanted["single_use_containers"],
        include_source=False,
        **{name: value for name, value in optional.items() if value is not None},
    )(worker)
    return app, function


def launch(
    request: Mapping[str, Any],
    run_id: str,
    worker: Callable[..., Any],
    payload: Mapping[str, Any],
    note: Callable[[Mapping[str, str]], None],
    *,
    interrupted: Callable[[], str | None] = lambda: None,
) -> Spawned:
    """Create the app and make the one call. `note` gets each id before the next step that cannot be undone.

    Where `interrupted` names a signal before the call is made, none is made. From then on the call is finished, so that
    its id is known to whoever ends it.

    An `intent.json` is left on the results Volume before the call, so that a collector without any id can tell a run
    that was handed over from one that never was.

    Raises:
        RunFailed: nothing was launched; `run-cancelled` where that was somebody's wish.
        SurfaceError: whether the call was made is not known.
    """
    app, function = build_app(request, run_id, worker)
    environment = request["app"].get("environment")
    results = request["volumes"][RESULTS]["name"]
    calling = False

    async def go() -> Spawned:
        nonlocal calling
        async with app.run.aio(detach=True, environment_name=environment):
            app_id = str(app.app_id)
            note({"app_id": app_id})
            volume = modal.Volume.from_name(results, environment_name=environment)
            async with volume.batch_upload.aio(force=True) as batch:
                batch.put_file(io.BytesIO(encode({"run_id": run_id, "app_id": app_id})), f"/{run_id}/{INTENT}")
            calling = True
            call = await function.spawn.aio(dict(payload))
            note({"call_id": call.object_id})
            return Spawned(app_id, call.object_id)

    try:
        return _LOOP.run(go, LAUNCH_S, lambda: not calling and interrupted() is not None)
    except GivenUp:
        raise RunFailed(
            "run-cancelled", f"{interrupted()} came before {run_id} was launched: Modal was asked to run nothing",
            "launch it again when it is wanted",
        ) from None  # fmt: skip
    except Exception as error:
        if calling:
            raise SurfaceError(
                "surface-unreachable", f"whether Modal took the run {run_id} is not known ({said(error)})",
                f"ask with `lanemark collect {run_id}`",
            ) from None  # fmt: skip
        raise RunFailed(
            "run-failed", f"Modal launched nothing for {run_id} ({said(error)})",
            "mend what it names, then launch again; `lanemark plan --surface modal` prints what was asked for",
        ) from None  # fmt: skip


# afterwards, by ids alone


def output(call_id: str) -> Any:
    """What the call returned. Raises builtin TimeoutError while there is none, and whatever the SDK raises."""
    return _LOOP.run(lambda: modal.FunctionCall.from_id(call_id).get.aio(timeout=0), QUESTION_S)


def call_graph(call_id: str) -> list[dict[str, Any]]:
    """The inputs of a call and of what it called, flat: `input_id`, `call_id`, `task_id`, `status`, `function`."""
    flat: list[dict[str, Any]] = []
    pending = list(_LOOP.run(modal.FunctionCall.from_id(call_id).get_call_graph.aio, QUESTION_S))
    while pending:
        node = pending.pop(0)
        pending += node.children
        entry = {
            "input_id": node.input_id,
            "call_id": node.function_call_id,
            "task_id": node.task_id,
            "status": node.status.name,
            "function": node.function_name,
        }
        flat.append({name: value for name, value in entry.items() if value})
    return flat


def cancel(call_id: str) -> None:
    """Ask for a call's end: its worker is told, and seals what it has."""
    _LOOP.run(modal.FunctionCall.from_id(call_id).cancel.aio, QUESTION_S)


async def _on_volume(
    name: str, environment: str | None, ask: Callable[[modal.Volume], Awaitable[T]], *, refused: type[BaseException]
) -> T:
    """Ask a Volume something. Its id is looked up once a process, and again where it is no longer known.

    Raises:
        modal.exception.NotFoundError: there is no such Volume.
        BaseException: whatever `ask` raises; `refused` is what it raises where it knows no such id, or no such path.
    """
    key = (name, environment)
    known = _VOLUMES.get(key)
    if known is not None:
        try:
            return await ask(known)
        except refused:
            _VOLUMES.pop(key, None)  # it may have been removed and made again meanwhile
    found = modal.Volume.from_name(name, environment_name=environment)
    await found.hydrate.aio()
    _VOLUMES[key] = found
    return await ask(found)


def list_volume(volume: str, environment: str | None, path: str) -> dict[str, int]:
    """Every file below `path` of a Volume, with its size; empty where there is no such Volume or path."""

    async def ask(place: modal.Volume) -> list[Any]:
        return list(await place.listdir.aio(path, recursive=True))

    async def go() -> dict[str, int]:
        nothing = (modal.exception.NotFoundError, FileNotFoundError)
        try:
            entries = await _on_volume(volume, environment, ask, refused=modal.exception.NotFoundError)
        except nothing:
            return {}
        return {entry.path: entry.size for entry in entries if entry.type.name == "FILE"}

    return _LOOP.run(go, QUESTION_S)


def read_volume(volume: str, environment: str | None, path: str, limit_bytes: int) -> bytes:
    """One small file of a Volume.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is larger than `limit_bytes`.
    """
    found = io.BytesIO()
    _LOOP.run(lambda: _read(volume, environment, path, limit_bytes, found), FILE_S)
    return found.getvalue()


async def _read(volume: str, environment: str | None, path: str, limit_bytes: int, into: BinaryIO) -> str:
    """Read a file block by block. Returns the sha256 of its bytes, in hexadecimal. Raises as `read_volume`."""
    sha = hashlib.sha256()

    async def ask(place: modal.Volume) -> None:
        size = 0
        async for chunk in place.read_file.aio(path):
            size += len(chunk)
            if size > limit_bytes:
                raise ValueError(f"it is larger than {limit_bytes} bytes")
            into.write(chunk)
            sha.update(chunk)

    await _on_volume(volume, environment, ask, refused=FileNotFoundError)
    return sha.hexdigest()


@dataclass(frozen=True)
class Wanted:
    """One file to bring from a Volume.

    Attributes:
        path: on the Volume.
        into: a new file on this host, made for it; removed again where it could not be brought whole.
        limit_bytes: it may not be larger.
    """

    path: str
    into: Path
    limit_bytes: int


def bring(volume: str, environment: str | None, wanted: Sequence[Wanted]) -> list[str | FileNotFoundError | ValueError]:
    """Bring many files at once, each straight to disk. Returns its sha256, or why there is none, in the order given.

    However many collectors call this at once, no more than `SMALL_AT_ONCE` files of one block and `LARGE_AT_ONCE`
    larger ones are on the way, so that a thousand runs take no more memory than a few.

    Raises:
        BaseException: whatever the SDK raised for a Volume that could not be asked, or `Silence`. What had been brought
            by then stays where it was put.
    """

    async def one(file: Wanted) -> str | FileNotFoundError | ValueError:
        async with _SMALL if file.limit_bytes <= BLOCK_BYTES else _LARGE:
            try:
                with file.into.open("xb") as there:
                    reading = _read(volume, environment, file.path, file.limit_bytes, cast("BinaryIO", there))
                    return await asyncio.wait_for(reading, FILE_S)
            except BaseException as error:
                file.into.unlink(missing_ok=True)
                if isinstance(error, asyncio.TimeoutError):
                    raise Silence(f"{file.path} did not come within {FILE_S:g} s") from None
                if isinstance(error, (FileNotFoundError, ValueError)):
                    return error
                raise

    async def go() -> list[str | FileNotFoundError | ValueError]:
        tasks = [asyncio.ensure_future(one(file)) for file in wanted]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # one that could not be asked is an answer for all: the rest need not wait for the same
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return _LOOP.run(go, None)


def write_volume(
    volume: str, environment: str | None, files: Mapping[str, Path | bytes], timeout_s: float = LAUNCH_S
) -> None:
    """Put local files, or bytes, into a Volume, which is made where it is missing; what is there is replaced."""

    async def go() -> None:
        place = modal.Volume.from_name(volume, environment_name=environment, create_if_missing=True, version=2)
        async with place.batch_upload.aio(force=True) as batch:
            for path, local in files.items():
                batch.put_file(io.BytesIO(local) if isinstance(local, bytes) else local, path)

    _LOOP.run(go, timeout_s)
