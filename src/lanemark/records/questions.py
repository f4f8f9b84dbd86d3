"""What the sparse and promotion lanes ask, beside the part of a case that all lanes share.

Frozen and plain, like `Case`: `schema_sparse` and `schema_promotion` hold their JSON to the record's contract, and a
case of the training lane carries neither. A field is named here exactly as the record names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lanemark.records.terms import Direction, IndexSet, SparseDtype


@dataclass(frozen=True)
class AttentionCase:
    """One attention problem with its index set.

    Attributes:
        name: unique in its case set.
        batch: sequences, B.
        sequence: query and key positions, S.
        topk: indices that a query may hold, -1 padded.
        heads: query heads, H.
        kv_heads: key and value heads; `heads` is a multiple of it.
        head_dim: elements of one head, D.
        dtype: element type of queries, keys and values.
        index_set: how indices are made.
        empty_rows: queries that hold no index at all.
        seed: of inputs and of drawn indices.
    """

    name: str
    batch: int
    sequence: int
    topk: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: SparseDtype
    index_set: IndexSet
    empty_rows: int
    seed: int


@dataclass(frozen=True)
class SparseAsked:
    """The sparse lane's own question.

    Attributes:
        backends: asked for, each over every case.
        cases: the case set.
        warmup: leading calls that are never reported.
        repeats: calls that are timed.
        indexer_timed: whether choosing the indices is to be in the time.
    """

    backends: tuple[str, ...]
    cases: tuple[AttentionCase, ...]
    warmup: int
    repeats: int
    indexer_timed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {**asdict(self), "backends": list(self.backends), "cases": [asdict(case) for case in self.cases]}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> SparseAsked:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        cases = tuple(AttentionCase(**_known(AttentionCase, case)) for case in doc["cases"])
        return cls(**{**_known(cls, doc), "backends": tuple(doc["backends"]), "cases": cases})


@dataclass(frozen=True)
class PromotionAsked:
    """The promotion lane's own question.

    Attributes:
        mode: the family of the candidate.
        candidate: a known candidate, or a user's `module:function`.
        direction: `forward`, or `backward`, which includes forward.
        matrix: name and version of the parity matrix.
        cases: names of the matrix's cases that are asked for.
    """

    mode: Literal["dense_attention", "sparse_validation"]
    candidate: str
    direction: Direction
    matrix: str
    cases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {**asdict(self), "cases": list(self.cases)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> PromotionAsked:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        return cls(**{**_known(cls, doc), "cases": tuple(doc["cases"])})


def _known(kind: type[Any], doc: Mapping[str, Any]) -> dict[str, Any]:
    """The document, if it has nothing that the kind does not. Raises ValueError or TypeError."""
    if not isinstance(doc, Mapping):
        raise TypeError(f"{kind.__name__} is an object")
    unknown = set(doc) - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no {min(unknown)!r}")
    return dict(doc)
