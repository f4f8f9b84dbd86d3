"""Whether ranks compile before they meet: a small pure policy, whose reason goes into the record.

With a cold compile cache ranks reach the first collective at different times, and the one that is still compiling is
waited for until the process group gives up. So each rank compiles first, alone and without a collective, and ranks meet
afterwards. What is *not* a way out, and is therefore not here: a longer timeout (the wait stays, and real hangs hide in
it), compiling on rank 0 for all (sharding and the device's index are part of what is compiled), a generic compilation
made elsewhere (another torch, another processor, other keys).

The launcher asks the same question as the ranks: where compiling is over before a communicator exists, its monitor need
not be switched off (`lanemark.launch.environment`).
"""

from __future__ import annotations

from dataclasses import dataclass

from lanemark.lanes.presets import PRESETS
from lanemark.records.case import Case


@dataclass(frozen=True)
class PrewarmPlan:
    """What was decided, and why, in a sentence without a full stop."""

    do: bool
    reason: str


def prewarm_plan(case: Case, *, cuda: bool) -> PrewarmPlan:
    """Decide for a case on a kind of device.

    Args:
        case: what is asked.
        cuda: whether ranks compute on CUDA devices.
    """
    if case.prewarm == "off":
        return PrewarmPlan(do=False, reason="switched off by the case")
    if case.command:
        return PrewarmPlan(do=False, reason="the command is the user's own, and what it compiles is not known")
    if case.compile == "eager":
        return PrewarmPlan(do=False, reason="nothing is compiled")
    if case.nproc == 1:
        # Cheap, but not free: the graphs would be looked up twice, and no other rank would gain by it.
        return PrewarmPlan(do=False, reason="one rank waits for nobody")
    recipe = PRESETS.get(case.preset)
    if recipe is None:
        return PrewarmPlan(do=False, reason="the preset is none of ours, so what is compiled is not known")
    if cuda and recipe.num_experts > 0 and case.compile == "regional":
        return PrewarmPlan(
            do=False, reason="an explicit warm-up of regionally compiled expert blocks is known to stall on CUDA"
        )
    what = "one unsharded block" if case.compile == "regional" else "an unsharded model"
    return PrewarmPlan(do=True, reason=f"{case.nproc} ranks compile {what} before they wait for one another")
