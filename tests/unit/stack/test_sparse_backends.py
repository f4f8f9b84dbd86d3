"""Every backend against float64, over what backends are known to get wrong; and what a selector chooses."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sparse_cases import CPU, case_of, drawn, measured
from torch import Tensor

from lanemark.records.errors import DataError, UsageError
from lanemark.records.observation import value_of
from lanemark.records.questions import AttentionCase
from lanemark.records.terms import PARITY_TOLERANCE
from lanemark.stack.sparse import backends
from lanemark.stack.sparse.backends import BACKENDS
from lanemark.stack.sparse.contract import PADDING, check_indices
from lanemark.stack.sparse.problem import Problem, draw_problem, empty_queries
from lanemark.stack.sparse.reference import dense_reference, largest_error, largest_lse_error, reference
from lanemark.stack.sparse.selector import choose, draw_indexer

CASES = [
    case_of("plain"),
    case_of("one-block", 127),
    case_of("whole-block", 128, index_set="random"),
    case_of("short", 20, topk=32),
    case_of("single", 1, topk=1),
    case_of("grouped", 300, heads=4, kv_heads=2, index_set="indexer"),
    case_of("one-key-head", 200, heads=4, kv_heads=1, index_set="random"),
    case_of("empty", 200, empty_rows=9),
    case_of("batch", 150, batch=2, empty_rows=3, index_set="indexer"),
    case_of("bf16", 200, dtype="bf16", empty_rows=2),
]
QUICK = ["gather", "sdpa_masked", "union"]


def by_hand(problem: Problem) -> Tensor:
    """Softmax over each query's own rows, one query at a time: slow, and written without any of our code."""
    out = torch.zeros(problem.q_BHSD.shape, dtype=torch.float64)
    batch, heads, queries, dim = problem.q_BHSD.shape
    group = heads // problem.k_BGSD.shape[1]
    for b in range(batch):
        for s in range(queries):
            rows = [int(row) for row in problem.indices_BSK[b, s] if row != PADDING]
            for h in range(heads) if rows else ():
                k, v = problem.k_BGSD[b, h // group, rows].double(), problem.v_BGSD[b, h // group, rows].double()
                weights = torch.softmax(k @ problem.q_BHSD[b, h, s].double() / dim**0.5, dim=0)
                out[b, h, s] = weights @ v
    return out


def test_the_reference_is_what_a_loop_gives() -> None:
    problem = drawn(case_of("small", 40, topk=6, heads=4, kv_heads=2, empty_rows=3, batch=2, head_dim=16))
    out, lse = reference(problem)
    assert float((out - by_hand(problem)).abs().max()) < 1e-13
    empty = empty_queries(case_of(sequence=40, empty_rows=3))
    assert bool((lse[:, :, empty] == torch.inf).all())


def test_the_dense_reference_attends_everything_earlier() -> None:
    problem = drawn(case_of("small", 30, topk=30))  # every earlier row is chosen
    for ours, theirs in zip(dense_reference(problem), reference(problem), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-12


@pytest.mark.parametrize("backend", QUICK)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parity_and_empty_rows(case: AttentionCase, backend: str) -> None:
    problem = drawn(case)
    out, lse = BACKENDS[backend](problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)
    expected, expected_lse = reference(problem)
    assert out.dtype == problem.q_BHSD.dtype
    assert largest_error(out, expected) <= PARITY_TOLERANCE[case.dtype]
    assert float(out[:, :, empty_queries(case)].abs().sum()) == 0.0
    if lse is not None:
        assert largest_lse_error(lse, expected_lse) < 1e-5


def test_what_computes_something_else_has_no_parity() -> None:
    """The measure has power: a dropped row, a duplicate and a scale of one per cent are all seen."""
    problem = drawn(case_of())
    expected = reference(problem)[0]

    def off(indices: Tensor, scale: float = 1.0) -> float:
        return largest_error(
            BACKENDS["gather"](problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, indices)[0] * scale, expected
        )

    dropped = problem.indices_BSK.clone()
    dropped[0, 100, 0] = PADDING
    doubled = problem.indices_BSK.clone()
    doubled[0, 100, 0] = doubled[0, 100, 1]
    assert off(problem.indices_BSK) < 1e-6
    assert min(off(dropped), off(doubled), off(problem.indices_BSK, 1.01)) > 1e-3


def test_an_output_that_is_not_finite_is_no_parity() -> None:
    expected = torch.ones(2, dtype=torch.float64)
    assert largest_error(torch.tensor([1.0, torch.nan]), expected) == float("inf")
    assert largest_error(torch.tensor([1.0, torch.inf]), expected) == float("inf")
    assert largest_lse_error(torch.tensor([1.0, 1.0]), torch.tensor([1.0, torch.inf])) == float("inf")


@pytest.mark.parametrize("kind", ["random", "local", "indexer"])
def test_index_sets_hold_to_the_contract(kind: str) -> None:
    case = case_of(index_set=kind, batch=2, empty_rows=4)
    problem = drawn(case)
    check_indices(problem.indices_BSK, batch=2, queries=400, keys=400)
    again = drawn(case)
    assert torch.equal(problem.indices_BSK, again.indices_BSK)
    assert torch.equal(problem.q_BHSD, again.q_BHSD)
    assert not torch.equal(drawn(case_of(index_set=kind, batch=2, seed=8)).indices_BSK, problem.indices_BSK)
    late = problem.indices_BSK[:, 100:]
    held = (late != PADDING).sum(dim=-1)
    assert set(held.unique().tolist()) == {0, 32}


def test_local_sets_are_nearer_than_random_ones() -> None:
    def distance(kind: str) -> float:
        indices = drawn(case_of(index_set=kind)).indices_BSK[0, 200:]
        return float((torch.arange(200, 400)[:, None] - indices).float().mean())

    assert distance("local") < 0.5 * distance("random")


def test_the_indexer_takes_the_highest_scores() -> None:
    inputs = draw_indexer(1, 50, torch.Generator().manual_seed(3))
    chosen = choose(inputs, 8)
    query = 40
    logits = (inputs.q_BSJE[0, query] @ inputs.k_BSE[0, : query + 1].T).relu()
    scores = inputs.weight_BSJ[0, query] @ logits
    assert set(chosen[0, query].tolist()) == set(scores.topk(8).indices.tolist())
    assert chosen[0, 2].tolist().count(PADDING) == 5


def test_an_index_set_from_a_file_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        draw_problem(case_of(index_set="file"), CPU)
    assert caught.value.slug == "indices-invalid"


def test_choosing_is_in_the_time_only_where_there_is_a_choice() -> None:
    timed = measured(case_of(index_set="indexer"), "gather", indexer_timed=True, repeats=2)
    assert value_of(timed["latency"])["indexer_included"] is True  # type: ignore[index]
    drawn_set = measured(case_of(index_set="random"), "gather", indexer_timed=True)
    assert drawn_set["latency"]["status"] == "unavailable"


INTERPRETED = """
import torch
from lanemark.stack.sparse.reference import largest_error, largest_lse_error, reference
from lanemark.stack.sparse.triton_kernel import triton_gather
from sparse_cases import case_of, drawn

for case in (
    case_of("padded", 24, topk=8, head_dim=16, empty_rows=3),
    case_of("grouped", 20, topk=70, heads=40, kv_heads=2, head_dim=24, batch=2),
):
    problem = drawn(case)
    out, lse = triton_gather(problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)
    expected, expected_lse = reference(problem)
    print(case.name, largest_error(out, expected) <= 1e-6, largest_lse_error(lse, expected_lse) <= 1e-5)
"""


def test_the_triton_kernel_is_exact_in_the_interpreter() -> None:
    aside = Path(sys.prefix) / "aside" / "triton"  # scripts/aside: in the environment itself torch would find it
    if not aside.is_dir() and find_spec("triton") is None:
        reason = "needs Triton, which torch's CPU wheel does not bring: run scripts/aside"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    environ = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path, str(aside)]),
    }
    words = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environ, timeout=150)
    assert done.stdout.split() == ["padded", "True", "True", "grouped", "True", "True"], done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_triton_kernel_on_a_gpu(dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    case = case_of("gpu", 1000, topk=128, heads=64, kv_heads=1, head_dim=128, dtype=dtype, empty_rows=5)
    problem = draw_problem(case, torch.device("cuda"))
    out, lse = BACKENDS["triton"](problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)
    expected, expected_lse = reference(problem)
    assert largest_error(out, expected) <= PARITY_TOLERANCE[dtype]
    assert lse is not None
    assert largest_lse_error(lse, expected_lse) < 1e-3


@pytest.mark.parametrize(
    ("installed", "environ", "dim", "dtype", "reason"),
    [
        (False, {}, 64, torch.float32, "backend_unavailable"),
        (True, {}, 64, torch.float32, "backend_unavailable"),  # inputs on a CPU, and no interpreter
        (True, {"TRITON_INTERPRET": "1"}, 64, torch.float32, None),
        (True, {"TRITON_INTERPRET": "1"}, 512, torch.float32, "head_dim_unsupported"),
        (True, {"TRITON_INTERPRET": "1"}, 64, torch.bfloat16, "dtype_unsupported"),
    ],
)
def test_the_dispatch_gives_its_reason(
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    environ: dict[str, str],
    dim: int,
    dtype: torch.dtype,
    reason: str | None,
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _name: object() if installed else None)
    taken = backends.dispatch("triton", torch.zeros(1, 1, 8, dim, dtype=dtype), environ=environ)
    assert taken.reason == reason
    assert (taken.attend is BACKENDS["gather"]) == (reason is not None)


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        backends.dispatch("fastest", torch.zeros(1, 1, 8, 8), environ={})
    assert caught.value.slug == "value-invalid"


def test_the_command_line_knows_every_backend() -> None:
    from lanemark.cli import asked_sparse

    assert tuple(BACKENDS) == asked_sparse.BACKENDS
