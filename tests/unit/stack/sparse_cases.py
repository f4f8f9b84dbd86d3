"""Small attention problems for tests of the sparse lane."""

from __future__ import annotations

from typing import Any

import torch

from lanemark.lanes.sparse_record import result
from lanemark.records.questions import AttentionCase, SparseAsked
from lanemark.stack.sparse.bench import expect, measure
from lanemark.stack.sparse.problem import Problem, draw_problem

CPU = torch.device("cpu")


def case_of(name: str = "case", sequence: int = 400, topk: int = 32, **changes: Any) -> AttentionCase:
    plain: dict[str, Any] = {
        "batch": 1, "heads": 2, "kv_heads": 2, "head_dim": 32, "dtype": "fp32", "index_set": "local", "empty_rows": 0,
        "seed": 7,
    }  # fmt: skip
    return AttentionCase(**{"name": name, "sequence": sequence, "topk": topk, **plain, **changes})


def drawn(case: AttentionCase) -> Problem:
    return draw_problem(case, CPU)


def measured(case: AttentionCase, backend: str, environ: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    """One backend over one case, as the record has it."""
    return result(case, backend, raw(case, backend, environ, **asked))


def raw(case: AttentionCase, backend: str, environ: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    """One backend over one case, as the worker saw it."""
    problem = drawn(case)
    question = SparseAsked((backend,), (case,), **{"warmup": 0, "repeats": 1, "indexer_timed": False, **asked})
    expected = expect(problem, dense=backend == "dense")
    return measure(case, backend, problem, expected, question, environ=environ or {})
