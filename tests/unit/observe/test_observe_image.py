"""What an image's inside knows of it, per container runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanemark.observe.image import image_facts, parse_containerenv

HEX = "ab" * 32
PRIVILEGED = (
    f'engine="podman-4.3.1"\nname="box"\nid="{"cd" * 32}"\nimage="docker.io/library/x:1"\nimageid="{HEX}"\nrootless=1\n'
)


def podman(root: Path, text: str) -> Path:
    (root / "run").mkdir()
    (root / "run/.containerenv").write_text(text)
    return root


def test_podman_privileged_tells_both(tmp_path: Path) -> None:
    facts = image_facts({}, podman(tmp_path, PRIVILEGED))
    assert facts["digest"].value == f"sha256:{HEX}"
    assert facts["reference"].value == "docker.io/library/x:1"


@pytest.mark.parametrize("text", ["", 'imageid="not hex"\n', "garbage\n"])
def test_podman_that_tells_nothing_is_unavailable(tmp_path: Path, text: str) -> None:
    facts = image_facts({}, podman(tmp_path, text))
    assert facts["digest"].status == facts["reference"].status == "unavailable"


def test_docker_is_unavailable_and_no_container_is_absent(tmp_path: Path) -> None:
    assert {seen.status for seen in image_facts({}, tmp_path).values()} == {"absent"}
    (tmp_path / ".dockerenv").touch()
    facts = image_facts({}, tmp_path)
    assert {seen.status for seen in facts.values()} == {"unavailable"}
    assert "not told its own image's digest" in (facts["digest"].reason or "")


def test_modal_id_is_a_reference_and_no_digest(tmp_path: Path) -> None:
    facts = image_facts({"MODAL_TASK_ID": "ta-1", "MODAL_IMAGE_ID": "im-Abc123"}, tmp_path)
    assert facts["reference"].value == "im-Abc123"
    assert facts["digest"].status == "unavailable"
    odd = image_facts({"MODAL_TASK_ID": "ta-1", "MODAL_IMAGE_ID": "x y"}, tmp_path)
    assert odd["reference"].status == "unavailable"


def test_a_declared_digest_fills_nothing(tmp_path: Path) -> None:
    facts = image_facts({"LANEMARK_IMAGE_DIGEST": f"sha256:{HEX}"}, tmp_path)
    assert facts["digest"].status == "absent"


def test_containerenv_parses() -> None:
    assert parse_containerenv('a="b"\nc=d\n# x\n') == {"a": "b", "c": "d"}
