"""`RecordView`: one record as a page shows it. Pure, standard library only.

Built once from a record's plain JSON and rendered by `terminal` and `html`, which decide layout and nothing else: what
may be shown, in which words and in which order is decided here. The record is never re-serialised; its id is carried
along, so that any sentence on a page leads back to the exact bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lanemark.records.errors import RecordError
from lanemark.records.observation import value_of
from lanemark.report import data_ranks, tables
from lanemark.report.asked import Asked, asked_rows
from lanemark.report.brief import brief, brief_startup, origin
from lanemark.report.cells import Group
from lanemark.report.first_step import SplitChart, split_chart, split_table
from lanemark.report.headline import Headline, headline
from lanemark.report.lane_sections import LaneSections
from lanemark.report.quantities import short_digest, visible
from lanemark.report.sections import data_path, figures, provenance, startup
from lanemark.report.series import StepSeries, step_series
from lanemark.report.tables import TableView
from lanemark.report.timeline import Timeline, timeline

_SEVERITY_ORDER: Final = {"failure": 0, "caveat": 1, "note": 2}


@dataclass(frozen=True)
class FindingView:
    """One finding: `kind` in words, its severity, the sentence, and lines of evidence."""

    kind: str
    severity: str
    summary: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class RecordView:
    """One record, ready to be rendered. Every text in it is visible, on one line, and never empty.

    Attributes:
        record_id: `sha256:…` of the record's bytes.
        short_id: its first twelve hexadecimal digits; also the anchor on a page.
        state: the outcome (`ok`, `error`, `cancelled`, `lost`).
        headline: the sentence, its parts, and whether a figure may be quoted.
        first_cause: the sentence on the first cause of a failure, or None for a run that ended well.
        asked: requested beside observed.
        brief: the rows of a short page: start-up, data path or results, figures, provenance last.
        figures: the lane's figures in full.
        startup, data: the starting line and the data path in full.
        steps: the step-time series; None in a lane that takes no steps.
        timeline: start-up phases by rank; None likewise.
        split: the way to the first step as a picture, or None; split_table: the same in figures.
        layers: layers of the compile cache's seed; caches: what each rank used of the cache.
        ranks: what each rank reported and how it ended.
        provenance: groups of rows on what ran and where.
        path_ranks: each rank's data path with its evidence; stalls: the steps that waited for it.
        packages, settings, variables, shards, paths, evidence, transitions: tables.
        results: the lane's own tables; none in the training lane, whose figures say it all.
    """

    record_id: str
    short_id: str
    lane: str
    run_id: str
    preset: str
    surface: str
    sealed_at: str
    state: str
    headline: Headline
    first_cause: str | None
    asked: tuple[Asked, ...]
    brief: tuple[Group, ...]
    figures: tuple[Group, ...]
    startup: Group
    data: Group
    steps: StepSeries | None
    timeline: Timeline | None
    split: SplitChart | None
    split_table: TableView
    layers: TableView
    caches: TableView
    ranks: TableView
    findings: tuple[FindingView, ...]
    does_not_prove: tuple[str, ...]
    provenance: tuple[Group, ...]
    packages: TableView
    settings: TableView
    variables: TableView
    shards: TableView
    paths: TableView
    path_ranks: TableView
    stalls: TableView
    evidence: TableView
    transitions: TableView
    results: tuple[TableView, ...] = ()

    @property
    def verify_command(self) -> str:
        return f"lanemark verify {self.record_id}"


def record_view(record_id: str, predicate: Mapping[str, Any]) -> RecordView:
    """Build the view of one record.

    Args:
        record_id: `sha256:…` of the record's exact bytes.
        predicate: the statement's predicate, as plain JSON.

    Raises:
        RecordError: `record-malformed`, when the document lacks what every record has.
    """
    lane = predicate.get("lane")
    try:
        if lane == "sparse":
            from lanemark.report.sparse_view import sparse_sections

            return view_without_steps(record_id, predicate, sparse_sections(predicate))
        if lane == "promotion":
            from lanemark.report.promotion_view import promotion_sections

            return view_without_steps(record_id, predicate, promotion_sections(predicate))
        return _build(record_id, predicate)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise RecordError(
            "record-malformed",
            f"the record {visible(record_id)[:80]} cannot be shown, because its shape is wrong near {error!s:.80}",
            f"check it with `lanemark verify {visible(record_id)[:80]}`",
        ) from error


def _build(record_id: str, predicate: Mapping[str, Any]) -> RecordView:
    training, outcome = predicate["training"], predicate["outcome"]
    head = headline(predicate)
    return RecordView(
        **_common(record_id, predicate),
        headline=head,
        asked=asked_rows(predicate),
        brief=brief(predicate, head.receipt),
        figures=figures(training, head.receipt),
        steps=step_series(training),
        timeline=timeline(training),
        split=split_chart(training["ranks"]),
        split_table=split_table(training["ranks"]),
        caches=tables.caches(training["ranks"]),
        ranks=tables.ranks(training["ranks"], outcome["ranks"]),
    )


def _common(record_id: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """What records of every lane show alike."""
    outcome = predicate["outcome"]
    cause = outcome.get("first_cause")
    return {
        "record_id": visible(record_id),
        "short_id": short_digest(record_id),
        "lane": visible(predicate["lane"]),
        "run_id": visible(predicate["run_id"]),
        "preset": visible(predicate["case"]["preset"]),
        "surface": visible(predicate["surface"]["name"]),
        "sealed_at": visible(predicate["times"]["sealed_at"]),
        "state": visible(outcome["state"]),
        "first_cause": visible(cause["summary"]) if cause else None,
        "startup": startup(predicate),
        "data": data_path(predicate["data"]),
        "layers": tables.layers(value_of(predicate["startup"]["layers"]) or ()),
        "findings": _findings(predicate["findings"]),
        "does_not_prove": tuple(visible(text) for text in predicate[predicate["lane"]]["does_not_prove"]),
        "provenance": provenance(predicate),
        "packages": tables.packages(predicate["toolchain"]["packages"]),
        "settings": tables.settings(predicate["environment"]["settings"]),
        "variables": tables.variables(predicate["environment"]["variables"]),
        "shards": tables.shards(predicate["data"]["shards"]),
        "paths": tables.paths(predicate["data"]["paths"]),
        "path_ranks": data_ranks.by_rank(predicate["data"]),
        "stalls": data_ranks.stalls(predicate["data"]),
        "evidence": tables.evidence(predicate["evidence"]),
        "transitions": tables.transitions(predicate["transitions"]),
    }


def view_without_steps(record_id: str, predicate: Mapping[str, Any], own: LaneSections) -> RecordView:
    """The view of a record whose lane takes no steps."""
    return RecordView(
        **_common(record_id, predicate),
        headline=own.headline,
        asked=asked_rows(predicate),
        brief=(brief_startup(predicate), *own.groups, origin(predicate)),
        figures=own.figures,
        steps=None,
        timeline=None,
        split=None,
        split_table=split_table(()),
        caches=tables.caches(()),
        ranks=tables.endings(predicate["outcome"]["ranks"]),
        results=own.results,
    )


def _findings(findings: Sequence[Mapping[str, Any]]) -> tuple[FindingView, ...]:
    """Failures first, then caveats, then notes; the record's own order within each."""
    ordered = sorted(findings, key=lambda finding: _SEVERITY_ORDER.get(finding["severity"], len(_SEVERITY_ORDER)))
    return tuple(
        FindingView(
            visible(finding["kind"]).replace("_", " "),
            visible(finding["severity"]),
            visible(finding["summary"]),
            tuple(visible(line) for line in finding["evidence"]),
        )
        for finding in ordered
    )
