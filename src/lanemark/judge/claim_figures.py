"""Rules about figures: what a sentence states in numbers, held against the numbers of its record. Pure.

A number passes when it is one of the record's, in its unit, rounded to the digits that the text gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from lanemark.judge.citing import interval_of
from lanemark.judge.claim import ANY_CASE, NUMBER, Claim, said
from lanemark.records.observation import value_of

_WITH_UNIT: Final = re.compile(
    rf"(?P<number>{NUMBER})\s*(?P<unit>k?\s?(?:tok(?:en)?s?\s*(?:/|per)\s*s(?:ec(?:ond)?)?|tps)\b"
    r"(?:\s*(?:/|per)\s*(?:gpu|device|rank|chip))?|[µmn]s\b|s\b|seconds?\b|milliseconds?\b|"
    r"(?:samples?|steps?|sequences?|examples?|it(?:eration)?s?)\s*(?:/|per)\s*s(?:ec(?:ond)?)?\b|"
    r"(?:[TGP]FLOP/?s?)\b|%(?:\s*mfu)?|[GMK]i?B\b)",
    ANY_CASE,
)
#: `1.5x`, but not the `8x` of `8x H100`.
_TIMES: Final = re.compile(r"(?<![\w.,×])(\d+(?:\.\d+)?)\s?[x×](?![\w×]|\s?\w*\d*[A-Z]\w*\d)")
_RELATIVE: Final = re.compile(
    r"\b(?:faster|slower|quicker|speed-?ups?|outperform\w*|beats?|better than|worse than|improv\w+|gains?)\b|"
    rf"\bregress\w*|{_TIMES.pattern}|\b(?:twice|double|half) (?:as|the)\b",
    ANY_CASE,
)
#: For each caveat of a record, by its code or path: what it is, and how a sentence can be seen to say it.
_CAVEAT_WORDS: Final[dict[str, tuple[str, str]]] = {
    "GPU_SUBSTITUTED": ("the device is not the one asked for", r"\b(?:requested|substitut\w+|asked for)\b"),
    "UNCOMMITTED_SOURCE": ("the source had uncommitted changes", r"\b(?:uncommitted|dirty)\b"),
    "findings.stalls_in_window": ("some steps stalled", r"\bstall\w*|more than twice the median"),
    "findings.data_wait": ("the loop waited for data", r"\bwait\w*"),
    "findings.data_path_remote": ("the tokens came over a network", r"\b(?:network|object|remote|mount)\b"),
}


def no_receipt(claim: Claim) -> Iterable[tuple[str, str]]:
    if claim.citation is None and re.search(NUMBER, claim.text):
        yield _first_number(claim.text), "the record supports no figure at all"


def _first_number(text: str) -> str:
    found = _WITH_UNIT.search(text) or re.search(NUMBER, text)
    return found[0] if found else text[:40]


def numbers(claim: Claim) -> Iterable[tuple[str, str]]:
    """Numbers with a unit that the record does not have in that unit."""
    for match in _WITH_UNIT.finditer(claim.text):
        unit = _unit_of(match["unit"])
        if unit == "%" and re.match(r"\s*(?:confidence|interval|CI\b)", claim.text[match.end() :]):
            continue
        stated, scale = (
            float(match["number"].replace(",", "")),
            1000.0 if match["unit"].lower().startswith("k") else 1.0,
        )
        values = _figures(claim).get(unit)
        if values is None:
            yield match[0], "the record has no figure in that unit"
        elif not any(_rounds_to(match["number"], stated, value / scale) for value in values):
            other = next(
                (u for u, v in _figures(claim).items() if any(_rounds_to(match["number"], stated, x) for x in v)), ""
            )
            yield (
                match[0],
                f"the record has that number in {other}" if other else "the record does not have that number",
            )


def _unit_of(text: str) -> str:
    word = re.sub(r"\s+", "", text.lower())
    word = re.sub(r"^k(?=tok|tps)", "", word)
    if re.search(r"(?:/|per)(?:gpu|device|rank|chip)$", word):
        return "tok/s/device"
    if word.startswith(("tok", "tps")):
        return "tok/s"
    names = {"second": "s", "seconds": "s", "millisecond": "ms", "milliseconds": "ms", "%mfu": "%", "us": "µs"}
    return names.get(word, word)


def _figures(claim: Claim) -> dict[str, list[float]]:
    """Every figure that the record lets a sentence state, by unit."""
    doc, found = claim.doc, dict[str, list[float]]()

    def put(value: Any, *units: tuple[str, float]) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for unit, scale in units:
                found.setdefault(unit, []).append(float(value) * scale)

    seconds = (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    size = (("gib", 2.0**-30), ("gb", 1e-9), ("mib", 2.0**-20), ("mb", 1e-6))
    put(value_of(doc["startup"]["time_to_first_step_s"]), *seconds)
    if claim.record.lane == "training" and claim.citation is not None:
        part = doc["training"]
        throughput, interval = value_of(part["tokens_per_s"]), interval_of(doc)
        put(throughput, ("tok/s", 1.0))
        unit = "steps/s" if throughput is None else "tok/s"
        for end in () if interval is None else (interval.low, interval.high):
            put(end, (unit, 1.0))
        put(value_of((part.get("script") or {}).get("steps_per_s")), ("steps/s", 1.0))
        step = value_of(part["step_time"]) or {}
        for name, value in step.items():
            if name.endswith("_s"):
                put(value, *seconds)
        for window in (value_of(part["split"]["window_s"]),):
            put(window, *seconds)
        put(value_of(part["mfu"]), ("%", 100.0))
        for value in part["memory"].values():
            put(value_of(value), *size)
    if claim.record.lane == "sparse":
        for result in doc["sparse"]["results"]:
            latency = value_of(result["latency"])
            put(None if latency is None else latency["p50"], ("ns", 1.0), ("µs", 1e-3), ("ms", 1e-6), ("s", 1e-9))
    return found


def _places(text: str) -> int:
    return len(text.partition(".")[2]) if "." in text and "e" not in text else 0


def _rounds_to(text: str, stated: float, value: float) -> bool:
    """Whether a number in a text is a value of the record, rounded to the digits that the text has."""
    if "." in text:
        return abs(stated - value) <= 0.5 * 10.0 ** -_places(text) * 1.0000001
    zeros = len(text) - len(text.rstrip("0")) if stated >= 1000 and "," not in text.rstrip("0,") else 0
    return abs(stated - value) <= 0.5 * 10.0 ** min(zeros, 2) * 1.0000001


def counts(claim: Claim) -> Iterable[tuple[str, str]]:
    """Ranks, steps and devices by number."""
    doc = claim.doc
    window = doc["training"]["window"] if claim.record.lane == "training" else {}
    ranks, devices = value_of(doc["distributed"]["observed"]["world_size"]), value_of(
        doc["hardware"]["observed"]["device_count"])  # fmt: skip
    known: dict[str, tuple[Any, ...]] = {
        r"ranks?|processes": (ranks,),
        r"gpus?|devices?|cards?": (devices,),
        r"(?:measured |optimi[sz]er )?steps?": (window.get("measured"), window.get("steps")),
        r"warm-?up steps?": (window.get("warmup"),),
        r"independent steps?": (None,),
    }
    for noun, values in known.items():
        for match in re.finditer(rf"({NUMBER})\s*(?:×\s*)?({noun})\b", claim.text, ANY_CASE):
            allowed = {value for value in values if isinstance(value, int)}
            if allowed and int(float(match[1].replace(",", ""))) not in allowed:
                yield match[0], f"the record has {' or '.join(map(str, sorted(allowed)))}"


def relative(claim: Claim) -> Iterable[tuple[str, str]]:
    words = [each for each in said(_RELATIVE, claim.text) if each.strip()]
    if not words:
        return
    if claim.comparison is None:
        yield words[0], "one record compares nothing: `lanemark compare` gives the verdict that this needs"
        return
    if not claim.comparison.verdict.comparable:
        yield words[0], "the two records are not comparable"
        return
    conclusions = {found.verdict for found in claim.comparison.effects.values()}
    if not conclusions <= {"faster", "slower", "equivalent"} or not conclusions:
        yield words[0], "the runs at hand do not show a difference that is more than the spread between runs"
    elif re.search(r"\b(?:faster|quicker|outperform|beats?|better|improv|speed-?up)", claim.text, ANY_CASE):
        if conclusions != {"faster"}:
            yield words[0], f"the verdict on this record is: {', '.join(sorted(conclusions))}"
    elif re.search(r"\b(?:slower|worse|regress)", claim.text, ANY_CASE) and conclusions != {"slower"}:
        yield words[0], f"the verdict on this record is: {', '.join(sorted(conclusions))}"
    for match in _TIMES.finditer(claim.text):
        if not any(_ratio_fits(float(match[1]), found.ratio) for found in claim.comparison.effects.values()):
            yield match[0], "is not the ratio of the comparison"


def _ratio_fits(stated: float, ratio: float) -> bool:
    places = 0.5 * 10.0 ** -_places(f"{stated:g}") + 1e-9
    return abs(stated - ratio) <= places or abs(stated - 1.0 / ratio) <= places


def dropped(claim: Claim) -> Iterable[tuple[str, str]]:
    """A figure without the caveats of its record. A text without a figure needs none."""
    if claim.citation is None or not _WITH_UNIT.search(claim.text):
        return
    present = {reason.code for reason in claim.record.reasons} | {reason.path for reason in claim.record.reasons}
    for code, (what, pattern) in _CAVEAT_WORDS.items():
        if code in present and not re.search(pattern, claim.text, ANY_CASE):
            yield _first_number(claim.text), f"{what}, and the sentence does not say so"
    synthetic = value_of(claim.doc["data"]["path_class"]) == "synthetic" and claim.record.lane == "training"
    if synthetic and not re.search(r"\bsynthetic\b|\bmade[- ]up\b", claim.text, ANY_CASE):
        yield _first_number(claim.text), "the tokens were synthetic, and the sentence does not say so"
