"""Skimming: the few fields that a row shows, found in a record's bytes without parsing the rest. Pure.

Rebuilding an index reads every record, and most of a record is per-rank detail, samples and toolchain. Parsing it all
with the library's parser takes several times as long as the reading, hashing and indexing together. But our own writer
leaves one exact form (`lanemark.records.encoding.encode`: sorted keys, no spaces), in which the head of every part can
be found by a plain search, one after the other, and only the values behind a few heads are parsed.

Why a search cannot be deceived by text inside a record: a quotation mark inside a JSON string is always escaped, so a
head such as `,"outcome":{` never occurs within one. A key of that name elsewhere in the record could stand in a head's
way only in a place that comes between two neighbouring heads, and there the schema has none.

Most values that a row shows are those of many records: there are few cases, devices and modes. What was parsed is
therefore remembered by its exact text, within bounds that a hostile ledger cannot swell.

Whatever does not look exactly so is not skimmed: other lanes, other versions, other writers, spaces. `skim` then says
None, and the caller parses the record whole. Standard library only: appending happens beside the ranks.
"""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import Any, Final

from lanemark.records.observation import value_of

_HEAD: Final = re.compile(
    r'\{"_type":"https://in-toto\.io/Statement/v1","predicate":\{"assurance":"[a-z_]+","attempt":[0-9]+,"case":(?=\{)'
)
#: From the end of the outcome to the head of the source, neighbours all of them.
_MIDDLE: Final = re.compile(
    r'"receipt":(?P<receipt>true|false),"receipt_reason":"(?:[^"\\]|\\.)*","state":"(?P<outcome>[a-z]+)"\}'
    r',"plan_digest":"(?P<plan_digest>sha256:[0-9a-f]{64})","record_version":"1\.[01]","run_id":"(?P<run_id>[0-9A-Za-z-]+)"'
    r',"source":\{"argv":\['
)
_SEALED: Final = re.compile(r'"sealed_at":"(?P<sealed_at>[0-9TZ:.-]+)"\},"toolchain":\{')
_TAIL: Final = '},"predicateType":"urn:x-lanemark:record:v1","subject":['
#: What is remembered: at most this many values, each of a text no longer than this (a case has about 700 characters).
_REMEMBERED: Final = 1024
_LONGEST: Final = 2048


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_VALUE: Final = JSONDecoder(parse_constant=_no_constant).raw_decode
_known: Final[dict[str, Any]] = {}
#: The same of observations: what each of them says was observed, None for nothing.
_values: Final[dict[str, Any]] = {}
_MISSING: Final = object()


def _parsed(text: str, at: int, end: int) -> tuple[Any, int]:
    """The JSON value that begins at `at` and where it ends; remembered where that is `end`. Not to be changed."""
    shown = text[at:end] if end - at <= _LONGEST else ""
    value = _known.get(shown)
    if value is not None:
        return value, end
    value, stop = _VALUE(text, at)
    if stop == end and shown:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[shown] = value
    return value, stop


def _observed(text: str, at: int, shown: str) -> Any:
    """What the observation that begins at `at` observed, remembered where `shown` is all of it."""
    doc, stop = _VALUE(text, at)
    value = value_of(doc)
    if stop == at + len(shown) <= at + _LONGEST:
        if len(_values) >= _REMEMBERED:
            _values.clear()
        _values[shown] = value
    return value


def skim(data: bytes) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The case and what else a row shows of a training record in our writer's exact form; None for any other bytes.

    Returns:
        The case as plain JSON; and by name: `lane`, `run_id`, `plan_digest`, `sealed_at`, `outcome`, `receipt`; what
        was observed, or None, as `path_class`, `mode`, `world_size`, `device_class`, `commit`, `startup_state`; and as
        observations `step_time` and `tokens_per_s`. None of it is to be changed: records share it.
    """
    try:
        text = data.decode("utf-8")
        head = _HEAD.match(text)
        if head is None:
            return None
        place, last = text.index, text.rindex

        def seen(key: str, begin: int, end: int) -> Any:
            """What was observed behind `key`. The first brace that closes is its own, or one in a text."""
            at = place(key, begin, end) + len(key) - 1
            shown = text[at : place("}", at, end) + 1]
            value = _values.get(shown, _MISSING)
            return _observed(text, at, shown) if value is _MISSING else value

        compiled = place(',"compile":{"observed":{', head.end())
        case, stop = _parsed(text, head.end(), compiled)
        if stop != compiled:
            return None
        of_data = place(',"data":{"dataset_digest":{', compiled)
        distributed = place(',"distributed":{"observed":{', of_data)
        environment = place(',"environment":{', distributed)
        hardware = place(',"hardware":{"observed":{', environment)
        image = place(',"image":{"digest":{', hardware)
        outcome = place(',"lane":"training","outcome":{', image)
        middle = _MIDDLE.match(text, place('"receipt":', outcome))
        if middle is None:
            return None
        startup = place(',"startup":{"cache_after":{', middle.end())
        surface = place(',"surface":{"app_id":{', startup)
        times = place(',"times":{"duration_s":{', surface)
        sealed = _SEALED.match(text, place('"sealed_at":"', times))
        if sealed is None:
            return None
        part = place(',"training":{"does_not_prove":[', sealed.end())
        tail = last(_TAIL, part)
        # From the end: the samples and the ranks' figures, which lie before these two, are most of a record.
        rate = last('"tokens_per_s":{', part, tail)
        step_time = last('"step_time":{', part, rate)
        receipt, outcome_state, plan_digest, run_id = middle.groups()
        found = {
            "lane": "training",
            "run_id": run_id,
            "plan_digest": plan_digest,
            "outcome": outcome_state,
            "receipt": receipt == "true",
            "sealed_at": sealed[1],
            "path_class": seen('"path_class":{', of_data, distributed),
            "mode": seen('"mode":{', distributed, environment),
            "world_size": seen('"world_size":{', distributed, environment),
            "device_class": seen('"device_class":{', hardware, image),
            "commit": seen('"commit":{', middle.end(), startup),
            "startup_state": seen('"state":{', startup, surface),
            "step_time": _VALUE(text, step_time + 12)[0],
            "tokens_per_s": _VALUE(text, rate + 15)[0],
        }
    except ValueError:  # not UTF-8, a head or a key that is not there, a value that is no JSON
        return None
    return case, found
