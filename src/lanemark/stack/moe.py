"""Routed feed-forward: top-k experts over padded groups, dropless, with shapes that never depend on the data.

How a batch of N tokens, each sent to k of E experts, becomes one grouped product:

1. The N·k assignments are counted per expert; each expert's group is padded up to a multiple of `GROUP_ROWS`.
2. The groups lie one after another in a buffer of R = N·k rounded up + E·`GROUP_ROWS` rows, enough for *any* routing.
   R depends on sizes alone, so that one compiled graph serves every step (no data-dependent shapes, fullgraph).
3. `lanemark.stack.grouped` multiplies each group with its expert's weights; the group ends are a tensor. The last group
   is stretched to the end of the buffer, so that every row is defined (zeros in, zeros out) and no uninitialised memory
   is ever read. It costs at most E·`GROUP_ROWS` rows.
4. Each token gathers its k rows back and weighs them.

No token is ever dropped and there is no capacity factor to record: a lopsided routing makes groups of unequal size, not
lost tokens. Padding rows are zero and are gathered by nobody.

Shape suffixes: N tokens, E experts, K experts a token, A = N·K assignments, R buffer rows, D width, F expert width.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanemark.lanes.presets import Preset
from lanemark.stack.grouped import grouped_mm

#: Rows a group is padded to a multiple of. Grouped bf16 products on CUDA want groups aligned to 16 bytes, 8 elements,
#: in the backward's inner dimension (torch `grouped_mm` documentation); 16 keeps the same layout for 8-bit types.
GROUP_ROWS: Final = 16


def buffer_rows(assignments: int, num_experts: int) -> int:
    """R: rows that hold `assignments` rows in padded groups, however they are spread over the experts. Pure."""
    return -(-assignments // GROUP_ROWS) * GROUP_ROWS + num_experts * GROUP_ROWS


def group_slots(expert_A: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Where each assignment's row lies in the padded buffer, and where each expert's group ends.

    Args:
        expert_A: expert of each assignment, int64 [A].
        num_experts: E.

    Returns:
        slot_A, int64 [A]: distinct buffer rows, in assignment order within a group;
        end_E, int32 [E]: group ends, multiples of `GROUP_ROWS`, the last one R.
    """
    chosen_AE = F.one_hot(expert_A, num_experts)
    order_A = (chosen_AE.cumsum(0) * chosen_AE).sum(1) - 1
    padded_E = (chosen_AE.sum(0) + GROUP_ROWS - 1) // GROUP_ROWS * GROUP_ROWS
    end_E = padded_E.cumsum(0)
    slot_A = (end_E - padded_E)[expert_A] + order_A
    rows = torch.full((1,), buffer_rows(expert_A.shape[0], num_experts), device=expert_A.device, dtype=end_E.dtype)
    return slot_A, torch.cat([end_E[:-1], rows]).to(torch.int32)


class RoutedFeedForward(nn.Module):
    """SwiGLU experts behind a softmax router. `forward` returns the output and the balance loss of this block.

    Args:
        preset: sizes.
        compute_dtype: what the grouped products run in. Autocast does not know `grouped_mm`, so the cast is written
            out; it does nothing where parameters already have this type (a sharded model's mixed precision).
    """

    def __init__(self, preset: Preset, compute_dtype: torch.dtype) -> None:
        super().__init__()
        experts, width, hidden = preset.num_experts, preset.width, preset.expert_ffn_width
        self.num_experts, self.top_k, self.compute_dtype = experts, preset.top_k, compute_dtype
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_up_EDF = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down_EFD = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        x_ND = x_BLD.flatten(0, 1).to(self.compute_dtype)
        weight_NK, expert_NK, balance = self.route(x_ND)
        slot_A, end_E = group_slots(expert_NK.flatten(), self.num_experts)

        rows = buffer_rows(slot_A.shape[0], self.num_experts)
        x_AD = x_ND.repeat_interleave(self.top_k, dim=0)
        x_RD = x_ND.new_zeros(rows, x_ND.shape[1]).index_copy(0, slot_A, x_AD)
        h_RF = grouped_mm(x_RD, self.gate_up_EDF.to(self.compute_dtype), end_E)
        gate_RF, up_RF = h_RF.chunk(2, dim=-1)
        y_RD = grouped_mm(F.silu(gate_RF) * up_RF, self.down_EFD.to(self.compute_dtype), end_E)

        y_NKD = y_RD.index_select(0, slot_A).view(-1, self.top_k, y_RD.shape[1])
        y_ND = (y_NKD * weight_NK.unsqueeze(-1).to(y_NKD.dtype)).sum(1)
        return y_ND.view_as(x_BLD), balance

    def route(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [N, K] (fp32, summing to 1), experts [N, K], and the balance loss (a scalar, 1 when even).

        The balance loss is Switch Transformer's (arXiv:2101.03961, equation 4): E · Σ_e share of assignments · mean
        probability. A bias that is nudged each step would need state mutated during the forward, which is refused here.
        """
        probability_NE = self.router(x_ND).float().softmax(dim=-1)
        weight_NK, expert_NK = probability_NE.topk(self.top_k, dim=-1)
        share_E = F.one_hot(expert_NK, self.num_experts).sum(1).float().mean(0) / self.top_k
        balance = self.num_experts * (share_E * probability_NE.mean(0)).sum()
        return weight_NK / weight_NK.sum(dim=-1, keepdim=True), expert_NK, balance
