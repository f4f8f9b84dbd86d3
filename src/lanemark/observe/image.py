"""Which image this is, as far as the inside can know. Only what was seen: a digest that somebody declared stays theirs.

A container is not told the digest of its own image: docker and containerd leave no trace of it inside. Podman writes
the image's name and id where the container runs privileged; Modal gives an id of its own kind, which names an image
and digests nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.observe.reading import from_error, read_text
from lanemark.observe.redaction import redact_text
from lanemark.observe.virtualization import container_signs, read_signs
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

_CONTAINERENV: Final = "/run/.containerenv"
_HEX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def parse_containerenv(text: str) -> dict[str, str]:
    """Podman's `key="value"` lines; empty when the container is not privileged (podman-run(1), `--privileged`)."""
    return dict(re.findall(r'^([A-Za-z]+)="?([^"\n]*)"?$', text, re.MULTILINE))


def image_facts(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> dict[str, Observation[Any]]:
    """`digest` and `reference` of the running image. Never raises.

    Args:
        environ: ours when None.
        root: where the marker files are; another directory only in tests.
    """
    env = os.environ if environ is None else environ
    try:
        podman = parse_containerenv(read_text(root / _CONTAINERENV.lstrip("/"), 64 * 1024))
    except OSError as error:
        podman = {}
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            refused = from_error(_CONTAINERENV, error)
            return {"digest": refused, "reference": refused}
    signs = container_signs(read_signs(root, env))
    return {"digest": _digest(podman, signs), "reference": _reference(podman, env, signs)}


def _digest(podman: Mapping[str, str], signs: list[str]) -> Observation[str]:
    match = _HEX.fullmatch(podman.get("imageid", ""))
    if match:
        return observed(f"sha256:{match[1]}", f"{_CONTAINERENV} (imageid: the digest of the image's configuration)")
    if not signs:
        return absent("container marker files", "no sign of a container was seen")
    return unavailable("container marker files", f"a container is not told its own image's digest ({signs[0]})")


def _reference(podman: Mapping[str, str], environ: Mapping[str, str], signs: list[str]) -> Observation[str]:
    if podman.get("image"):
        return observed(redact_text(safe_text(podman["image"])), f"{_CONTAINERENV} (image)")
    image_id = environ.get("MODAL_IMAGE_ID", "")
    if re.fullmatch(r"im-[A-Za-z0-9]{1,64}", image_id):
        return observed(image_id, "MODAL_IMAGE_ID, set by the platform (an id, not a digest)")
    if not signs:
        return absent("container marker files", "no sign of a container was seen")
    return unavailable("container marker files", f"a container is not told its own image's name ({signs[0]})")
