"""Detecting a network setting of another machine in the ranks' environment. Pure.

The launcher scrubs what multi-node images leave behind, and gives its own values for one node, but the operator's own
setting always wins. So the suspects are few and known by name: variables of the transport that the operator set and the
launcher let stand, with a value that one node has no use for. A suspect alone is no finding, a run may do well with it:
it takes a network that failed, or a process group that never formed, in a rank's own words.
"""

from __future__ import annotations

from typing import Final

from lanemark.diagnose import signs
from lanemark.diagnose.deaths import BEFORE_STEPS
from lanemark.diagnose.signs import evidence
from lanemark.diagnose.snapshot import Snapshot
from lanemark.records.finding import Finding

_TRANSPORT_PREFIXES: Final = ("NCCL_NET", "NCCL_IB_", "NCCL_SOCKET_", "NCCL_TUNER", "GLOO_SOCKET_", "TP_SOCKET_")
#: What the launcher sets, or finds set, wherever NCCL is used.
_NCCL_TABLE: Final = ("NCCL_IB_DISABLE", "NCCL_NET_PLUGIN")
#: Values that fit a single node, and so are nobody's leak.
_SINGLE_NODE: Final = {
    "NCCL_IB_DISABLE": ("1",),
    "NCCL_NET_PLUGIN": ("none",),
    "NCCL_SOCKET_IFNAME": ("lo",),
    "GLOO_SOCKET_IFNAME": ("lo",),
}


def suspects(settings: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The operator's own settings of the transport in use that do not fit one node, as (name, value).

    The launcher sets NCCL's variables only where the ranks have GPUs: elsewhere NCCL is not used, and what is left of
    it in an environment does nothing.
    """
    nccl = any(name in _NCCL_TABLE and not text.startswith("environment: ") for name, text in settings)
    found = []
    for name, text in settings:
        origin, _, value = text.partition(": ")
        if origin not in ("operator", "environment") or not name.startswith(_TRANSPORT_PREFIXES):
            continue
        if name.startswith("NCCL_") is nccl and value not in _SINGLE_NODE.get(name, ()):
            found.append((name, value))
    return tuple(found)


def scrubbed(settings: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Names of transport settings that the launcher took out."""
    return tuple(name for name, text in settings if text == "scrubbed" and name.startswith(_TRANSPORT_PREFIXES))


def environment_leak(snapshot: Snapshot) -> Finding | None:
    """The ranks could not talk, and the operator's own settings name a network that one node does not have.

    Ranks that have talked through a whole step have a network that works, and where a rank was killed its peers' words
    about their network are about that rank.
    """
    suspected = suspects(snapshot.settings)
    talked = any((rank.step or 0) > 0 for rank in snapshot.ranks)
    died = any(rank.signal is not None and rank.signal_by != "supervisor" for rank in snapshot.ranks)
    if not suspected or talked or died:
        return None
    failed = [rank for rank in snapshot.ranks if not rank.end_marker and signs.network_failed(signs.all_said(rank))]
    if not failed:
        # Ranks that only say "peer gone", all of them before the first step, never met: that is the network as well.
        complaining = [r for r in snapshot.ranks if r.exception is not None and signs.peer_gone(r.exception)]
        stages = [rank.stage for rank in snapshot.ranks if rank.stage is not None]
        never_met = bool(stages) and all(stage in BEFORE_STEPS for stage in stages)
        failed = complaining if never_met else []
    if not failed:
        return None
    names = ", ".join(f"{name}={value}" for name, value in suspected)
    lines = tuple(line for rank in failed for line in evidence(rank))
    settings = tuple(f"set by the operator, and kept: {name}={value}" for name, value in suspected)
    summary = f"the ranks could not reach one another under the operator's own {names}"
    return Finding("environment_leak", "failure", summary[:500], (*settings, *lines))
