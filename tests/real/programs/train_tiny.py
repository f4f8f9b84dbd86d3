"""A small training script that knows nothing of Lanemark: DDP over gloo, two forwards a step, a forked data loader.

python train_tiny.py STEPS
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
world_size = int(os.environ.get("WORLD_SIZE", "1"))
if world_size > 1:
    dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
parallel = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
data = TensorDataset(torch.randn(4096, 8))
steps = int(sys.argv[1])
batches = iter(DataLoader(data, batch_size=4, num_workers=1))
for _ in range(steps):
    for _ in range(2):
        (x,) = next(batches)
        (parallel(x) - x).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
if world_size > 1:
    dist.destroy_process_group()
