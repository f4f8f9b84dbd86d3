"""What a run starts from, and what it leaves in its cache: observed around the launch, written beside `host.json`.

Before it: the layers that were tried, coverage, the boot clocks, and who ran here before. After it: which files are
new, for all ranks together and for each where they keep caches apart; and, when the run was good, the manifest of what
its ranks used, against which the next run's coverage is judged.

Nothing here ends a run: what cannot be looked at is `unavailable` with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lanemark.collect.gathering import rank_report, read_json
from lanemark.lanes.coverage import Coverage
from lanemark.lanes.startup import cache_word
from lanemark.launch.environment import CacheLayout
from lanemark.launch.surface import Placement
from lanemark.observe.boot_clocks import boot_clocks
from lanemark.observe.cache_files import list_files, new_files
from lanemark.observe.devices import device_facts
from lanemark.observe.fingerprint import fingerprint
from lanemark.observe.reading import guarded
from lanemark.observe.startup import earlier_run
from lanemark.records.attempt import RUN_ID, AttemptPaths, Home
from lanemark.records.case import Case
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed
from lanemark.stage.coverage import check_coverage, write_coverage

#: A run of this boot is among the newest or nowhere: attempts are listed by time.
_ATTEMPTS_LOOKED_AT: Final = 8
#: What a record shows of a long list of missing files; the manifest beside the cache has all of them.
_SHOWN: Final = 20
_COVERAGE: Final = "coverage manifest and listing of the compile cache"


@dataclass(frozen=True)
class Start:
    """What was done for a run before it was prepared.

    Attributes:
        layers: outcomes of the seed's layers, in order, as JSON; empty where none was given.
        coverage: the observation of the cache's coverage that the gate saw, as JSON; None to look now.
        fingerprint: what the cache's keys depend on in the ranks' environment; None to look now.
    """

    layers: Sequence[Mapping[str, Any]] = field(default=())
    coverage: Mapping[str, Any] | None = None
    fingerprint: Mapping[str, Any] | None = None


def coverage_seen(
    cache_dir: Path | None, case: Case, layout: CacheLayout, fingerprint: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Whether the cache covers the case, as an observation in JSON form. Absent where nothing is compiled."""
    if cache_dir is None or case.compile == "eager":
        return absent(_COVERAGE, "nothing is compiled").to_json()

    return guarded(
        _COVERAGE, lambda: coverage_observed(check_coverage(cache_dir, case, layout, fingerprint=fingerprint()))
    ).to_json()


def coverage_observed(seen: Coverage) -> Observation[dict[str, Any]]:
    """A judgement on a cache as the record has it: the first of what is missing, not all."""
    doc = {
        "covered": seen.covered,
        "required": seen.required,
        "missing": [safe_text(text[:500]) for text in seen.missing[:_SHOWN]],
        "mismatches": [safe_text(text[:500]) for text in seen.mismatches[:_SHOWN]],
    }
    return observed(doc, _COVERAGE)


def rank_words(paths: AttemptPaths, num_ranks: int) -> list[Any]:
    """By rank, what it last said that it used of the cache (an observation in JSON form); None: it said nothing."""
    return [cache_word(rank_report(paths, rank, {})) for rank in range(num_ranks)]


class CacheWatch:
    """The compile cache of one run, looked at before the launch and after the end."""

    def __init__(self, home: Home, paths: AttemptPaths, case: Case, placement: Placement, start: Start) -> None:
        self._home = home
        self._paths = paths
        self._case = case
        self._directory = placement.cache_dir
        self._layout = placement.cache_layout
        self._start = start
        self._fingerprint = start.fingerprint
        self._before: Observation[Any] = absent("compile cache directory", "the attempt has none")

    def before(self, environ: Mapping[str, str], boot_id: str) -> dict[str, Any]:
        """`layers`, `coverage_before` and `clocks`, for `host.json`.

        Args:
            environ: what the ranks will be given.
            boot_id: of this boot.
        """
        self._before = self._listed()
        if self._fingerprint is None and self._compiles:
            self._fingerprint = fingerprint(environ, devices=device_facts(environ))
        coverage = self._start.coverage
        if coverage is None:
            coverage = coverage_seen(self._directory, self._case, self._layout, lambda: self._fingerprint or {})
        clocks = {name: seen.to_json() for name, seen in boot_clocks().items()}
        clocks["earlier_run"] = guarded("attempts of this home", lambda: self._earlier(boot_id)).to_json()
        return {"layers": [dict(layer) for layer in self._start.layers], "coverage_before": coverage, "clocks": clocks}

    def after(self) -> dict[str, Any]:
        """`new_files` and `new_files_by_rank`, for `host_end.json`."""
        after = self._listed()
        apart = self._layout == "per_rank"
        return {
            "new_files": new_files(self._before, after).to_json(),
            "new_files_by_rank": {
                str(rank): new_files(self._before, after, f"rank-{rank}" if apart else "").to_json()
                for rank in range(self._case.nproc)
            },
        }

    def remember(self) -> str | None:
        """Write down what the ranks of a good run used of the cache. Returns why that could not be done, or None."""
        if self._directory is None or not self._compiles or self._fingerprint is None:
            return None
        reports = rank_words(self._paths, self._case.nproc)
        if self._case.script is not None and not any(
            isinstance(r, dict) and r.get("status") == "observed" for r in reports
        ):
            return None  # a command that compiled nothing, or whose cache could not be looked at, covers nothing
        written = write_coverage(
            self._directory, self._case, self._layout, reports, self._paths.run_id, fingerprint=self._fingerprint
        )
        return None if isinstance(written, Path) else f"what covers the case was not written down: {written}"

    @property
    def _compiles(self) -> bool:
        return self._case.compile != "eager"

    def _listed(self) -> Observation[Any]:
        if self._directory is None:
            return absent("compile cache directory", "the attempt has none")
        return list_files(self._directory)

    def _earlier(self, boot_id: str) -> Observation[str]:
        ours = self._paths.run_id
        names = (name for name in os.listdir(self._home.attempts) if RUN_ID.fullmatch(name) and name != ours)
        newest = sorted(names, key=lambda name: name.split("-", 1)[1], reverse=True)[:_ATTEMPTS_LOOKED_AT]
        found = [read_json(self._home.attempt(name).manifest) for name in newest]
        known = [manifest for manifest in found if manifest is not None]
        return earlier_run(known, boot_id=boot_id, cache_dir=str(self._directory))
