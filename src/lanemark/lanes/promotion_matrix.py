"""The parity matrix: which attention problems a kernel path is held to, each fully named. Pure.

A case of the matrix is its name: `causal-s127x1000-d64-h8x2-x1.5` is causal attention of 127 queries over 1000 keys,
head dimension 64, 8 query heads over 2 key heads, inputs of standard deviation 1.5. A record that lists names therefore
pins every shape, and a name that is not the canonical one of what it says is no name at all.

The dense and the sparse table are covering arrays and no products: every pair of values of two axes stands in a case
together (a test proves it), in 21 and 12 cases where the products have 360 and 432. Faults of kernels are nearly always
at one value or at a pair of values (an odd length under a window, grouped heads at a large head), and a wave that takes
hours is a wave that nobody runs.

What the words mean, so that kernels agree on them:

* `full`, `causal`: causal is aligned to the last query and the last key (flash-attention 2.1 and later): query i sees
  key j when j ≤ i + keys - queries.
* `windowW`: causal, and of the visible keys only the last W.
* `varlen`: causal over sequences of different lengths in one batch, lengths drawn from the seed; one of them is 0.
* `topkT`: each query attends the keys of its index row, T wide, padded with -1, unique and never in the future; half of
  what it could see at most, so that attending everything is always another answer. `eN`: N rows hold nothing.
* A query that sees no key gives 0, and a log-sum-exp of plus infinity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from lanemark.records.errors import UsageError

Masking = Literal["full", "causal", "window", "varlen", "sparse"]

#: Name and version of this file's tables and of what the words in names mean. A change of either is another version,
#: which expires what was accepted under this one.
MATRIX: Final = "attention-v1"
_NAME: Final = re.compile(
    r"(?P<mask>full|causal|varlen|window(?P<window>[1-9][0-9]{0,5})|topk(?P<topk>[1-9][0-9]{0,5}))"
    r"-s(?P<queries>[1-9][0-9]{0,6})(?:x(?P<keys>[1-9][0-9]{0,6}))?"
    r"-d(?P<dim>[1-9][0-9]{0,3})(?:x(?P<dim_v>[1-9][0-9]{0,3}))?"
    r"-h(?P<heads>[1-9][0-9]{0,3})(?:x(?P<kv>[1-9][0-9]{0,3}))?"
    r"(?:-b(?P<batch>[1-9][0-9]{0,3}))?(?:-x(?P<scale>[0-9]{1,2}(?:\.[0-9]{1,3})?))?(?:-e(?P<empty>[1-9][0-9]{0,5}))?"
)


@dataclass(frozen=True)
class Problem:
    """One attention problem. Its name is its whole description but for the seed.

    Attributes:
        masking: which scores count; the module's docstring says what each means.
        queries, keys: positions of the longest sequence.
        head_dim, head_dim_v: elements of a query and key head, and of a value head.
        heads, kv_heads: query heads, and key and value heads, which divide them.
        batch: sequences.
        input_scale: standard deviation of the inputs.
        window: keys a query sees at most, for `window`.
        topk: width of an index row, for `sparse`.
        empty_rows: queries that hold no index at all, for `sparse`.
    """

    masking: Masking
    queries: int
    keys: int
    head_dim: int
    head_dim_v: int
    heads: int
    kv_heads: int
    batch: int = 1
    input_scale: float = 1.0
    window: int | None = None
    topk: int | None = None
    empty_rows: int = 0

    @property
    def name(self) -> str:
        """The canonical name; `problem_of` reads it back."""
        mask = {"window": f"window{self.window}", "sparse": f"topk{self.topk}"}.get(self.masking, self.masking)
        parts = [
            mask,
            f"s{self.queries}" + (f"x{self.keys}" if self.keys != self.queries else ""),
            f"d{self.head_dim}" + (f"x{self.head_dim_v}" if self.head_dim_v != self.head_dim else ""),
            f"h{self.heads}" + (f"x{self.kv_heads}" if self.kv_heads != self.heads else ""),
        ]
        parts += [f"b{self.batch}"] if self.batch != 1 else []
        parts += [f"x{self.input_scale:g}"] if self.input_scale != 1 else []
        parts += [f"e{self.empty_rows}"] if self.empty_rows else []
        return "-".join(parts)

    @property
    def grouping(self) -> str:
        """How query heads share key heads: `mha`, `gqa` or `mqa`."""
        if self.kv_heads == self.heads:
            return "mha"
        return "mqa" if self.kv_heads == 1 else "gqa"


def _refuse(name: str, why: str) -> UsageError:
    return UsageError(
        "promotion-case-invalid",
        f"{name[:120]!r} names no case of the parity matrix: {why}",
        "write for instance causal-s128-d64-h8, window64-s1000-d128-h8x2, varlen-s128-d64-h4-b4 or topk64-s128-d64-h8",
    )


def problem_of(name: str) -> Problem:
    """The problem that a name says. Raises UsageError `promotion-case-invalid` when it says none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise _refuse(name, "it does not parse")
    word, number = match["mask"], {key: int(value) for key, value in match.groupdict().items() if value and key in (
        "window", "topk", "queries", "keys", "dim", "dim_v", "heads", "kv", "batch", "empty")}  # fmt: skip
    masking: Masking = "window" if "window" in number else "sparse" if "topk" in number else word  # type: ignore[assignment]
    problem = Problem(
        masking,
        queries=number["queries"], keys=number.get("keys", number["queries"]),
        head_dim=number["dim"], head_dim_v=number.get("dim_v", number["dim"]),
        heads=number["heads"], kv_heads=number.get("kv", number["heads"]), batch=number.get("batch", 1),
        input_scale=float(match["scale"] or 1), window=number.get("window"), topk=number.get("topk"),
        empty_rows=number.get("empty", 0),
    )  # fmt: skip
    why = _problem_with(problem)
    if why is not None:
        raise _refuse(name, why)
    if problem.name != name:
        raise _refuse(name, f"it is written {problem.name}")
    return problem


def _problem_with(problem: Problem) -> str | None:
    if problem.heads % problem.kv_heads:
        return f"{problem.kv_heads} key heads do not divide {problem.heads} query heads"
    if problem.input_scale <= 0:
        return "its inputs would all be 0"
    if problem.masking == "varlen" and problem.batch < 2:
        return "sequences of different lengths need a batch of 2 or more"
    if problem.masking == "sparse" and problem.keys != problem.queries:
        return "an index row belongs to a query of the same sequence, so queries and keys are as many"
    if problem.empty_rows and problem.masking != "sparse":
        return "only index rows can be empty"
    return f"there are {problem.queries} rows" if problem.empty_rows >= problem.queries else None


#: Every pair of values of two axes: length, head dimension, grouping, masking, input scale.
DENSE: Final = (
    "full-s127-d64-h4-x1.5", "causal-s127-d128-h8x2", "window64-s127-d192x128-h4x1", "varlen-s127-d64-h4x1-b4",
    "full-s128-d128-h4x1", "causal-s128-d64-h8", "window64-s128-d64-h8x2-x1.5", "varlen-s128-d192x128-h4-b4-x1.5",
    "full-s1000-d192x128-h8x2", "causal-s1000-d192x128-h4-x1.5", "window256-s1000-d128-h4", "varlen-s1000-d64-h8x2-b3",
    "causal-s1000-d64-h4x1-x1.5",
    "full-s4096-d64-h4x1-x1.5", "causal-s4096-d128-h4x1-x1.5", "window256-s4096-d192x128-h4x2",
    "varlen-s4096-d128-h2-b2",
    "full-s127x1000-d64-h4x2", "causal-s128x1000-d192x128-h4x1", "window256-s127x1000-d64-h4-x1.5",
    "varlen-s127x1000-d128-h4x2-b3-x1.5",
)  # fmt: skip
#: Every pair of values: length, row width, head dimension, grouping, input scale, with and without empty rows.
SPARSE: Final = (
    "topk64-s127-d64-h4", "topk256-s127-d128-h8x2-x1.5-e5", "topk2048-s127-d192x128-h4x1",
    "topk64-s128-d128-h4x1-e3", "topk256-s128-d192x128-h4-x1.5", "topk2048-s128-d64-h8x2",
    "topk64-s1000-d192x128-h8x2-x1.5", "topk256-s1000-d64-h4x1-e2", "topk2048-s1000-d128-h4-e4",
    "topk64-s4096-d64-h2-x1.5", "topk256-s4096-d192x128-h4x2-e7", "topk2048-s4096-d128-h2x1-x1.5",
)  # fmt: skip
#: The field's canonical proof shape and one case for each thing that a kernel gets wrong first; seconds on a CPU.
DENSE_SMOKE: Final = (
    "causal-s128-d64-h8", "full-s127-d64-h4x1-x1.5", "window64-s127-d64-h8x2", "varlen-s128-d64-h4-b4",
    "causal-s64x200-d64-h4x1",
)  # fmt: skip
SPARSE_SMOKE: Final = ("topk32-s128-d64-h8", "topk64-s127-d64-h8x2-x1.5-e3", "topk256-s127-d64-h4x1")


def length_of(problem: Problem) -> str:
    """The length's value on its axis: `unequal` where queries and keys differ."""
    return str(problem.queries) if problem.keys == problem.queries else "unequal"
