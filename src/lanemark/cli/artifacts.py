"""`--artifacts`: stage what a run's image was built from, held to `artifacts.json`, and say what each wheel holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanemark.cli.stage import Watcher
from lanemark.observe.wheels import wheel_facts
from lanemark.records.attempt import Home
from lanemark.records.errors import DataError, GateRefused, StageError
from lanemark.stage.artifacts import ARTIFACTS_NAME, read_pins
from lanemark.stage.objects import Staged
from lanemark.stage.staging import stage
from lanemark.stage.survey import Plan

_MAKE = "make it with `lanemark stage SOURCE DEST --artifacts`, check it, and put it at the source"


def add_artifacts(verb: argparse.ArgumentParser) -> None:
    """The option of verbs that run something."""
    verb.add_argument(
        "--artifacts", metavar="DIR|URL",
        help="wheels and other artifacts of the image, with their artifacts.json: staged, verified, and held against "
        "what is installed",
    )  # fmt: skip


def planned_artifacts(source: str | None, home: Home) -> dict[str, Any]:
    """What `resolve_artifacts` would stage, and where; it looks at the source, carries nothing, and writes nothing.

    Raises:
        GateRefused: as `resolve_artifacts`.
    """
    if source is None:
        return {}
    would = _staged(source, home, carry=False)
    return {"source": would.source, "bytes": would.bytes_total, "directory": would.directory}


def _staged(source: str, home: Home, *, carry: bool) -> Staged:
    def named(plan: Plan) -> Path:
        if plan.manifest is None:
            raise GateRefused("artifacts-unpinned", f"{plan.source} has no {ARTIFACTS_NAME}", _MAKE)
        return home.data / f"artifacts-{plan.key}"

    with Watcher() as watcher:
        try:
            return stage(source, named, artifacts=True, progress=watcher.look, dry_run=not carry)
        except StageError as error:
            raise GateRefused(error.slug, error.what, error.remedy) from error


def resolve_artifacts(source: str | None, home: Home) -> dict[str, Any]:
    """Stage them below the home; returns what is pinned, as an attempt's manifest keeps it, or nothing for None.

    Raises:
        GateRefused: staging did not end in verified artifacts, or nothing at the source pins any.
        DataError: `artifacts-invalid`, also for a wheel that is none.
    """
    if source is None:
        return {}

    done = _staged(source, home, carry=True)
    directory = Path(done.directory)
    pins = read_pins((directory / ARTIFACTS_NAME).read_bytes(), ARTIFACTS_NAME)
    entries = []
    for one in done.objects:
        entry: dict[str, Any] = {"name": one.name, "bytes": one.bytes, "sha256": one.sha256}
        if one.name.endswith(".whl"):
            try:
                entry["wheel"] = wheel_facts(directory / one.name).to_json()
            except (ValueError, OSError) as error:
                text = f"the pinned artifact {one.name} cannot be used: {error}"
                raise DataError("artifacts-invalid", text, "pin a wheel that pip would install") from error
        entries.append(entry)
    doc: dict[str, Any] = {"source": done.source, "verification": done.verification, "entries": entries}
    return doc if pins.image is None else {**doc, "image": pins.image}


def with_artifacts(data: Mapping[str, Any], artifacts: Mapping[str, Any]) -> dict[str, Any]:
    """What was seen of the data, and beside it what is pinned, as an attempt's manifest keeps both."""
    return {**data, **({"artifacts": dict(artifacts)} if artifacts else {})}
