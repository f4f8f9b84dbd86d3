"""A DeepSpeed script that knows nothing of Lanemark: ZeRO, gradients accumulated over two batches, two parameter groups.

python train_deepspeed.py [--local_rank=N] STAGE STEPS
"""

import sys

import deepspeed
import torch

torch.set_num_threads(1)
# None of its own operations: DeepSpeed would compile its collectives in shared memory first, for minutes.
deepspeed.ops.__compatible_ops__ = {}
stage, steps = int(sys.argv[-2]), int(sys.argv[-1])
deepspeed.init_distributed("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
groups = [
    {"params": [parameter for parameter in model.parameters() if parameter.ndim > 1], "weight_decay": 0.1},
    {"params": [parameter for parameter in model.parameters() if parameter.ndim == 1], "weight_decay": 0.0},
]
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(groups, lr=0.01),
    config={
        "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": stage},
    },
)  # fmt: skip
for _ in range(2 * steps):
    x = torch.randn(4, 8)
    engine.backward((engine(x) - x).pow(2).mean())
    engine.step()
assert engine.global_steps == steps
