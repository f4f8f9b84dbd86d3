"""`lanemark run promotion`: one attempt after another, each with its own gates and record, then the wave's manifest.

A wave goes on when a candidate is rejected or a run fails: each record says how its own run ended, and the manifest has
all of them. It ends early only when it is told to.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from lanemark.cli.artifacts import resolve_artifacts
from lanemark.cli.asked import check_surface
from lanemark.cli.asked_modal import rental as rental_of
from lanemark.cli.asked_modal import rented
from lanemark.cli.asked_promotion import AskedWave, understand_wave
from lanemark.cli.parsing import advise, home, print_json
from lanemark.cli.renting import rent, wait_for
from lanemark.collect.conduct import Conducted
from lanemark.collect.left_waves import LeftCase, LeftWave, LeftWavePlace
from lanemark.collect.manifest import Manifest
from lanemark.collect.waves import WaveFile, check_new, write_wave
from lanemark.lanes.wave import manifest_document, wave_row
from lanemark.ledger.location import open_ledger
from lanemark.observe.clock import stamp
from lanemark.observe.redaction import redact_argv
from lanemark.records.encoding import decode, safe_text
from lanemark.records.errors import GateRefused, UsageError


def run_wave(options: argparse.Namespace, words: list[str], argv: list[str]) -> int:
    """Run every case of the wave. Exit 0 when no candidate was rejected and nothing failed, else 1."""
    from lanemark.cli.run import prepare_run, run

    check_surface(options)
    rental = rental_of(options)
    wave = understand_wave(options)
    place = home()
    open_ledger(place)
    check_new(place.waves, wave.name)
    if LeftWavePlace(place.left_waves, wave.name).exists():
        raise UsageError(
            "value-invalid", f"there is a wave {wave.name!r} already, which was left here",
            f"give another --wave, or go on with `lanemark promotion resume {wave.name}`",
        )  # fmt: skip
    if options.detach and rental is None:
        return _leave(wave, options, words, argv)
    for line in left_out_lines(wave):
        advise(f"lanemark: {line}")
    artifacts = resolve_artifacts(options.artifacts, place)
    done: list[Conducted] = []
    left: list[Manifest] = []
    for number, asked in enumerate(wave.asked, 1):
        question = asked.case.promotion
        assert question is not None
        advise(f"lanemark: wave {wave.name}, {number} of {len(wave.asked)}: {question.candidate}")
        if rental is None:
            decided = prepare_run(asked, place, words)
            done.append(run(decided, place, argv=argv, artifacts=artifacts, wave=wave.name))
        else:
            there = rent(rented(asked, rental), place, argv=argv, artifacts=artifacts, wave=wave.name)
            if options.detach:
                left.append(there.manifest)
                if there.interrupted_by is not None:
                    break  # what was left stays there; nothing more is launched
                continue
            done.append(wait_for(place, there.manifest.run_id, there.interrupted_by))
        if done[-1].manifest.state.value == "cancelled":
            break
    if left:
        return _report_left(wave, left, as_json=options.json)
    rows = [wave_row(each.record.id, decode(each.record.data)["predicate"]) for each in done]
    manifest = manifest_document(
        wave.name, wave.preset, rows, created_at=stamp(), whole=len(done) == len(wave.asked),
        left_out=[vars(each) for each in wave.left_out],
    )  # fmt: skip
    kept = write_wave(place.waves, wave.name, manifest)
    report(wave, done, rows, manifest, kept, as_json=options.json)
    bad = any(row["state"] in ("rejected", "blocked") or row["outcome"] != "ok" for row in rows)
    weak = any(row["reason"].startswith("no_power") for row in rows)
    return 1 if bad or weak or not manifest["whole"] else 0


def _report_left(wave: AskedWave, left: list[Manifest], *, as_json: bool) -> int:
    """Say where the runs of a wave were left. Its manifest is made from their records. Exit 0."""
    runs = [{"run_id": each.run_id, "state": each.state.value, "surface": each.surface} for each in left]
    if as_json:
        print_json({"wave": {"name": wave.name}, "runs": runs})
    else:
        for each in left:
            print(f"{each.run_id}  {each.state.value}  {each.transitions[-1].reason}")
        advise(f"lanemark: their records: `lanemark collect --wait`, then `lanemark promotion wave {wave.name}`")
    return 0


def _leave(wave: AskedWave, options: argparse.Namespace, words: list[str], argv: list[str]) -> int:
    """Hand the wave over and leave: one case to a supervisor of its own, several to a driver that takes them in turn.

    Several at once would share the device and each other's memory.
    """
    from lanemark.cli.leaving import leave
    from lanemark.cli.leaving import report as report_left
    from lanemark.cli.run import prepare_run
    from lanemark.cli.wave_driver import start_driver

    place = home()
    artifacts = resolve_artifacts(options.artifacts, place)
    if len(wave.asked) == 1:
        decided = prepare_run(wave.asked[0], place, words)
        left = leave(decided, place, argv=argv, artifacts=artifacts, wave=wave.name)
        return report_left(left, place, as_json=options.json)
    # The gates of each kind of case are passed here and now; the driver passes them again, case by case.
    for asked in {each.case.compile: each for each in wave.asked}.values():
        prepare_run(asked, place, words)
    first = wave.asked[0]
    there = LeftWavePlace(place.left_waves, wave.name)
    state = LeftWave(
        wave.name, wave.preset, tuple(safe_text(word) for word in redact_argv(argv)[0]), tuple(words), os.getcwd(),
        tuple(LeftCase(each.case, each.reasons) for each in wave.asked), tuple(vars(each) for each in wave.left_out),
        {"layout": first.cache_layout, "from": list(first.cache_from), "to": first.cache_to}, artifacts,
    )  # fmt: skip
    try:
        there.root.mkdir(parents=True, exist_ok=True)
        if not there.lock.take():
            raise _at_work(wave.name)
        there.save(state)
    except OSError as error:
        there.lock.release()
        raise GateRefused(
            "home-unwritable", f"the wave could not be left under {str(place.left_waves)!r} ({error.strerror})",
            "free some space there, or set LANEMARK_HOME to another directory",
        ) from None  # fmt: skip
    start_driver(place, there)
    for line in left_out_lines(wave):
        advise(f"lanemark: {line}")
    return report_driven(wave.name, len(wave.asked), there, as_json=options.json)


def _at_work(name: str) -> UsageError:
    return UsageError(
        "value-invalid", f"a driver is at the wave {name!r}", f"wait for it with `lanemark collect --wait`; "
        f"`lanemark promotion wave {name}` shows how far it is",
    )  # fmt: skip


def resume(name: str, *, as_json: bool) -> int:
    """Go on with a left wave that nobody is at: what has not ended well is asked again. Exit 0.

    Raises:
        LedgerError: `wave-missing`.
        UsageError: somebody is at it.
        RunFailed: no process could be started.
    """
    from lanemark.cli.wave_driver import start_driver

    place = home()
    there = LeftWavePlace(place.left_waves, name)
    wave = there.read()
    if not there.lock.take():
        raise _at_work(name)
    going_on = there.read().resumed()
    missing = sum(each.state is None for each in going_on.cases)
    if not missing:
        there.lock.release()
    else:
        there.save(going_on)
        start_driver(place, there)
    return report_driven(name, missing, there, as_json=as_json, total=len(wave.cases))


def report_driven(name: str, cases: int, there: LeftWavePlace, *, as_json: bool, total: int | None = None) -> int:
    """Say what a driver is at, and how to get the records. Exit 0."""
    if as_json:
        print_json({"wave": {"name": name, "cases": cases, "state": str(there.state)}, "runs": []})
    elif not cases:
        print(f"{name}: every case has ended well; `lanemark promotion wave {name}` shows them")
    else:
        of = "" if total is None else f" of {total}"
        print(f"{name}: {cases}{of} cases left to a driver, one after another")
        advise(f"lanemark: their records: `lanemark collect --wait`, then `lanemark promotion wave {name}`")
    return 0


def left_out_lines(wave: AskedWave) -> list[str]:
    """What the wave does not ask, grouped by reason: one line each."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in wave.left_out:
        what = each.case or (f"{each.dtype} {each.direction}".strip() or "everything")
        grouped.setdefault((each.candidate, each.reason), []).append(what)
    return [
        f"left out of {name}: {', '.join(dict.fromkeys(what))} ({reason})" for (name, reason), what in grouped.items()
    ]


def report(
    wave: AskedWave, done: list[Conducted], rows: list[dict[str, Any]], manifest: dict[str, Any], kept: WaveFile,
    *, as_json: bool,
) -> None:  # fmt: skip
    """The wave on the screen: its matrix, or one JSON document. One record alone is also told as any run is."""
    for each in done:
        if each.notice is not None:
            advise(f"lanemark: {each.notice}")
    runs = [
        {
            "run_id": row["run_id"], "record_id": row["record_id"], "record_path": str(each.record_path),
            "state": row["outcome"], "receipt": row["receipt"], "promotion_state": row["state"],
            "reason": row["reason"],
            "promotion_ready": row["ready"], "appended": each.manifest.appended,
        }
        for row, each in zip(rows, done, strict=True)
    ]  # fmt: skip
    if as_json:
        alone = runs[0] if len(runs) == 1 else {}
        doc = {
            "name": wave.name,
            "manifest": str(kept.path),
            "manifest_digest": kept.digest,
            "whole": manifest["whole"],
        }
        print_json({**alone, "wave": doc, "runs": runs})
        return
    from lanemark.cli.promotion import shown_wave

    print(shown_wave(manifest, kept.digest))
