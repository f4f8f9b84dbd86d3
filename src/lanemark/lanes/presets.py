"""`Preset`: a named model recipe, and the arithmetic that follows from its sizes. Pure: no torch, nothing allocated.

Every count here is a closed form over the sizes. `lanemark.stack.describe` builds the same model on the meta device and
a test holds the two together, so `lanemark plan` can speak of a 20-billion-parameter model on a laptop.

**FLOPs per token.** One training step (forward and backward) costs, per token,

    6 · (active parameters that are multiplied) + 12 · depth · (num_heads · head_dim) · sequence

which is the convention of PaLM, appendix B (Chowdhery et al., arXiv:2204.02311). It charges attention as if every token
saw the whole sequence: the causal mask is *not* discounted, nor is anything recomputed charged. Tools that discount it
report a smaller figure for the same model; ours is comparable with those that cite PaLM. The embedding table is looked
up, not multiplied, and norm weights are too few to count, so neither is in the first term.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal

from lanemark.records.errors import UsageError

Pattern = Literal["dense", "moe", "diagnostic"]

#: uint16 token ids (see `lanemark.records.shards`): no vocabulary is larger.
MAX_VOCAB: Final = 65_536
#: AdamW and clipping of GPT-3 (Brown et al., arXiv:2005.14165, appendix B), kept for every preset: a benchmark that
#: tuned them would be a different benchmark. The epsilon is the one given there.
ADAM_BETAS: Final = (0.9, 0.95)
ADAM_EPS: Final = 1e-8
WEIGHT_DECAY: Final = 0.1
CLIP_NORM: Final = 1.0
#: Base of the rotary frequencies (Su et al., arXiv:2104.09864, section 3.3).
ROPE_BASE: Final = 10_000.0
#: Epsilon of RMSNorm (LLaMA, Touvron et al., arXiv:2302.13971, as released).
NORM_EPS: Final = 1e-6
#: Standard deviation of initial weights (GPT-2, Radford et al. 2019, section 2.3 and released code).
INIT_STD: Final = 0.02
#: Weight of the balance loss of routed experts (Switch Transformer, Fedus et al., arXiv:2101.03961, section 2.2).
BALANCE_WEIGHT: Final = 0.01


@dataclass(frozen=True)
class Preset:
    """One recipe. Sizes are counts; nothing is derived from hardware.

    Attributes:
        name: what `--preset` takes.
        pattern: `dense`, `moe` (every block routed) or `diagnostic` (reduced complexity, says nothing of a real model).
        purpose: one sentence.
        depth: blocks.
        width: model dimension.
        num_heads: query heads.
        num_kv_heads: key/value heads; divides `num_heads`.
        head_dim: dimension of one head; even, because rotary pairs are halves of it.
        ffn_width: hidden dimension of a dense SwiGLU; 0 where every block is routed.
        vocab: rows of the embedding; at most `MAX_VOCAB`.
        sequence: tokens in one sequence, unless the case says otherwise.
        micro_batch: sequences a rank takes in one forward, unless the case says otherwise.
        steps: optimizer steps, warm-up included, unless the case says otherwise.
        warmup: leading steps never measured, unless the case says otherwise.
        learning_rate: constant over the run; see `LEARNING_RATES`' comment below.
        num_experts: routed experts a block; 0 in dense blocks.
        top_k: experts a token is sent to; 0 in dense blocks.
        expert_ffn_width: hidden dimension of one expert; 0 in dense blocks.
    """

    name: str
    pattern: Pattern
    purpose: str
    depth: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    vocab: int
    sequence: int
    micro_batch: int
    steps: int
    warmup: int
    learning_rate: float
    num_experts: int = 0
    top_k: int = 0
    expert_ffn_width: int = 0

    def __post_init__(self) -> None:
        assert self.num_heads % self.num_kv_heads == 0, "query heads share key/value heads evenly"
        assert self.head_dim % 2 == 0, "rotary pairs are halves of a head"
        assert self.vocab <= MAX_VOCAB, "token ids are uint16"
        assert bool(self.num_experts) != bool(self.ffn_width), "a block is either dense or routed"
        assert 0 <= self.top_k <= self.num_experts, "a token cannot be sent to more experts than there are"

    @property
    def attention_parameters(self) -> int:
        """Weights of one block's attention: query, key, value and output projections."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return 2 * self.width * queries + 2 * self.width * keys

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert (gate, up, down); 0 in dense blocks."""
        return 3 * self.width * self.expert_ffn_width

    @property
    def num_parameters(self) -> int:
        """All parameters: embedding, untied output head, blocks, norms."""
        feed_forward = (
            self.width * self.num_experts + self.num_experts * self.expert_parameters
            if self.num_experts
            else 3 * self.width * self.ffn_width
        )
        block = self.attention_parameters + feed_forward + 2 * self.width
        return 2 * self.vocab * self.width + self.depth * block + self.width

    @property
    def num_active_parameters(self) -> int:
        """Parameters one token's forward touches: all of them, less the experts it is not sent to."""
        return self.num_parameters - self.depth * (self.num_experts - self.top_k) * self.expert_parameters

    @property
    def num_multiplied_parameters(self) -> int:
        """Active parameters that take part in a matrix product: no embedding table, no norm weights."""
        norms = (2 * self.depth + 1) * self.width
        return self.num_active_parameters - self.vocab * self.width - norms

    def flops_per_token(self, sequence: int) -> int:
        """Floating-point operations of one training step per token, in sequences of `sequence` tokens.

        PaLM's convention, with full (not causal) attention: see this module's docstring.
        """
        return 6 * self.num_multiplied_parameters + 12 * self.depth * self.num_heads * self.head_dim * sequence


# Learning rates follow the size table of GPT-3 (arXiv:2005.14165, table 2.1): 6e-4 for the smallest, 2e-4 at 1.3B,
# 1.2e-4 at 6.7B and above. The nano presets take 1e-3, so that a 30-step run visibly learns (nanoGPT's own choice for
# its character model).
_ALL: Final = (
    Preset(
        name="dense-nano",
        pattern="dense",
        purpose="A real dense training step in a fraction of a second on one CPU core.",
        depth=4,
        width=256,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        # 3·width makes a block with half the key/value heads exactly 12·width², the size of a GPT-2 block.
        ffn_width=768,
        vocab=4096,
        sequence=256,
        micro_batch=2,
        steps=40,
        warmup=8,
        learning_rate=1e-3,
    ),
    Preset(
        name="moe-nano",
        pattern="moe",
        purpose="A real routed training step in a fraction of a second on one CPU core.",
        depth=4,
        width=256,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        ffn_width=0,
        vocab=4096,
        sequence=256,
        micro_batch=2,
        steps=40,
        warmup=8,
        learning_rate=1e-3,
        num_experts=8,
        top_k=2,
        # Two active experts together are as wide as dense-nano's feed-forward.
        expert_ffn_width=384,
    ),
    Preset(
        name="dense-1b",
        pattern="dense",
        purpose="A billion dense parameters: one accelerator with room to spare.",
        depth=16,
        width=2048,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        ffn_width=8192,
        # GPT-2's 50,257 ids rounded up to a multiple of 64, so that public llm.c shards fit as they are.
        vocab=50_304,
        sequence=4096,
        micro_batch=1,
        steps=60,
        warmup=10,
        learning_rate=2e-4,
    ),
    Preset(
        name="dense-52",
        pattern="dense",
        purpose="The deep dense pattern: 52 blocks, 7 billion parameters, sharded over a node.",
        depth=52,
        width=3584,
        num_heads=56,
        num_kv_heads=8,
        head_dim=64,
        # 8/3·width rounded up to a multiple of 256 (the SwiGLU sizing of LLaMA, arXiv:2302.13971 section 2.2).
        ffn_width=9728,
        vocab=50_304,
        sequence=4096,
        micro_batch=1,
        steps=60,
        warmup=10,
        learning_rate=1.2e-4,
    ),
    Preset(
        name="moe-52",
        pattern="moe",
        purpose="The deep routed pattern: 52 blocks of 16 experts, 4 active, as many active weights as dense-52.",
        depth=52,
        width=3584,
        num_heads=56,
        num_kv_heads=8,
        head_dim=64,
        ffn_width=0,
        vocab=50_304,
        sequence=4096,
        micro_batch=1,
        steps=60,
        warmup=10,
        learning_rate=1.2e-4,
        num_experts=16,
        top_k=4,
        expert_ffn_width=2432,
    ),
    Preset(
        name="diagnostic",
        pattern="diagnostic",
        purpose="Reduced complexity on the same code path: if this hangs as well, the model is not to blame.",
        depth=2,
        width=64,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        ffn_width=192,
        vocab=4096,
        sequence=64,
        micro_batch=2,
        steps=20,
        warmup=4,
        learning_rate=1e-3,
    ),
)

PRESETS: Final[dict[str, Preset]] = {recipe.name: recipe for recipe in _ALL}


def preset(name: str) -> Preset:
    """The preset of that name. Raises UsageError `preset-unknown`, naming the closest ones."""
    found = PRESETS.get(name)
    if found is None:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        remedy = f"did you mean {close[0]}? The presets are " if close else "use one of "
        raise UsageError("preset-unknown", f"there is no preset named {name[:60]!r}", remedy + ", ".join(PRESETS))
    return found
