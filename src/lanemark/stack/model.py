"""The reference decoder: grouped-query attention, rotary positions, RMSNorm, SwiGLU or routed experts.

Nothing here keeps state between calls: no cache, no counter, no flag is written on the path that is compiled, so that
one graph serves every block and every step. Rotary tables are plain buffers, rebuilt by `reset_parameters`.

**Construction.** Build under `torch.device("meta")`, shard, `to_empty(device=…)`, `reset_parameters(seed)`, then wrap.
Each parameter draws from a generator seeded by its own name, on its own device, and a sharded one keeps its slice of
the whole draw: weights are the same in every mode and at every world size, on one kind of device.

Shape suffixes: B sequences, L tokens, D width, H query heads, G key/value heads, C = H + G, P head dimension, V ids.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lanemark.lanes.presets import BALANCE_WEIGHT, INIT_STD, NORM_EPS, ROPE_BASE, Preset
from lanemark.stack.moe import RoutedFeedForward

#: Projections that add to the residual stream: drawn smaller, by 1/√(2·depth) (GPT-2, section 2.3).
_RESIDUAL = ("attention.out.weight", "feed_forward.down.weight", "feed_forward.down_EFD")


def rotary_tables(sequence: int, head_dim: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosine and sine, fp32 [L, 1, P]. The sine carries the rotation's sign, so that applying it needs no negation."""
    inverse = ROPE_BASE ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(sequence, device=device, dtype=torch.float32), inverse)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1).unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)


def rotate(x_BLCP: Tensor, cos_L1P: Tensor, sin_L1P: Tensor) -> Tensor:
    """Rotate each half-pair of a head by its position's angle, in fp32: bf16 has too few digits for long positions."""
    x32 = x_BLCP.float()
    return torch.addcmul(x32 * cos_L1P, x32.roll(x32.shape[-1] // 2, -1), sin_L1P).type_as(x_BLCP)


class Attention(nn.Module):
    """Causal grouped-query attention through SDPA. Queries, keys and values come from one product."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = preset.num_heads, preset.num_kv_heads, preset.head_dim
        rows = (preset.num_heads + 2 * preset.num_kv_heads) * preset.head_dim
        self.qkv = nn.Linear(preset.width, rows, bias=False)
        self.out = nn.Linear(preset.num_heads * preset.head_dim, preset.width, bias=False)

    def forward(self, x_BLD: Tensor, cos_L1P: Tensor, sin_L1P: Tensor) -> Tensor:
        qkv_BLXP = self.qkv(x_BLD).unflatten(-1, (-1, self.head_dim))
        # Queries and keys lie side by side, so one rotation serves both.
        qk_BLCP, v_BLGP = qkv_BLXP.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=2)
        qk_BCLP = rotate(qk_BLCP, cos_L1P, sin_L1P).transpose(1, 2)
        q_BHLP, k_BGLP = torch.split(qk_BCLP, [self.num_heads, self.num_kv_heads], dim=1)
        y_BHLP = F.scaled_dot_product_attention(
            q_BHLP, k_BGLP, v_BLGP.transpose(1, 2), is_causal=True, enable_gqa=self.num_heads != self.num_kv_heads
        )
        projected: Tensor = self.out(y_BHLP.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv:2002.05202): gate and up projections in one product."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.gate_up = nn.Linear(preset.width, 2 * preset.ffn_width, bias=False)
        self.down = nn.Linear(preset.ffn_width, preset.width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BLD).chunk(2, dim=-1)
        projected: Tensor = self.down(F.silu(gate) * up)
        return projected


class Block(nn.Module):
    """One pre-norm residual block. `forward` returns the stream and this block's balance loss (0 in dense blocks)."""

    def __init__(self, preset: Preset, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(preset.width, eps=NORM_EPS)
        self.attention = Attention(preset)
        self.feed_forward_norm = nn.RMSNorm(preset.width, eps=NORM_EPS)
        self.routed = preset.num_experts > 0
        self.feed_forward: nn.Module = RoutedFeedForward(preset, compute_dtype) if self.routed else FeedForward(preset)

    def forward(self, x_BLD: Tensor, cos_L1P: Tensor, sin_L1P: Tensor, balance: Tensor) -> tuple[Tensor, Tensor]:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), cos_L1P, sin_L1P)
        if self.routed:
            y_BLD, block_balance = self.feed_forward(self.feed_forward_norm(x_BLD))
            return x_BLD + y_BLD, balance + block_balance
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD)), balance


class Decoder(nn.Module):
    """The whole model. `forward` gives the objective to minimise and the cross-entropy to report.

    Args:
        preset: sizes.
        sequence: longest sequence; rotary tables are built for it.
        compute_dtype: type of the grouped expert products (see `RoutedFeedForward`).
    """

    cos_L1P: Tensor
    sin_L1P: Tensor

    def __init__(self, preset: Preset, sequence: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.preset, self.sequence = preset, sequence
        self.embedding = nn.Embedding(preset.vocab, preset.width)
        self.blocks = nn.ModuleList(Block(preset, compute_dtype) for _ in range(preset.depth))
        self.norm = nn.RMSNorm(preset.width, eps=NORM_EPS)
        self.head = nn.Linear(preset.width, preset.vocab, bias=False)
        for name in ("cos_L1P", "sin_L1P"):
            self.register_buffer(name, torch.empty(sequence, 1, preset.head_dim), persistent=False)

    def forward(self, tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Args are int64 [B, L]; returns two fp32 scalars, means over all tokens given. The second carries no gradient.

        In dense models the objective is the cross-entropy; routed ones add the mean balance loss of their blocks.
        """
        x_BLD = self.embedding(tokens_BL)
        balance = torch.zeros((), device=x_BLD.device, dtype=torch.float32)
        for block in self.blocks:
            x_BLD, balance = block(x_BLD, self.cos_L1P, self.sin_L1P, balance)
        logits_BLV = self.head(self.norm(x_BLD))
        loss = F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())
        if self.preset.num_experts:
            return loss + BALANCE_WEIGHT / self.preset.depth * balance, loss.detach()
        return loss, loss.detach()

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Give every parameter its initial value and rebuild the rotary tables, on the device where they now are."""
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
        cos, sin = rotary_tables(self.sequence, self.preset.head_dim, self.cos_L1P.device)
        self.cos_L1P.copy_(cos)
        self.sin_L1P.copy_(sin)


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator that depends on the seed and the parameter's name only: adding a parameter moves no other's draw."""
    state = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    return torch.Generator(device=device).manual_seed(state)


def count_parameters(model: nn.Module) -> int:
    """Elements of every parameter of the whole model, sharded or not."""
    return sum(parameter.numel() for parameter in model.parameters())
