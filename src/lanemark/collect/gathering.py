"""Read an attempt directory into facts. Reads only; whatever is missing or damaged becomes a fact that says so.

The same reader serves a supervisor sealing its own run and a later `lanemark runs` sealing one whose supervisor was
lost, so nothing here comes from memory that a dead process took with it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.reports import RankReport, Span
from lanemark.measure.beacon import BeaconError, BeaconView, read_beacon
from lanemark.measure.claim import read_claim
from lanemark.measure.samples import Samples, SamplesError, read_samples
from lanemark.records.attempt import AttemptPaths, RankPaths
from lanemark.records.encoding import safe_text

#: A rank's own JSON files are a few KiB; anything far beyond that was not written by a rank of ours.
_MAX_JSON_BYTES: Final = 4 * 1024 * 1024
_TAIL_BYTES: Final = 4096


def read_bytes(path: Path, limit_bytes: int) -> bytes | None:
    """The bytes of a regular file, or None when it is missing, unreadable, too large or not a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit_bytes:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(limit_bytes)
    except OSError:
        return None
    finally:
        os.close(fd)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file that a rank or a supervisor wrote, or None when it is not one."""
    data = read_bytes(path, _MAX_JSON_BYTES)
    if data is None:
        return None
    try:
        # Not the record's strict reader: these files never leave the attempt, and their nanosecond stamps outgrow the
        # integers that all JSON readers agree on once a host has been up for 104 days.
        doc = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return doc if isinstance(doc, dict) else None


def exception_line(paths: RankPaths) -> str | None:
    """The first line of what a rank said it raised (`error.json`, torchelastic's layout), or None."""
    data = read_bytes(paths.error, _MAX_JSON_BYTES)
    if data is None:
        return None
    try:
        message = json.loads(data)["message"]
        text = message["message"] if isinstance(message, dict) else str(message)
    except (ValueError, KeyError, TypeError):
        return None
    line = str(text).strip().splitlines()
    return safe_text(line[0][:2000]) if line else None


def stderr_tail(paths: RankPaths) -> str:
    """The last few KiB a rank printed to stderr; empty when it printed nothing."""
    return text_tail(paths.stderr)


def text_tail(path: Path) -> str:
    """The last few KiB of a log; empty when there is none."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode("utf-8", "replace").replace("\0", "")
    except OSError:
        return ""


def read_page(paths: RankPaths) -> BeaconView | None:
    """The rank's beacon page, or None when there is none to believe."""
    try:
        return read_beacon(paths.beacon)
    except (OSError, BeaconError):
        return None


def _samples(paths: RankPaths) -> tuple[Samples | None, str | None]:
    try:
        return read_samples(paths.samples), None
    except FileNotFoundError:
        return None, "the rank never reached its step loop"
    except (OSError, SamplesError) as error:
        return None, f"samples.bin cannot be believed: {str(error)[:200]}"


def _claim(paths: RankPaths) -> dict[str, Any] | None:
    claim = read_claim(paths.claim)
    return None if claim is None else claim.to_json()


def rank_report(
    attempt: AttemptPaths, rank: int, exits: dict[int, dict[str, Any]], *, takes_steps: bool = True
) -> RankReport:
    """Everything rank `rank` left behind. `takes_steps`: whether its lane does (`Case.takes_steps`)."""
    paths = attempt.rank(rank)
    samples, problem = _samples(paths)
    page = read_page(paths)
    spans = () if page is None else tuple(Span(s.phase, s.begin_ns, s.end_ns, s.step) for s in page.spans)
    beacon = None
    if page is not None:
        beacon = {
            "phase": page.phase,
            "step": page.step,
            "label": page.label,
            "since_ns": page.since_ns,
            "compilations": page.compilations,
            "compile_ns": page.compile_ns,
            "collectives": page.collectives,
            "pid": page.pid,
            "anchor_ns": page.anchor_ns,
            "spans_truncated": page.spans_truncated,
        }
    return RankReport(
        rank=rank,
        samples=samples,
        samples_problem=problem,
        observed=read_json(paths.observed),
        result=read_json(paths.result),
        end=read_json(paths.end),
        spans=spans,
        beacon=beacon,
        exit=exits.get(rank),
        exception=exception_line(paths),
        claim=_claim(paths),
        takes_steps=takes_steps,
    )
