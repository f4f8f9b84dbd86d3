"""What is asked of Modal for one run, as pure data: no SDK, no network, no credentials.

`lanemark plan --surface modal` prints it, the launcher builds the SDK's objects from it and from nothing else, and
`launch.json` keeps it, so that what was rented can be read from the record's evidence.

**Volumes are kept apart by what may happen to them.** The compile cache and the data may be deleted and made again;
results are written once and never replaced; checkpoints belong to whoever trains. A bucket is mounted read-only.

**One app, one function, one call, one container.** No retry of the service's own, and no container for two inputs: an
attempt that was begun twice must show as two executions, and never as two receipts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lanemark.launch.modal_code import Code, volume_path
from lanemark.launch.modal_gpu import in_order
from lanemark.launch.surface import LaunchRequest
from lanemark.records.case import Case
from lanemark.records.errors import UsageError

#: Where things lie inside the container.
RESULTS: Final = "/lanemark/results"
CACHE: Final = "/lanemark/cache"
DATA: Final = "/lanemark/data"
CHECKPOINTS: Final = "/lanemark/checkpoints"
BUCKET: Final = "/lanemark/bucket"
#: Modal puts this directory on the path of imports (modal.com/docs/guide/project-structure).
OVERLAY_ROOT: Final = "/root"
#: What of the package is no part of it: another interpreter's byte code, and what editors leave.
OVERLAY_IGNORES: Final = ("**/__pycache__", "**/*.pyc", "**/.*", "**/*~", "**/*.swp", "**/*.orig")
WORKER_MODULE: Final = "lanemark.collect.modal_job"
WORKER_FUNCTION: Final = "run_job"

#: The service's own limits of a function (modal.com/docs/guide/timeouts): 1 s to 24 h, per execution.
MAX_TIMEOUT_S: Final = 86_400
#: Beside the run itself a container seeds a cache, stages data, seals and carries results: minutes, not hours.
OVERHEAD_S: Final = 900
#: What is left of an execution for sealing and for carrying results when its time is up.
SEALING_S: Final = 120
_IMAGE: Final = re.compile(r"[a-z0-9][a-zA-Z0-9._:/-]{0,200}@sha256:[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PYTHON: Final = re.compile(r"3\.(1[0-9])")
_REGION: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")


@dataclass(frozen=True)
class Bucket:
    """An object-storage bucket, mounted read-only (Mountpoint-S3: sequential reads)."""

    name: str
    prefix: str = ""
    secret: str | None = None


@dataclass(frozen=True)
class Rental:
    """What a run on Modal needs beside its case: the attempt's business, never the case's.

    Attributes:
        image: `NAME@sha256:…`, the registry image, pinned by its digest.
        add_python: version that Modal adds to an image that brings no Python; None for the image's own.
        fallbacks: GPU specifications to take, in order, when the case's is not to be had.
        allow_substitute: whether a class that Modal may serve by another is accepted.
        cpu: cores reserved; None for the service's default.
        memory_mib: memory reserved; None for the service's default.
        disk_mib: ephemeral disk; None for the service's default.
        region: where to run; None for anywhere.
        startup_timeout_s: for pulling the image and starting the container.
        environment: the Modal environment; None for the account's default.
        secrets: names of Modal Secrets whose variables the run gets. Names alone are ever written down.
        results, cache, data, checkpoints: names of the Volumes; checkpoints None for none.
        bucket: to mount; None for none.
        code: the directory that goes along with a command of the user's own; None for our own ranks.
    """

    image: str
    add_python: str | None = None
    fallbacks: tuple[str, ...] = ()
    allow_substitute: bool = False
    cpu: float | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    region: str | None = None
    startup_timeout_s: int = 900
    environment: str | None = None
    secrets: tuple[str, ...] = ()
    results: str = "lanemark-results"
    cache: str = "lanemark-cache"
    data: str = "lanemark-data"
    checkpoints: str | None = None
    bucket: Bucket | None = None
    code: Code | None = None


def check(rental: Rental) -> None:
    """Refuse what the service would refuse later, or what could not be a receipt.

    Raises:
        UsageError: `modal-image-unpinned`, `value-invalid`.
    """
    if _IMAGE.fullmatch(rental.image) is None:
        raise UsageError(
            "modal-image-unpinned",
            f"the image {rental.image[:120]!r} is not named by its digest, and a tag may mean another image tomorrow",
            "give --image NAME@sha256:DIGEST (`docker buildx imagetools inspect NAME:TAG` prints the digest)",
        )
    if rental.add_python is not None and _PYTHON.fullmatch(rental.add_python) is None:
        raise _invalid("--add-python", rental.add_python, "give a version such as 3.12")
    if rental.region is not None and _REGION.fullmatch(rental.region) is None:
        raise _invalid("--region", rental.region, "give a region such as us-east")
    volumes = [name for name in (rental.results, rental.cache, rental.data, rental.checkpoints) if name is not None]
    given = [("--secret", name) for name in rental.secrets] + [("a Volume's name", name) for name in volumes]
    given += [("--environment", rental.environment)] if rental.environment is not None else []
    for what, name in given:
        if _NAME.fullmatch(name) is None:
            raise _invalid(what, name, "give a name of letters, digits, dots and dashes")
    if len(set(volumes)) != len(volumes):
        raise _invalid("a Volume's name", volumes[0], "keep results, compile cache, data and checkpoints apart")


def _invalid(what: str, given: str, remedy: str) -> UsageError:
    return UsageError("value-invalid", f"{what} {given[:60]!r} cannot be used", remedy)


def function_timeout_s(case: Case) -> int:
    """Modal's limit for one execution: the run's own, and what a container does around it.

    Raises:
        UsageError: `value-invalid`: the run may take longer than the service lets any function.
    """
    wanted = int(case.wall_s) + OVERHEAD_S
    if wanted > MAX_TIMEOUT_S:
        raise UsageError(
            "value-invalid",
            f"--wall-limit {case.wall_s:g} and {OVERHEAD_S} s around the run are more than Modal's 24 hours",
            f"give --wall-limit {MAX_TIMEOUT_S - OVERHEAD_S} or less",
        )
    return wanted


def modal_request(case: Case, rental: Rental) -> dict[str, Any]:
    """The request as data. Optional things that were not asked for are left out, as they are in the SDK's call.

    Raises:
        UsageError: see `check`, `in_order` and `function_timeout_s`.
    """
    check(rental)
    gpu = in_order(case.gpu, rental.fallbacks, allow_substitute=rental.allow_substitute)
    function: dict[str, Any] = {
        "module": WORKER_MODULE,
        "name": WORKER_FUNCTION,
        "gpu": list(gpu),
        "timeout_s": function_timeout_s(case),
        "startup_timeout_s": rental.startup_timeout_s,
        "retries": 0,
        "max_containers": 1,
        "single_use_containers": True,
    }
    optional = {
        "cpu": rental.cpu,
        "memory_mib": rental.memory_mib,
        "ephemeral_disk_mib": rental.disk_mib,
        "region": rental.region,
    }
    function |= {name: value for name, value in optional.items() if value is not None}
    image: dict[str, Any] = {"registry": rental.image}
    if rental.add_python is not None:
        image["add_python"] = rental.add_python
    image["overlay"] = {"package": "lanemark", "under": OVERLAY_ROOT, "ignore": list(OVERLAY_IGNORES)}
    volumes: dict[str, Any] = {
        RESULTS: _volume(rental.results), CACHE: _volume(rental.cache), DATA: _volume(rental.data),
    }  # fmt: skip
    if rental.checkpoints is not None:
        volumes[CHECKPOINTS] = _volume(rental.checkpoints)
    request: dict[str, Any] = {
        "app": {
            "name": "the run id",
            "detach": True,
            "tags": {"lane": case.lane, "plan": case.digest.removeprefix("sha256:")[:32], "run_id": "the run id"},
        },
        "image": image,
        "function": function,
        "volumes": volumes,
        "secrets": sorted(rental.secrets),
    }
    if rental.code is not None:
        request["code"] = {**rental.code.to_json(), "volume_path": f"{DATA}/{volume_path(rental.code.digest)}"}
    if rental.environment is not None:
        request["app"]["environment"] = rental.environment
    if rental.bucket is not None:
        named = {"name": rental.bucket.name, "prefix": rental.bucket.prefix, "secret": rental.bucket.secret}
        request["bucket"] = {"at": BUCKET, "read_only": True, **{k: v for k, v in named.items() if v is not None}}
    return request


def _volume(name: str) -> dict[str, Any]:
    """Version 2 has many writers, and no limit on files but one a directory (modal.com/docs/guide/volumes)."""
    return {"name": name, "version": 2, "create_if_missing": True}


@dataclass(frozen=True)
class ModalRequest(LaunchRequest):
    """A launch on Modal: what is rented, and the ranks that the worker inside will start there as `local` does."""

    rental: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "surface": self.surface,
            "argv": list(self.argv),
            "reference_stack": self.reference_stack,
            "ranks": self.nproc,
            "cache": {"reason": self.cache_reason, "layout": self.cache_layout},
            "modal": dict(self.rental),
        }
