"""Many runs on the loopback Modal out of one: what a collector finds there is real, and only one was executed.

One run is handed over and executed in a container. Its files on the results Volume, its record, its manifest of results
and its call stand for those of all others, with every name in them changed to the other run's and every digest made
again. The launchers' manifests lie alone in a home that never saw a launch, as on another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lanemark.collect.handing_over import Handover, hand_over
from lanemark.collect.manifest import Manifest, save
from lanemark.collect.modal_launch import launching_surface
from lanemark.collect.preparing import prepare
from lanemark.collect.starting import Start
from lanemark.launch.modal_request import Rental
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home, new_run_id
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from modal_plane import IMAGE, ModalPlane

PROGRAM = Path(__file__).resolve().parent / "real" / "programs" / "rank_program.py"
CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="ddp", compile="eager", dtype="fp32", steps=20, warmup=2,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu", surface="modal",
    command=("sh", "-c", f"exec {sys.executable} {PROGRAM} ok"),
)  # fmt: skip


@dataclass(frozen=True)
class Executed:
    """The one run that was executed: its manifest at the launcher, and what it left on the Volume."""

    manifest: Manifest
    files: Mapping[str, bytes]
    done: Mapping[str, Any]


def results(plane: ModalPlane) -> Path:
    """The committed files of the results Volume."""
    return Path(plane.order("look")["volumes"]["lanemark-results"])


def execute(plane: ModalPlane, place: Path) -> Executed:
    """Hand one run over and wait for its end."""
    home, rental = Home(place), Rental(image=IMAGE)
    surface = launching_surface(rental)
    placement = Placement(home)
    attempt = prepare(home, CASE, argv=["lanemark", "run"], placement={}, data={}, hold=True)
    handover = Handover(attempt.manifest, placement, Start())
    manifest = hand_over(home, attempt, surface, surface.request(CASE, placement), handover)
    call = manifest.ids["call_id"]
    plane.until(lambda seen: any(i["call"] == call and i["state"] == "done" for i in seen["inputs"].values()))
    there = results(plane) / manifest.run_id / "executions" / "1"
    done = json.loads((there / "done.json").read_bytes())
    assert done["state"] == "ok", done["reason"]
    names = [file["name"] for file in done["files"]]
    return Executed(manifest, {name: (there / "attempt" / name).read_bytes() for name in names}, done)


#: What may be wrong with a run on the far side: changes its files and its manifest of results, which are not yet written.
Spoil = Callable[[dict[str, bytes], dict[str, Any]], None]


@dataclass(frozen=True)
class Left:
    """One run as it lies there.

    Attributes:
        spoil: makes its files wrong.
        call: what its call does, as the plane's order `clone` has it; by default it returns the envelope.
        gone: nothing of it is on the Volume.
    """

    spoil: Spoil | None = None
    call: Mapping[str, Any] | None = None
    gone: bool = False


def leave(plane: ModalPlane, one: Executed, home: Home, runs: Sequence[Left]) -> list[str]:
    """Put so many runs there, and their manifests alone into `home`. Returns their run ids, in order."""
    volume = results(plane)
    ids = [new_run_id(CASE.lane, datetime.now(timezone.utc)) for _ in runs]
    asked = [
        {"output": envelope(one.done, run_id)} if run.call is None else dict(run.call)
        for run_id, run in zip(ids, runs, strict=True)
    ]
    calls = plane.order("clone", call=one.manifest.ids["call_id"], calls=asked)
    shared = volume.parent / f"{one.manifest.run_id}.files"  # what does not differ is written once
    for run_id, call_id, run in zip(ids, calls, runs, strict=True):
        files, done = renamed(one, run_id, call_id)
        if run.spoil is not None:
            run.spoil(files, done)
        if not run.gone:
            there = volume / run_id / "executions" / "1"
            _write(there / "attempt", files, one.files, shared)
            (there / "claim.json").write_bytes(encode({"execution": 1, "call_id": call_id}))
            (there / "done.json").write_bytes(encode(done))
        paths = home.attempt(run_id)
        paths.root.mkdir(parents=True)
        elsewhere = f"/nowhere/attempts/{run_id}"
        ids_of = {**one.manifest.ids, "call_id": call_id}
        save(paths, replace(one.manifest, run_id=run_id, ids=ids_of, directory=elsewhere, boot_id="another"))
    return ids


def _write(place: Path, files: Mapping[str, bytes], same: Mapping[str, bytes], shared: Path) -> None:
    """A run's files; those that are the executed run's own are links to one copy of them."""
    for name, data in files.items():
        target, original = place / name, shared / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if data is not same.get(name):
            target.write_bytes(data)
            continue
        if not original.exists():
            original.parent.mkdir(parents=True, exist_ok=True)
            original.write_bytes(data)
        os.link(original, target)


def envelope(done: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """What the worker would have returned."""
    kept = {name: value for name, value in done.items() if name != "files"}
    return {**kept, "run_id": run_id, "num_files": len(done["files"])}


def renamed(one: Executed, run_id: str, call_id: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The executed run's files with another run's names in them, and the manifest of results over them."""
    names = [(one.manifest.run_id, run_id), (one.manifest.ids["call_id"], call_id)]
    files: dict[str, bytes] = {}
    for name, data in sorted(one.files.items(), key=lambda entry: entry[0] == "record.json"):  # the record comes last
        changed = data
        if name.endswith(".json"):
            for old, new in names:
                changed = changed.replace(old.encode(), new.encode())
            if changed != data and name != "record.json":
                names.append((sha256(data), sha256(changed)))
        files[name] = data if changed == data else changed
    return files, manifest_of(one.done, run_id, files)


def manifest_of(done: Mapping[str, Any], run_id: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """`done.json` over these files."""
    listed = [{"name": name, "bytes": len(data), "sha256": sha256(data)} for name, data in sorted(files.items())]
    return {**done, "run_id": run_id, "record_id": f"sha256:{sha256(files['record.json'])}", "files": listed}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
