"""A training script that compiles a part of its model, or all of it, and knows nothing of Lanemark.

python train_compiled.py regional|model STEPS

With more than one rank it is DDP over gloo.
"""

import os
import sys

import torch
import torch.distributed as dist

torch.set_num_threads(1)
posture, steps = sys.argv[1], int(sys.argv[2])
world_size = int(os.environ.get("WORLD_SIZE", "1"))
if world_size > 1:
    dist.init_process_group("gloo")


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x))


torch.manual_seed(0)
model = torch.nn.Sequential(Block(), torch.nn.Linear(8, 1))
if posture == "regional":
    for block in model[:1]:
        block.compile()
trained = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
if posture == "model":
    trained = torch.compile(trained)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(steps):
    trained(torch.randn(4, 8)).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
if world_size > 1:
    dist.destroy_process_group()
