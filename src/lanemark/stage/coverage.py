"""Coverage manifests on disk: written after a run from what its ranks said, read back and held against the cache.

A manifest lies in the cache it speaks of, at `coverage/<question>.json`. It is written from the ranks' own words (the
keys they looked up, the binaries that were mapped into them) and from a listing of the cache taken at that moment, so
that "covered" later means: the very bytes that served a real run of this question are still there.

A run whose ranks could not all say what they used leaves no manifest. That costs one more seeding pass; a manifest with
a hole in it would cost a hang.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.cache_manifest import (
    MAX_MANIFEST_BYTES,
    Layout,
    Manifest,
    RankUse,
    manifest_name,
    rank_use,
    read_manifest,
)
from lanemark.lanes.coverage import Coverage, compile_question, covers, question_differences, uncovered
from lanemark.measure.durable import replace_file
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile, listing
from lanemark.observe.reading import reason_of
from lanemark.records.case import Case
from lanemark.records.encoding import safe_text

#: More manifests than this in one cache are not looked through for a near miss.
_MAX_MANIFESTS: Final = 256


def manifest_path(cache_dir: Path, case: Case) -> Path:
    """Where the manifest of a case's question lies."""
    return cache_dir / COVERAGE_DIRECTORY / manifest_name(compile_question(case))


def write_coverage(
    cache_dir: Path,
    case: Case,
    layout: Layout,
    rank_reports: Sequence[Mapping[str, Any] | None],
    run_id: str,
    *,
    fingerprint: Mapping[str, Any],
) -> Path | str:
    """Write down what a good run of `case` used. Never raises; returns the manifest's path, or why there is none.

    Args:
        cache_dir: the attempt's cache directory.
        case: what ran.
        layout: how its ranks divided the directory.
        rank_reports: by rank, the `compile_cache` observation of its last report (JSON form); None where there is none.
        run_id: the attempt's.
        fingerprint: of the environment the ranks were given (`lanemark.observe.fingerprint`).
    """
    uses = rank_uses(rank_reports)
    for rank in range(case.nproc):
        use = uses.get(rank, "it reported nothing")
        if isinstance(use, str):
            return f"rank {rank} did not say what it used of the cache: {use}"
        if not (use.fx or use.aot):
            return f"rank {rank} looked up no key, so that nothing shows what it needs"
    return write_manifest(cache_dir, case, layout, uses, run_id, fingerprint=fingerprint)


def write_manifest(
    cache_dir: Path,
    case: Case,
    layout: Layout,
    uses: Mapping[int, RankUse | str],
    run_id: str,
    *,
    fingerprint: Mapping[str, Any],
) -> Path | str:
    """As `write_coverage`, for ranks that may be fewer than the case's."""
    manifest = build_manifest(cache_dir, case, layout, uses, run_id, fingerprint=fingerprint)
    if isinstance(manifest, str):
        return manifest
    path = manifest_path(cache_dir, case)
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, manifest.encoded())
    except OSError as error:
        return f"the manifest could not be written: {reason_of(error)}"
    return path


def build_manifest(
    cache_dir: Path,
    case: Case,
    layout: Layout,
    uses: Mapping[int, RankUse | str],
    run_id: str,
    *,
    fingerprint: Mapping[str, Any],
) -> Manifest | str:
    """A manifest of the cache as it is now, or why there is none. Writes nothing."""
    seen = listing(cache_dir)
    if seen.value is None:
        return f"the cache could not be listed: {seen.reason or 'it is not there'}"
    doc = Manifest(
        question=compile_question(case),
        fingerprint=dict(fingerprint),
        world_size=case.nproc,
        cache_layout=layout,
        cache_root=cache_root(cache_dir),
        ranks=tuple(use for _, use in sorted(uses.items()) if isinstance(use, RankUse)),
        files=_unique(seen.value),
        run_id=run_id,
        captured_at=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    try:
        return read_manifest(doc.encoded())  # what we would refuse to read is not written
    except ValueError as error:
        return f"the cache cannot be described: {error}"


def rank_uses(rank_reports: Sequence[Mapping[str, Any] | None]) -> dict[int, RankUse | str]:
    """By rank, what it used, or why that is not known."""
    uses: dict[int, RankUse | str] = {}
    for rank, report in enumerate(rank_reports):
        if not isinstance(report, Mapping) or report.get("status") != "observed":
            reason = report.get("reason") if isinstance(report, Mapping) else None
            uses[rank] = str(reason or "it reported nothing")[:200]
            continue
        try:
            uses[rank] = rank_use(rank, report.get("value"))
        except ValueError as error:
            uses[rank] = str(error)
    return uses


def read_coverage(cache_dir: Path, case: Case) -> Manifest | str:
    """The manifest for a case's question, or why there is none. Never raises."""
    path = manifest_path(cache_dir, case)
    try:
        return read_manifest(read_bounded(path))
    except FileNotFoundError:
        return _nothing_recorded(cache_dir, case)
    except OSError as error:
        return f"the coverage manifest could not be read: {reason_of(error)}"
    except ValueError as error:
        return f"the coverage manifest {path.name} cannot be used: {error}"


def check_coverage(
    cache_dir: Path,
    case: Case,
    layout: Layout,
    *,
    fingerprint: Mapping[str, Any],
    files: Sequence[ListedFile] | None = None,
) -> Coverage:
    """Whether the cache covers the case, byte for byte, here and now. Never raises: what cannot be seen covers nothing.

    Args:
        cache_dir: its directory.
        case: what is asked.
        layout: how the coming run divides the directory.
        fingerprint: of the environment the ranks will be given.
        files: a listing that was taken already.
    """
    manifest = read_coverage(cache_dir, case)
    if isinstance(manifest, str):
        return uncovered(manifest)
    if files is None:
        seen = listing(cache_dir)
        if seen.value is None:
            return uncovered(f"the cache could not be listed: {seen.reason or 'it is not there'}")
        files = seen.value
    return covers(
        manifest,
        question=compile_question(case),
        fingerprint=fingerprint,
        listing=files,
        layout=layout,
        cache_root=cache_root(cache_dir),
    )


def manifests(cache_dir: Path) -> dict[str, Manifest | str]:
    """Every manifest of a cache by file name, or why it cannot be read. Empty where there is none."""
    found: dict[str, Manifest | str] = {}
    try:
        names = sorted(path.name for path in (cache_dir / COVERAGE_DIRECTORY).iterdir())
    except OSError:
        return {}
    for name in names[:_MAX_MANIFESTS]:
        if name.startswith(".") or not name.endswith(".json") or name == SEED_NOTE:
            continue
        try:
            found[name] = read_manifest(read_bounded(cache_dir / COVERAGE_DIRECTORY / name))
        except (OSError, ValueError) as error:
            found[name] = reason_of(error)
    return found


#: What the last seeding did, beside the manifests (`lanemark.stage.seeding`).
SEED_NOTE: Final = "seeded.json"


def read_bounded(path: Path) -> bytes:
    """A manifest's bytes, never through a link and never more than one may have. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def cache_root(cache_dir: Path) -> str:
    """The directory as a manifest has it: absolute, and fit for a record."""
    return safe_text(str(cache_dir.absolute()))


def _nothing_recorded(cache_dir: Path, case: Case) -> str:
    """No manifest has this question's name: say what the nearest one was for, since that is the usual mistake."""
    question = compile_question(case)
    others = [found for found in manifests(cache_dir).values() if isinstance(found, Manifest)]
    if not others:
        return "no run of this case has recorded what it needs"
    nearest = min(others, key=lambda found: len(question_differences(found.question, question)))
    return "it holds another case's code: " + "; ".join(question_differences(nearest.question, question)[:3])


def _unique(files: Sequence[ListedFile]) -> tuple[ListedFile, ...]:
    return tuple(sorted({file.path: file for file in files}.values()))
