"""The worker on a rented box, `python -m lanemark.collect.rented JOB.json`: the same as on this host, told by a file.

    bring the data near ─▶ seed the cache ─▶ gates ─▶ conduct (the local surface runs the ranks) ─▶ say how it ended

It knows nothing of who rents boxes: what a box is told of itself comes in the job, as observations, and what the worker
leaves lies in one directory for others to carry away. The launcher's own attempt goes on here: its run id, its case,
and the transitions that it saw.

Whatever stops the run from starting is sealed into its record, because nobody is at this box to be told: a gate that
refuses on the operator's host exits with 4, and here it ends the attempt with the gate's own sentence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.collect.conduct import Conducted, conduct
from lanemark.collect.gathering import read_json
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest, Supervisor, save
from lanemark.collect.modal_job import BEGAN
from lanemark.collect.preparing import RESERVE_BYTES, Attempt
from lanemark.collect.sealing import Ending, seal_attempt
from lanemark.collect.signals import StopSignals
from lanemark.collect.starting import Start, coverage_observed, rank_words
from lanemark.launch.command import local_surface
from lanemark.launch.environment import CacheLayout, apply_settings
from lanemark.launch.local import LocalSurface
from lanemark.launch.modal_code import unpack, volume_path
from lanemark.launch.supervise import Limits
from lanemark.launch.surface import Placement
from lanemark.measure.durable import preallocate, replace_file
from lanemark.observe.devices import device_facts
from lanemark.observe.fingerprint import fingerprint
from lanemark.observe.host import boot_id
from lanemark.observe.reading import reason_of
from lanemark.observe.shards import dataset_digest, open_shards, verify_digests
from lanemark.observe.snapshot import host_snapshot
from lanemark.records.attempt import Home, State
from lanemark.records.case import Case
from lanemark.records.encoding import decode, encode
from lanemark.records.errors import DataError, GateRefused, LanemarkError
from lanemark.records.finding import Finding
from lanemark.stage.capture import capture_cache
from lanemark.stage.coverage import check_coverage
from lanemark.stage.seed_source import parse_sources
from lanemark.stage.seeding import seed_cache

#: A run that has less than this left cannot warm up, measure and seal.
MIN_LEFT_S: Final = 10.0
#: Where the last good run of a case's question left its compile cache on the cache Volume.
CAPTURED: Final = "captured"


@dataclass(frozen=True)
class Job:
    """What the worker is told.

    Attributes:
        case: what is asked.
        manifest: the launcher's, as it was when it handed over.
        scratch: a directory of this box, for the home, the data and the caches.
        about: what the box is told of itself, as observations in JSON form.
        source: commit and state of the launcher's source, as observations in JSON form.
        rental: the request that the box was rented with.
        execution: which beginning of this run it is, from 1.
        executions: the claims of all beginnings so far, this one's last.
        deadline_in_s: seconds until the run must have been sealed.
        data: name of the data set's directory on the data Volume; None for made-up tokens.
        code: digest of the archive that goes with a command of the user's own; None for our own ranks.
        cache_from: layers of the seed, as the operator gave them.
        layout: whether ranks share the compile cache.
        cache_volume, data_volume: where those Volumes are mounted.
    """

    case: Case
    manifest: Manifest
    scratch: Path
    about: Mapping[str, Any]
    source: Mapping[str, Any]
    rental: Mapping[str, Any]
    execution: int
    executions: tuple[Mapping[str, Any], ...]
    deadline_in_s: float
    data: str | None
    code: str | None
    cache_from: tuple[str, ...]
    layout: CacheLayout
    cache_volume: Path
    data_volume: Path

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Job:
        """Read what `modal_job` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            case=Case.from_json(doc["case"]),
            manifest=Manifest.from_json(doc["manifest"]),
            scratch=Path(doc["scratch"]),
            about=dict(doc["about"]),
            source=dict(doc.get("source", {})),
            rental=dict(doc.get("rental", {})),
            execution=int(doc["execution"]),
            executions=tuple(doc["executions"]),
            deadline_in_s=float(doc["deadline_in_s"]),
            data=doc.get("data"),
            code=doc.get("code"),
            cache_from=tuple(doc.get("cache_from", ())),
            layout="per_rank" if doc.get("cache_layout") == "per_rank" else "shared",
            cache_volume=Path(doc["cache_volume"]),
            data_volume=Path(doc["data_volume"]),
        )


def main(arguments: list[str]) -> int:
    """Run the job and leave `ended.json` in its scratch directory. Exit 0 when a record was sealed."""
    path = Path(arguments[0])
    scratch = path.parent
    try:
        with StopSignals() as stop:
            (scratch / BEGAN).touch()
            done = work(Job.from_json(read_json(path) or {}), stop)
    except Exception as error:  # nobody but the keeper can be told, and it reads this file
        said = {"state": "lost", "reason": f"the worker failed: {reason_of(error)}"[:500]}
        replace_file(scratch / "ended.json", encode(said))
        return 1
    outcome = decode(done.record.data)["predicate"]["outcome"]
    reason = outcome.get("first_cause", {}).get("summary", outcome["receipt_reason"])
    ended = {"state": outcome["state"], "reason": reason, "record_id": done.record.id, "notices": done.cache_notices}
    replace_file(scratch / "ended.json", encode(ended))
    return 0


def work(job: Job, stop: StopSignals) -> Conducted:
    """From a job to a sealed record.

    Raises:
        OSError: the record could be written nowhere.
        LanemarkError: the attempt cannot be read.
    """
    began_s = time.monotonic()
    home = Home(job.scratch / "home")
    attempt = take_over(job, home)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LANEMARK_LEDGER")}
    findings = begun_again(job)
    facts = {"surface": {k: v for k, v in job.about.items() if k in ("app_id", "call_id")}, "source": dict(job.source)}
    placement = Placement(home)
    try:
        bring_code(job)
        data_dir, seen = bring_data(job)
        pinned = {key: value for key, value in attempt.manifest.data.items() if key == "artifacts"}
        attempt = replace(attempt, manifest=replace(attempt.manifest, data={**seen, **pinned}))
        compiled = job.case.compile != "eager"
        placement = Placement(home, data_dir, job.scratch / "cache" if compiled else None, job.layout)
        seeded = compiled and job.case.script is None
        start = warm_up(job, placement, environ) if seeded else Start()
        left_s = job.deadline_in_s - (time.monotonic() - began_s)
        if left_s < MIN_LEFT_S:
            raise GateRefused(
                "run-failed", f"{left_s:.0f} s are left of the run's time, too few to run",
                "give --wall-limit a longer time",
            )  # fmt: skip
    except (LanemarkError, OSError) as error:
        return _refused(attempt, placement=placement, environ=environ, facts=facts, findings=findings, error=error)
    limits = Limits.of(job.case)
    return conduct(
        home,
        attempt,
        local_surface(job.case, environ),
        placement,
        environ=environ,
        on_tick=lambda _: None,
        interrupted=stop,
        start=start,
        findings=findings,
        keep_cache=(lambda state: keep(job, placement, start, attempt, state)) if seeded else None,
        limits=replace(limits, wall_s=min(limits.wall_s, left_s)),
        facts=facts,
        append=False,
    )


def take_over(job: Job, home: Home) -> Attempt:
    """Make the attempt's directory here, and its manifest the launcher's with this box's clock.

    The launcher's monotonic stamps are of another clock, so they are left out; its transitions stand.
    """
    paths = home.attempt(job.manifest.run_id)
    for rank in range(job.case.nproc):
        os.makedirs(paths.rank(rank).root, exist_ok=True)
    preallocate(paths.reserve, RESERVE_BYTES)
    replace_file(paths.case, encode(job.case.to_json()))
    replace_file(paths.executions, encode({"executions": [dict(claim) for claim in job.executions]}))
    if job.rental:
        replace_file(paths.rental, encode(dict(job.rental)))
    here = boot_id().value or "unknown"
    manifest = replace(
        job.manifest,
        transitions=tuple(replace(step, monotonic_s=None) for step in job.manifest.transitions),
        prepared_ns=time.monotonic_ns(),
        boot_id=here,
        supervisor=Supervisor(os.getpid(), 0, here),
        execution=job.execution,
    )
    save(paths, manifest)
    return Attempt(paths, job.case, manifest)


def begun_again(job: Job) -> tuple[Finding, ...]:
    """What a reader must know of earlier beginnings of the same run. Pure."""
    if job.execution == 1:
        return ()
    lines = tuple(
        f"execution {claim.get('execution', '?')}: container {claim.get('task_id', 'unknown')}, begun"
        f" {claim.get('begun_at', 'unknown')}"
        for claim in job.executions
    )
    text = f"the container was taken away and the run begun again: this is execution {job.execution}"
    return (Finding("begun_again", "caveat", text, lines),)


def bring_code(job: Job) -> None:
    """Lay out the directory that a command was typed in, and go there. Our own ranks have none.

    Raises:
        DataError: the Volume does not have it, or has other bytes.
    """
    if job.code is None:
        return
    archive = job.data_volume / volume_path(job.code)
    place = job.scratch / "code"
    try:
        unpack(archive.read_bytes(), job.code, place)
    except FileNotFoundError:
        why = "it is not there"
    except ValueError as error:
        why = str(error)
    else:
        os.chdir(place)
        return
    raise DataError(
        "data-missing", f"the data Volume has no {archive.name!r} that the command could run from: {why}",
        "remove it from the Volume and launch again: the launcher puts it there",
    )  # fmt: skip


def bring_data(job: Job) -> tuple[Path | None, dict[str, Any]]:
    """Copy the shards from the Volume to this box's disk and hold every byte to its digest.

    Returns:
        Where they are, and what was seen of them, for the record's `data` part.

    Raises:
        DataError: the Volume does not have them, or they are not the case's.
    """
    if job.data is None:
        return None, dict(job.manifest.data)
    there, here = job.data_volume / job.data, job.scratch / "data"
    if not there.is_dir():
        raise DataError(
            "data-missing", f"the data Volume has no {job.data!r}", "launch again: the launcher puts it there"
        )
    began_s = time.monotonic()
    shutil.copytree(there, here)
    shards = open_shards(here)
    entries = verify_digests(shards)
    name = dataset_digest(entries)
    if name != job.case.data.dataset_digest:
        raise DataError(
            "manifest-mismatch", f"the data Volume's {job.data!r} is {name[:23]}…, and the case asks for another",
            "remove it from the Volume and launch again",
        )  # fmt: skip
    seconds = time.monotonic() - began_s
    sys.stderr.write(f"lanemark: {len(entries)} shards brought and verified in {seconds:.1f} s\n")
    return here, dict(job.manifest.data)


def warm_up(job: Job, placement: Placement, environ: Mapping[str, str]) -> Start:
    """Seed the cache from the layers, what the last good run left on the cache Volume among them, and judge coverage.

    Raises:
        GateRefused: `cache-uncovered`: the case requires a cache that covers it, and this one does not.
    """
    assert placement.cache_dir is not None
    case = job.case
    settings = apply_settings(dict(environ), LocalSurface(environ).request(case, placement).settings)
    seen = fingerprint(settings, devices=device_facts())
    given = parse_sources(job.cache_from or _volume_layers(job), {})
    layers: list[dict[str, Any]] = []
    if case.cache_policy == "cold":
        nothing = {"outcome": "not_tried", "reason": "a cold start is measured", "files": 0, "bytes": 0, "seconds": 0.0}
        layers = [{"source": source.shown, "kind": source.kind, **nothing} for source in given]
    else:
        done = seed_cache(given, placement.cache_dir, case=case, layout=job.layout, fingerprint=seen)
        layers = [layer.to_json() for layer in done]
    coverage = check_coverage(placement.cache_dir, case, job.layout, fingerprint=seen)
    if case.cache_policy == "require" and not coverage.covered:
        lacks = "; ".join(coverage.mismatches[:2]) or f"{len(coverage.missing)} of {coverage.required} keys are missing"
        raise GateRefused(
            "cache-uncovered",
            f"--cache-policy require wants a compile cache that covers the case, and the box has none: {lacks}",
            "fill the cache Volume once with --cache-policy seed, or name a seed with --cache-from",
        )
    return Start(layers, coverage_observed(coverage).to_json(), seen)


def _archive(job: Job) -> Path:
    """One archive for each question on the Volume: other ranks, postures and dtypes do not cover one another."""
    return (
        job.cache_volume / CAPTURED / f"{job.case.preset}-{job.case.nproc}-{job.case.compile}-{job.case.dtype}.tar.zst"
    )


def _volume_layers(job: Job) -> tuple[str, ...]:
    archive = _archive(job)
    return (str(archive),) if archive.is_file() else ()


def keep(job: Job, placement: Placement, start: Start, attempt: Attempt, state: State) -> str | None:
    """Leave the compile cache on the cache Volume for the next run, also after a failed one. Returns a line or None."""
    if placement.cache_dir is None or start.fingerprint is None or job.case.cache_policy == "cold":
        return None
    archive = _archive(job)
    os.makedirs(archive.parent, exist_ok=True)
    done = capture_cache(
        placement.cache_dir,
        archive,
        case=job.case,
        layout=job.layout,
        fingerprint=start.fingerprint,
        rank_reports=rank_words(attempt.paths, job.case.nproc),
        run_id=attempt.paths.run_id,
    )
    return f"the compile cache was {'captured' if done.captured else 'not captured'} ({state.value}): {done.reason}"


def _refused(
    attempt: Attempt,
    *,
    placement: Placement,
    environ: Mapping[str, str],
    facts: Mapping[str, Mapping[str, Any]],
    findings: tuple[Finding, ...],
    error: BaseException,
) -> Conducted:
    """Seal an attempt that was not let start, with the box as it was seen and the refusal as its cause."""
    paths = attempt.paths
    with AttemptLock(paths.lock):
        host = host_snapshot(cwd=Path.cwd(), environ=environ, cache_dir=placement.cache_dir)
        for part, more in facts.items():
            host[part] = {**host.get(part, {}), **more}
        replace_file(paths.host, encode(host))
        ending = Ending(start_error=f"{type(error).__name__}: {error}"[:500], findings=findings)
        record, manifest = seal_attempt(paths, attempt.manifest, ending)
        with contextlib.suppress(OSError):
            save(paths, manifest)
    return Conducted(record, manifest, paths.record, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
