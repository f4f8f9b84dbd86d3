"""What a launcher on this host puts together for a run on Modal: data on the Volume, and the payload of the one call.

The payload is plain JSON and holds nothing secret: the case, the launcher's manifest, where the data lies, and what
only this host can say of the source that is about to run there. Secrets go by name, through the request, and are put
into the container's environment by the service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.collect.manifest import load
from lanemark.collect.modal_job import run_job
from lanemark.launch.detached import Submission
from lanemark.launch.modal import ModalSurface, client
from lanemark.launch.modal_code import Code, volume_path
from lanemark.launch.modal_request import ModalRequest, Rental
from lanemark.observe.source import source_facts

#: Enough of a digest to name a data set on a Volume; every byte is checked against the whole of it inside.
_NAME_CHARS: Final = 32


def data_name(dataset_digest: str | None) -> str | None:
    """The directory of a data set on the data Volume, named by what it holds. Pure."""
    return None if dataset_digest is None else dataset_digest.removeprefix("sha256:")[:_NAME_CHARS]


def payload_of(
    submission: Submission, rental: Rental, *, cache_from: tuple[str, ...] = (), cwd: Path | None = None
) -> dict[str, Any]:
    """What the function in the container is given (`modal_job.run_job`)."""
    assert isinstance(submission.request, ModalRequest)
    request = submission.request.to_json()
    seen = source_facts(cwd or Path.cwd(), os.environ)
    source = {name: observation.to_json() for name, observation in seen.items()}
    for observation in source.values():
        observation["source"] = f"{observation['source']}, on the launching host"
    doc: dict[str, Any] = {
        "run_id": submission.run_id,
        "case": submission.case.to_json(),
        "manifest": load(submission.paths).to_json(),
        "source": source,
        "rental": request["modal"],
        "timeout_s": request["modal"]["function"]["timeout_s"],
        "results": rental.results,
        "cache_layout": submission.placement.cache_layout,
        "cache_from": list(cache_from),
    }
    data = data_name(submission.case.data.dataset_digest)
    code = None if rental.code is None else rental.code.digest
    optional = {"environment": rental.environment, "data": data, "code": code}
    return doc | {name: value for name, value in optional.items() if value is not None}


def upload_data(directory: Path, dataset_digest: str, rental: Rental) -> int:
    """Put a data set on the data Volume, unless it is there. Returns how many files were carried.

    A file that is there with its size is taken for the same one; the container reads every byte, and says when not.
    """
    name = data_name(dataset_digest)
    there = client().list_volume(rental.data, rental.environment, f"/{name}")
    files: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.is_symlink() and there.get(f"{name}/{path.name}") != path.stat().st_size:
            files[f"/{name}/{path.name}"] = path
    if files:
        client().write_volume(rental.data, rental.environment, files)
    return len(files)


def upload_code(data: bytes, code: Code, rental: Rental) -> bool:
    """Put a command's archive on the data Volume, unless it is there. Returns whether it was carried."""
    path = volume_path(code.digest)
    if client().list_volume(rental.data, rental.environment, "/code").get(path) == len(data):
        return False  # the container reads every byte, and says when they are others
    client().write_volume(rental.data, rental.environment, {f"/{path}": data})
    return True


def launching_surface(
    rental: Rental, *, cache_from: tuple[str, ...] = (), interrupted: Callable[[], str | None] = lambda: None
) -> ModalSurface:
    """A surface that can submit: it knows what to rent, and which function the container runs."""

    def payload(submission: Submission) -> Mapping[str, Any]:
        return payload_of(submission, rental, cache_from=cache_from)

    return ModalSurface(rental, worker=run_job, payload=payload, interrupted=interrupted)
