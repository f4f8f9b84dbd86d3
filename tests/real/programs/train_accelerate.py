"""A loop with Accelerate that accumulates gradients over two batches.

python train_accelerate.py STEPS
"""

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import lanemark

torch.set_num_threads(1)
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
model = torch.nn.Linear(8, 8)
loader = DataLoader(TensorDataset(torch.randn(2048, 8)), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01), loader)
taken = 0
for (x,) in lanemark.accelerate_steps(accelerator, loader, tokens=lambda batch: batch[0].shape[0]):
    with accelerator.accumulate(model):
        accelerator.backward((model(x) - x).pow(2).mean())
        optimizer.step()
        optimizer.zero_grad()
    taken += accelerator.sync_gradients
    if taken == int(sys.argv[1]):
        break
