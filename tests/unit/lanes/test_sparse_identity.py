"""What follows from names and a canary, without torch: one witness alone, both together, and against each other."""

from __future__ import annotations

from typing import Any

import pytest

from lanemark.lanes.identity_rules import (
    actual_problem,
    canary_problem,
    fallback_problem,
    mode_problem,
    names_problem,
)
from lanemark.lanes.sparse_identity import CANARY, PROFILER, SIGNATURES, identity, is_fallback, telling_names
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.questions import AttentionCase

CASE = AttentionCase("case", 1, 512, 64, 4, 4, 64, "bf16", "local", 0, 1)
FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"
MATH = "aten::_scaled_dot_product_attention_math"
NAMES = {
    "gather": ["aten::index_select", "aten::bmm", "aten::_softmax"],
    "union": [FUSED, "aten::_unique2", "aten::index_select"],
    "sdpa_masked": [FUSED, "aten::scatter_"],
    "sdpa_masked_math": [MATH, "aten::bmm", "aten::_softmax", "aten::scatter_"],
    "dense": [FUSED],
    "dense_math": [MATH, "aten::bmm", "aten::_softmax"],
    "flex": ["CompiledFxGraph f75f4yo4hdvooobg: cpp_fused_flex_attention_0", "aten::scatter_"],
    "triton": ["gather_attention_kernel"],
}
#: Names as GPUs show them (field notes; torch's own templates).
ON_CUDA = {
    "flex": ["triton_tem_fused_flex_attention_0"],
    "flex_flash": ["kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object"],
    "triton": ["gather_attention_kernel"],
}


def profiled(names: list[str] | None, kind: str = "op") -> dict[str, Any]:
    if names is None:
        return unavailable(PROFILER, "no profiler is here").to_json()
    return observed([{"name": name, "kind": kind} for name in names], PROFILER).to_json()


def poisoned(scattered: int, stretch: int = 0, neighbours: int = 0, changed: int = 0) -> dict[str, Any]:
    rows = {"scattered": scattered, "stretch": stretch, "neighbours": neighbours}
    passes = [
        {"kind": kind, "poisoned_rows": 9, "looked_rows": 500, "nan_rows": nan, "changed_rows": changed}
        for kind, nan in rows.items()
    ]
    return observed(passes, CANARY).to_json()


CLEAN, BLOCKS, EVERYWHERE = poisoned(0), poisoned(0, 0, 80), poisoned(500, 500, 400)


def concluded(
    requested: str, names: list[str] | None, canary: dict[str, Any], *, passed: bool | None = True, **more: Any
) -> dict[str, Any]:
    telemetry = {"profile": profiled(names), "canary": canary, **more}
    part = identity(CASE, requested, telemetry, parity_passed=passed)
    for rule in (actual_problem, names_problem, canary_problem, mode_problem, fallback_problem):
        assert rule(part) is None, "whatever is concluded keeps the record's own rules"
    return part


def told(part: dict[str, Any]) -> tuple[Any, Any, Any]:
    return tuple(value_of(part[name]) for name in ("actual", "runtime_mode", "fallback_reason"))  # type: ignore[return-value]


@pytest.mark.parametrize("backend", NAMES)
def test_names_fit_one_backend(backend: str) -> None:
    canary = {"gather": CLEAN, "triton": CLEAN, "union": BLOCKS, "flex": BLOCKS}.get(backend, EVERYWHERE)
    part = concluded(backend, NAMES[backend], canary)
    assert told(part)[0] == backend
    assert part["names"]["state"] == "observed"
    assert part["names"]["level"] == "op"


@pytest.mark.parametrize("backend", ON_CUDA)
def test_kernels_confirm_a_dispatch(backend: str) -> None:
    telemetry = {"profile": profiled(ON_CUDA[backend], "kernel"), "canary": CLEAN}
    part = identity(CASE, backend, telemetry, parity_passed=True)
    assert told(part)[0] == backend
    assert part["names"]["level"] == "kernel"


@pytest.mark.parametrize("names", [[], ["aten::add"], ["aten::bmm", "aten::_softmax"], ["CompiledFxGraph f3a9"]])
def test_names_that_say_nothing_stay_unobserved(names: list[str]) -> None:
    part = concluded("flex", names, BLOCKS)
    assert part["names"]["state"] == "unobserved"
    assert part["actual"]["status"] == "unavailable"
    assert part["fallback_reason"]["status"] == "unavailable"
    assert told(part)[1] == "block_superset"


def test_names_of_two_backends_are_no_name() -> None:
    part = concluded("triton", [*NAMES["triton"], *NAMES["gather"]], CLEAN)
    assert told(part)[0] == "triton", "the kernel excludes what stands around it"
    both = concluded("flex", [*NAMES["flex"], *NAMES["triton"]], CLEAN)
    assert both["names"]["state"] == "unobserved"
    assert both["actual"]["status"] == "unavailable"


def test_what_was_asked_for_is_never_what_ran() -> None:
    for requested in ("gather", "union", "flex", "made_up"):
        assert told(concluded(requested, NAMES["sdpa_masked"], EVERYWHERE))[0] == "sdpa_masked"
        assert (
            concluded(requested, None, unavailable(CANARY, "no memory").to_json())["actual"]["status"] == "unavailable"
        )


@pytest.mark.parametrize(
    ("requested", "ran", "canary", "more", "reason"),
    [
        ("sdpa_masked", "sdpa_masked_math", EVERYWHERE, {}, "math_path_taken"),
        ("dense", "dense_math", absent(CANARY).to_json(), {}, "math_path_taken"),
        ("flex_flash", "flex", BLOCKS, {}, "kernel_option_ignored"),
        ("triton", "gather", CLEAN, {"rerouted": "backend_unavailable"}, "backend_unavailable"),
        ("union", "dense", EVERYWHERE, {"rerouted": "threshold_env"}, "threshold_env"),
        ("union", "dense", EVERYWHERE, {"rerouted": "because I say so"}, "silent"),
        ("union", "gather", CLEAN, {}, "silent"),
    ],
)
def test_every_fallback_has_a_reason_of_the_closed_list(
    requested: str, ran: str, canary: dict[str, Any], more: dict[str, Any], reason: str
) -> None:
    part = concluded(requested, NAMES[ran], canary, **more)
    assert told(part)[::2] == (ran, reason)
    assert is_fallback(part)


def test_a_log_alone_makes_no_fallback() -> None:
    part = concluded("gather", NAMES["gather"], CLEAN, rerouted="threshold_env")
    assert part["fallback_reason"]["status"] == "absent"
    assert not is_fallback(part)


@pytest.mark.parametrize(
    ("ran", "canary"), [("gather", EVERYWHERE), ("gather", BLOCKS), ("triton", EVERYWHERE), ("dense", CLEAN)]
)
def test_names_and_canary_that_contradict_each_other_settle_nothing(ran: str, canary: dict[str, Any]) -> None:
    part = concluded(ran if ran != "dense" else "gather", NAMES[ran], canary, passed=False)
    assert part["actual"]["status"] == "unavailable"
    assert "the canary says" in part["actual"]["reason"]


@pytest.mark.parametrize(
    ("canary", "ran", "passed", "mode"),
    [
        (CLEAN, "gather", True, "exact_token"),
        (BLOCKS, "union", True, "block_superset"),
        (poisoned(500, 0, 400), "flex", True, "block_superset"),
        (EVERYWHERE, "sdpa_masked", True, "dense_masked"),
        (EVERYWHERE, "sdpa_masked", False, "dense_masked"),
        (EVERYWHERE, "dense", True, "reroute_to_full"),
        (poisoned(0, changed=3), "union", True, None),
    ],
)
def test_the_mode_is_what_the_canary_saw(canary: dict[str, Any], ran: str, passed: bool, mode: str | None) -> None:
    assert told(concluded("union", NAMES[ran], canary, passed=passed))[1] == mode


def test_a_sequence_too_short_for_a_stretch_is_told_by_how_many_rows_were_reached() -> None:
    def short(scattered: int, neighbours: int) -> dict[str, Any]:
        both = value_of(poisoned(scattered, 0, neighbours))
        assert both is not None
        return observed([each for each in both if each["kind"] != "stretch"], CANARY).to_json()

    assert told(concluded("flex", NAMES["flex"], short(480, 400)))[1] == "dense_masked"
    assert told(concluded("union", NAMES["union"], short(0, 400)))[1] == "block_superset"


def test_a_worker_keeps_the_names_that_tell() -> None:
    events = [{"name": name, "kind": "op"} for name in ("aten::add", "aten::bmm", "aten::bmm", FUSED)]
    assert [each["name"] for each in telling_names(events)] == ["aten::bmm", FUSED]


def test_no_signature_fits_the_names_of_another() -> None:
    assert len({each.backend for each in SIGNATURES}) == len(SIGNATURES)
    for backend, names in NAMES.items():
        part = identity(CASE, "x", {"profile": profiled(names), "canary": CLEAN}, parity_passed=True)
        assert part["names"]["state"] == "observed", backend
