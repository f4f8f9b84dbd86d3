"""A script that starts its own ranks, as functions, and forks a data loader in each: DDP over gloo, two parameter groups.

python train_spawned.py spawn|fork STEPS raise|stop|sleep|exit

Rank 1 ends as asked: half-way by an exception, stopped by a signal, or asleep; or through `os._exit` after its last step.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, TensorDataset


def main(rank: int, store: str, steps: int, how: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in model.parameters()], lr=0.01)
    batches = DataLoader(TensorDataset(torch.randn(4 * steps, 8)), batch_size=4, num_workers=1)
    for number, (x,) in enumerate(batches):
        (model(x) - x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if how == "raise" and rank == 1 and number == steps // 2:
            raise RuntimeError("rank 1 has a reason of its own")
        if how == "stop" and rank == 1 and number == steps // 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "sleep" and rank == 1 and number == steps // 2:
            time.sleep(600)
    dist.destroy_process_group()
    if how == "exit" and rank == 1:
        os._exit(0)


if __name__ == "__main__":
    store = f"file://{os.getcwd()}/store-{os.getpid()}"
    mp.start_processes(main, args=(store, int(sys.argv[2]), sys.argv[3]), nprocs=2, start_method=sys.argv[1])
