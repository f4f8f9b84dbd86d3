"""`lanemark promotion status|wave`: where candidates stand, what is owed, what expired; and one wave as a matrix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lanemark.cli.parsing import advise, home, parser, print_json, terminal_width, unicode_output
from lanemark.collect.left_waves import LeftWave, LeftWavePlace, left_waves
from lanemark.collect.waves import read_wave, wave_file, wave_names, write_wave
from lanemark.judge.promotions import Standing, standings
from lanemark.lanes.promoting import word_of
from lanemark.lanes.wave import NO_KERNELS, contradicted, is_as_far_as_a_cpu_goes, manifest_document, wave_row
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.observe.clock import stamp
from lanemark.records.attempt import Home
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import LanemarkError, LedgerError, UsageError

_WHATS = ("status", "wave", "resume")


def main(args: list[str]) -> int:
    """Show standings or a wave. Exit 0; 1 where a wave's manifest is not what its records say."""
    verb = parser(
        "promotion", "Show where kernel paths stand: promoted, rejected, expired, and what is owed; or one wave; or go "
        "on with a wave that was left and stopped.",
    )  # fmt: skip
    verb.add_argument("what", metavar="WHAT", help=f"{', '.join(_WHATS[:-1])} or {_WHATS[-1]}")
    verb.add_argument("name", nargs="?", default=None, metavar="WAVE", help="its name; of `wave` also a manifest file")
    verb.add_argument("--candidate", default=None, metavar="C", help="of `status`: only this candidate")
    verb.add_argument("-o", "--output", default=None, metavar="FILE.html", help="of `wave`: write it as HTML as well")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    asked = verb.parse_args(args)
    if asked.what not in _WHATS:
        raise UsageError(
            "arguments-invalid", f"lanemark promotion has no {asked.what[:40]!r}", f"use {', '.join(_WHATS)}"
        )
    if asked.what == "resume":
        from lanemark.cli.wave import resume

        if asked.name is None:
            raise UsageError("arguments-invalid", "no wave is named to go on with", "name one")
        return resume(asked.name, as_json=asked.json)
    return _status(asked.candidate, as_json=asked.json) if asked.what == "status" else _wave(asked)


def promotion_records(ledger: Ledger) -> list[tuple[str, dict[str, Any]]]:
    """Every record of the lane that can be read; the others are told of."""
    found = []
    listing = ledger.list(lane="promotion")
    for notice in listing.notices:
        advise(f"lanemark: {notice}")
    for row in listing.rows:
        try:
            found.append((row.id, decode(ledger.find(row.id).read_bytes())["predicate"]))
        except (LanemarkError, OSError, ValueError, KeyError) as error:
            advise(f"lanemark: {row.id[:19]} cannot be read ({error})")
    return found


def _status(candidate: str | None, *, as_json: bool) -> int:
    found = [each for each in standings(promotion_records(open_ledger(home()))) if candidate in (None, each.candidate)]
    if as_json:
        print_json({"standings": [each.to_json() for each in found]})
        return 0
    if not found:
        print("no record of the promotion lane; `lanemark run promotion` makes some")
        return 0
    print("\n\n".join(_told(each) for each in found))
    return 0


def _told(each: Standing) -> str:
    """One scope in a few lines: status first, then what is owed or what expired."""
    scope = f"{each.surface}, {each.arch}, {each.dtype}, {each.direction}"
    lines = [f"{each.candidate} ({each.mode.replace('_', ' ')}; {scope}): {each.status}"]
    if each.promotion_id is not None:
        lines.append(f"  promoted   {(each.promoted_at or '')[:19]} on {each.promotion_id[7:19]}: {each.because}")
    if each.refusal_id is not None:
        when = (each.refused_at or "")[:19]
        lines.append(f"  {each.status:<9}  {when} on {each.refusal_id[7:19]}, {each.basis}: {each.because}")
    if each.expired:
        lines.append(f"  expired    {', '.join(each.expired)}")
    if each.evidence_id is not None:
        lines.append(
            f"  evidence   {(each.evidence_at or '')[:19]} {each.evidence_id[7:19]}, {each.cases} cases: {each.state}"
        )
    if each.ready:
        lines.append(f"  owed       nothing: `lanemark promote {(each.evidence_id or '')[7:19]} --because …`")
    if is_as_far_as_a_cpu_goes(each.arch, each.state, "unobserved" if _owes_a_device(each) else ""):
        lines.append(f"  here       {NO_KERNELS}")
    lines += [f"  {'owed' if not place else '':<9}  {what}" for place, what in enumerate(each.owed)]
    return "\n".join(lines)


def _owes_a_device(each: Standing) -> bool:
    """The observation of a kernel is missing, and not an execution or a case's power."""
    weak = "executed is not held" in each.owed or any("no_power" in what for what in each.owed)
    return "dispatch_confirmed is not held" in each.owed and not weak


def _wave(asked: Any) -> int:
    place = home()
    if asked.name is None:
        names = [*wave_names(place.waves), *(each for each in _left_names(place) if _is_driven(place, each))]
        if not names:
            raise LedgerError("wave-missing", "there is no wave yet", "make one with `lanemark run promotion`")
        asked.name = names[-1]
    ledger = open_ledger(place)
    left = LeftWavePlace(place.left_waves, asked.name) if asked.name in _left_names(place) else None
    if left is not None and (left.is_driven() or wave_file(place.waves, asked.name) is None):
        manifest, digest_, kept_at = _going_on(place, left)
    else:
        if wave_file(place.waves, asked.name) is None:
            _sum_up(place, ledger, asked.name)
        manifest, kept = read_wave(place.waves, asked.name)
        digest_, kept_at = kept.digest, kept.path
    rows = {}
    for row in manifest["records"]:
        try:
            rows[row["record_id"]] = wave_row(row["record_id"], ledger.get(row["record_id"]).doc["predicate"])
        except LanemarkError as error:
            advise(f"lanemark: {error}")
    wrong = contradicted(manifest, rows)
    if asked.output is not None:
        _write_page(manifest, digest_, wrong, asked.output)
    if asked.json:
        print_json({
            "digest": digest_, "path": None if kept_at is None else str(kept_at), "contradicted": list(wrong),
            "manifest": manifest,
        })  # fmt: skip
    else:
        print(shown_wave(manifest, digest_))
        for line in wrong:
            advise(f"lanemark: {line}")
    return 1 if wrong else 0


def _left_names(place: Home) -> list[str]:
    return [each.root.name for each in left_waves(place.left_waves)]


def _is_driven(place: Home, name: str) -> bool:
    return LeftWavePlace(place.left_waves, name).is_driven()


def _going_on(place: Home, left: LeftWavePlace) -> tuple[dict[str, Any], str, Path | None]:
    """The manifest of a left wave as it is now. It is kept once nobody is at the wave and every case has ended."""
    from lanemark.cli.wave_driver import keep_manifest, manifest_of

    wave, driven = left.read(), left.is_driven()
    manifest = manifest_of(place, wave)
    if not driven and manifest["whole"]:
        kept = keep_manifest(place, wave)
        return (*read_wave(place.waves, wave.name)[:1], kept.digest, kept.path)
    advise(f"lanemark: {left_line(left, wave, driven=driven)}")
    return manifest, digest(encode(manifest)), None


def left_line(left: LeftWavePlace, wave: LeftWave, *, driven: bool) -> str:
    """How far a left wave is, in one line."""
    far = f"the wave {wave.name}: {wave.num_ended} of {len(wave.cases)} cases have ended"
    if driven:
        return f"{far}, and its driver goes on (process {wave.driver.get('pid', 'unknown')})"
    why = wave.stopped or (
        "a case was cancelled" if any(each.state == "cancelled" for each in wave.cases) else f"see {left.log}"
    )
    return f"{far}, and nobody goes on with it ({why}); `lanemark promotion resume {wave.name}` does"


def _sum_up(place: Home, ledger: Ledger, name: str) -> None:
    """Write the manifest of a wave whose runs were left detached, from its records as they are in the ledger by now."""
    found = [
        (predicate["times"]["sealed_at"], wave_row(record_id, predicate), predicate)
        for record_id, predicate in promotion_records(ledger)
        if predicate["promotion"]["wave"]["name"] == name and word_of(predicate) is None
    ]
    if found:
        found.sort(key=lambda item: item[:1])
        preset = str(found[0][2]["case"]["preset"])
        rows = [row for _, row, _ in found]
        write_wave(place.waves, name, manifest_document(name, preset, rows, created_at=stamp(), whole=True))


def shown_wave(manifest: dict[str, Any], digest: str) -> str:
    """The wave's matrix as terminal text."""
    from lanemark.report.wave import render_wave, wave_view

    width = max(60, min(110, terminal_width() or 100))
    return render_wave(wave_view(manifest, digest), width=width, unicode=unicode_output())


def _write_page(manifest: dict[str, Any], digest: str, wrong: tuple[str, ...], output: str) -> None:
    from lanemark.report.wave import wave_view
    from lanemark.report.wave_page import render_wave_html

    target = Path(output)
    try:
        temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}")
        temporary.write_text(render_wave_html(wave_view(manifest, digest, wrong)), encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise LedgerError(
            "output-unwritable", f"the page {str(target)!r} cannot be written ({error.strerror})",
            "name a file that can be",
        ) from None  # fmt: skip
