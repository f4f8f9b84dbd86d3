"""Manifests of waves on disk: written once, read back whole, never replaced by another wave of the same name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from lanemark.lanes.wave import is_manifest
from lanemark.measure.durable import replace_file
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import LedgerError, UsageError

_LARGEST_BYTES: Final = 64 * 1024 * 1024


class WaveFile(NamedTuple):
    """A kept manifest: its path, and the digest of its bytes."""

    path: Path
    digest: str


def check_new(waves: Path, name: str) -> None:
    """A wave's name is used once. Raises UsageError `value-invalid`."""
    if (waves / f"{name}.json").exists():
        raise UsageError("value-invalid", f"there is a wave {name!r} already", "give another --wave, or leave it out")


def write_wave(waves: Path, name: str, manifest: dict[str, Any]) -> WaveFile:
    """Keep a manifest. Raises LedgerError `ledger-unwritable`."""
    data, path = encode(manifest), waves / f"{name}.json"
    try:
        waves.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise LedgerError(
            "ledger-unwritable", f"the manifest {str(path)!r} cannot be written ({error.strerror})",
            "make room or set LANEMARK_HOME to another place; the records themselves are kept",
        ) from None  # fmt: skip
    return WaveFile(path, digest(data))


def read_wave(waves: Path, name_or_path: str) -> tuple[dict[str, Any], WaveFile]:
    """A manifest by the wave's name or by its file. Raises LedgerError `wave-missing`."""
    path = _path(waves, name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES)
        doc = decode(data)
        whole = is_manifest(doc)
    except (OSError, ValueError):
        whole = False
    if not whole:
        known = sorted(each.stem for each in waves.glob("*.json")) if waves.is_dir() else []
        raise LedgerError(
            "wave-missing", f"there is no manifest of a wave {os.fspath(name_or_path)[:100]!r} that can be read",
            f"name one of {', '.join(known[-5:])}" if known else "make one with `lanemark run promotion`",
        )  # fmt: skip
    return doc, WaveFile(path, digest(data))


def _path(waves: Path, name_or_path: str) -> Path:
    given = Path(name_or_path)
    return given if given.suffix == ".json" else waves / f"{name_or_path}.json"


def wave_file(waves: Path, name_or_path: str) -> Path | None:
    """The file of a wave's manifest, or None while there is none."""
    path = _path(waves, name_or_path)
    return path if path.exists() else None


def wave_names(waves: Path) -> list[str]:
    """Names of all kept waves, oldest first."""
    try:
        found = [(each.stat().st_mtime_ns, each.stem) for each in waves.glob("*.json")]
    except OSError:
        return []
    return [name for _, name in sorted(found)]
