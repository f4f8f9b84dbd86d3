"""Which operators and kernels really ran, from a profiler pass outside everything that is measured.

Names are evidence only where the thing itself put them there. A range that a program opens itself
(`torch.profiler.record_function`) may carry any name; so may an operator of torch whose implementation somebody
replaced from Python. The first is told apart by the event's scope, the second by the dispatcher's own table: such names
do not count, and a candidate that needs them to look like itself has forged its name.

On a CPU there are operators and no kernels. Operators are worth seeing, and are never a confirmed dispatch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from lanemark.lanes.promotion_claims import Claims

#: `RecordScope::USER_SCOPE` (torch/csrc/…/record_function.h): a range opened by the program and not by an operator.
_USER_SCOPE: Final = 7
_MAX_NAMES: Final = 12


@dataclass(frozen=True)
class Seen:
    """One profiler pass.

    Attributes:
        level: `kernel` where device kernels were seen, else `op`.
        names: what of it any known candidate answers to, in order of appearance, each once.
        candidates: which candidates those names belong to.
        forged: names that a candidate answers to and that were not put there by the operator of that name.
        num_events: events seen in all.
    """

    level: str
    names: tuple[str, ...]
    candidates: tuple[str, ...]
    forged: tuple[str, ...]
    num_events: int
    backward: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level, "names": list(self.names), "candidates": list(self.candidates),
            "forged": list(self.forged), "num_events": self.num_events, "backward": list(self.backward),
        }  # fmt: skip


def is_replaced(operator: str, device: str) -> bool:
    """Whether an operator of torch runs something that was registered from Python for this device."""
    try:
        table: str = torch._C._dispatch_dump(operator)  # noqa: SLF001 - the dispatcher tells its table nowhere else
    except RuntimeError:
        return False  # no such operator: the name is a kernel's or a range's
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    entries = re.findall(r"^(\w+)(?:\[alias\])?: registered at (\S+) ::", table, re.MULTILINE)
    active = dict(entries)
    place = active.get(key) or active.get("CompositeImplicitAutograd") or active.get("CompositeExplicitAutograd") or ""
    return re.search(r"\.py:[0-9]+$", place) is not None


def watch(call: Callable[[], Any], own: Claims, name: str, known: Mapping[str, Claims], *, cuda: bool) -> Seen:
    """Run `call` once under the profiler, after one run without it, and sort the names that were seen.

    Args:
        call: forward, and backward where that is in question.
        own: the candidate's claims.
        name: the candidate's name.
        known: every other candidate, so that another one's names are recognised too.
        cuda: whether device kernels are to be seen.
    """
    call()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        call()
        if cuda:
            torch.cuda.synchronize()
    tables = {**{key: claims for key, claims in known.items() if key != name}, name: own}
    names: list[str] = []
    candidates: list[str] = []
    forged: list[str] = []
    backward: list[str] = []
    events = list(profiler.events() or [])
    for event in events:
        on_device = str(event.device_type).endswith("CUDA")
        matches = [key for key, claims in tables.items() if _fits(event.name, claims.names)]
        ends = [key for key, claims in tables.items() if _fits(event.name, claims.backward_names)]
        if not matches and not ends:
            continue
        if event.scope == _USER_SCOPE or event.is_user_annotation:
            forged.append(event.name)
            continue
        if event.name.startswith("aten::") and is_replaced(event.name, "cuda" if cuda else "cpu"):
            forged.append(event.name)
            continue
        if cuda != on_device:
            continue
        names.append(event.name)
        # What the candidate answers to is its own, whoever else answers to it too.
        candidates += [name] if name in matches else matches
        backward += [name] if name in ends else ends
    return Seen(
        "kernel" if cuda else "op", tuple(dict.fromkeys(names))[:_MAX_NAMES], tuple(dict.fromkeys(candidates)),
        tuple(dict.fromkeys(forged))[:_MAX_NAMES], len(events), tuple(dict.fromkeys(backward)),
    )  # fmt: skip


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
