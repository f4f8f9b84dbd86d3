"""Flash-attention's packages: 2 (`flash_attn`), 3 (`flash_attn_interface`) and 4 (`flash_attn.cute`).

All three take [B, S, H, D] and, for sequences of different lengths, the rows of all sequences packed into [T, H, D]
with cumulative lengths. Their causal mask is aligned to the last key, as the matrix's is. None of them has run on a
device here: the calls follow the packages' own sources (flash-attention, `flash_attn/flash_attn_interface.py`,
`hopper/flash_attn_interface.py`, `flash_attn/cute/interface.py` of 4.0.0b36).

Each is asked for its deterministic backward, because gradients have to repeat their bits: an acceptance holds for that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from lanemark.stack.promotion.inputs import Inputs
from lanemark.stack.promotion.parity import Attend

#: From packed or plain tensors and the package's own words to its output and log-sum-exp.
_Call = Callable[..., "tuple[Tensor, Tensor | None]"]


def _packed(x_BHSD: Tensor, lengths_B: Tensor) -> Tensor:
    """[B, H, S, D] to [T, H, D]: the rows within their sequences' lengths, one sequence after another."""
    kept = torch.arange(x_BHSD.shape[2], device=x_BHSD.device) < lengths_B[:, None]
    return x_BHSD.transpose(1, 2)[kept]


def _cumulative(lengths_B: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths_B.cumsum(0, dtype=torch.int32), (1, 0))


def _attend(plain: _Call, packed: _Call, no_window: Any) -> Attend:
    def attend(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        p = inputs.problem
        words = {
            "softmax_scale": inputs.scale, "causal": p.masking != "full",
            "window_size": (p.window - 1, 0) if p.window is not None else (no_window, no_window),
        }  # fmt: skip
        if inputs.lengths_q_B is None or inputs.lengths_k_B is None:
            q, k, v = (x.transpose(1, 2) for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV))
            out, lse = plain(q, k, v, **words)
            return out.transpose(1, 2), lse
        lengths_q, lengths_k = inputs.lengths_q_B, inputs.lengths_k_B
        out_THV, lse_HT = packed(
            _packed(inputs.q_BHQD, lengths_q), _packed(inputs.k_BGKD, lengths_k), _packed(inputs.v_BGKV, lengths_k),
            cu_seqlens_q=_cumulative(lengths_q), cu_seqlens_k=_cumulative(lengths_k),
            max_seqlen_q=p.queries, max_seqlen_k=p.keys, **words,
        )  # fmt: skip
        kept = torch.arange(p.queries, device=out_THV.device) < lengths_q[:, None]
        out = out_THV.new_zeros(p.batch, p.queries, p.heads, p.head_dim_v)
        out[kept] = out_THV
        if lse_HT is None:
            return out.transpose(1, 2), None
        lse = torch.full((p.batch, p.queries, p.heads), float("inf"), device=out.device, dtype=lse_HT.dtype)
        lse[kept] = lse_HT.T
        return out.transpose(1, 2), lse.transpose(1, 2)

    return attend


def _first_two(function: Callable[..., Any], **always: Any) -> _Call:
    def call(*tensors: Tensor, **words: Any) -> tuple[Tensor, Tensor | None]:
        back = function(*tensors, **words, **always)
        return (back[0], back[1]) if isinstance(back, tuple) else (back, None)

    return call


def fa2() -> Attend:
    """flash-attn 2; asks for the log-sum-exp, which it calls attention probabilities' companion."""
    m = importlib.import_module("flash_attn")
    more = {"return_attn_probs": True, "deterministic": True}
    return _attend(_first_two(m.flash_attn_func, **more), _first_two(m.flash_attn_varlen_func, **more), -1)


def fa3() -> Attend:
    """flash-attn 3 (hopper)."""
    m = importlib.import_module("flash_attn_interface")
    more = {"return_attn_probs": True, "deterministic": True}
    return _attend(_first_two(m.flash_attn_func, **more), _first_two(m.flash_attn_varlen_func, **more), -1)


def fa4() -> Attend:
    """flash-attn 4 through CuTe. Which of its functions confirm that it ran is told by kernel names alone."""
    m = importlib.import_module("flash_attn.cute.interface")
    more = {"return_lse": True, "deterministic": True}
    return _attend(_first_two(m.flash_attn_func, **more), _first_two(m.flash_attn_varlen_func, **more), None)


OPENERS: Final[dict[str, Callable[[], Attend]]] = {"fa2": fa2, "fa3": fa3, "fa4": fa4}
