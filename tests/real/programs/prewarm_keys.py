"""Compile ahead, then build the real thing in a group of one and take a step. Prints the counts of lookups as JSON.

Arguments: mode, posture, dtype, preset.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist

from lanemark.lanes.presets import preset
from lanemark.measure.cache_use import lookups
from lanemark.records.case import Case, DataAsked
from lanemark.stack import parallel
from lanemark.stack.loader import SyntheticLoader, batch
from lanemark.stack.prewarm import compile_ahead
from lanemark.stack.step import make_step

mode, posture, dtype, name = sys.argv[1:]
recipe, cpu = preset(name), torch.device("cpu")
case = Case(
    lane="training", preset=name, nproc=2, mode=mode, compile=posture, dtype=dtype, steps=4, warmup=1, sequence=64,
    micro_batch=2, data=DataAsked("synthetic"),
)  # type: ignore[arg-type]  # fmt: skip
state = torch.random.get_rng_state()
compile_ahead(case, recipe, cpu)
torch.compiler.reset()
ahead = lookups()
same = bool(torch.equal(state, torch.random.get_rng_state()))

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
module = parallel.distribute(
    parallel.build(recipe, case.sequence, case.dtype),
    mode=case.mode,
    posture=case.compile,
    dtype=case.dtype,
    device=cpu,
    seed=0,
)
step = make_step(
    module, parallel.make_optimizer(module, recipe, cpu), autocast=parallel.autocasts(case.mode, case.dtype), device=cpu
)
step([batch(SyntheticLoader(vocab=recipe.vocab), 0, case.micro_batch, case.sequence)])
print(json.dumps({"ahead": ahead, "after": lookups(), "same_random_state": same}))
dist.destroy_process_group()
