"""A training script whose rank 1 is killed once, in the middle of its first life: DDP over gloo, two lines for the steps.

python train_restarted.py STEPS DIRECTORY

Each life meets in a store of its own: in torchelastic's, a second life may find the addresses of the first.
"""

import os
import signal
import sys

import torch
import torch.distributed as dist

import lanemark

torch.set_num_threads(1)
restart, rank, world_size = (int(os.environ[name]) for name in ("TORCHELASTIC_RESTART_COUNT", "RANK", "WORLD_SIZE"))
meet = f"file://{sys.argv[2]}/store-{restart}"
dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world_size)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
steps = int(sys.argv[1])
for number in lanemark.steps(range(steps), tokens=10):
    loss = model(torch.ones(2, 4)).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    lanemark.note(loss=loss.item())
    if restart == 0 and number == steps // 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
dist.destroy_process_group()
