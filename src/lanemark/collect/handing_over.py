"""Leave a prepared run with a surface: what is handed over, and the order in which that is written down.

    handover.json ─▶ attempt.json says `detached` ─▶ submit (ids are noted as they are known) ─▶ the lock is let go of

`detached` is the intention and comes before the launch: an attempt that says so may or may not have been launched, and
the surface knows which; one that says `prepared` has not been. The launcher holds the attempt's lock all the way, and a
supervisor on this host inherits it, so whoever is killed, a collector finds the lock free only when nobody is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.collect.appending import append_to_ledger
from lanemark.collect.gathering import read_json
from lanemark.collect.manifest import Manifest, save
from lanemark.collect.preparing import Attempt
from lanemark.collect.sealing import Ending, seal_attempt
from lanemark.collect.starting import Start
from lanemark.launch.detached import DetachedSurface, Submission
from lanemark.launch.environment import CacheLayout
from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.measure.durable import replace_file
from lanemark.records.attempt import AttemptPaths, Home, State
from lanemark.records.encoding import encode
from lanemark.records.errors import LedgerError, RunFailed
from lanemark.records.finding import Finding

HANDOVER_FORMAT: Final = 1


@dataclass(frozen=True)
class Handover:
    """What a supervisor or a far side has to know beside the case. The operator's environment is not among it.

    Attributes:
        manifest: the attempt as its launcher left it; a damaged `attempt.json` is put together from it.
        placement: where things lie.
        start: what was done before, for the record.
        capture_to: where the compile cache is captured after the run, or None.
    """

    manifest: Manifest
    placement: Placement
    start: Start
    capture_to: Path | None = None

    def to_json(self) -> dict[str, Any]:
        where = self.placement
        doc: dict[str, Any] = {
            "format": HANDOVER_FORMAT,
            "manifest": self.manifest.to_json(),
            "placement": {"home": str(where.home.root), "cache_layout": where.cache_layout},
            "start": {"layers": [dict(layer) for layer in self.start.layers]},
        }
        for name, path in (("data_dir", where.data_dir), ("cache_dir", where.cache_dir)):
            if path is not None:
                doc["placement"][name] = str(path)
        for name, seen in (("coverage", self.start.coverage), ("fingerprint", self.start.fingerprint)):
            if seen is not None:
                doc["start"][name] = dict(seen)
        return doc if self.capture_to is None else {**doc, "capture_to": str(self.capture_to)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Handover:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        if doc.get("format") != HANDOVER_FORMAT:
            raise ValueError(f"handover format {doc.get('format')!r}, not {HANDOVER_FORMAT}")
        where, start, layout = doc["placement"], doc["start"], doc["placement"]["cache_layout"]
        if layout not in ("shared", "per_rank"):
            raise ValueError(f"no cache layout {layout!r}")
        kept: CacheLayout = layout

        def path(name: str) -> Path | None:
            return Path(where[name]) if name in where else None

        return cls(
            Manifest.from_json(doc["manifest"]),
            Placement(Home(Path(where["home"])), path("data_dir"), path("cache_dir"), kept),
            Start(tuple(start["layers"]), start.get("coverage"), start.get("fingerprint")),
            Path(doc["capture_to"]) if "capture_to" in doc else None,
        )


def read_handover(paths: AttemptPaths) -> Handover:
    """Read `handover.json`. Raises LedgerError `attempt-unreadable`."""
    try:
        return Handover.from_json(read_json(paths.handover) or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(
            "attempt-unreadable",
            f"what was handed over for {paths.run_id} cannot be read ({type(error).__name__})",
            "look at handover.json in its directory",
        ) from None


def hand_over(
    home: Home,
    attempt: Attempt,
    surface: DetachedSurface,
    request: LaunchRequest,
    handover: Handover,
) -> Manifest:
    """Leave a prepared attempt, whose lock is held, with a surface; returns without waiting for the run.

    Returns:
        The manifest as far as this process knows it: the supervisor of a local run writes on from there.

    Raises:
        RunFailed: nothing was launched. The attempt is sealed as an error that says so, or as cancelled.
        SurfaceError: whether it was launched is not known; the attempt stays `detached`, and a collector will know.
        OSError: the attempt directory cannot be written; nothing was launched.
    """
    paths, lock = attempt.paths, attempt.lock
    assert lock is not None, "an attempt is handed over with its lock"
    try:
        replace_file(paths.handover, encode(handover.to_json()))
        manifest = attempt.manifest.moved(State.DETACHED, f"handed to the {surface.name} surface")
        save(paths, manifest)
        noted = dict(manifest.ids)

        def note(ids: Mapping[str, str]) -> None:
            noted.update(ids)
            save(paths, replace(manifest, ids=dict(noted)))

        submission = Submission(paths, attempt.case, request, handover.placement, lock.fileno())
        try:
            surface.submit(submission, note)
        except RunFailed as error:
            seal_unlaunched(home, paths, replace(manifest, ids=noted), error)
            raise
        return replace(manifest, ids=noted)
    finally:
        lock.release()


def seal_unlaunched(home: Home, paths: AttemptPaths, manifest: Manifest, why: RunFailed) -> None:
    """Seal an attempt that was not launched, or that somebody did not want launched after all.

    The caller holds its lock. Raises as `seal_attempt`.
    """
    ending = Ending(start_error=why.what[:500])
    if why.slug == "run-cancelled":
        ending = Ending(verdict=State.CANCELLED, said=Finding("interrupted", "failure", why.what[:500]))
    record, manifest = seal_attempt(paths, manifest, ending)
    save(paths, manifest)
    appended, _ = append_to_ledger(home, paths, record)
    if appended:
        save(paths, replace(manifest, appended=True))
