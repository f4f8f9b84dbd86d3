"""Baking a last-known-good seed: a directory that goes into an image, and the lines that put it there.

The directory has the form of a cache: files, and `coverage/` with the manifest. So it serves as a layer as it is, and
behind any web server as a per-file one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lanemark.lanes.cache_manifest import Manifest
from lanemark.measure.durable import replace_file
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY
from lanemark.stage.seed_archive import make_directories
from lanemark.stage.seed_layers import copy_file
from lanemark.stage.seed_source import SOURCES_VARIABLE

#: Where the seed lies inside an image. Plain, since compile commands never see it and people do.
IMAGE_DIRECTORY: Final = "/opt/lanemark-seed"


class ImageLines(NamedTuple):
    """What to add to an image's recipe, for each of two builders."""

    dockerfile: str
    modal: str


def bake(cache_dir: Path, manifest: Manifest, out: Path) -> None:
    """Write the seed directory, whole or not at all. `out` may be missing or empty.

    Args:
        cache_dir: whose files are copied.
        manifest: of those files, from `lanemark.stage.capture.current_manifest`.
        out: the directory.

    Raises:
        Unusable: a file changed while it was copied.
        OSError: `out` cannot be written, or is not empty.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    staged.mkdir(mode=0o755)
    try:
        make_directories(staged, manifest.files)
        for file in manifest.files:
            copy_file(f"{cache_dir}/{file.path}", f"{staged}/{file.path}", file)
        (staged / COVERAGE_DIRECTORY).mkdir()
        replace_file(staged / COVERAGE_DIRECTORY / manifest.name, manifest.encoded())
        os.rename(staged, out)
    finally:
        with suppress(OSError):
            shutil.rmtree(staged, ignore_errors=True)


def image_lines(out: Path) -> ImageLines:
    """The lines for a Dockerfile, and for a Modal image.

    Modal adds local files last (modal.Image.add_local_dir: other build steps may not follow), hence `env` before it.
    """
    name = out.name
    return ImageLines(
        f"COPY {name} {IMAGE_DIRECTORY}\nENV {SOURCES_VARIABLE}={IMAGE_DIRECTORY}",
        f'image = image.env({{"{SOURCES_VARIABLE}": "{IMAGE_DIRECTORY}"}})'
        f'.add_local_dir("{name}", "{IMAGE_DIRECTORY}")',
    )
