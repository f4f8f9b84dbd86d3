"""Attention kernels to try the promotion lane on: a few that are right, and thirteen that are wrong in one way each.

All share one computation, flash-like: float32 scores from rounded inputs, weights rounded to the tested type, one
rounding of the output. Each broken kernel plants its fault in that, apart from the parity engine's own idea of it.
Every one of them returns a tensor of the right shape, without NaN on most inputs, which is all that an execution
proof asks.

`BROKEN` says of each what it must be rejected for. The functions have the signature of a user's own kernel, and
`LANEMARK_CLAIMS` declares them, so that `lanemark run promotion --candidate kernel_zoo:scale_up` works as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function

LANEMARK_CLAIMS: dict = {}
#: name → (rejections that are right for it, cases of the matrix that it is tried on).
BROKEN: dict = {}
CORRECT: list = []
DENSE_CASE, GROUPED_CASE = "causal-s48-d64-h2", "causal-s48-d64-h4x2"
VARLEN_CASE, SPARSE_CASE = "varlen-s40-d64-h2-b3", "topk16-s64-d64-h2-e2"


def visible(q: Tensor, k: Tensor, *, causal=False, window=None, lengths_q=None, lengths_k=None, indices=None) -> Tensor:
    """Which key each query attends, [B, Q, K]."""
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    if indices is not None:
        seen = torch.zeros(batch, queries, keys + 1, dtype=torch.bool)
        seen.scatter_(2, torch.where(indices < 0, keys, indices).long(), value=True)
        return seen[..., :keys]
    num_q = torch.full((batch,), queries) if lengths_q is None else lengths_q
    num_k = torch.full((batch,), keys) if lengths_k is None else lengths_k
    at_q, at_k = torch.arange(queries)[None, :, None], torch.arange(keys)[None, None, :]
    num_q, num_k = num_q[:, None, None], num_k[:, None, None]
    seen = (at_q < num_q) & (at_k < num_k)
    if causal:
        seen = seen & (at_k <= at_q + num_k - num_q)
    if window is not None:
        seen = seen & (at_k > at_q + num_k - num_q - window)
    return seen


def compute(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, *, mixed_up: bool = False):
    """Output and log-sum-exp, as a fused kernel in the inputs' type would give them."""
    group = q.shape[1] // k.shape[1]
    if mixed_up:
        k, v = (x.repeat(1, group, 1, 1) for x in (k, v))
    else:
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    hidden = ~seen[:, None]
    empty = hidden.all(-1, keepdim=True)
    scores = (q.float() @ k.float().transpose(-1, -2) * scale).masked_fill(hidden & ~empty, float("-inf"))
    lse = torch.logsumexp(scores, -1, keepdim=True)
    weights = (scores - lse).exp().masked_fill(empty, 0.0)
    out = weights.to(v.dtype).float() @ v.float()
    return out.to(q.dtype), lse.masked_fill(empty, float("inf"))[..., 0]


def gathered(q: Tensor, k: Tensor, v: Tensor, indices: Tensor, scale: float):
    """Exact-token sparse attention that reads the rows it is told to and no others."""
    group = q.shape[1] // k.shape[1]
    chosen, holds = indices.clamp_min(0).long(), (indices >= 0)[:, None]
    rows = [
        torch.stack([x[b].float().repeat_interleave(group, 0)[:, chosen[b]] for b in range(q.shape[0])]) for x in (k, v)
    ]
    empty = ~holds.any(-1, keepdim=True)
    keys, values = (x.masked_fill(~holds[..., None], 0.0) for x in rows)
    scores = torch.einsum("bhqd,bhqtd->bhqt", q.float(), keys) * scale
    scores = scores.masked_fill(~holds & ~empty, float("-inf"))
    lse = torch.logsumexp(scores, -1, keepdim=True)
    weights = (scores - lse).exp().masked_fill(empty, 0.0).to(v.dtype).float()
    out = torch.einsum("bhqt,bhqtv->bhqv", weights, values)
    return out.to(q.dtype), lse.masked_fill(empty, float("inf"))[..., 0]


def _claims(sparse: bool = False, **more) -> dict:
    return {
        "mode": "sparse_validation" if sparse else "dense_attention", "archs": ["cpu"],
        "dtypes": ["fp32", "bf16", "fp16"],
        "backward_archs": ["cpu"], "max_head_dim": 512, "value_dims": [(192, 128)], **more,
    }  # fmt: skip


def correct(**claims):
    """Register a kernel that is right."""

    def register(function):
        CORRECT.append(function.__name__)
        LANEMARK_CLAIMS[function.__name__] = _claims(sparse=function.__name__.startswith("sparse"), **claims)
        return function

    return register


def broken(*reasons: str, case: str = DENSE_CASE, **claims):
    """Register a kernel with what it must be rejected for, and a case that shows it."""

    def register(function):
        BROKEN[function.__name__] = (reasons, case)
        LANEMARK_CLAIMS[function.__name__] = _claims(sparse=case == SPARSE_CASE, **claims)
        return function

    return register


@correct()
def flash_like(q, k, v, *, scale, **words):
    return compute(q, k, v, visible(q, k, **words), scale)


@correct()
def without_lse(q, k, v, *, scale, **words):
    return compute(q, k, v, visible(q, k, **words), scale)[0]


@correct()
def sparse_gather(q, k, v, *, scale, indices):
    return gathered(q, k, v, indices, scale)


@broken("zero_output")
def zero_output(q, k, v, *, scale, **words):
    return compute(q, k, v * 0, visible(q, k, **words), scale)[0]


@broken("zeroed_rows")
def one_zeroed_row(q, k, v, *, scale, **words):
    out, lse = compute(q, k, v, visible(q, k, **words), scale)
    out = out.clone()
    out[0, -1, q.shape[2] // 2] = 0
    return out, lse


@broken("wrong_scale")
def scale_up(q, k, v, *, scale, **words):
    return compute(q, k, v, visible(q, k, **words), scale * 1.01)


@broken("wrong_scale")
def scale_down(q, k, v, *, scale, **words):
    return compute(q, k, v, visible(q, k, **words), scale * 0.99)


@broken("future_token_seen")
def future_token(q, k, v, *, scale, **words):
    seen = visible(q, k, **words)
    return compute(q, k, v, seen | seen.roll(1, -1).tril(1), scale)


@broken("token_dropped")
def dropped_token(q, k, v, *, scale, **words):
    seen = visible(q, k, **words)
    last = seen.cumsum(-1) == seen.sum(-1, keepdim=True)
    return compute(q, k, v, seen & ~(last & seen & (seen.sum(-1, keepdim=True) > 1)), scale)


@broken("rerouted_to_full", case=SPARSE_CASE)
def reroute_to_full(q, k, v, *, scale, indices):
    """What a backend does that finds no indexer: dense causal attention, and a plausible answer."""
    empty = (indices < 0).all(-1)
    past = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril().expand(q.shape[0], -1, -1)
    return compute(q, k, v, past & ~empty[..., None], scale)


@broken("kv_heads_mixed_up", case=GROUPED_CASE)
def wrong_kv_heads(q, k, v, *, scale, **words):
    return compute(q, k, v, visible(q, k, **words), scale, mixed_up=True)


_kept_lse: dict = {}


@broken("lse_error")
def stale_lse(q, k, v, *, scale, **words):
    """Returns the log-sum-exp of the call before: right from the second call on equal inputs on."""
    out, lse = compute(q, k, v, visible(q, k, **words), scale)
    before = _kept_lse.get(lse.shape, torch.zeros_like(lse))
    _kept_lse[lse.shape] = lse
    return out, before


@broken("nan_in_padding", case=VARLEN_CASE)
def nan_in_padding(q, k, v, *, scale, **words):
    """Does not write the rows beyond a sequence's length."""
    seen = visible(q, k, **words)
    out, lse = compute(q, k, v, seen, scale)
    buffer = torch.empty_like(out)
    written = seen.any(-1)[:, None, :, None].expand_as(out)
    return torch.where(written, out, buffer), lse


@broken("not_repeatable")
def nondeterministic(q, k, v, *, scale, **words):
    """Adds its sums in an order that changes from call to call."""
    order = torch.randperm(k.shape[2], generator=_anything)
    seen = visible(q, k, **words)
    out, lse = compute(q, k[:, :, order], v[:, :, order], seen[..., order], scale)
    return out, lse


_anything = torch.Generator().manual_seed(0)


@broken("dtype_wrong")
def wrong_dtype(q, k, v, *, scale, **words):
    return compute(q.float(), k.float(), v.float(), visible(q, k, **words), scale)[0].to(
        torch.float32 if q.dtype != torch.float32 else torch.bfloat16
    )


@broken("silently_dense", case=SPARSE_CASE)
def silently_dense(q, k, v, *, scale, indices):
    """Right in every number, and reads every row: a mask over dense attention."""
    return compute(q, k, v, visible(q, k, indices=indices), scale)


@broken("name_forged", names=[r"^aten::_scaled_dot_product_flash_attention_for_cpu$"])
def forged_name(q, k, v, *, scale, **words):
    """Right in every number, and opens a range with the name of the kernel that it is not."""
    with record_function("aten::_scaled_dot_product_flash_attention_for_cpu"):
        return compute(q, k, v, visible(q, k, **words), scale)


@correct(names=[r"^aten::_scaled_dot_product_flash_attention_for_cpu$"])
def through_sdpa(q, k, v, *, scale, **words):
    """torch's own flash kernel under another name."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible(q, k, **words)[:, None], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
