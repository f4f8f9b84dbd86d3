"""What really ran: each backend is known by its names and its canary, and each silent fallback is caught and named.

The fallbacks are provoked for real: torch is made to take its unfused path, a backend is replaced by one that cheats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sparse_cases import case_of, drawn, measured, raw
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lanemark.lanes.sparse_record import result
from lanemark.records.observation import value_of
from lanemark.records.questions import AttentionCase
from lanemark.stack.sparse import backends
from lanemark.stack.sparse.sdpa import bitmap
from lanemark.stack.sparse.watch import poisons

CASE = case_of()
Identity = dict[str, Any]


def told(seen: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The backend that ran, its mode and the reason of a fallback; None for what was not seen or does not exist."""
    who = seen["backend_identity"]
    return value_of(who["actual"]), value_of(who["runtime_mode"]), value_of(who["fallback_reason"])


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, backends.Attend], None]:
    def replace(name: str, attend: backends.Attend) -> None:
        monkeypatch.setitem(backends.BACKENDS, name, attend)

    return replace


@pytest.mark.parametrize(
    ("backend", "mode"),
    [("gather", "exact_token"), ("union", "block_superset"), ("sdpa_masked", "dense_masked"), ("dense", None)],
)
def test_a_backend_is_known_by_its_names_and_its_canary(backend: str, mode: str | None) -> None:
    seen = measured(CASE, backend)
    assert told(seen) == (backend, mode, None)
    assert seen["backend_identity"]["fallback_reason"]["status"] == "absent"
    assert seen["backend_identity"]["names"]["state"] == "observed"
    assert value_of(seen["no_grad"]) is True
    assert value_of(seen["parity"])["passed"] is True  # type: ignore[index]
    assert (value_of(seen["work"]) is None) == (backend == "dense")


def test_the_math_path_of_dropout_is_named(replaced: Callable[..., None]) -> None:
    def dropping(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, None]:
        return scaled_dot_product_attention(q, k, v, bitmap(indices, k.shape[2])[:, None], dropout_p=0.1), None

    replaced("sdpa_masked", dropping)
    seen = measured(CASE, "sdpa_masked")
    assert told(seen)[::2] == ("sdpa_masked_math", "math_path_taken")
    assert value_of(seen["parity"])["passed"] is False  # type: ignore[index]


def test_the_math_path_of_unequal_head_dimensions_is_named(replaced: Callable[..., None]) -> None:
    def widened(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, None]:
        out = scaled_dot_product_attention(q, k, torch.cat([v, v], -1), bitmap(indices, k.shape[2])[:, None])
        return out[..., : v.shape[-1]].where((indices >= 0).any(-1)[:, None, :, None], 0.0), None

    replaced("sdpa_masked", widened)
    seen = measured(CASE, "sdpa_masked")
    assert told(seen) == ("sdpa_masked_math", "dense_masked", "math_path_taken")
    assert value_of(seen["parity"])["passed"] is True  # type: ignore[index]


def test_the_math_path_of_a_mask_with_grad_is_named(replaced: Callable[..., None]) -> None:
    def learnt(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, None]:
        mask = torch.zeros(q.shape[2], k.shape[2]).masked_fill(~bitmap(indices, k.shape[2])[0], -torch.inf)
        with torch.enable_grad():
            return scaled_dot_product_attention(q, k, v, mask.requires_grad_()), None

    replaced("sdpa_masked", learnt)
    seen = measured(CASE, "sdpa_masked")
    assert told(seen)[::2] == ("sdpa_masked_math", "math_path_taken")
    assert value_of(seen["no_grad"]) is False


def test_dense_attention_for_a_short_sequence_is_named(replaced: Callable[..., None]) -> None:
    def short(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        rerouted = q.shape[2] <= indices.shape[-1]
        return (backends.dense if rerouted else backends.gather)(q, k, v, indices)

    replaced("gather", short)
    case = case_of("short", 24, topk=32)
    seen = measured(case, "gather")
    assert told(seen) == ("dense", "reroute_to_full", "seq_le_topk")
    assert value_of(seen["parity"])["passed"] is True, "it is equivalent there, and it is another backend"  # type: ignore[index]
    assert told(measured(case_of("long", 48, topk=32), "gather"))[0] == "gather"


def test_a_threshold_of_the_environment_is_named() -> None:
    seen = measured(CASE, "union", {backends.FULL_BELOW: "400"})
    assert told(seen) == ("dense", "reroute_to_full", "threshold_env")
    assert told(measured(CASE, "union", {backends.FULL_BELOW: "399"}))[0] == "union"


def test_a_backend_that_is_not_here_is_named() -> None:
    seen = measured(CASE, "triton")
    assert told(seen) == ("gather", "exact_token", "backend_unavailable")


def test_dense_attention_in_disguise_is_caught_by_the_canary(replaced: Callable[..., None]) -> None:
    """The cheat shows the very names of a gather. What it computed cannot be disguised."""

    def disguised(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, None]:
        backends.gather(q[:, :, :4], k, v, indices[:, :4])
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
        return torch.softmax(scores.masked_fill(future, -torch.inf), -1) @ v, None

    replaced("gather", disguised)
    seen = measured(CASE, "gather")
    who = seen["backend_identity"]
    assert told(seen) == (None, "dense_masked", "silent") or told(seen) == (None, "reroute_to_full", "silent")
    assert who["names"]["names"] == ["aten::index_select", "aten::bmm", "aten::_softmax"]
    assert "the canary says" in who["actual"]["reason"]
    assert value_of(who["canary"])["verdict"] == "nan_everywhere"  # type: ignore[index]
    assert value_of(seen["parity"])["passed"] is False  # type: ignore[index]


def test_fused_dense_attention_in_place_of_a_gather_is_named_by_both(replaced: Callable[..., None]) -> None:
    replaced("gather", backends.dense)
    assert told(measured(CASE, "gather")) == ("dense", "reroute_to_full", "silent")


def test_without_a_profiler_nothing_is_called_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, **_: object) -> None:
            raise RuntimeError("no profiler is available here")

    monkeypatch.setattr("torch.profiler.profile", Broken)
    seen = measured(CASE, "gather")
    who = seen["backend_identity"]
    assert who["actual"]["status"] == "unavailable"
    assert "no profiler is available here" in who["actual"]["reason"]
    assert who["names"] == {"level": "op", "state": "unobserved", "names": [], "source": who["names"]["source"]}
    assert who["fallback_reason"]["status"] == "unavailable"
    assert value_of(who["runtime_mode"]) == "exact_token", "the canary needs no profiler"


def test_a_backend_that_raises_is_a_result_and_ends_nothing(replaced: Callable[..., None]) -> None:
    def broken(*_: Tensor) -> tuple[Tensor, None]:
        raise ValueError("no kernel image is available")

    replaced("gather", broken)
    seen = measured(CASE, "gather")
    assert told(seen) == (None, None, None)
    for part in (seen["parity"], seen["latency"], seen["backend_identity"]["actual"]):
        assert part["status"] == "unavailable"
        assert "no kernel image is available" in part["reason"]


def test_output_that_changes_by_itself_has_no_mode(replaced: Callable[..., None]) -> None:
    def noisy(q: Tensor, k: Tensor, v: Tensor, indices: Tensor) -> tuple[Tensor, None]:
        out = backends.gather(q, k, v, indices)[0]
        return out + 1e-9 * torch.rand_like(out), None

    replaced("gather", noisy)
    who = measured(CASE, "gather")["backend_identity"]
    assert value_of(who["canary"])["verdict"] == "changed_without_nan"  # type: ignore[index]
    assert who["runtime_mode"]["status"] == "unavailable"


@pytest.mark.parametrize("case", [CASE, case_of("random", 400, index_set="random"), case_of("tiny", 24, topk=32)])
def test_what_is_poisoned_is_what_a_query_did_not_choose(case: AttentionCase) -> None:
    found = {poison.kind: poison for poison in poisons(drawn(case).indices_BSK)}
    assert set(found) == {"scattered", "neighbours"} | ({"stretch"} if case.sequence >= 384 else set())
    for kind, poison in found.items():
        chosen = torch.isin(poison.indices_BSK, poison.rows_T.nonzero()[:, 0].to(torch.int32))
        assert bool(chosen.any()) == (kind == "neighbours")
        assert not bool(chosen.any(-1).all()), "some query is left to look at"


def test_a_workers_word_of_another_shape_is_no_result() -> None:
    seen = raw(CASE, "gather")
    assert told(result(CASE, "gather", seen))[0] == "gather"
    with pytest.raises((KeyError, TypeError, ValueError)):
        result(CASE, "gather", {**seen, "telemetry": {"profile": "gather", "canary": seen["telemetry"]["canary"]}})
    claimed = {**seen, "telemetry": {**seen["telemetry"], "actual": "triton"}}
    assert told(result(CASE, "gather", claimed))[0] == "gather", "a worker cannot simply say so"


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    """Both compiled backends over one case: the expensive part of this module, done once."""
    return {name: measured(CASE, name) for name in ("flex", "flex_flash")}


#: torch's compiler itself imports what torch has deprecated.
DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@DEPRECATED
@pytest.mark.slow
def test_compiled_flex_reads_whole_blocks(compiled: dict[str, dict[str, Any]]) -> None:
    seen = compiled["flex"]
    assert told(seen) == ("flex", "block_superset", None)
    assert value_of(seen["parity"])["passed"] is True  # type: ignore[index]


@DEPRECATED
@pytest.mark.slow
def test_an_ignored_kernel_option_is_named(compiled: dict[str, dict[str, Any]]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU may honour the option")
    assert told(compiled["flex_flash"]) == ("flex", "block_superset", "kernel_option_ignored")
