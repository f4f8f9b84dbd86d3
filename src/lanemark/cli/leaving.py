"""`lanemark run … --detach`: everything is checked here and now; then the run is handed over, and we leave."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from lanemark.cli.artifacts import with_artifacts
from lanemark.cli.deciding import Decided
from lanemark.cli.parsing import advise, print_json
from lanemark.cli.places import place_named
from lanemark.collect.handing_over import Handover, hand_over
from lanemark.collect.manifest import Manifest
from lanemark.collect.preparing import prepare
from lanemark.launch.command import local_surface
from lanemark.launch.detached import DetachedSurface
from lanemark.launch.modal import ModalSurface
from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case

#: Surface → the pure request of a launch there.
_REQUESTS: dict[str, Callable[[Case, Placement], LaunchRequest]] = {
    "local": lambda case, placement: local_surface(case).request(case, placement)
}


def leave(
    decided: Decided,
    home: Home,
    *,
    argv: list[str],
    artifacts: Mapping[str, Any] | None = None,
    wave: str | None = None,
    renting: ModalSurface | None = None,
    prepared: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Prepare an attempt and leave it with its surface. Returns as soon as it is handed over.

    Args:
        decided: the case and its placement.
        home: where attempts lie.
        argv: the client's command line.
        artifacts: what is pinned of the image's wheels and other artifacts.
        wave: the wave of the promotion lane that the attempt belongs to, where there is one.
        renting: the surface that knows what to rent; None for a run on this host.
        prepared: told the run id before anything that cannot be undone.

    Raises:
        GateRefused: the attempt cannot be prepared.
        RunFailed: nothing was launched; the attempt is sealed and says so.
        SurfaceError: whether it was launched is not known yet; `lanemark collect` will.
    """
    case, placement = decided.case, decided.placement
    surface: DetachedSurface = place_named(case.surface) if renting is None else renting
    request = _REQUESTS[case.surface](case, placement) if renting is None else renting.request(case, placement)
    kept = {"cwd": os.getcwd()} if wave is None else {"cwd": os.getcwd(), "wave": wave}
    if placement.data_dir is not None:
        kept["data_dir"] = str(placement.data_dir)
    if placement.cache_dir is not None:
        kept["cache_dir"] = str(placement.cache_dir)
    data = with_artifacts(decided.tokens.doc, artifacts or {})
    attempt = prepare(home, case, argv=argv, placement=kept, data=data, hold=True)
    prepared(attempt.paths.run_id)
    advise(f"lanemark: {attempt.paths.run_id}: prepared")
    handover = Handover(attempt.manifest, placement, decided.start, decided.capture_to)
    return hand_over(home, attempt, surface, request, handover)


def report(manifest: Manifest, home: Home, *, as_json: bool) -> int:
    """Say where the run was left, and how to get its record. Exit 0."""
    paths = home.attempt(manifest.run_id)
    if as_json:
        print_json(
            {
                "run_id": manifest.run_id,
                "state": manifest.state.value,
                "surface": manifest.surface,
                "manifest": str(paths.manifest),
            }
        )
    else:
        print(f"{manifest.run_id}  {manifest.state.value}  {manifest.transitions[-1].reason}")
        run_id = manifest.run_id
        advise(f"lanemark: its record: `lanemark collect {run_id} --wait`; to end it: `lanemark cancel {run_id}`")
    return 0
