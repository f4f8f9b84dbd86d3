"""Capturing a compile cache after a run: one archive, published whole or not at all.

What goes in is what the cache's coverage manifest names, each file hashed again on its way; a file that changed since
is left out where nobody needs it, and ends the capture where somebody does. Locks, temporaries and half-written files
are in no manifest, and a file that is being written does not have the hash it had.

After a failed run there may be no manifest: then what the ranks managed to report is captured, as an archive that says
for how many ranks it speaks. It shortens the next seeding pass and covers nothing. It never takes the place of an
archive at the same name that speaks for more.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.cache_manifest import Layout, Manifest
from lanemark.lanes.coverage import compile_question, covers, mismatches, trouble
from lanemark.measure.durable import sync_directory
from lanemark.observe.compile_cache import ListedFile, hash_file, listing
from lanemark.observe.reading import reason_of
from lanemark.records.case import Case
from lanemark.stage.coverage import build_manifest, cache_root, rank_uses, read_coverage
from lanemark.stage.seed_archive import reading
from lanemark.stage.seed_member import Unusable
from lanemark.stage.seed_packing import Changed, Packed, pack

#: A cache that changes under every try is in use by somebody.
_TRIES: Final = 4


@dataclass(frozen=True)
class CaptureOutcome:
    """What became of one capture.

    Attributes:
        captured: an archive of the cache as it is now stands at the destination.
        reason: one phrase: what was written, or why nothing was.
        files: in the archive.
        bytes: of the archive.
        digest: of the archive (`sha256:…`); None when none was written.
        ranks: for how many ranks it speaks.
    """

    captured: bool
    reason: str
    files: int = 0
    bytes: int = 0
    digest: str | None = None
    ranks: int = 0

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "captured": self.captured,
            "reason": self.reason,
            "files": self.files,
            "bytes": self.bytes,
            "ranks": self.ranks,
        }
        return doc if self.digest is None else doc | {"digest": self.digest}


def capture_cache(
    cache_dir: Path,
    destination: Path,
    *,
    case: Case,
    layout: Layout,
    fingerprint: Mapping[str, Any],
    rank_reports: Sequence[Mapping[str, Any] | None] = (),
    run_id: str | None = None,
) -> CaptureOutcome:
    """Write the archive of a cache for a case. Never raises: a failed capture never fails a run.

    Args:
        cache_dir: the cache.
        destination: the archive's path; replaced atomically.
        case: for which question.
        layout: how its ranks divided the cache.
        fingerprint: of the environment the ranks had.
        rank_reports: what ranks of a run that left no manifest reported, by rank.
        run_id: of that run.
    """
    manifest = read_coverage(cache_dir, case)
    if isinstance(manifest, str) and run_id is not None:
        uses = rank_uses(rank_reports)
        manifest = build_manifest(cache_dir, case, layout, uses, run_id, fingerprint=fingerprint)
        if isinstance(manifest, Manifest) and not any(use.fx or use.aot for use in manifest.ranks):
            manifest = "no rank reported a key that it used"
    if isinstance(manifest, str):
        return CaptureOutcome(captured=False, reason=manifest)
    told = _told(cache_dir, case, layout, fingerprint)
    described = _described(manifest, _present(cache_dir, manifest), told)
    if isinstance(described, str):
        return CaptureOutcome(captured=False, reason=described)
    try:
        return _publish(cache_dir, described, destination, told)
    except ModuleNotFoundError as error:
        return CaptureOutcome(captured=False, reason=f"archives need the package {error.name}, which is not installed")
    except OSError as error:
        return CaptureOutcome(captured=False, reason=f"the archive could not be written: {reason_of(error)}")


def current_manifest(cache_dir: Path, case: Case, *, layout: Layout, fingerprint: Mapping[str, Any]) -> Manifest | str:
    """The manifest for a case, cut to what the cache still holds as it was; or why it cannot be carried elsewhere."""
    manifest = read_coverage(cache_dir, case)
    if isinstance(manifest, str):
        return manifest
    told = _told(cache_dir, case, layout, fingerprint)
    return _described(manifest, _present(cache_dir, manifest), told)


def _told(cache_dir: Path, case: Case, layout: Layout, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What coverage is judged by, as its functions take it."""
    return {
        "question": compile_question(case),
        "fingerprint": fingerprint,
        "layout": layout,
        "cache_root": cache_root(cache_dir),
    }


def _present(cache_dir: Path, manifest: Manifest) -> list[ListedFile]:
    """The manifest's files as far as they are there, by their sizes alone: what reads them next hashes them."""
    found = []
    for file in manifest.files:
        with suppress(OSError):
            seen = os.lstat(f"{cache_dir}/{file.path}")
            if not stat.S_ISREG(seen.st_mode):
                continue
            if seen.st_size == file.bytes:
                found.append(file)
            else:
                size, content = hash_file(cache_dir / file.path)
                found.append(file._replace(bytes=size, sha256=content))
    return found


def _described(manifest: Manifest, files: Sequence[ListedFile], told: Mapping[str, Any]) -> Manifest | str:
    """The manifest cut to the files that are as they were, or why what is left is not worth carrying."""
    known = replace(manifest, world_size=max(1, len(manifest.ranks)))
    wrong = mismatches(known, **told)
    if wrong:
        return "the cache was filled by something else: " + "; ".join(wrong[:3])
    missing = covers(manifest, listing=files, **told).missing
    if missing:
        return f"{len(missing)} of the keys and binaries that its run used are not there any more ({missing[0]})"
    here = {file.path: file for file in files}
    whole = (file for file in manifest.files if trouble(file, here.get(file.path)) is None)
    return replace(manifest, files=tuple(here[file.path] for file in whole))


def _publish(cache_dir: Path, manifest: Manifest, destination: Path, told: Mapping[str, Any]) -> CaptureOutcome:
    better = _speaks_for_more(destination, manifest)
    if better is not None:
        return CaptureOutcome(captured=False, reason=better)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staged = destination.with_name(f".{destination.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        for _ in range(_TRIES):
            try:
                packed = _write(cache_dir, manifest, staged)
            except Changed:
                cut = _described(manifest, listing(cache_dir).value or (), told)
                if isinstance(cut, str):
                    return CaptureOutcome(captured=False, reason=cut)
                manifest = cut
                continue
            os.replace(staged, destination)
            sync_directory(destination.parent)
            said = f"{packed.files} files for {len(manifest.ranks)} of {manifest.world_size} ranks"
            return CaptureOutcome(
                captured=True,
                reason=said,
                files=packed.files,
                bytes=packed.bytes,
                digest=packed.digest,
                ranks=len(manifest.ranks),
            )
    finally:
        with suppress(FileNotFoundError):
            os.unlink(staged)
    return CaptureOutcome(captured=False, reason="the cache kept changing while it was read")


def _write(cache_dir: Path, manifest: Manifest, staged: Path) -> Packed:
    with open(staged, "wb") as file:
        packed = pack(cache_dir, manifest, file)
        file.flush()
        os.fsync(file.fileno())
    return packed


def _speaks_for_more(destination: Path, manifest: Manifest) -> str | None:
    """Why an archive that is there already stays: it answers the same question here, for more ranks than we could."""
    try:
        with open(destination, "rb") as file, reading(file) as archive:
            found = archive.manifest
    except (OSError, Unusable):
        return None
    if found.question != manifest.question or found.fingerprint != manifest.fingerprint:
        return None
    if len(found.ranks) <= len(manifest.ranks):
        return None
    return (
        f"the archive that is there speaks for {len(found.ranks)} ranks, and this one would for {len(manifest.ranks)}"
    )
