"""A training script in the style of nanoGPT, about as small as one can be: memory-mapped bytes, one file, one loop.

    python examples/train_gpt.py --data FILE --steps 60
    lanemark run training --steps 60 --warmup 10 -- python examples/train_gpt.py --data FILE --steps 60
    lanemark run training --steps 60 -- torchrun --nproc-per-node 2 examples/train_gpt.py --data FILE --steps 60

Two lines are Lanemark's, `lanemark.steps` and `lanemark.note`. Without them it runs as well, and is measured as well:
by its optimizer's steps, without tokens.
"""

import argparse
import itertools
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lanemark

SEQUENCE, BATCH, WIDTH, HEADS, DEPTH, VOCAB = 64, 8, 64, 4, 2, 256


class Block(nn.Module):
    """Attention and a feed-forward, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """Bytes in, the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(SEQUENCE, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def batches(path: str, device: str, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random windows of the file's bytes, for ever."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    random = np.random.default_rng(rank)
    while True:
        starts = random.integers(0, len(data) - SEQUENCE - 1, BATCH)
        rows = torch.from_numpy(np.stack([data[start : start + SEQUENCE + 1] for start in starts])).long().to(device)
        yield rows[:, :-1], rows[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    if world_size > 1:
        torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    torch.manual_seed(0)
    model: nn.Module = GPT().to(device)
    if options.compile:
        model.compile()
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    taken = itertools.islice(batches(options.data, device, rank), options.steps)
    for step, (ids, targets) in enumerate(lanemark.steps(taken, tokens=BATCH * SEQUENCE), start=1):
        loss = functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0:
            lanemark.note(loss=loss.item())
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
