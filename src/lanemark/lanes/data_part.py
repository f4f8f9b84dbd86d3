"""What a record says of its tokens: where they came from, through which path, and that they are the case's. Pure.

The class of the data path is drawn from each rank's own open files, counters and page cache (`lanemark.observe`), never
from the path that was given or the class that was asked for. Fields that came after version 1.1's first records are
optional: records made before, and runs that they cannot concern, do without.
"""

from __future__ import annotations

from typing import Any

from lanemark.lanes.data_ranks import rank_rows, stalls_part, windows_part
from lanemark.lanes.reports import AttemptFacts, agreed, looked_up
from lanemark.lanes.training import rank_tokens
from lanemark.observe.path_class import combine, contradicts
from lanemark.records.case import Case
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of

_ENDS = "end.json of every rank"


def data_part(facts: AttemptFacts) -> tuple[dict[str, Any], list[Finding]]:
    """The `data` part of a record (`lanemark.records.schema_envelope.DataPart`), and what a reader must know of it."""
    case, made_up = facts.case, facts.case.data.kind == "synthetic"
    listed = {} if made_up else facts.manifest.get("data") or {}
    rows = [] if made_up else rank_rows(facts.ranks)
    path_class = _synthetic(facts) if made_up else _class_of(facts, rows)
    windows = windows_part(case, facts.ranks)
    total, parity = _tokens(facts, windows)
    nothing = absent("ranks' loaders", "synthetic tokens are no dataset").to_json()
    part = {
        "requested": case.to_json()["data"],
        **{
            key: nothing if made_up else looked_up(listed, key, "data directory")
            for key in ("dataset_digest", "tokenizer_digest", "manifest_verified")
        },
        "shards": listed.get("shards", []),
        "path_class": path_class.to_json(),
        "paths": _paths(facts),
        "tokens_consumed": total.to_json(),
        "token_parity": parity.to_json(),
        "stalls": stalls_part(facts.ranks).to_json(),
        **({} if made_up else {"ranks": rows, "windows": windows.to_json()}),
        **_staged(case, listed),
    }
    return part, _findings(facts, path_class)


def _paths(facts: AttemptFacts) -> list[dict[str, Any]]:
    return [
        {"rank": report.rank, **entry}
        for report in facts.ranks
        for entry in (report.observed or {}).get("data_files", [])
    ]


def _staged(case: Case, listed: dict[str, Any]) -> dict[str, Any]:
    """Where the shards were staged from. Synthetic tokens come from nowhere, and were never staged."""
    if case.data.kind == "synthetic" or "staged" not in listed:
        return {}
    return {"staged": looked_up(listed, "staged", "staged.json beside the shards")}


def _synthetic(facts: AttemptFacts) -> Observation[str]:
    token_source = agreed(facts.ranks, "token_source")[0]
    if value_of(token_source) != "synthetic":
        return unavailable("ranks' loaders", "no agreement of the ranks on where their tokens came from")
    return observed("synthetic", f"{token_source['source']}: the tokens were made in memory")


def _class_of(facts: AttemptFacts, rows: list[dict[str, Any]]) -> Observation[str]:
    """The ranks' classes brought to one."""
    source = "ranks' open files"
    opened = {row["rank"] for row in rows if row["files"]}
    missing = sorted({report.rank for report in facts.ranks} - opened)
    if not opened:
        reporting = any(report.observed is not None for report in facts.ranks)
        why = "the ranks reported no open data file" if reporting else "no rank got as far as opening its data"
        return unavailable(source, why)
    if missing:
        return unavailable(source, f"ranks {missing[:8]} did not report theirs")
    unknown = [row for row in rows if value_of(row["path_class"]) is None]
    if unknown:
        return unavailable(source, f"rank {unknown[0]['rank']}: {unknown[0]['path_class'].get('reason', 'not seen')}")
    combined = combine([row["path_class"]["value"] for row in rows])
    if combined.value == "mixed" or combined.value is None:
        return combined
    same = [row["path_class"]["source"] for row in rows if row["path_class"]["value"] == combined.value]
    return observed(combined.value, f"{same[0]}; {len(rows)} rank{'s' if len(rows) > 1 else ''}")


def _tokens(facts: AttemptFacts, windows: Observation[Any]) -> tuple[Observation[int], Observation[bool]]:
    """How many tokens the ranks counted, and whether those are the case's: in number, and in which they were."""
    ended = [report.end for report in facts.ranks if report.end is not None]
    if len(ended) < len(facts.ranks):
        why = "not every rank left an end marker"
        return unavailable(_ENDS, why), unavailable(_ENDS, why)
    tokens = [end.get("tokens", 0) for end in ended]
    right, source = all(number == rank_tokens(facts.case) for number in tokens), _ENDS
    if windows.value is not None:
        right = right and windows.value["as_expected"]
        source = f"{_ENDS}; the windows that they read, held to the order of the seed"
    return observed(sum(tokens), _ENDS), observed(right, source)


def _findings(facts: AttemptFacts, path_class: Observation[str]) -> list[Finding]:
    found = []
    if facts.case.data.kind == "synthetic":
        if path_class.value is not None:
            found.append(
                Finding("data_synthetic", "caveat", "the tokens were made up in memory: no data path was measured")
            )
    elif path_class.value in ("object_mount", "network_volume"):
        words = {"object_mount": "an object-store mount", "network_volume": "a network volume"}[path_class.value]
        found.append(Finding("data_path_remote", "caveat", f"the ranks read their tokens through {words}"))
    asked = facts.case.data.path_class
    if asked is not None and contradicts(asked, path_class.value):
        found.append(
            Finding(
                "data_class_contradicted",
                "caveat",
                f"the data path was said to be {asked} and the ranks' open files are on {path_class.value}",
                (path_class.source,),
            )
        )
    return found
