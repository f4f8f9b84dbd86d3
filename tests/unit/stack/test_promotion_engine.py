"""The parity engine on real kernels: every broken one is rejected for the right reason, every right one passes.

Seeds are fresh, as in use. The whole campaign (50 seeds a broken kernel, 200 over right ones) is a benchmark; here each
has a few draws.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import kernel_zoo
import promotion as campaign

from lanemark.lanes.promotion_claims import DENSE_CANDIDATES, Applicability
from lanemark.lanes.promotion_matrix import problem_of
from lanemark.lanes.promotion_parity import entry, judge
from lanemark.stack.promotion.compiled import compiled_proof, cross_compile_fa4
from lanemark.stack.promotion.distance import distance, lse_error
from lanemark.stack.promotion.inputs import draw, fresh_seed
from lanemark.stack.promotion.kernels import open_kernel
from lanemark.stack.promotion.parity import ViolationError, call, examine_case, looks_like
from lanemark.stack.promotion.poison import is_poisoned, poisoned_memory
from lanemark.stack.promotion.reference import dense, exact, mutants, without_last
from lanemark.stack.promotion.witness import is_replaced, watch

DRAWS = 2
FEW = {"forward": 3, "backward": 2}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_zoo_has_every_fault_that_the_lane_is_for():
    assert set(kernel_zoo.BROKEN) == {
        "zero_output", "one_zeroed_row", "scale_up", "scale_down", "future_token", "dropped_token", "reroute_to_full",
        "wrong_kv_heads", "stale_lse", "nan_in_padding", "nondeterministic", "wrong_dtype", "silently_dense", "forged_name",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(kernel_zoo.BROKEN))
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_broken_kernel_is_rejected_for_what_is_wrong_with_it(name, dtype):
    reasons, case = kernel_zoo.BROKEN[name]
    for _ in range(DRAWS):
        stands = campaign.tried(f"kernel_zoo:{name}", case, dtype=dtype)
        assert stands.state == "rejected"
        assert stands.rejection.reason in reasons, stands.reason


@pytest.mark.parametrize("name", [*(f"kernel_zoo:{name}" for name in kernel_zoo.CORRECT), "sdpa_flash", "sdpa_math"])
def test_a_right_kernel_passes_with_power_and_its_gradients_too(name):
    cases = [kernel_zoo.SPARSE_CASE] if ":sparse" in name else [kernel_zoo.GROUPED_CASE, kernel_zoo.VARLEN_CASE]
    for case in cases:
        for dtype in ("bf16", "fp32"):
            stands = campaign.tried(name, case, direction="backward", dtype=dtype, repeats=FEW)
            assert [made["verdict"] for made in stands.parity] == ["pass", "pass"], stands.reason
            assert stands.rejection is None
            # On a CPU there are operators and no kernels: right, and still not ready.
            assert (stands.state, stands.reason.partition(":")[0]) == ("inconclusive", "unobserved")


@pytest.mark.parametrize(
    ("name", "mode"), [("gather", "exact_token"), ("union", "block_superset"), ("sdpa_masked", "dense_masked")]
)
def test_the_sparse_lanes_backends_are_candidates(name, mode):
    stands = campaign.tried(name, kernel_zoo.SPARSE_CASE, repeats=FEW)
    assert stands.rejection is None, stands.reason
    assert stands.identity.value["runtime_mode"]["value"] == mode
    assert stands.identity.value["actual"]["value"] == name
    assert [made["verdict"] for made in stands.parity] == ["pass"]


def test_the_reference_agrees_with_an_independent_computation():
    """torch's own attention and autograd in float64, on a case with grouped heads and equal lengths."""
    inputs = draw(problem_of("causal-s24-d16-h4x2"), "fp32", fresh_seed())
    q, k, v = (x.double().requires_grad_() for x in (inputs.q_BHQD, inputs.k_BGKD, inputs.v_BGKV))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=inputs.scale)
    grads = torch.autograd.grad(out, (q, k, v), inputs.grad_BHQV.double())
    mine = exact(inputs, backward=True)
    assert torch.allclose(mine.out_BHQV, out, atol=1e-12)
    for name, grad in zip(("dq", "dk", "dv"), grads, strict=True):
        assert torch.allclose(mine.gradients()[name], grad, atol=1e-12), name
    scores = (inputs.q_BHQD.double() @ inputs.k_BGKD.double().repeat_interleave(2, 1).transpose(-1, -2)) * inputs.scale
    lse = scores.masked_fill(~inputs.visible_BQK[:, None], float("-inf")).logsumexp(-1)
    assert torch.allclose(mine.lse_BHQ, lse, atol=1e-12)


def test_queries_without_a_key_give_nothing_and_an_infinite_lse():
    inputs = draw(problem_of("varlen-s16-d8-h2-b3"), "fp32", fresh_seed())
    empty = ~inputs.visible_BQK.any(-1)
    assert empty.any(), "one of the sequences has length 0"
    answer = exact(inputs, backward=True)
    rows = empty[:, None].expand(-1, 2, -1)
    assert (answer.out_BHQV[rows] == 0).all()
    assert answer.lse_BHQ[rows].isposinf().all()
    assert (dense(inputs, backward=False).out_BHQV[rows] == 0).all()
    assert torch.isfinite(answer.dq_BHQD).all()


def test_a_draw_is_its_seed():
    problem = problem_of("topk8-s32-d8-h2-e2")
    one, same, other = (draw(problem, "bf16", seed) for seed in (5, 5, 6))
    assert torch.equal(one.q_BHQD, same.q_BHQD)
    assert torch.equal(one.indices_BQT, same.indices_BQT)
    assert not torch.equal(one.q_BHQD, other.q_BHQD)
    assert fresh_seed() != fresh_seed()


@pytest.mark.parametrize("name", ["topk8-s32-d8-h2-e2", "topk64-s32-d8-h2", "topk16-s33-d8-h1-b2-e1"])
def test_index_rows_keep_their_contract(name):
    from lanemark.stack.sparse.contract import check_indices

    problem = problem_of(name)
    inputs = draw(problem, "fp32", fresh_seed())
    check_indices(inputs.indices_BQT, batch=problem.batch, queries=problem.queries, keys=problem.keys)
    held = (inputs.indices_BQT >= 0).sum(-1)
    assert (held == inputs.visible_BQK.sum(-1)).all()
    assert ((held == 0).sum(-1) == problem.empty_rows).all()
    past = torch.arange(1, problem.queries + 1)
    assert (held[:, 1:] < past[1:]).all(), "a row that holds everything could not tell a reroute"


def test_mutants_change_what_their_names_say():
    inputs = draw(problem_of("causal-s32-d16-h2"), "fp32", fresh_seed())
    right = exact(inputs, backward=False)
    found = {name: distance(answer.out_BHQV, right.out_BHQV).fro for name, answer in mutants(inputs, backward=False)}
    assert set(found) == {"scale_1_01", "drop_one_token", "reroute_to_full"}
    assert 1e-3 < found["scale_1_01"] < 0.05 < found["drop_one_token"]
    full = draw(problem_of("full-s32-d16-h2"), "fp32", fresh_seed())
    assert [name for name, _ in mutants(full, backward=False)] == ["scale_1_01", "drop_one_token"]
    fewer = without_last(inputs.visible_BQK)
    assert (inputs.visible_BQK.sum(-1) - fewer.sum(-1)).tolist() == [[0, *[1] * 31]]


def test_a_case_whose_inputs_say_little_has_no_power():
    """At a hundredth of the usual scale every key weighs alike, and a wrong scale changes nothing that can be seen."""
    kernel = open_kernel("sdpa_math")
    doc = examine_case(kernel.attend, problem_of("causal-s48-d64-h2-x0.01"), "bf16", seed=fresh_seed(), repeats=FEW)
    made = entry(doc, doc["forward"])
    assert made["verdict"] == "no_power"
    assert "scale_1_01 survives" in judge(made).words


def test_what_comes_back_is_held_to_the_signature():
    inputs = draw(problem_of("causal-s8-d8-h2"), "fp32", fresh_seed())
    q = inputs.q_BHQD
    wrong = [
        ("raised", lambda i: 1 / 0),
        ("shape_wrong", lambda i: q[..., :4]),
        ("shape_wrong", lambda i: "tensor"),
        ("dtype_wrong", lambda i: q.double()),
        ("device_wrong", lambda i: q.to("meta")),
        ("lse_shape_wrong", lambda i: (q, q)),
    ]
    for slug, attend in wrong:
        with pytest.raises(ViolationError) as caught:
            call(attend, inputs, backward=False)
        assert caught.value.slug == slug
    with pytest.raises(ViolationError) as caught:
        call(lambda i: i.q_BHQD.detach(), inputs, backward=True)
    assert caught.value.slug == "gradient_missing"


def test_a_kernel_that_writes_into_its_inputs_is_found_out():
    def attend(inputs):
        out = exact(inputs, backward=False).out_BHQV.float()
        inputs.k_BGKD.mul_(2)
        return out

    doc = examine_case(attend, problem_of("causal-s8-d8-h2"), "fp32", seed=fresh_seed(), repeats=FEW)
    assert doc["violation"]["reason"] == "inputs_changed"


def test_memory_is_poisoned_inside_and_as_it_was_outside():
    like = torch.zeros(64)
    with poisoned_memory():
        assert is_poisoned(like)
        assert torch.empty_like(like).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_row_that_nobody_wrote_shows_although_right_values_lay_there():
    """The buffer is kept from a right call, so that only poisoned memory tells."""
    kernel = open_kernel("sdpa_math")

    def attend(inputs):
        right = kernel.attend(inputs)
        out = torch.empty_like(right)
        out[:, :, 1:] = right[:, :, 1:]
        return out

    doc = examine_case(attend, problem_of("causal-s8-d8-h2"), "fp32", seed=fresh_seed(), repeats=FEW)
    assert doc["forward"]["masks_equal"] is False
    assert judge(entry(doc, doc["forward"]), doc["forward"]).reason == "nonfinite_output"


def test_an_operator_that_was_replaced_from_python_does_not_count():
    operator = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert not is_replaced(operator, "cpu")
    assert not is_replaced("aten::no_such_operator", "cpu")
    library = torch.library.Library("aten", "IMPL")

    def mine(q, k, v, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None):
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(hidden, float("-inf"))
        return torch.softmax(scores, -1) @ v, scores.logsumexp(-1)

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that an implementation is replaced
        library.impl("_scaled_dot_product_flash_attention_for_cpu", mine, "CPU")
    try:
        assert is_replaced(operator, "cpu")
        inputs = draw(problem_of("causal-s8-d8-h2"), "fp32", fresh_seed())
        kernel = open_kernel("sdpa_flash")
        seen = watch(lambda: kernel.attend(inputs), kernel.claims, "sdpa_flash", DENSE_CANDIDATES, cuda=False)
        assert seen.forged == (operator,)
        assert seen.names == ()
    finally:
        library._destroy()
    assert not is_replaced(operator, "cpu")


def test_the_math_path_under_another_name_is_seen():
    inputs = draw(problem_of("causal-s8-d8-h2"), "fp32", fresh_seed())
    math = open_kernel("sdpa_math")
    flash = DENSE_CANDIDATES["sdpa_flash"]
    seen = watch(lambda: math.attend(inputs), flash, "sdpa_flash", DENSE_CANDIDATES, cuda=False)
    assert seen.candidates == ("sdpa_math",)
    assert seen.level == "op"


def test_distances_worked_out_by_hand():
    reference = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], dtype=torch.float64)
    off = reference.clone()
    off[0, 0] += 0.5
    assert distance(off, reference) == (pytest.approx(0.5 / 125**0.5), pytest.approx(0.1), True)
    off[1, 0] = 0.25
    assert distance(off, reference).row == pytest.approx(0.25), "a row that should be 0 counts by its size"
    off[2, 1] = float("nan")
    assert distance(off, reference).masks_equal is False
    assert lse_error(torch.tensor([1.0, float("-inf")]), torch.tensor([1.5, float("inf")]).double()) == pytest.approx(
        0.5
    )
    assert lse_error(torch.tensor([float("inf"), 1.0]), torch.tensor([1.5, float("inf")]).double()) is None


def test_a_fault_that_is_no_known_one_is_not_named():
    inputs = draw(problem_of("causal-s16-d16-h2"), "fp32", fresh_seed())
    right = exact(inputs, backward=False)
    theirs = distance(dense(inputs, backward=False).out_BHQV, right.out_BHQV)
    noisy = type(right)(right.out_BHQV + torch.randn_like(right.out_BHQV))
    assert looks_like(inputs, noisy, right, theirs) is None


def test_opening_says_why_there_is_nothing_to_call(tmp_path, monkeypatch):
    (tmp_path / "undeclared_kernel.py").write_text("def attend(q, k, v, **words):\n    return q\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = open_kernel("undeclared_kernel:attend")
    assert isinstance(found, Applicability)
    assert found.reason == "declaration_missing"
    with pytest.raises(ModuleNotFoundError):
        open_kernel("no_such_module_anywhere:attend")
    with pytest.raises(AttributeError):
        open_kernel("undeclared_kernel:other")


def test_what_stands_for_compiled_code():
    cpu = torch.device("cpu")
    flash, zoo = open_kernel("sdpa_flash"), open_kernel("kernel_zoo:flash_like")
    assert compiled_proof("sdpa_flash", flash.compiled, device=cpu, call=None)["operator"].endswith("_for_cpu")
    assert compiled_proof("kernel_zoo:flash_like", zoo.compiled, device=cpu, call=None)["done"]
    for name, compiled in (("sdpa_cudnn", "aten::_scaled_dot_product_cudnn_attention"), ("fa2", "no-such-package")):
        assert not compiled_proof(name, compiled, device=cpu, call=None)["done"]
    assert not compiled_proof("flex", None, device=cpu, call=None)["done"]


@pytest.mark.slow
def test_fa4_is_cross_compiled_without_a_device():
    """The package itself, beside the environment (scripts/aside): in it, torch would find Triton."""
    aside = Path(sys.prefix) / "aside"
    places = [aside / "fa4" / "nvidia_cutlass_dsl" / "dsl_packages", aside / "fa4", aside / "triton"]
    if not all(place.is_dir() for place in places):
        reason = "needs flash-attn-4 with nvidia-cutlass-dsl and Triton: run scripts/aside"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    path = os.pathsep.join(map(str, places))
    made = cross_compile_fa4({**os.environ, "PYTHONPATH": path})
    assert made["done"], made["words"]
    assert [each["name"] for each in made["kernels"]] == ["forward", "backward"]
    assert {tuple(each["shape"]) for each in made["kernels"]} == {(1, 128, 8, 64)}
    assert made["words"].startswith("cross-compiled for sm_90a without a device: forward in ")


def test_fa4_that_is_not_there_is_not_compiled():
    made = cross_compile_fa4({**os.environ, "PYTHONPATH": ""})
    assert not made["done"]
    assert made["words"].startswith("cross-compiling failed: ")
