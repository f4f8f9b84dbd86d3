"""How a result was brought home, from an attempt's manifest as facts carry it: a record's `collector` part. Pure.

The manifest document holds, under `collector`, what sealing put beside it:

    looks         every look of every collector, oldest first: `at`, `seen`, and `note` where something went wrong
    completed_at  when the worker said that it was done; missing when it never did
    snapshots     names of evidence

Whether a run finished on its own or was re-attached to is read from the looks and not declared: a collector that saw it
unfinished re-attached to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lanemark.records.observation import absent, observed

#: What a look may say of a run that still goes on.
UNFINISHED: Final = frozenset({"queued", "running"})
#: A run of a day is looked at a few thousand times, and nearly all looks see what the one before saw.
MAX_LOOKS: Final = 200


def collector_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part, of the shape of `schema_runtime.CollectorPart`.

    Args:
        manifest: `attempt.json` as `AttemptFacts.manifest` has it. Without `collector` nobody looked.
    """
    told = manifest.get("collector")
    told = told if isinstance(told, Mapping) else {}
    detached = was_detached(manifest)
    looks = told.get("looks") or [] if detached else []
    who = "polls.jsonl" if detached else "launcher"
    last = observed(looks[-1]["at"], who) if looks else absent(who, _why_no_look(detached=detached))
    done = told.get("completed_at")
    return {
        "lifecycle": "detached" if detached else "blocking",
        "reattached": any(look["seen"] in UNFINISHED for look in looks),
        "looks": thinned(looks),
        "last_polled_at": last.to_json(),
        "completed_at": (
            observed(done, "the run's own end, as its supervisor or the surface saw it")
            if isinstance(done, str)
            else absent("the run's own end", "the worker never said that it was done")
        ).to_json(),
        "snapshots": list(told.get("snapshots") or []),
    }


def was_detached(manifest: Mapping[str, Any]) -> bool:
    """Whether the launcher left: whether the attempt was ever in that state."""
    return any(step["state"] == "detached" for step in manifest.get("transitions") or [])


def _why_no_look(*, detached: bool) -> str:
    return "it ended before anybody looked" if detached else "the launcher waited"


def thinned(looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of looks that saw the same the first, with a note of how many followed; and always the last look.

    Past `MAX_LOOKS` different ones the middle is left out, and the note of the look before it says so.
    """
    kept: list[dict[str, Any]] = []
    repeated = 0
    for number, look in enumerate(looks):
        is_last = number == len(looks) - 1
        same = bool(kept) and (look["seen"], look.get("note")) == (
            looks[number - 1]["seen"],
            looks[number - 1].get("note"),
        )
        if same and not is_last:
            repeated += 1
            continue
        _say_left_out(kept, repeated)
        repeated = 0
        kept.append({name: look[name] for name in ("at", "seen", "note") if look.get(name) is not None})
    if len(kept) > MAX_LOOKS:
        half = MAX_LOOKS // 2
        left_out = len(kept) - 2 * half
        kept = [*kept[:half], *kept[-half:]]
        _say_left_out(kept[:half], left_out, "looks are left out here")
    return kept


def _say_left_out(kept: list[dict[str, Any]], count: int, words: str = "more looks saw the same") -> None:
    if count and kept:
        before = kept[-1].get("note")
        kept[-1]["note"] = f"{before}; {count} {words}" if before else f"{count} {words}"
