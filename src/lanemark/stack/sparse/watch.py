"""The two witnesses: names from one profiled call, and rows poisoned with NaN. Both outside the timed calls.

Here is only looking; what follows from it is concluded by `lanemark.lanes.sparse_identity`, which knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lanemark.lanes.sparse_identity import CANARY, PROFILER
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.stack.sparse.contract import PADDING
from lanemark.stack.sparse.graphs import cache_directory, with_kernels
from lanemark.stack.sparse.problem import Problem

#: A call of the backend over keys, values and indices; queries stay as they are.
Run = Callable[[Tensor, Tensor, Tensor], Tensor]
#: One row in so many is poisoned where rows are scattered; odd, so that no block is spared.
_EVERY: Final = 7
#: A stretch that block backends can leave out is a whole block of theirs (flex attention's default: 128).
_BLOCK: Final = 128
#: Rows that others of the block chose: few, or no query is left that chose none of them.
_NEIGHBOURS: Final = 2


class Poison(NamedTuple):
    """One pass of the canary: key rows `[T]` to poison, and the index set of which the output is compared."""

    kind: str
    rows_T: Tensor
    indices_BSK: Tensor


def profile(call: Callable[[], object], *, on_cuda: bool) -> Observation[list[dict[str, str]]]:
    """Names of operators, and on a GPU of kernels, in order of appearance, each once. Never raises."""
    try:
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as torch_profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
        with torch_profile(activities=activities) as seen:
            call()
            if on_cuda:
                torch.cuda.synchronize()
        events = sorted(seen.events() or (), key=lambda event: event.time_range.start)
    except Exception as error:  # a profiler that cannot look is an answer, and no reason to lose the run
        return unavailable(PROFILER, f"{type(error).__name__}: {error}"[:300])
    names: dict[str, str] = {}
    cache = cache_directory()
    for event in events:
        kind = "kernel" if str(event.device_type).endswith("CUDA") else "op"
        if (name := str(event.name)[:300]) not in names:
            for each in with_kernels(name, cache):
                names.setdefault(each, kind)
    return observed([{"name": name, "kind": kind} for name, kind in names.items()], PROFILER)


def canary(problem: Problem, run: Run) -> Observation[list[dict[str, Any]]]:
    """What the output does when rows hold NaN that a query did not choose. Never raises.

    Of each pass: `kind`, `poisoned_rows`, `looked_rows` (queries that chose none of them), and among those `nan_rows`
    and `changed_rows` (another bit somewhere, and no NaN).
    """
    try:
        passes = [_look(problem, run, poison) for poison in poisons(problem.indices_BSK)]
    except Exception as error:  # as above
        return unavailable(CANARY, f"{type(error).__name__}: {error}"[:300])
    if not passes:
        return absent(CANARY, "the sequence is too short to poison any row")
    return observed(passes, CANARY)


def poisons(indices_BSK: Tensor) -> list[Poison]:
    """The passes that an index set admits.

    For rows that nobody may have chosen, the set is thinned out: what would point at one of them is padding instead.
    """
    keys = indices_BSK.shape[1]
    places = torch.arange(keys, device=indices_BSK.device)
    found = []
    if keys > _EVERY:
        rows = places % _EVERY == _EVERY // 2
        found.append(Poison("scattered", rows, _without(indices_BSK, rows)))
    if keys >= 3 * _BLOCK:
        rows = (places >= _BLOCK) & (places < 2 * _BLOCK)
        found.append(Poison("stretch", rows, _without(indices_BSK, rows)))
    chosen = torch.bincount(indices_BSK[indices_BSK != PADDING].long(), minlength=keys)
    # Rows that about half of the queries chose leave both kinds of queries in every block.
    liked = (chosen - len(indices_BSK) * keys // 2).abs().masked_fill(chosen == 0, 2**31).argsort()[:_NEIGHBOURS]
    liked = liked[chosen[liked] > 0]
    if len(liked):
        found.append(Poison("neighbours", torch.isin(places, liked), indices_BSK))
    return found


def _without(indices_BSK: Tensor, rows_T: Tensor) -> Tensor:
    return indices_BSK.masked_fill(_points_at(indices_BSK, rows_T), PADDING)


def _points_at(indices_BSK: Tensor, rows_T: Tensor) -> Tensor:
    """Which slots hold one of the rows. Padding points at none."""
    return rows_T[indices_BSK.clamp_min(0).long()] & (indices_BSK != PADDING)


def _look(problem: Problem, run: Run, poison: Poison) -> dict[str, Any]:
    k_BGTD, v_BGTD = problem.k_BGSD.clone(), problem.v_BGSD.clone()
    k_BGTD[:, :, poison.rows_T] = torch.nan
    v_BGTD[:, :, poison.rows_T] = torch.nan
    clean = run(problem.k_BGSD, problem.v_BGSD, poison.indices_BSK)
    dirty = run(k_BGTD, v_BGTD, poison.indices_BSK)
    looked_BS = ~_points_at(poison.indices_BSK, poison.rows_T).any(dim=-1)
    nan_BS = dirty.isnan().any(dim=-1).any(dim=1) & looked_BS
    changed_BS = (dirty != clean).any(dim=-1).any(dim=1) & looked_BS & ~nan_BS
    return {
        "kind": poison.kind,
        "poisoned_rows": int(poison.rows_T.sum()),
        "looked_rows": int(looked_BS.sum()),
        "nan_rows": int(nan_BS.sum()),
        "changed_rows": int(changed_BS.sum()),
    }
