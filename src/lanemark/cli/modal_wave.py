"""`lanemark wave FILE`: a dry run of many isolated runs on Modal; with `--launch`, the runs, collected and summed up.

Without `--launch` nothing is contacted. With it, runs are launched as `lanemark.collect.modal_waves` says, each in an
app of its own, and collected as they end. Interrupted, it stops launching and leaves what is under way; the same
command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.leaving import leave
from lanemark.cli.modal_wave_file import Planned, read_wave
from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.places import places
from lanemark.cli.renting import carry_data, check_service, decide_rented, surface_for
from lanemark.collect.collecting import Surfaces, collect_one
from lanemark.collect.gathering import read_json
from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest
from lanemark.collect.modal_waves import Wave, dollars_until, first_trustworthy, following, load, save, states
from lanemark.collect.signals import StopSignals
from lanemark.launch.modal_prices import PRICES, Prices, read_prices, seconds_rented
from lanemark.observe.clock import stamp
from lanemark.records.attempt import Home
from lanemark.records.errors import LedgerError, RunFailed, SurfaceError
from lanemark.records.observation import value_of

_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 20.0
#: A run that was never launched is tried again; one that is never launched this often has a reason.
_TRIES: Final = 3


def main(args: list[str]) -> int:
    """Plan or run a wave. Exit 0 when every run of it is a receipt (or it was a dry run), 1 otherwise."""
    verb = parser("wave", "Plan a wave of isolated runs on Modal; with --launch, run, collect and sum it up.")
    verb.add_argument("file", metavar="FILE", help="the wave, as JSON (docs/modal.md)")
    verb.add_argument(
        "--launch", action="store_true", help="launch it, or go on with it; without, nothing is contacted"
    )
    verb.add_argument("--prices", default=None, metavar="FILE", help="a price list in place of the built-in one")
    verb.add_argument("--json", action="store_true", help="print the plan or the summary as JSON")
    asked = verb.parse_args(args)
    prices = PRICES if asked.prices is None else read_prices(Path(asked.prices))
    planned = read_wave(Path(asked.file), prices)
    place = home()
    path = place.rented_waves / f"{planned.wave.key}.json"
    wave = load(path, planned.wave)
    if asked.launch:
        wave = launch(place, path, planned, wave, prices)
    summary = summed_up(wave, prices)
    if asked.json:
        print_json({**summary, "runs": [entry.to_json() for entry in wave.entries]})
    else:
        for line in in_words(wave, summary, launched=asked.launch):
            print(line)
    return 0 if not asked.launch or all(entry.receipt for entry in wave.entries) else 1


def launch(place: Home, path: Path, planned: Planned, wave: Wave, prices: Prices) -> Wave:
    """Launch, collect, and go on until nothing is left or somebody interrupts. Returns the wave as it is then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AttemptLock(path.with_suffix(".lock")) as held, StopSignals() as stop:
        if not held:
            raise LedgerError(
                "attempt-unreadable", f"the wave {wave.name!r} is under way in another process", "wait for it to end"
            )
        check_service(planned.asked[0])
        return _Launching(place, path, planned, prices).go(load(path, wave), stop)


class _Launching:
    """A wave while it is under way."""

    def __init__(self, place: Home, path: Path, planned: Planned, prices: Prices) -> None:
        self._place = place
        self._path = path
        self._planned = planned
        self._prices = prices
        self._surfaces: Surfaces = places()

    def go(self, wave: Wave, stop: StopSignals) -> Wave:
        pause_s, told = _SHORTEST_S, ""
        while True:
            todo = following(wave)
            before = wave
            for number in todo.launch if stop() is None else ():
                wave = self._launch(wave, number)
            for number in following(wave).collect:
                wave = self._collect(wave, number)
            line = ", ".join(f"{count} {word}" for word, count in sorted(states(wave.entries).items()))
            if line != told:
                advise(f"lanemark: wave {wave.name}: {line}; ${wave.dollars:.2f} of ${wave.max_dollars:.2f}")
                told = line
            if following(wave).over or stop() is not None:
                return wave
            pause_s = _SHORTEST_S if wave != before else min(_LONGEST_S, pause_s * 1.5)
            time.sleep(pause_s)

    def _keep(self, wave: Wave) -> Wave:
        save(self._path, wave)
        return wave

    def _launch(self, wave: Wave, number: int) -> Wave:
        """Hand one run over. Its id is on disk before the first step that cannot be undone."""
        asked, entry = self._planned.asked[number], wave.entries[number]
        decided = decide_rented(asked, self._place, build=True)
        carry_data(decided, asked)
        run_ids: list[str] = []

        def note(run_id: str) -> None:
            nonlocal wave
            run_ids.append(run_id)
            began_at = wave.began_at or stamp()
            wave = self._keep(replace(wave.with_entry(number, stage="launching", run_id=run_id), began_at=began_at))

        try:
            leave(
                decided, self._place, argv=["lanemark", "run", *entry.words], renting=surface_for(asked), prepared=note
            )
        except RunFailed as error:
            advise(f"lanemark: {error}")
            return self._keep(wave.with_entry(number, stage="ended", outcome="error", receipt=False, spent_dollars=0.0))
        except SurfaceError as error:
            advise(f"lanemark: {error}")  # whether it was launched, collecting will say
        advise(f"lanemark: {run_ids[0]}: {' '.join(entry.words)}")
        return self._keep(wave.with_entry(number, stage="launched"))

    def _collect(self, wave: Wave, number: int) -> Wave:
        """See what became of one run."""
        entry = wave.entries[number]
        assert entry.run_id is not None
        paths = self._place.attempt(entry.run_id)
        done = collect_one(self._place, paths, self._surfaces)
        manifest = done.manifest
        if done.line is not None and done.outcome == "problem":
            advise(f"lanemark: {done.line}")
        if manifest is None or not manifest.state.final:
            return wave
        if manifest.end is not None and manifest.end.word == "absent" and len(entry.earlier) < _TRIES:
            return self._keep(
                wave.with_entry(number, stage="waiting", run_id=None, earlier=(*entry.earlier, entry.run_id))
            )
        record = read_json(paths.record) or {}
        predicate = record.get("predicate", {})
        ended_at = (manifest.end.completed_at if manifest.end is not None else None) or manifest.transitions[-1].at
        changed = wave.with_entry(
            number, stage="ended", outcome=manifest.state.value, ended_at=ended_at,
            receipt=bool(predicate.get("outcome", {}).get("receipt")),
            spent_dollars=self._spent(number, manifest, predicate, ended_at),
        )  # fmt: skip
        return self._keep(changed)

    def _spent(self, number: int, manifest: Manifest, predicate: dict[str, Any], ended_at: str) -> float | None:
        """Dollars, from the beginnings of its containers and its end; at the device that was seen, where one was."""
        claims = (read_json(self._place.attempt(manifest.run_id).executions) or {}).get("executions", [])
        seconds = seconds_rented([str(claim.get("begun_at")) for claim in claims], ended_at)
        if not claims or seconds is None:
            return None
        asked = self._planned.asked[number].case
        seen = value_of(predicate.get("hardware", {}).get("observed", {}).get("device_class"))
        known = self._prices.per_gpu_s.get(str(seen))
        per_s = known * asked.nproc if known is not None else self._prices.of(asked.gpu)
        return None if per_s is None else per_s * seconds


def summed_up(wave: Wave, prices: Prices) -> dict[str, Any]:
    """A wave in figures."""
    doc: dict[str, Any] = {
        "wave": wave.key,
        "states": states(wave.entries),
        "at_once": wave.at_once,
        "dollars": {
            "cap": wave.max_dollars,
            "at_most": round(sum(entry.at_most_dollars for entry in wave.entries), 4),
            "counted": round(wave.dollars, 4),
            "prices": prices.to_json(),
        },
    }
    first = first_trustworthy(wave)
    if first is not None and wave.began_at is not None and first.ended_at is not None:
        dollars = dollars_until(wave, first.ended_at)
        doc["first_trustworthy"] = {
            "run_id": first.run_id,
            "seconds": seconds_rented([wave.began_at], first.ended_at),
            **({} if dollars is None else {"dollars": round(dollars, 4)}),
        }
    return doc


def in_words(wave: Wave, summary: dict[str, Any], *, launched: bool) -> Sequence[str]:
    """The same for a person."""
    lines = []
    for number, entry in enumerate(wave.entries):
        spent = "" if entry.spent_dollars is None else f", ${entry.spent_dollars:.4f}"
        what = entry.outcome or entry.stage
        mark = "" if entry.receipt is None else ", a receipt" if entry.receipt else ", no receipt"
        lines.append(f"{number:>4}  {what}{mark}{spent}  at most ${entry.at_most_dollars:.2f}  {' '.join(entry.words)}")
    money = summary["dollars"]
    source = f"{money['prices']['source']} of {money['prices']['seen']}"
    lines.append(
        f"{len(wave.entries)} runs, {wave.at_once} at once; at most ${money['at_most']:.2f}, cap ${money['cap']:.2f}"
        f" ({source}; {money['prices']['covers']})"
    )
    first = summary.get("first_trustworthy")
    if first is not None:
        dollars = f" and ${first['dollars']:.4f}" if "dollars" in first else ""
        lines.append(f"the first trustworthy result came after {first['seconds']:.0f} s{dollars}: {first['run_id']}")
    if following(wave).capped and launched:
        lines.append(f"{len(following(wave).capped)} runs do not fit under the cap; raise max_dollars and go on")
    elif not launched:
        lines.append("nothing was launched; add --launch")
    return lines
