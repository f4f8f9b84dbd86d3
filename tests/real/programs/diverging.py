"""Two ranks that meet in different collectives in their ninth step, and wait for ever."""

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="env://")
parameter = torch.nn.Parameter(torch.zeros(4))
optimizer = torch.optim.SGD([parameter], lr=0.1)
for step in range(20):
    if step == 8 and dist.get_rank() == 1:
        dist.broadcast(torch.zeros(8), 0)
    else:
        dist.all_reduce(torch.ones(8))
    parameter.grad = torch.ones(4)
    optimizer.step()
