"""Putting a verified seed in place: as one rename where there is no cache yet, file by file where there is one.

An existing cache is never swapped for another. Ranks that are just starting have it as their TMPDIR and hold locks in
it, and other cases' code lies in it; taking the directory from under them breaks compilations that have nothing to do
with the seed. A cache is a store of entries named by what they depend on, so that adding entries is always safe, and
the order makes it so even for whoever reads meanwhile: binaries first, then graphs, then keys, the manifest last. A
seeding that is killed half-way leaves a cache that is a little fuller, and no claim.

An entry that is there already with the same bytes stays. One with *other* bytes is replaced by rename if nothing
vouches for it (a compiler that was killed leaves half a library under the final name); if another case's manifest in
this cache names exactly those bytes, the whole seed is refused before anything is touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from lanemark.lanes.cache_manifest import Manifest
from lanemark.lanes.coverage import trouble
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile
from lanemark.observe.host import boot_id
from lanemark.stage.coverage import manifests
from lanemark.stage.seed_member import Unusable

#: What half-done work is called, beside a cache that is not there yet or in the bookkeeping of one that is.
STAGING: Final = ".seeding-"
#: Another machine's half-done work is left alone for this long.
_ABANDONED_S: Final = 24 * 3600.0
_ORDER: Final = {"binary": 0, "other": 1, "fx": 2, "aot": 3}


class Installed(NamedTuple):
    """What became of a seed's files: newly there, there already, and put in place of a differing one."""

    added: int
    kept: int
    replaced: int


def staging_directory(cache_dir: Path) -> Path:
    """A fresh directory to unpack into, on the cache's own file system. Call it holding the cache's lock.

    What an earlier holder on this machine left behind is removed first: it held the lock, and is dead.

    Raises:
        OSError: it cannot be made.
    """
    where = cache_dir / COVERAGE_DIRECTORY if os.path.lexists(cache_dir) else cache_dir.parent
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    ours = f"{STAGING}{cache_dir.name}-{_this_machine()}-"
    for place in (where, cache_dir.parent):
        _remove_abandoned(place, f"{STAGING}{cache_dir.name}-", ours)
    path = where / f"{ours}{os.getpid()}-{time.monotonic_ns():x}"
    path.mkdir(mode=0o700)
    return path


def install(staged: Path, cache_dir: Path, manifest: Manifest, here: Iterable[ListedFile]) -> Installed:
    """Make the verified files of `staged` part of the cache; `staged` is gone afterwards, or worthless.

    Args:
        staged: holds every file of the manifest, verified, and its bookkeeping.
        cache_dir: may be missing.
        manifest: whose files they are.
        here: the cache's files now.

    Raises:
        Unusable: `refused`: an entry differs that another case relies on. The cache is as it was.
        OSError: it cannot be written; what was added so far is whole and claims nothing.
    """
    if not os.path.lexists(cache_dir):
        try:
            os.rename(staged, cache_dir)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return Installed(len(manifest.files), 0, 0)
    return _merge(staged, cache_dir, manifest, {file.path: file for file in here})


def _merge(staged: Path, cache_dir: Path, manifest: Manifest, here: Mapping[str, ListedFile]) -> Installed:
    differing = [
        file
        for file in manifest.files
        if (found := here.get(file.path)) is not None and trouble(file, found) is not None
    ]
    _refuse_conflicts(cache_dir, manifest, [here[file.path] for file in differing])
    replaced = {file.path for file in differing}
    added = kept = 0
    for file in sorted(manifest.files, key=lambda one: (_ORDER[one.kind], one.path)):
        target = cache_dir / file.path
        if file.path in here and file.path not in replaced:
            kept += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.path in replaced:
            os.replace(staged / file.path, target)
        elif _add(staged / file.path, target):
            added += 1
        else:
            kept += 1
    coverage = cache_dir / COVERAGE_DIRECTORY
    coverage.mkdir(exist_ok=True)
    for path in sorted((staged / COVERAGE_DIRECTORY).iterdir()):
        os.replace(path, coverage / path.name)
    shutil.rmtree(staged, ignore_errors=True)
    return Installed(added, kept, len(replaced))


def _add(staged: Path, target: Path) -> bool:
    """Give a file its place unless one appeared there since the cache was listed; False then."""
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system: a rename would replace, so look first
        if os.path.lexists(target):
            return False
        os.rename(staged, target)
    return True


def _refuse_conflicts(cache_dir: Path, manifest: Manifest, differing: list[ListedFile]) -> None:
    if not differing:
        return
    vouched = {
        (file.path, file.sha256)
        for name, other in manifests(cache_dir).items()
        if isinstance(other, Manifest) and name != manifest.name
        for file in other.files
    }
    relied_on = [file.path for file in differing if (file.path, file.sha256) in vouched]
    if relied_on:
        raise Unusable(
            "refused",
            f"{len(relied_on)} files differ from ones that another case here relies on, {relied_on[0]!r} first",
        )


def _this_machine() -> str:
    """Tells this kernel and process namespace from others that may see the same directory."""
    namespace = 0
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{(boot_id().value or 'unknown')[:8]}{namespace:x}"


def _remove_abandoned(where: Path, any_prefix: str, our_prefix: str) -> None:
    with contextlib.suppress(OSError):
        for path in list(where.iterdir()):
            if path.name.startswith(our_prefix) or (path.name.startswith(any_prefix) and _old(path)):
                shutil.rmtree(path, ignore_errors=True)


def _old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _ABANDONED_S
