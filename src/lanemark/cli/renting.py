"""`--surface modal`: a plan that needs nothing, and what is settled here before a run is left there.

The box that will run it is not here, so nothing of this host decides about the case: no device is looked for, no
compiler, no cache. What can be settled here is: the request, the tokens, whether the service would take the run at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked
from lanemark.cli.deciding import Decided
from lanemark.cli.gates import disk_room, home_writable
from lanemark.cli.leaving import leave
from lanemark.cli.parsing import advise
from lanemark.cli.places import places
from lanemark.cli.progress import Bar
from lanemark.cli.tokens import resolve
from lanemark.collect.collecting import cancel_one, collect_one
from lanemark.collect.conduct import Conducted
from lanemark.collect.manifest import Manifest
from lanemark.collect.modal_launch import launching_surface, upload_code, upload_data
from lanemark.collect.signals import StopSignals
from lanemark.launch.modal import ModalSurface, client
from lanemark.launch.modal_code import pack
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import parse_gpu
from lanemark.records.encoding import digest
from lanemark.records.errors import GateRefused, SurfaceError
from lanemark.records.statement import SealedRecord
from lanemark.stage.seed_source import parse_sources

#: Between two looks at a run that somebody waits for.
_LOOK_S: Final = 2.0


def decide_rented(asked: Asked, home: Home, *, build: bool) -> Decided:
    """Close what the arguments left open, from the arguments and the data alone.

    Args:
        asked: understood, with what is to be rented.
        home: where the default corpus lies.
        build: whether data may be built or staged now.

    Raises:
        DataError: the data cannot be used.
        GateRefused: a source of data could not be staged.
    """
    reasons, case = dict(asked.reasons), asked.case
    if not asked.dtype_given and asked.preset is not None:
        on_cpu = parse_gpu(case.gpu).name == "cpu"
        case = replace(case, dtype="fp32" if on_cpu else "bf16")
        reasons["dtype"] = "no GPU is rented" if on_cpu else "a GPU is rented"
    tokens = resolve(asked, home, build=build)
    case = replace(case, data=tokens.asked)
    if asked.data is None and tokens.directory is not None:
        reasons["data"] = f"the default corpus, {tokens.directory}"
    placement = Placement(home=home, data_dir=tokens.directory, cache_layout=asked.cache_layout)
    return Decided(case, placement, tokens, {}, reasons, parse_sources(asked.cache_from, {}))


def surface_for(asked: Asked, interrupted: Callable[[], str | None] = lambda: None) -> ModalSurface:
    """The surface that a launch of this case goes through; `interrupted` names a signal that asks for none."""
    assert asked.rental is not None
    return launching_surface(asked.rental, cache_from=asked.cache_from, interrupted=interrupted)


@dataclass(frozen=True)
class Rented:
    """A run that was left there.

    Attributes:
        manifest: its attempt's.
        interrupted_by: the signal that came while it was launched, too late for it not to be; or None.
    """

    manifest: Manifest
    interrupted_by: str | None


def with_code(asked: Asked) -> tuple[Asked, bytes | None]:
    """The same question with the directory that its command takes along, and that directory as an archive.

    Raises:
        UsageError: `modal-code-unfit`.
    """
    if asked.case.script is None:
        return asked, None
    assert asked.rental is not None
    code, data = pack(Path.cwd())
    return replace(asked, rental=replace(asked.rental, code=code)), data


def plan_rented(asked: Asked, home: Home) -> dict[str, Any]:
    """What would be rented and asked there, as data. Contacts nobody."""
    asked, _ = with_code(asked)
    decided = decide_rented(asked, home, build=False)
    return {
        "case": decided.case.to_json(),
        "plan_digest": decided.case.digest,
        "reasons": decided.reasons,
        "request": surface_for(asked).request(decided.case, decided.placement).to_json(),
    }


def check_service(asked: Asked) -> None:
    """Whether Modal would take a run now. Raises GateRefused within five seconds when not."""
    assert asked.rental is not None
    bucket = asked.rental.bucket
    secrets = {*asked.rental.secrets, *([bucket.secret] if bucket is not None and bucket.secret else [])}
    client().preflight(tuple(sorted(secrets)), asked.rental.environment)


def carry_data(decided: Decided, asked: Asked) -> None:
    """Put the tokens on the data Volume, where they are not there already. Raises GateRefused `modal-unreachable`."""
    directory: Path | None = decided.placement.data_dir
    dataset = decided.case.data.dataset_digest
    if directory is None or dataset is None:
        return
    assert asked.rental is not None
    try:
        count = upload_data(directory, dataset, asked.rental)
    except Exception as error:  # whatever the SDK raises: nothing was launched, and another try carries the rest
        raise GateRefused(
            "modal-unreachable", f"the data could not be put on the Volume {asked.rental.data!r} ({error})", "try again"
        ) from None
    advise(
        f"lanemark: {count} files carried to the Volume {asked.rental.data!r}" if count else "lanemark: data is there"
    )


def carry_code(data: bytes, asked: Asked) -> None:
    """Put a command's directory on the data Volume, where it is not there. Raises GateRefused `modal-unreachable`."""
    assert asked.rental is not None
    assert asked.rental.code is not None
    code = asked.rental.code
    try:
        carried = upload_code(data, code, asked.rental)
    except Exception as error:  # as for data
        raise GateRefused(
            "modal-unreachable", f"the code could not be put on the Volume {asked.rental.data!r} ({error})", "try again"
        ) from None
    how = f"carried to the Volume {asked.rental.data!r}" if carried else "there already"
    advise(f"lanemark: {code.num_files} files of this directory, {code.num_bytes} bytes: {how}")


def rent(
    asked: Asked,
    home: Home,
    *,
    argv: list[str],
    artifacts: Mapping[str, Any] | None = None,
    wave: str | None = None,
) -> Rented:
    """Check that the service would take the run, carry its data there, and leave it.

    Args:
        asked: the question, and what is to be rented for it.
        home: where attempts lie.
        argv: the client's command line.
        artifacts: what was pinned for the run, for the record.
        wave: the wave that the attempt belongs to, where there is one.

    Raises:
        GateRefused: the service cannot be used, or the attempt cannot be prepared; nothing was launched.
        RunFailed: nothing was launched; the attempt is sealed and says so. `run-cancelled` where a signal came first.
        SurfaceError: whether it was launched is not known yet.
    """
    home_writable(home)
    disk_room(home)
    asked, code = with_code(asked)
    check_service(asked)
    decided = decide_rented(asked, home, build=True)
    if code is None:
        carry_data(decided, asked)
    else:
        carry_code(code, asked)
    with StopSignals() as stop:
        renting = surface_for(asked, stop)
        manifest = leave(decided, home, argv=argv, artifacts=artifacts, wave=wave, renting=renting)
    return Rented(manifest, stop())


def wait_for(home: Home, run_id: str, interrupted_by: str | None = None) -> Conducted:
    """Wait for a run that was left, and bring it home. A signal to this process asks for the run's end.

    Args:
        home: where its attempt lies.
        run_id: which.
        interrupted_by: a signal that came before: its end is asked for at once.

    Raises:
        SurfaceError: the run ended for us and not there: it could not be collected.
    """
    paths, surfaces = home.attempt(run_id), places()
    asked_to_end = False
    with StopSignals() as stop, Bar("running") as bar:
        while True:
            told = stop() or interrupted_by
            if told is not None and not asked_to_end:
                bar.say(f"{told}: asking for the end of {run_id}")
                done, asked_to_end = cancel_one(home, paths, surfaces), True
            else:
                done = collect_one(home, paths, surfaces)
            manifest = done.manifest
            if manifest is not None and manifest.state.final:
                data = paths.record.read_bytes()
                return Conducted(SealedRecord(digest(data), data), manifest, paths.record, None)
            if done.outcome == "problem" and (done.slug != "surface-unreachable" or asked_to_end):
                raise SurfaceError(
                    "surface-unreachable", f"{run_id} could not be collected ({done.line})",
                    f"try `lanemark collect {run_id}` again later",
                )  # fmt: skip
            bar.line(f"{run_id} is {'unknown' if manifest is None else manifest.state.value}")
            time.sleep(_LOOK_S)
