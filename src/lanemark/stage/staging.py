"""`stage`: carry data from where it is kept to where it is read, every byte verified, before any clock starts.

1. Look at the source and decide what is wanted (`survey`). A dry run ends here, with sizes.
2. Take the destination's turn (`destination`). Whoever had to wait looks again, and mostly finds the work done.
3. Keep what is there: objects of an earlier staging whose source still calls them the same, hashed again; and verified
   pieces of an interrupted one, hashed again.
4. See that there is room, and carry the rest (`transfer`).
5. Write the manifest and `staged.json`, sync once, give the directory its name.

Whatever goes wrong before the last step leaves the destination as it was, and what was verified for the next try.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lanemark.observe.clock import stamp
from lanemark.records.errors import StageError
from lanemark.records.shards import MANIFEST_NAME
from lanemark.stage.artifacts import ARTIFACTS_NAME, made_pins
from lanemark.stage.destination import Destination
from lanemark.stage.journal import Journal, read_journal
from lanemark.stage.landing import Landing
from lanemark.stage.manifests import made, read_manifest
from lanemark.stage.names import STAGED_NAME
from lanemark.stage.objects import PIECE_BYTES, Needed, Staged, StagedObject, Wanted
from lanemark.stage.place import parse_place
from lanemark.stage.rehash import piece_digests, verified_pieces
from lanemark.stage.staged_file import StagedFile, read_staged, weakest, write_staged
from lanemark.stage.store import Store
from lanemark.stage.survey import Plan, survey
from lanemark.stage.transfer import SMALL_BYTES, WORKERS, WORKERS_SMALL, Transfer, unwritable

#: How long one request may keep failing: longer than the slow-down answers of a busy bucket last.
PATIENCE_S: Final = 60.0
#: The whole staging's deadline, where none is given: five minutes, and what a megabyte a second needs.
_DEADLINE_S: Final = 300.0
_SLOWEST_BYTES_PER_S: Final = 1_000_000


@dataclass(frozen=True)
class Progress:
    """How far a staging is: bytes in place and verified or arriving, objects whole, of how many."""

    doing: str
    bytes_done: int
    bytes_total: int
    objects_done: int
    objects_total: int


#: Called a few times a second, in the thread that called `stage`.
Watch = Callable[[Progress], None]


def stage(
    source: str,
    destination: Path | str | Callable[[Plan], Path],
    *,
    manifest: Path | None = None,
    make_manifest: bool = False,
    artifacts: bool = False,
    image: str | None = None,
    needed: Needed | None = None,
    progress: Watch | None = None,
    deadline_s: float | None = None,
    patience_s: float = PATIENCE_S,
    dry_run: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Staged:
    """Stage a source into a directory, or find that it is there already.

    Args:
        source: `s3://`, `gs://`, `az://`, `https://` or a directory (`lanemark.stage.place`).
        destination: a directory that does not exist, is empty, or was staged before; or what names it from the plan.
        manifest: a manifest file to trust instead of the one at the source.
        make_manifest: whether to make one of what arrives, where the source has none.
        artifacts: whether these are no shards but artifacts: held to the `artifacts.json` at the source, which is made
            where there is none.
        image: digest of the image that they belong to, for an `artifacts.json` that is made.
        needed: what a case consumes; only that much is staged. None for all.
        progress: told how far it is.
        deadline_s: seconds for everything, waiting for another writer included; None for a generous bound by size.
        patience_s: seconds that one request may keep failing.
        dry_run: look at the source, and carry and write nothing.
        environ: this process's environment when not given.

    Raises:
        UsageError: `stage-source-invalid` or `stage-credentials-in-url`.
        StageError: one sentence, naming the object where there is one. The destination is as it was.
        DataError: the manifest cannot be used, or what is there are no shards to make one of.
    """
    began = time.monotonic()
    stopped = threading.Event()
    store = Store(
        parse_place(source), os.environ if environ is None else environ, patience_s=patience_s, stopped=stopped
    )
    store, plan = survey(store, manifest=manifest, needed=needed, artifacts=artifacts)
    make = _made_of(plan, make_manifest=make_manifest, image=image)
    place = Destination(destination(plan) if callable(destination) else destination)
    if dry_run:
        return _summary(plan, place, seconds=time.monotonic() - began)
    allowed_s = _DEADLINE_S + plan.bytes_total / _SLOWEST_BYTES_PER_S if deadline_s is None else deadline_s
    ends = began + allowed_s
    with place.turn(ends - time.monotonic(), stopped):
        try:
            place.check()
            work = _Work(store, plan, place, stopped, progress or (lambda _: None), make=make)
            return work.carry(began, ends)
        except StageError as error:
            # A full disk is everybody's trouble: what was carried has to come again.
            if error.slug == "stage-space-short" or not place.journal.exists():
                place.clear()
            raise
        except OSError as error:
            raise unwritable(place.shown, error) from error


#: Makes the document that lies beside the objects, of them and the directory that they lie in.
Maker = Callable[[tuple[StagedObject, ...], Path], bytes]


def _made_of(plan: Plan, *, make_manifest: bool, image: str | None) -> Maker | None:
    """What is to be made of what arrives; None where the source has it, or nobody wants any."""
    if plan.manifest is not None:
        return None
    if plan.beside == ARTIFACTS_NAME:
        return lambda objects, _: made_pins(objects, image)
    return (lambda objects, tree: made(objects, tree, plan.source)) if make_manifest else None


def _summary(
    plan: Plan,
    place: Destination,
    *,
    objects: tuple[StagedObject, ...] = (),
    fetched: int = 0,
    reused: int = 0,
    repeats: int = 0,
    seconds: float,
) -> Staged:
    return Staged(
        directory=str(place.path),
        objects=objects,
        bytes_total=plan.bytes_total,
        bytes_fetched=fetched,
        bytes_reused=reused,
        seconds=seconds,
        verification=weakest(one.verified for one in objects) if objects else plan.offers,
        source=plan.source,
        ignored=plan.ignored,
        repeats=repeats,
        dataset_digest=plan.dataset_digest,
    )


class _Work:
    """One staging while it has the turn."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        place: Destination,
        stopped: threading.Event,
        watch: Watch,
        *,
        make: Maker | None,
    ) -> None:
        self._store, self._plan, self._place, self._stopped, self._watch = store, plan, place, stopped, watch
        self._make = make
        self._there = read_staged(place.path)
        self._kept: dict[str, StagedObject] = {}
        self._recovered: dict[str, dict[int, str]] = {}
        self._bytes_recovered = 0

    def carry(self, began: float, ends: float) -> Staged:
        """Steps 3 to 5 of the module."""
        plan, place = self._plan, self._place
        self._keep()
        if self._complete():
            place.clear()
            objects = tuple(self._kept[one.name] for one in plan.wanted)
            done = _summary(plan, place, objects=objects, reused=plan.bytes_total, seconds=time.monotonic() - began)
            return self._with_digest(done)
        self._recover()
        reused = sum(one.bytes for one in self._kept.values()) + self._bytes_recovered
        place.check_room(plan.bytes_total - reused)
        missing = [one for one in plan.wanted if one.name not in self._kept]
        self._prepare()
        fetched, repeats, carried = self._transfer(missing, reused, ends)
        objects = tuple(self._kept.get(one.name) or carried[one.name] for one in plan.wanted)
        done = _summary(
            plan,
            place,
            objects=objects,
            fetched=fetched,
            reused=reused,
            repeats=repeats,
            seconds=time.monotonic() - began,
        )
        self._finish(done)
        return self._with_digest(done)

    def _with_digest(self, done: Staged) -> Staged:
        """The data set's digest, also where its manifest was made here."""
        if done.dataset_digest is not None or self._plan.beside != MANIFEST_NAME:
            return done
        try:
            text = (self._place.path / MANIFEST_NAME).read_bytes()
        except OSError:
            return done
        return replace(done, dataset_digest=read_manifest(text, MANIFEST_NAME)[0].dataset_digest)

    # -- what is there already ---------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Objects of an earlier staging that are still wanted, each read and hashed again."""
        if self._there is None:
            return
        candidates = []
        for wanted in self._plan.wanted:
            had = self._there.objects.get(wanted.name)
            if had is not None and _same(wanted, had) and (had.sha256 is not None or self._make is None):
                candidates.append((wanted, had))
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for (wanted, had), digests in zip(
                candidates, threads.map(lambda pair: self._hashed(pair[0]), candidates), strict=True
            ):
                if digests is not None and digests == (wanted.pieces or had.pieces):
                    verified = "manifest" if wanted.sha256 is not None else had.verified
                    self._kept[wanted.name] = replace(
                        had, etag=wanted.etag, version=wanted.version, tokens=wanted.tokens, verified=verified
                    )

    def _hashed(self, wanted: Wanted) -> tuple[str, ...] | None:
        return piece_digests(self._place.path / wanted.name, wanted.bytes)

    def _complete(self) -> bool:
        """Whether the destination holds exactly what is wanted."""
        names = {one.name for one in self._plan.wanted}
        if self._there is None or set(self._kept) != names or set(self._there.objects) != names:
            return False
        beside = self._place.path / self._plan.beside
        if self._plan.manifest is not None:
            return beside.is_file() and beside.read_bytes() == self._plan.manifest
        return beside.is_file() or self._make is None

    def _recover(self) -> None:
        """Verified pieces that an interrupted staging left in the work directory, each read and hashed again."""
        left = read_journal(self._place.journal, self._plan.wanted)
        wanted = {one.name: one for one in self._plan.wanted if one.name not in self._kept}
        names = [name for name in left if name in wanted]
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            found = threads.map(
                lambda name: verified_pieces(self._place.tree / name, wanted[name].bytes, left[name]), names
            )
            for name, pieces in zip(names, found, strict=True):
                listed = wanted[name].pieces
                good = {at: one for at, one in pieces.items() if listed is None or listed[at] == one}
                if good:
                    self._recovered[name] = good
                    size = wanted[name].bytes
                    self._bytes_recovered += sum(min(size, (at + 1) * PIECE_BYTES) - at * PIECE_BYTES for at in good)

    # -- what has to come --------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Leave nothing in the tree but recovered files; make its folders; link what is kept."""
        tree = self._place.tree
        for folder, folders, files in os.walk(tree, topdown=False):
            for name in files:
                path = Path(folder) / name
                if path.relative_to(tree).as_posix() not in self._recovered:
                    path.unlink()
            for name in folders:
                path = Path(folder) / name
                if path.is_symlink():
                    path.unlink()
                elif not os.listdir(path):
                    path.rmdir()
        for folder in sorted({os.path.dirname(one.name) for one in self._plan.wanted} - {""}):
            os.makedirs(tree / folder, exist_ok=True)
        for name in self._kept:
            try:
                os.link(self._place.path / name, tree / name)
            except OSError:  # no hard links here: copies cost what they cost
                shutil.copyfile(self._place.path / name, tree / name)

    def _landings(self, missing: list[Wanted]) -> Iterator[Landing]:
        for number, wanted in enumerate(missing):
            landing = Landing(number, wanted, self._place.tree / wanted.name, sha256=self._make is not None)
            landing.digests.update(self._recovered.get(wanted.name, {}))
            yield landing

    def _transfer(self, missing: list[Wanted], reused: int, ends: float) -> tuple[int, int, dict[str, StagedObject]]:
        """Carry them; returns the bytes fetched, the pieces repeated, and the objects by name."""
        plan = self._plan
        kept = len(self._kept)

        def tick(in_place: int, done: int) -> None:
            here = min(plan.bytes_total, max(0, reused + in_place))
            self._watch(Progress("staging", here, plan.bytes_total, kept + done, len(plan.wanted)))

        journal = Journal(self._place.journal, missing)
        try:
            for number, wanted in enumerate(missing):
                for piece, digest in self._recovered.get(wanted.name, {}).items():
                    journal.piece(number, piece, digest)
            small = sum(one.bytes for one in missing) < SMALL_BYTES * len(missing)
            workers = min(
                WORKERS_SMALL if small else WORKERS, sum(-(-one.bytes // PIECE_BYTES) or 1 for one in missing)
            )
            transfer = Transfer(
                self._store,
                self._landings(missing),
                journal,
                stopped=self._stopped,
                workers=max(1, workers),
                small=small,
            )
            transfer.run(ends=ends, tick=tick)
        finally:
            journal.close()
        return transfer.fetched, transfer.repeats, {one.name: one for one in transfer.done.values()}

    def _finish(self, done: Staged) -> None:
        """Manifest, `staged.json`, one sync, and the name."""
        tree = self._place.tree
        text = self._plan.manifest if self._make is None else self._make(done.objects, tree)
        if text is not None:
            (tree / self._plan.beside).write_bytes(text)
        objects = {one.name: one for one in done.objects}
        write_staged(tree, StagedFile(done.source, stamp(), done.seconds, done.bytes_fetched, objects))
        self._place.publish()


def _same(wanted: Wanted, had: StagedObject) -> bool:
    """Whether an object staged before is the one that is wanted now, as far as its names tell."""
    if wanted.bytes != had.bytes or wanted.name == STAGED_NAME:
        return False
    if wanted.sha256 is not None:
        return wanted.sha256 == had.sha256
    tags = (wanted.etag, wanted.version)
    return tags != (None, None) and tags == (had.etag, had.version)
