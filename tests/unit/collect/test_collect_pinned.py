"""What is pinned beside what is installed: what agrees, and what is a finding."""

from __future__ import annotations

from typing import Any

import pytest

from lanemark.collect import pinned
from lanemark.collect.pinned import look, packages_of
from lanemark.observe.packages import DEFAULT
from lanemark.observe.wheels import installed_contents
from lanemark.records.observation import absent, observed, unavailable
from lanemark.records.schema_envelope import ArtifactsPart

HERE = installed_contents("rich").value
OTHER = "sha256:" + "00" * 32
IMAGE = "sha256:" + "ab" * 32
NO_IMAGE = absent("container marker files", "no container").to_json()


def artifacts(contents: str | None, distribution: str = "rich", **more: Any) -> dict[str, Any]:
    wheel = {"distribution": distribution, "version": "1", "contents": contents, "module": "rich"}
    row = {"name": "rich-1-py3-none-any.whl", "bytes": 3, "sha256": "0" * 64}
    entries = [{**row, "wheel": wheel}, {**row, "name": "k.cubin"}]
    return {"source": "s3://images/one", "verification": "manifest", "entries": entries, **more}


def findings(doc: dict[str, Any], image: dict[str, Any] = NO_IMAGE) -> list[str]:
    part, found = look(doc, image)
    assert part is not None
    ArtifactsPart.model_validate(part.value)
    assert all((one.kind, one.severity) == ("artifact_drift", "caveat") for one in found)
    return [one.summary for one in found]


def test_what_agrees_is_no_finding() -> None:
    assert look(None, NO_IMAGE) == (None, ())
    assert findings(artifacts(HERE)) == []
    assert findings(artifacts(HERE, image=IMAGE)) == []  # which image runs was not seen: no evidence of another one
    assert findings(artifacts(HERE, image=IMAGE), observed(IMAGE, "podman").to_json()) == []


def test_what_differs_is_one_each() -> None:
    (other,) = findings(artifacts(OTHER))
    assert "not those of the pinned wheel" in other
    (gone,) = findings(artifacts(OTHER, "no-such-distribution"))
    assert "nothing is installed" in gone
    (image,) = findings(artifacts(HERE, image=OTHER), observed(IMAGE, "podman").to_json())
    assert "another image" in image


def test_not_having_looked_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "installed_contents", lambda _: unavailable("files of rich", "permission denied"))
    assert findings(artifacts(OTHER)) == []


def test_pinned_packages_are_looked_for_as_well() -> None:
    assert packages_of(None) == DEFAULT
    names = packages_of(artifacts(HERE))
    assert names["rich"] == "rich"
    assert names["torch"] is None
