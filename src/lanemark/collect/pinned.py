"""What a run's pinned artifacts are, beside what is installed on the host that runs it; a difference is a finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lanemark.observe.packages import DEFAULT
from lanemark.observe.wheels import installed_contents
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, value_of

Doc = dict[str, Any]
_SOURCE: Final = "artifacts.json and the wheels beside it"


def packages_of(pinned: Doc | None) -> Mapping[str, str | None]:
    """The distributions that the host probe looks for: the usual ones, and those that are pinned."""
    wheels = [entry["wheel"] for entry in (pinned or {}).get("entries", []) if "wheel" in entry]
    return {**{wheel["distribution"]: wheel.get("module") for wheel in wheels}, **DEFAULT}


def look(pinned: Doc | None, image: Doc) -> tuple[Observation[Doc] | None, tuple[Finding, ...]]:
    """Hold what is installed to what is pinned. Every file of the pinned wheels' installations is read.

    Args:
        pinned: what the artifacts were when they were staged (`lanemark.cli.artifacts`); None where a run has none.
        image: the observation of the running image's digest.

    Returns:
        The record's part, or None where nothing is pinned; and what differs.
    """
    if not pinned:
        return None, ()
    entries, found = [], []
    for entry in pinned["entries"]:
        wheel = entry.get("wheel")
        if wheel is None:
            entries.append(entry)
            continue
        seen = installed_contents(wheel["distribution"])
        kept = {key: wheel[key] for key in ("distribution", "version", "contents")}
        entries.append({**entry, "wheel": {**kept, "installed": seen.to_json()}})
        found += _wheel_findings(entry["name"], wheel, seen)
    tied = pinned.get("image")
    running = value_of(image)
    if tied is not None and running is not None and tied != running:
        text = "the artifacts are pinned for another image than the one that is running"
        found.append(Finding("artifact_drift", "caveat", text, (f"pinned for {tied}", f"running {running}")))
    part = {key: pinned[key] for key in ("source", "verification")}
    part["image"] = (
        absent(_SOURCE, "it ties them to no image") if tied is None else observed(tied, "artifacts.json")
    ).to_json()
    return observed({**part, "entries": entries}, _SOURCE), tuple(found)


def _wheel_findings(name: str, wheel: Doc, seen: Observation[str]) -> list[Finding]:
    what = f"{wheel['distribution']} {wheel['version']}"
    pinned = f"{name} holds {wheel['contents']}"
    if seen.status == "absent":
        text = f"{what} is pinned, and nothing is installed under that name"
        return [Finding("artifact_drift", "caveat", text, (pinned,))]
    if seen.status == "observed" and seen.value != wheel["contents"]:
        text = f"the installed files of {what} are not those of the pinned wheel"
        return [Finding("artifact_drift", "caveat", text, (pinned, f"installed are {seen.value}"))]
    return []
