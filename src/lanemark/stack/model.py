"""The reference decoder: grouped-query attention, rotary positions, RMSNorm, SwiGLU or routed experts.

Nothing here keeps state between calls: no cache, no counter, no flag is written on the path that is compiled, so that
one graph serves every block and every step. The rotary table is a plain buffer, rebuilt by `reset_parameters`.

**Construction.** Build under `torch.device("meta")`, shard, `to_empty(device=…)`, `reset_parameters(seed)`, then wrap.
Each parameter draws from a generator seeded by its own name, on its own device, and a sharded one keeps its slice of
the whole draw: weights are the same in every mode and at every world size, on one kind of device.

Shape suffixes: B sequences, L tokens, D width, H query heads, G key/value heads, C = H + 2 G, P head dimension,
R = P / 2 rotary pairs.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lanemark.lanes.presets import BALANCE_WEIGHT, INIT_STD, Preset
from lanemark.stack.loss import head_loss
from lanemark.stack.moe import RoutedFeedForward
from lanemark.stack.pointwise import RmsNorm, rotary_table, rotate

#: Projections that add to the residual stream: drawn smaller, by 1/√(2·depth) (GPT-2, section 2.3).
_RESIDUAL = ("attention.out.weight", "feed_forward.down.weight", "feed_forward.down_EFD")


class Attention(nn.Module):
    """Causal grouped-query attention through SDPA. Queries, keys and values come from one product."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = preset.num_heads, preset.num_kv_heads, preset.head_dim
        rows = (preset.num_heads + 2 * preset.num_kv_heads) * preset.head_dim
        self.qkv = nn.Linear(preset.width, rows, bias=False)
        self.out = nn.Linear(preset.num_heads * preset.head_dim, preset.width, bias=False)

    def forward(self, x_BLD: Tensor, table_L1R2: Tensor) -> Tensor:
        heads = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        qkv_BLCP = self.qkv(x_BLD).unflatten(-1, (-1, self.head_dim))
        q_BLHP, k_BLGP, v_BLGP = torch.split(qkv_BLCP, heads, dim=2)
        q_BHLP, k_BGLP = rotate(q_BLHP, table_L1R2).transpose(1, 2), rotate(k_BLGP, table_L1R2).transpose(1, 2)
        y_BHLP = F.scaled_dot_product_attention(
            q_BHLP, k_BGLP, v_BLGP.transpose(1, 2), is_causal=True, enable_gqa=self.num_heads != self.num_kv_heads
        )
        projected: Tensor = self.out(y_BHLP.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv:2002.05202). Gate and up are two products: joined, their gradients would be copied."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.gate = nn.Linear(preset.width, preset.ffn_width, bias=False)
        self.up = nn.Linear(preset.width, preset.ffn_width, bias=False)
        self.down = nn.Linear(preset.ffn_width, preset.width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        projected: Tensor = self.down(F.silu(self.gate(x_BLD)) * self.up(x_BLD))
        return projected


class Block(nn.Module):
    """One pre-norm residual block. `forward` returns the stream and this block's balance loss (0 in dense blocks)."""

    def __init__(self, preset: Preset, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(preset.width)
        self.attention = Attention(preset)
        self.feed_forward_norm = RmsNorm(preset.width)
        self.routed = preset.num_experts > 0
        self.feed_forward: nn.Module = RoutedFeedForward(preset, compute_dtype) if self.routed else FeedForward(preset)

    def forward(self, x_BLD: Tensor, table_L1R2: Tensor, balance: Tensor) -> tuple[Tensor, Tensor]:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), table_L1R2)
        if self.routed:
            y_BLD, block_balance = self.feed_forward(self.feed_forward_norm(x_BLD))
            return x_BLD + y_BLD, balance + block_balance
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD)), balance


class Decoder(nn.Module):
    """The whole model. `forward` gives the objective to minimise and the cross-entropy to report.

    Args:
        preset: sizes.
        sequence: longest sequence; the rotary table is built for it.
        compute_dtype: type of the grouped expert products (see `RoutedFeedForward`).
    """

    table_L1R2: Tensor

    def __init__(self, preset: Preset, sequence: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.preset, self.sequence = preset, sequence
        self.embedding = nn.Embedding(preset.vocab, preset.width)
        self.blocks = nn.ModuleList(Block(preset, compute_dtype) for _ in range(preset.depth))
        self.norm = RmsNorm(preset.width)
        self.head = nn.Linear(preset.width, preset.vocab, bias=False)
        self.register_buffer("table_L1R2", torch.empty(sequence, 1, preset.head_dim // 2, 2), persistent=False)

    def forward(self, tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Args are int64 [B, L]; returns two fp32 scalars, means over all tokens given. The second carries no gradient.

        In dense models the objective is the cross-entropy; routed ones add the mean balance loss of their blocks.
        """
        x_BLD = self.embedding(tokens_BL)
        balance = torch.zeros((), device=x_BLD.device, dtype=torch.float32)
        for block in self.blocks:
            x_BLD, balance = block(x_BLD, self.table_L1R2, balance)
        loss = head_loss(self.norm(x_BLD).flatten(0, 1), self.head.weight, targets_BL.flatten())
        if self.preset.num_experts:
            return loss + BALANCE_WEIGHT / self.preset.depth * balance, loss.detach()
        return loss, loss.detach()

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Give every parameter its initial value and rebuild the rotary table, on the device where they now are."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)  # RMSNorm weights are the only vectors
                continue
            std = INIT_STD / math.sqrt(2 * self.preset.depth) if name.endswith(_RESIDUAL) else INIT_STD
            whole = torch.empty(parameter.shape, device=parameter.device, dtype=parameter.dtype)
            whole.normal_(0.0, std, generator=_generator(seed, name, parameter.device))
            if isinstance(parameter, DTensor):
                # src_data_rank=None: every rank has drawn the same whole and keeps its slice; nothing is sent.
                sliced = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.to_local().copy_(sliced.to_local())
            else:
                parameter.copy_(whole)
        self.table_L1R2.copy_(rotary_table(self.sequence, self.preset.head_dim, self.table_L1R2.device))


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator that depends on the seed and the parameter's name only: adding a parameter moves no other's draw."""
    state = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    return torch.Generator(device=device).manual_seed(state)


def count_parameters(model: nn.Module) -> int:
    """Elements of every parameter of the whole model, sharded or not."""
    return sum(parameter.numel() for parameter in model.parameters())
