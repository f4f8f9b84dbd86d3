"""What is known of one attempt once it is over, as plain facts, and how the ranks' reports are brought together. Pure.

`AttemptFacts` is read from the attempt directory alone, so that a run sealed by its own supervisor and one sealed
later, after the supervisor was lost, go through the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lanemark.lanes.figures import RankSamples
from lanemark.records.case import Case
from lanemark.records.encoding import encode
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, observed, unavailable
from lanemark.records.statement import Evidence


@dataclass(frozen=True)
class Span:
    """One span of a rank's beacon page: nanoseconds of CLOCK_MONOTONIC; `end_ns` is None while it is open."""

    phase: str
    begin_ns: int
    end_ns: int | None
    step: int


@dataclass(frozen=True)
class RankReport:
    """All that one rank left behind.

    Attributes:
        rank: global rank.
        samples: its recorded steps, or None.
        samples_problem: why there are no samples, when there are none.
        observed: its `observed.json`, or None.
        result: its `result.json` (what a lane without steps found), or None.
        end: its `end.json` (the clean end marker), or None.
        spans: phases and compilations from its beacon page.
        beacon: last phase and step seen, or None when no page could be read.
        exit: its entry of `exits.json`, or None when the supervisor saw no end.
        exception: first line of its `error.json`, or None.
        claim: of a launched command, which process said that it is this rank (`claim.json`), or None.
        takes_steps: whether its lane takes optimizer steps, so that a closed window belongs to a clean end.
    """

    rank: int
    samples: RankSamples | None = None
    samples_problem: str | None = None
    observed: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    spans: tuple[Span, ...] = ()
    beacon: dict[str, Any] | None = None
    exit: dict[str, Any] | None = None
    exception: str | None = None
    claim: dict[str, Any] | None = None
    takes_steps: bool = True

    @property
    def clean(self) -> bool:
        """Whether the rank left the whole end marker: its `end.json` and, where it takes steps, a closed window."""
        closed = self.samples is not None and self.samples.window_end_ns is not None
        return self.end is not None and (closed or not self.takes_steps)


@dataclass(frozen=True)
class AttemptFacts:
    """Everything a record is built from. Documents are the parsed JSON files of the attempt directory; {} when missing.

    Attributes:
        manifest: `attempt.json`.
        case: the case.
        host: `host.json`, as observed before the ranks started.
        host_end: what was observed after the ranks ended (`cache_after`, clock).
        launch: `launch.json`.
        ranks: one report a requested rank, in rank order.
        findings: what the detectors concluded.
        cause: the first cause of a failure, or None.
        state: the final state, as a word.
        reason: why that state.
        launched_ns: CLOCK_MONOTONIC when the ranks were started, or None.
        duration_s: seconds from preparation to sealing, or why unknown.
        sealed_at: RFC 3339.
        evidence: files by digest.
    """

    manifest: dict[str, Any]
    case: Case
    host: dict[str, Any]
    host_end: dict[str, Any]
    launch: dict[str, Any]
    ranks: tuple[RankReport, ...]
    findings: tuple[Finding, ...]
    cause: Finding | None
    state: str
    reason: str
    launched_ns: int | None
    duration_s: Observation[float]
    sealed_at: str
    transitions: tuple[dict[str, Any], ...] = ()
    evidence: tuple[Evidence, ...] = field(default=())
    lanemark_version: str = "unknown"


def looked_up(doc: dict[str, Any] | None, key: str, source: str) -> dict[str, Any]:
    """An observation stored under `key`, or `unavailable` because the document does not have it."""
    entry = (doc or {}).get(key)
    if isinstance(entry, dict):
        try:
            return Observation.from_json(entry).to_json()
        except ValueError:
            return unavailable(source, f"{key} was written in a form that is no observation").to_json()
    return unavailable(source, f"{key} was never written").to_json()


def agreed(ranks: Sequence[RankReport], key: str) -> tuple[dict[str, Any], str | None]:
    """One observation for a fact that every rank should report alike.

    Returns:
        The observation's JSON, and a sentence when the ranks that reported disagree (the observation is then
        `unavailable`: no rank's word is preferred).
    """
    entries = {r.rank: r.observed[key] for r in ranks if r.observed and isinstance(r.observed.get(key), dict)}
    if not entries:
        return unavailable(f"ranks' {key}", "no rank reported it").to_json(), None
    seen = {encode({k: entry.get(k) for k in ("status", "value")}) for entry in entries.values()}
    if len(seen) > 1:
        said = ", ".join(
            f"rank {rank}: {str(e.get('value', e.get('status')))[:40]}" for rank, e in sorted(entries.items())[:4]
        )
        return unavailable(
            f"ranks' {key}", f"the ranks disagree ({said})"
        ).to_json(), f"the ranks disagree on {key} ({said})"
    first = looked_up({key: next(iter(entries.values()))}, key, f"ranks' {key}")
    if len(entries) < len(ranks) and first["status"] == "observed":
        first["source"] = f"{first['source']} ({len(entries)} of {len(ranks)} ranks)"
    return first, None


def combined(ranks: Sequence[RankReport], part: str, key: str, combine: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Combine a number that each rank's end marker carries as an observation (for instance the largest peak)."""
    values: list[Any] = []
    source, why = f"ranks' {part}.{key}", "no rank reported it"
    for report in ranks:
        entry = ((report.end or {}).get(part) or {}).get(key)
        if isinstance(entry, dict) and entry.get("status") == "observed":
            values.append(entry["value"])
            source = entry["source"]
        elif isinstance(entry, dict):
            why = str(entry.get("reason", entry.get("status", why)))
            if entry.get("status") == "absent":
                return entry
    if not values:
        return unavailable(source, why).to_json()
    return observed(combine(values), source).to_json()
