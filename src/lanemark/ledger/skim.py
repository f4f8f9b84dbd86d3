"""Skimming: the few fields that a row shows, found in a record's bytes without parsing the rest. Pure.

Rebuilding an index reads every record, and most of a record is per-rank detail, samples and toolchain. Parsing it all
with the library's parser takes several times as long as the reading, hashing and indexing together. But our own writer
leaves one exact form (`lanemark.records.encoding.encode`: sorted keys, no spaces), in which the head of every part can
be found by a plain search, one after the other, and only the values behind a few heads are parsed.

Why a search cannot be deceived by text inside a record: a quotation mark inside a JSON string is always escaped, so a
head such as `"device_class":{` never occurs within one. And each of the heads is of a kind that the schema has in one
place only: there is no second one to be mistaken for the first, wherever a search begins. So a search may begin some
way behind the head before it, as far as no record is shorter there; in a record that is, nothing is found.

Most values that a row shows are those of many records: there are few cases, devices and modes. What was parsed is
therefore remembered by its exact text, within bounds that a hostile ledger cannot swell.

Whatever does not look exactly so is not skimmed: other lanes, other versions, other writers, spaces. `skim` then says
None, and the caller parses the record whole. Standard library only: appending happens beside the ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from lanemark.ledger.rows import IndexRow, as_number, as_text, as_whole
from lanemark.records.encoding import decode
from lanemark.records.observation import value_of

_HEAD: Final = re.compile(
    r'\{"_type":"https://in-toto\.io/Statement/v1","predicate":\{"assurance":"[a-z_]+","attempt":[0-9]+,"case":(?=\{)'
).match
#: From the end of the outcome to the head of the source, neighbours all of them.
_MIDDLE: Final = re.compile(
    r'"receipt":(true|false),"receipt_reason":"[^"\\]*(?:\\.[^"\\]*)*","state":"([a-z]{1,99})"\}'
    r',"plan_digest":"(sha256:[0-9a-f]{64})","record_version":"1\.[01]","run_id":"([0-9A-Za-z-]{1,99})"'
    r',"source":\{"argv":\['
).match
_SEALED: Final = re.compile(r'"sealed_at":"([0-9TZ:.-]{1,99})"\},"toolchain":\{').match
#: A number that is no integer out of range and no infinity.
_NUMBER: Final = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_OBSERVED: Final = r'\{"source":"[^"\\]*","status":"observed","value":'
#: What stands behind the throughput to the end of the lane's part, which is last but for the transitions.
_AFTER_RATE: Final = r',"tokens_per_step":[0-9]+,"window":\{[a-z0-9":,]+\}\},"transitions":\['
#: Both figures of a row, where both were observed.
_FIGURES: Final = re.compile(
    rf'"step_time":{_OBSERVED}\{{"max_s":{_NUMBER},"mean_s":{_NUMBER},"min_s":{_NUMBER},"p50_s":({_NUMBER}),"p95_s":{_NUMBER}'
    rf',"p99_s":{_NUMBER},"stalls":[0-9]+\}}\}},"tokens_per_s":{_OBSERVED}({_NUMBER})\}}{_AFTER_RATE}'
).match
_LAST: Final = re.compile(_AFTER_RATE).match
_TAIL: Final = '},"predicateType":"urn:x-lanemark:record:v1","subject":['
#: What is remembered: at most this many values, each of a text no longer than this (a case has about 700 characters).
_REMEMBERED: Final = 1024
_LONGEST: Final = 2048


class _Memory(dict[str, Any]):
    """By the exact text of a JSON value what a row shows of it, parsed strictly when it is first asked for.

    Args:
        shown: what a row shows of a parsed value.
    """

    def __init__(self, shown: Callable[[Any], Any]) -> None:
        super().__init__()
        self.shown = shown

    def __missing__(self, text: str) -> Any:
        """Raises ValueError for what is no JSON, or only the beginning of it."""
        value = self.shown(decode(text.encode()))
        if len(text) <= _LONGEST:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[text] = value
        return value


_cases: Final = _Memory(
    lambda case: tuple(as_text(case.get(name)) for name in ("preset", "compile", "dtype", "surface"))
)
_texts: Final = _Memory(lambda observation: as_text(value_of(observation)))
_wholes: Final = _Memory(lambda observation: as_whole(value_of(observation)))
_numbers: Final = _Memory(lambda observation: as_number(value_of(observation)))
_medians: Final = _Memory(lambda observation: as_number((value_of(observation) or {}).get("p50_s")))


def skim(record_id: str, data: bytes) -> IndexRow | None:
    """The row of a training record in our writer's exact form; None for any other bytes."""
    try:
        text = data.decode("utf-8")
        head = _HEAD(text)
        if head is None:
            return None
        # Each search begins behind what is found before it, by about two thirds of the least that lies between. The
        # first brace that closes is an observation's own, or one in a text of it: such a record is parsed whole.
        place = text.index
        begin = head.end()
        end = place(',"compile":{"observed":{', begin + 200)
        preset, posture, dtype, surface = _cases[text[begin:end]]
        at = place('"path_class":{', end + 400) + 13
        path_class = _texts[text[at : place("}", at) + 1]]
        at = place('"mode":{', at + 300) + 7
        mode = _texts[text[at : place("}", at) + 1]]
        at = place('"world_size":{', at + 80) + 13
        world_size = _wholes[text[at : place("}", at) + 1]]
        at = place('"device_class":{', at + 800) + 15
        device_class = _texts[text[at : place("}", at) + 1]]
        at = place(',"lane":"training","outcome":{', at + 800)
        middle = _MIDDLE(text, place('"receipt":', at + 250))
        if middle is None:
            return None
        receipt, outcome, plan_digest, run_id = middle.groups()
        at = place('"commit":{', middle.end()) + 9
        commit = _texts[text[at : place("}", at) + 1]]
        at = place('"state":{', at + 550) + 8
        startup_state = _texts[text[at : place("}", at) + 1]]
        sealed = _SEALED(text, place('"sealed_at":"', at + 500))
        if sealed is None or preset is None:
            return None
        # From the end: the samples and the ranks' figures, which lie before these two, are most of a record.
        at = text.rindex('"step_time":{', sealed.end(), text.rindex(_TAIL))
        figures = _FIGURES(text, at)
        step_p50_s, tokens_per_s = map(float, figures.groups()) if figures is not None else _figures(text, at)
    except (ValueError, AttributeError):  # not UTF-8, a head or a key that is not there, a value of another kind
        return None
    return IndexRow._make(
        (
            record_id, run_id, "training", preset, sealed[1], outcome, receipt == "true", device_class, world_size,
            mode, posture, dtype, surface, startup_state, path_class, tokens_per_s, step_p50_s, commit, plan_digest,
        )
    )  # fmt: skip


def _figures(text: str, at: int) -> tuple[float | None, float | None]:
    """Median step and throughput from where the step times begin, where one was not observed. Raises ValueError."""
    rate = text.index(',"tokens_per_s":{', at) + 16
    end = text.index("}", rate) + 1
    if _LAST(text, end) is None:
        raise ValueError("the throughput is not what it seemed")
    return _medians[text[at + 12 : rate - 16]], _numbers[text[rate:end]]
