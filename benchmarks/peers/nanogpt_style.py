"""A plain GPT training loop in the style that people know from nanoGPT, written for comparison at equal size.

Learned positions, LayerNorm, multi-head attention, GELU, fused AdamW, gradient clipping, and a loader that opens a
numpy memory map for every batch. It has no recorder, no beacon and no process group. Two things differ from the
well-known script: the output head has weights of its own, so that sizes are equal, and nothing is ever evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes; counts all."""

    depth: int
    width: int
    num_heads: int
    vocab: int
    sequence: int


class SelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads, self.width = config.num_heads, config.width
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)
            for part in self.qkv(x).split(self.width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(batch, length, width))


class PlainBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(config.width, bias=False)
        self.attention = SelfAttention(config)
        self.second_norm = nn.LayerNorm(config.width, bias=False)
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first_norm(x))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


class PlainGpt(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.sequence, config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.depth) if residual else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class PlainLoop:
    """Model, optimizer and loader; `run(steps)` trains."""

    def __init__(
        self, config: Config, shard: Path, *, batch: int, learning_rate: float, steps: int, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.shard, self.batch_size = config, shard, batch
        self.learning_rate, self.total_steps, self.step = learning_rate, steps, 0
        self.model = PlainGpt(config)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def get_batch(self) -> tuple[Tensor, Tensor]:
        data = np.memmap(self.shard, dtype=np.uint16, mode="r", offset=1024)
        length = self.config.sequence
        starts = torch.randint(len(data) - length, (self.batch_size,))
        inputs = torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in starts])
        targets = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
        return inputs, targets

    def rate(self) -> float:
        """Cosine decay to a tenth."""
        share = min(1.0, self.step / self.total_steps)
        return self.learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * share)))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            inputs, targets = self.get_batch()
            loss = self.model(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
