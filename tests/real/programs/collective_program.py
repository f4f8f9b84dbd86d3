"""A command that is not ours would meet like this: `env://`, knowing nothing of an inherited socket. One FSDP2 step."""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lanemark.measure.collectives import watch_collectives
from lanemark.measure.session import RankSession

with RankSession.from_environment(os.environ) as session:
    watching = watch_collectives(session.beacon)
    session.beacon.enter("init_process_group")
    dist.init_process_group("gloo")
    session.beacon.enter("warmup")
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    mesh = init_device_mesh("cpu", (session.world_size,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    before = session.beacon.collectives
    model(torch.ones(2, 8)).sum().backward()
    sharded = session.beacon.collectives - before
    dist.barrier()
    session.write_end({"watching": watching, "sharded": sharded})
    dist.destroy_process_group()
