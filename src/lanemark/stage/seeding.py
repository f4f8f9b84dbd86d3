"""Seeding a compile cache from layers, tried in order: an archive on a volume, one in object storage, a directory baked
into the image, single files from a server. The first that fits and holds something is used; what became of every one is
told, because a number that follows depends on it.

A layer passes these steps, and any failure ends it: 1. its manifest is read and checked; 2. it speaks for this case on
this host (question, world size, layout, every component of the fingerprint); 3. it holds all that it says is needed,
binaries included; 4. there is room; 5. every byte is unpacked beside the cache and hashed; 6. it goes in by renames.
Until the last step the cache has not been touched.

A cache that covers the case already is left alone, so that a seed never takes the place of something better.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.lanes.cache_manifest import Layout, Manifest
from lanemark.lanes.coverage import Coverage, compile_question, covers, mismatches
from lanemark.observe.clock import stamp
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile, listing
from lanemark.observe.disk import free_space
from lanemark.observe.reading import reason_of
from lanemark.records.case import Case
from lanemark.records.encoding import encode, safe_text
from lanemark.stage.coverage import SEED_NOTE, cache_root, check_coverage, read_coverage
from lanemark.stage.seed_install import Installed, install, staging_directory
from lanemark.stage.seed_layers import Layer, open_layer
from lanemark.stage.seed_lock import SeedLock
from lanemark.stage.seed_member import Unusable
from lanemark.stage.seed_remote import NotThere, Unreachable
from lanemark.stage.seed_source import Source, SourceKind

#: Left free beside an unpacked seed: the run itself writes logs, and the compiler what the seed lacks.
MARGIN_BYTES: Final = 64 * 1024**2
_REASONS: Final = 3

LayerVerdict = Literal[
    "used", "incompatible", "empty", "damaged", "refused", "unreachable", "already_covered", "not_tried"
]


@dataclass(frozen=True)
class LayerOutcome:
    """What became of one layer.

    Attributes:
        source: where it is, without anything that could be a credential.
        kind: how it was read.
        outcome: `used`; or why not: `incompatible` (another case, world size or toolchain), `empty`, `damaged` (not
            what it was), `refused` (not what it may be, or no room), `unreachable`; or it was not needed.
        reason: one phrase.
        files: taken from it.
        bytes: of them.
        digest: `sha256:…` of the archive as it was read, or of the manifest where there is no archive; None where
            nothing was read to its end.
        seconds: that it took.
    """

    source: str
    kind: SourceKind
    outcome: LayerVerdict
    reason: str
    files: int = 0
    bytes: int = 0
    digest: str | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "source": self.source,
            "kind": self.kind,
            "outcome": self.outcome,
            "reason": self.reason,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
        }
        return doc if self.digest is None else doc | {"digest": self.digest}


@dataclass(frozen=True)
class _Wanted:
    """What is being seeded, and for what."""

    cache_dir: Path
    case: Case
    layout: Layout
    fingerprint: Mapping[str, Any]

    def coverage(self, files: Sequence[ListedFile]) -> Coverage:
        return check_coverage(self.cache_dir, self.case, self.layout, fingerprint=self.fingerprint, files=files)


def seed_cache(
    sources: Sequence[Source],
    cache_dir: Path,
    *,
    case: Case,
    layout: Layout,
    fingerprint: Mapping[str, Any],
) -> tuple[LayerOutcome, ...]:
    """Try layers in order until the cache covers the case. Never raises for what a layer or a disk does.

    Safe to call from many processes at once: one unpacks, the others find a covered cache.

    Args:
        sources: layers, best first (`seed_source.parse_sources`).
        cache_dir: the cache's directory; it need not exist.
        case: what is to be covered.
        layout: how ranks divide the directory.
        fingerprint: of the environment that ranks will be given.

    Returns:
        One outcome a source, in order.
    """
    if not sources:
        return ()
    cache_dir = cache_dir.absolute()
    wanted = _Wanted(cache_dir, case, layout, fingerprint)
    try:
        with SeedLock(cache_dir):
            return _seed(sources, wanted)
    except (OSError, TimeoutError) as error:
        return tuple(
            _outcome(source, "refused", f"the cache could not be locked: {reason_of(error)}") for source in sources
        )


def _seed(sources: Sequence[Source], wanted: _Wanted) -> tuple[LayerOutcome, ...]:
    outcomes: list[LayerOutcome] = []
    for number, source in enumerate(sources):
        files = listing(wanted.cache_dir)
        if files.status == "unavailable":
            reason = f"the cache could not be listed: {files.reason}"
            return (*outcomes, *(_outcome(one, "refused", reason) for one in sources[number:]))
        here = files.value or ()
        if wanted.coverage(here).covered:
            if any(done.outcome == "used" for done in outcomes):
                reason = "an earlier layer was used"
                return (*outcomes, *(_outcome(one, "not_tried", reason) for one in sources[number:]))
            reason = "the cache covers the case already"
            return (*outcomes, *(_outcome(one, "already_covered", reason) for one in sources[number:]))
        begun_s = time.monotonic()
        done = _try(source, wanted, here)
        outcomes.append(replace(done, seconds=time.monotonic() - begun_s))
    return tuple(outcomes)


def _outcome(source: Source, outcome: LayerVerdict, reason: str) -> LayerOutcome:
    return LayerOutcome(source.shown, source.kind, outcome, safe_text(reason)[:500])


def _try(source: Source, wanted: _Wanted, here: Sequence[ListedFile]) -> LayerOutcome:
    """One layer, its steps in order; whatever goes wrong is its outcome."""
    try:
        with open_layer(source, wanted.case) as layer:
            return _take(source, layer, wanted, here)
    except Unusable as verdict:
        return _outcome(source, verdict.outcome, verdict.reason)
    except NotThere as verdict:
        return _outcome(source, "unreachable", verdict.reason)
    except Unreachable as verdict:
        return _outcome(source, "unreachable", verdict.reason)
    except ModuleNotFoundError as error:
        return _outcome(
            source,
            "unreachable",
            f"reading it needs the package {error.name}; install it with `pip install {error.name}`",
        )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _outcome(
            source, "refused", f"{'no room was left' if full else 'it could not be put in place'}: {reason_of(error)}"
        )


def _take(source: Source, layer: Layer, wanted: _Wanted, here: Sequence[ListedFile]) -> LayerOutcome:
    manifest = layer.manifest
    unfit = _unfit(manifest, wanted)
    if unfit is not None:
        return _outcome(source, *unfit)
    free = free_space(wanted.cache_dir)
    if free.value is not None and free.value < manifest.total_bytes + MARGIN_BYTES:
        return _outcome(
            source, "refused", f"it needs {_mib(manifest.total_bytes + MARGIN_BYTES)} and {_mib(free.value)} are free"
        )
    wanted.cache_dir.parent.mkdir(parents=True, exist_ok=True)
    staged = staging_directory(wanted.cache_dir)
    try:
        digest = layer.extract(staged)
        _add_bookkeeping(staged, source, manifest, digest, wanted)
        done = install(staged, wanted.cache_dir, manifest, here)
    finally:
        with suppress(OSError):
            shutil.rmtree(staged, ignore_errors=True)
    return LayerOutcome(
        source.shown,
        source.kind,
        "used",
        _said(done, manifest),
        done.added + done.replaced,
        manifest.total_bytes,
        digest,
    )


def _unfit(manifest: Manifest, wanted: _Wanted) -> tuple[LayerVerdict, str] | None:
    """Why a manifest is not to be used here, before a byte of its files was read; None when it is."""
    question = compile_question(wanted.case)
    told = {"question": question, "fingerprint": wanted.fingerprint, "layout": wanted.layout}
    root = cache_root(wanted.cache_dir)
    complete = replace(manifest, world_size=max(1, len(manifest.ranks)))  # who is missing is judged by the gate
    wrong = mismatches(complete, cache_root=root, **told)  # type: ignore[arg-type]  # a dict of what it takes
    if wrong:
        more = f", and {len(wrong) - _REASONS} more" if len(wrong) > _REASONS else ""
        return "incompatible", "; ".join(wrong[:_REASONS]) + more
    if not manifest.files or not any(use.fx or use.aot for use in manifest.ranks):
        return "empty", "it names no file, or no rank that used one"
    own = covers(manifest, cache_root=manifest.cache_root, listing=manifest.files, **told)  # type: ignore[arg-type]
    if own.missing:
        binaries = sum(": binary " in phrase for phrase in own.missing)
        lacking = f"{binaries} binaries" if binaries == len(own.missing) else f"{len(own.missing)} keys and binaries"
        return "refused", f"{lacking} of the {own.required} that its ranks used are not in it ({own.missing[0]})"
    if not any(file.kind == "binary" for file in manifest.files):
        return "refused", "it holds keys and no binary: everything would be compiled again behind hits"
    return None


def _add_bookkeeping(staged: Path, source: Source, manifest: Manifest, digest: str, wanted: _Wanted) -> None:
    """Put the manifest and the note of where it came from beside the files; they go in last, and so mark a whole seed.

    The manifest is written as it is true *here*: the same files below another directory. It does not take the place of
    one that knows more ranks. Nothing is synced, the files no more than these: what a power cut tears is found when the
    cache is next held against its manifest, byte for byte, and seeded again.
    """
    coverage = staged / COVERAGE_DIRECTORY
    coverage.mkdir(exist_ok=True)
    present = read_coverage(wanted.cache_dir, wanted.case)
    if not (isinstance(present, Manifest) and len(present.ranks) > len(manifest.ranks)):
        ours = replace(manifest, cache_root=cache_root(wanted.cache_dir))
        (coverage / manifest.name).write_bytes(ours.encoded())
    note = {
        "source": source.shown, "kind": source.kind, "digest": digest, "run_id": manifest.run_id,
        "manifest": manifest.name, "files": len(manifest.files), "bytes": manifest.total_bytes, "seeded_at": stamp(),
    }  # fmt: skip
    (coverage / SEED_NOTE).write_bytes(encode(note))


def _said(done: Installed, manifest: Manifest) -> str:
    parts = [f"{done.added} files added"]
    if done.kept:
        parts.append(f"{done.kept} there already")
    if done.replaced:
        parts.append(f"{done.replaced} that differed replaced")
    if len(manifest.ranks) < manifest.world_size:
        parts.append(f"it speaks for {len(manifest.ranks)} of {manifest.world_size} ranks")
    return ", ".join(parts)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
