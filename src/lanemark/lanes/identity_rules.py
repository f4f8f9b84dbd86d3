"""Rules over runtime identity and detached collection, which the sparse and promotion lanes share. Pure.

The lie they are for: `actual` copied from `requested`. A backend's name counts when a profiler saw it; what it computed
counts when the canary says so; a difference between what was asked for and what ran needs a reason of the closed list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from lanemark.lanes.rule import Doc, Rule, is_seen, keys, short
from lanemark.records.observation import value_of
from lanemark.records.terms import CANARY_ALLOWS

#: Words of a source that tells what was asked for, not what ran. A profiler, a dispatch log or a canary has none.
_REQUEST: Final = re.compile(
    r"\b(?:requests?|requested|select(?:or|ed)s?|options?|flags?|arguments?|argv|config\w*|environ\w*|presets?|defaults?|case|"
    r"launcher|command line)\b|--",
    re.IGNORECASE,
)
#: Keys that state a rate, once everything but letters and digits is `_`. `flops` is work and may stand.
_RATE: Final = re.compile(
    r"throughput|(?:^|_)per_(?:s|sec|secs|second|seconds|hour)(?:_|$)|(?:^|_)(?:tps|toks|tok_s|tokens_s|samples_s|steps_s|it_s)"
    r"(?:_|$)|(?:^|_)(?:mfu|[mgtp]flops)(?:_|$)"
)
_FINAL: Final = frozenset({"ok", "error", "cancelled", "lost"})


def actual_problem(identity: Doc) -> str | None:
    """A backend called actual that no profiler saw, or whose source is a request."""
    actual, names = identity["actual"], identity["names"]
    if not is_seen(actual):
        return None
    if _REQUEST.search(actual["source"]):
        return f"the actual backend is called observed and its source is {short(actual['source'])}"
    if names["state"] != "observed":
        return f"the actual backend is called observed and the profiler's names are {names['state']}"
    return None


def names_problem(identity: Doc) -> str | None:
    """A profiler pass whose state does not fit its names, or names that come from a request."""
    names = identity["names"]
    if names["state"] == "unobserved" and names["names"]:
        return f"the profiler's names are unobserved and {len(names['names'])} of them are listed"
    if names["state"] != "unobserved" and not names["names"]:
        return f"the profiler's names are {names['state']} and none is listed"
    if names["state"] != "unobserved" and _REQUEST.search(names["source"]):
        return f"names of what ran are taken from {short(names['source'])}"
    return None


def canary_problem(identity: Doc) -> str | None:
    """A runtime mode that the canary contradicts, or a canary that contradicts itself."""
    mode, canary = value_of(identity["runtime_mode"]), value_of(identity["canary"])
    if canary is None:
        return None
    verdict = canary["verdict"]
    if (canary["nan_rows"] == 0) != (verdict in ("bit_identical", "changed_without_nan")):
        return f"the canary is called {verdict} with {canary['nan_rows']} rows of NaN"
    if mode is not None and mode not in CANARY_ALLOWS[verdict]:
        return f"the runtime mode is called {mode} and the canary is {verdict}"
    return None


def mode_problem(identity: Doc) -> str | None:
    """A runtime mode without a witness."""
    mode = value_of(identity["runtime_mode"])
    if mode is None or is_seen(identity["canary"]):
        return None
    if mode == "reroute_to_full" and is_seen(identity["actual"]):
        return None  # with every row selected none can be poisoned; that dense attention ran is told by its names
    return f"the runtime mode is called {mode} and no canary was seen"


def fallback_problem(identity: Doc) -> str | None:
    """A fallback without a reason, or a reason without a fallback."""
    requested, actual, reason = identity["requested"], value_of(identity["actual"]), identity["fallback_reason"]
    mode = value_of(identity["runtime_mode"])
    if actual is None:
        if reason["status"] == "absent":
            return "a fallback is called absent and it was not seen what ran"
        return None
    fell_back = actual != requested or mode == "reroute_to_full"
    if fell_back and not is_seen(reason):
        return f"{short(requested)} was asked for, {short(actual)} ran, and no reason is named"
    if not fell_back and is_seen(reason):
        return f"{short(actual)} was asked for and ran, and a fallback is called {value_of(reason)}"
    return None


#: name, why, check over one identity.
_IDENTITY: Final[tuple[tuple[str, str, Callable[[Doc], str | None]], ...]] = (
    ("actual-is-witnessed", "A request is no evidence that it was served.", actual_problem),
    ("names-fit-their-state", "What was not seen stays unobserved.", names_problem),
    ("mode-fits-canary", "Names can be forged, a poisoned row cannot.", canary_problem),
    ("mode-is-witnessed", "What was computed is told by a canary, not by a name.", mode_problem),
    ("fallback-is-explained", "A silent fallback is what this lane exists to catch.", fallback_problem),
)


def identity_rules(identities: Callable[[Doc], Iterator[tuple[str, Doc]]]) -> tuple[Rule, ...]:
    """The identity rules over wherever a lane keeps its identities, given as (path, identity) pairs."""

    def over(check: Callable[[Doc], str | None]) -> Callable[[Doc], str | None]:
        def checked(doc: Doc) -> str | None:
            for path, identity in identities(doc):
                problem = check(identity)
                if problem is not None:
                    return f"{path}: {problem}"
            return None

        return checked

    return tuple(Rule(name, why, over(check)) for name, why, check in _IDENTITY)


def states_no_rate(doc: Doc) -> str | None:
    """A key that states a rate, anywhere but in the snapshot of the environment, whose names are not ours."""
    outside = {**doc, "environment": {**doc["environment"], "variables": {}}}
    judged: set[str] = set()  # a record has thousands of keys and a few hundred different ones
    for key, path in keys(outside, ""):
        if key in judged:
            continue
        judged.add(key)
        if _RATE.search(re.sub(r"[^a-z0-9]+", "_", key.lower())):
            return f"{short(path)} states a rate, and no record of lane {doc['lane']} has one"
    return None


def collected_as_it_lived(doc: Doc) -> str | None:
    """A collector's account against the attempt's own transitions."""
    collector = doc[doc["lane"]]["collector"]
    left = any(step["state"] == "detached" for step in doc["transitions"])
    looks, last = collector["looks"], value_of(collector["last_polled_at"])
    if (collector["lifecycle"] == "detached") != left:
        return f"the lifecycle is {collector['lifecycle']} and the attempt was {'' if left else 'never '}detached"
    if not left and (looks or collector["reattached"]):
        return "the launcher waited, and a collector is said to have looked"
    if looks and last != looks[-1]["at"]:
        return f"the last look was at {looks[-1]['at']} and last_polled_at says {last}"
    if not looks and last is not None:
        return "last_polled_at is stated and no look is listed"
    ended = looks[-1]["seen"] if looks else None
    if ended in _FINAL and doc["outcome"]["state"] == "ok" and ended != "ok":
        return f"the collector last saw {ended} and the outcome is ok"
    known = {entry["name"] for entry in doc["evidence"]}
    missing = [name for name in collector["snapshots"] if name not in known]
    return f"the snapshot {short(missing[0])} is not among the evidence" if missing else None


#: Rules of both lanes beside identity.
DETACHED_RULES: Final[tuple[Rule, ...]] = (
    Rule("states-no-rate", "A rate in this lane would be quoted as a training throughput.", states_no_rate),
    Rule("collected-as-it-lived", "Who brought a result home is part of whether to believe it.", collected_as_it_lived),
)
