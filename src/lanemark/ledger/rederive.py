"""Figures re-derived from the files they rest on: what a record of the training lane states, computed once more.

That a record's headline is the mean of its inline samples is a rule of its lane, and that the ranks' sample files are
the ones it names is a comparison of digests. Both hold for a record in which somebody edited figures *and* inline
samples, each in keeping with the other. So where every rank's `samples.bin` is at hand, its rows are put through the
functions that sealing uses (`lanemark.lanes.figures`, `lanemark.lanes.training`), and what comes out must be what the
record says: steps measured and warm-up, tokens a second, step times, the window and where it went, each rank's part.

Old records are derived by today's functions. A change to what these give must therefore tell records by their version;
the frozen records of every version, with their samples, refuse one that does not.

Where a file is missing nothing is concluded: a record travels without its evidence, and the step says what it lacked.
Agreement proves that the figures are those of these files, not that the files were written by ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.counted import window_tokens
from lanemark.lanes.figures import Steps, step_time
from lanemark.lanes.reports import RankReport
from lanemark.lanes.rule import close, is_receipt
from lanemark.lanes.training import rank_part, split_part, steps_of
from lanemark.measure.samples import SamplesError, read_samples
from lanemark.records.errors import RecordError
from lanemark.records.observation import value_of

#: About 700,000 rank-steps, for which reading the rows takes 250 MB: a run of 10,000 steps on 64 ranks has fewer.
MAX_SAMPLES_BYTES: Final = 32 * 1024 * 1024
#: Figures of one rank that come from its sample file alone.
_OF_A_RANK: Final = ("steps_recorded", "step_p50_s", "data_wait_s")
_OF_THE_WINDOW: Final = ("window_s", "data_wait_s", "compile_s", "other_s")


class NotAtHandError(Exception):
    """There is nothing to derive the figures from; the text says why."""


def check_figures(predicate: dict[str, Any], files: Mapping[str, Path]) -> str:
    """Derive a record's figures from its ranks' sample files, and say from what.

    Args:
        predicate: of a record that keeps the schema and the rules of its lane.
        files: evidence at hand by its name, each found to have the digest that the record names.

    Raises:
        RecordError: `figures-not-derived`: the files give other figures than the record states.
        NotAtHandError: the lane has no such figures, or not every file can be looked at.
    """
    if predicate["lane"] != "training":
        raise NotAtHandError(f"the {predicate['lane']} lane states no figures of steps")
    ranks = _reports(predicate, files)
    steps = steps_of(ranks)
    _check_steps(predicate, steps)
    _check_split(predicate["training"], ranks, steps)
    return (
        f"{len(steps.measured_ns)} measured steps and what the record says of them follow from the samples of "
        f"{len(ranks)} {'rank' if len(ranks) == 1 else 'ranks'}"
    )


def _reports(predicate: dict[str, Any], files: Mapping[str, Path]) -> list[RankReport]:
    """One report a rank, from its sample file alone. A file that sealing could not believe has no steps here too."""
    num_ranks = predicate["case"]["nproc"]
    sizes = {entry["name"]: entry["bytes"] for entry in predicate["evidence"]}
    if num_ranks > len(sizes):
        raise NotAtHandError(
            "the record does not name the samples of every rank, so its figures cannot be derived again"
        )
    names = [f"ranks/{rank}/samples.bin" for rank in range(num_ranks)]
    unnamed = [name for name in names if name not in sizes]
    if unnamed:
        raise NotAtHandError(f"the record names no {unnamed[0]}, so its figures cannot be derived again")
    if sum(sizes[name] for name in names) > MAX_SAMPLES_BYTES:
        raise NotAtHandError(f"the ranks' samples are larger than the {MAX_SAMPLES_BYTES} bytes that are read here")
    reports = []
    for rank, name in enumerate(names):
        if name not in files:
            raise NotAtHandError(f"{name} is not at hand, so the figures cannot be derived again")
        try:
            samples = read_samples(files[name])
        except OSError as error:
            raise NotAtHandError(f"{name} cannot be read ({error.strerror or type(error).__name__})") from None
        except SamplesError as error:
            reports.append(RankReport(rank, samples_problem=str(error)))
            continue
        if samples.rank != rank:
            raise _underived(f"{name} holds the samples of rank {samples.rank}")
        reports.append(RankReport(rank, samples=samples))
    return reports


def _check_steps(predicate: dict[str, Any], steps: Steps) -> None:
    """The inline samples exactly, and the headline within what adding doubles in another order may change."""
    training = predicate["training"]
    for kind, derived in (("warm-up", steps.warmup_ns), ("measured", steps.measured_ns)):
        stated = training["samples"]["warmup" if kind == "warm-up" else "measured"]
        if len(stated) != len(derived):
            raise _underived(f"the record has {len(stated)} {kind} steps and its ranks' files have {len(derived)}")
        for place, (one, other) in enumerate(zip(stated, derived, strict=True)):
            if one != other:
                raise _underived(f"{kind} step {place} took {one} ns in the record and {other} ns in its ranks' files")
    if is_receipt(predicate) and steps.window_ns is None:
        raise _underived("the record is a receipt, and a rank's file has no end of the window")
    times, rate = value_of(training["step_time"]), value_of(training["tokens_per_s"])
    if (times is not None or rate is not None) and sum(steps.measured_ns) <= 0:
        raise _underived("the record states times, and its ranks' files have no measured time")
    if times is not None:
        for name, value in step_time(steps.measured_ns).items():
            _same(f"step_time.{name}", times[name], value)
    if rate is not None:
        tokens = window_tokens(training)
        if tokens is None:
            raise _underived("the record states a throughput, and its ranks counted no tokens")
        _same("tokens_per_s", rate, tokens / (sum(steps.measured_ns) / 1e9))


def _check_split(training: dict[str, Any], ranks: Sequence[RankReport], steps: Steps) -> None:
    """What was observed of the window and of each rank. What the record calls unavailable states nothing to check."""
    derived = split_part(ranks, steps)
    for name in _OF_THE_WINDOW:
        _same(f"split.{name}", value_of(training["split"][name]), value_of(derived[name]))
    for stated in training["ranks"]:
        found = rank_part(ranks[stated["rank"]], None, {})
        for name in _OF_A_RANK:
            here, there = stated[name], found[name]
            if isinstance(here, dict):
                here, there = value_of(here), value_of(there)
            _same(f"ranks[{stated['rank']}].{name}", here, there)


def _same(name: str, stated: Any, derived: Any) -> None:
    if stated is None or (derived is not None and close(stated, derived)):
        return
    found = "nothing" if derived is None else derived
    raise _underived(f"{name} is {stated} in the record and the ranks' files give {found}")


def _underived(what: str) -> RecordError:
    return RecordError("figures-not-derived", what, "do not quote it")
