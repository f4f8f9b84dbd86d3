"""Closed lists: every word that records may use for a start-up and in the sparse and promotion lanes, and their limits.

Standard library only, because writers beside the ranks, the strict schema and the lane rules all read them here: one
list, three readers. A word that is not listed cannot be written, so that "some other reason" never hides a new one.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

#: `startup.state`: the kinds worth telling apart at a run's starting line (field reports). `cold`: nothing was compiled
#: before. `warm`: all was, and this run added nothing. `partly_warm`: it added something. `seeded`, `image_seed`: warm,
#: from a layer of the seed that was put in place for this run, or baked into the image. `long_lived`: warm, on a boot
#: that had run before with this very cache. `snapshot_restored`: warm, in a memory that is older than the launch.
StartupKind = Literal[
    "cold", "warm", "partly_warm", "seeded", "image_seed", "snapshot_restored", "long_lived", "not_compiled",
]  # fmt: skip
#: Start-up states in which compiled code was there before the run.
WARM_STATES: Final = frozenset({"warm", "seeded", "image_seed", "snapshot_restored", "long_lived"})
#: `startup.purpose`: what a run is good for.
Purpose = Literal["benchmark", "seeding_pass", "cold_measurement", "not_compiled"]
#: Layers of a compile-cache seed, in the order of how little they cost to ask.
LayerKind = Literal["archive", "object_storage", "image_directory", "per_file"]
LayerResult = Literal[
    "used", "incompatible", "empty", "damaged", "refused", "unreachable", "already_covered", "not_tried",
]  # fmt: skip

#: What a sparse backend computed, whatever its name says. `reroute_to_full`: dense attention ran instead.
RuntimeMode = Literal["exact_token", "block_superset", "dense_masked", "reroute_to_full"]
#: Why another backend ran than the requested one (field reports; the last three name fallbacks that say nothing).
FallbackReason = Literal[
    "indexer_returned_none", "seq_le_topk", "threshold_env", "index_cache_missing", "topk_alignment",
    "arch_unsupported", "head_dim_unsupported", "dtype_unsupported", "backend_unavailable",
    "kernel_option_ignored", "math_path_taken", "silent",
]  # fmt: skip
#: Where the names came from: operators of the framework, or kernels on the device. Only kernels confirm a dispatch.
ObservationLevel = Literal["op", "kernel"]
#: `ambiguous`: names were seen and fit more than one backend. `unobserved`: no name was seen that says anything.
ObservationState = Literal["observed", "unobserved", "ambiguous"]
#: What the output did when key and value rows that nobody selected were poisoned with NaN.
CanaryVerdict = Literal["bit_identical", "nan_inside_blocks", "nan_everywhere", "changed_without_nan"]
IndexSet = Literal["random", "local", "indexer", "file"]
Lifecycle = Literal["blocking", "detached"]
SparseDtype = Literal["fp32", "bf16"]
PromotionDtype = Literal["fp32", "bf16", "fp16"]
Direction = Literal["forward", "backward"]

#: Which runtime modes each canary verdict allows. A canary that changed without NaN allows none: something else broke.
CANARY_ALLOWS: Final[dict[str, tuple[str, ...]]] = {
    "bit_identical": ("exact_token",),
    "nan_inside_blocks": ("block_superset",),
    "nan_everywhere": ("dense_masked", "reroute_to_full"),
    "changed_without_nan": (),
}
#: Largest relative error against float64 that may be called parity, by dtype (measured: 1.5e-7 to 3.6e-7 in fp32 and
#: 1.6e-3 to 3.9e-3 in bf16 over all backends).
PARITY_TOLERANCE: Final[dict[str, float]] = {"fp32": 1e-6, "bf16": 5e-3}

#: How much a piece of evidence proves, weakest first. Only `execute` counts towards readiness.
ProofClass = Literal["planner", "observational", "validation", "execute"]
PROOF_CLASSES: Final[tuple[str, ...]] = get_args(ProofClass)
#: The rungs that need evidence, lowest first.
Rung = Literal["planned", "compiled", "imported", "executed", "dispatch_confirmed", "fwd_parity", "bwd_parity"]
RUNGS: Final[tuple[str, ...]] = get_args(Rung)
#: The weakest class of proof that holds each rung: a plan, an import or a flag never holds `executed`.
RUNG_NEEDS: Final[dict[str, ProofClass]] = {
    "planned": "planner",
    "compiled": "validation",
    "imported": "observational",
    "executed": "execute",
    "dispatch_confirmed": "execute",
    "fwd_parity": "execute",
    "bwd_parity": "execute",
}
#: Where a candidate stands: a rung, past all rungs, or beside the ladder.
PromotionState = Literal[
    "planned", "compiled", "imported", "executed", "dispatch_confirmed", "fwd_parity", "bwd_parity", "ready",
    "promoted", "blocked", "rejected", "inconclusive", "shadow", "expired",
]  # fmt: skip
#: States that stand beside the ladder: none of them is ready, whatever rungs are held.
BESIDE_THE_LADDER: Final = ("blocked", "rejected", "inconclusive", "shadow", "expired")
PromotionStatus = Literal["none", "promoted", "rejected", "expired"]
#: How the reason begins of a state that a person declared and nobody observed.
DECLARED: Final = "declared: "
ParityVerdict = Literal["pass", "fail", "no_power"]

StopRuleName = Literal[
    "max_abs_difference", "nan_or_inf", "memory_growth", "slower_than_dense", "two_step_train", "loss_ratio_100_steps",
]  # fmt: skip


class StopRule(NamedTuple):
    """One reason to stop a promotion.

    Attributes:
        limit: the largest value that does not stop it.
        must_be_looked_at: whether readiness needs it observed; the others stop only what is seen to break them.
    """

    limit: float
    must_be_looked_at: bool


#: The stop rules, with the field's limits: difference from the reference, count of NaN or infinity, memory over the
#: dense reference, time over the dense reference, failed steps of a two-step training, loss ratio after 100 steps.
STOP_RULES: Final[dict[str, StopRule]] = {
    "max_abs_difference": StopRule(0.01, must_be_looked_at=True),
    "nan_or_inf": StopRule(0.0, must_be_looked_at=True),
    "memory_growth": StopRule(0.05, must_be_looked_at=False),
    "slower_than_dense": StopRule(0.10, must_be_looked_at=False),
    "two_step_train": StopRule(0.0, must_be_looked_at=False),
    "loss_ratio_100_steps": StopRule(1.05, must_be_looked_at=False),
}

#: Parity limits (calibrated with planted faults: 0 of 64 correct kernels failed): Frobenius error over the reference's
#: norm, and the largest error of one row, each against the dense path's own error in the tested dtype.
FRO_FACTOR: Final = 1.25
FRO_CEILING: Final = 5e-3
ROW_FACTOR: Final = 2.0
ROW_SLACK: Final = 1e-3
GRADIENT_FRO_FACTOR: Final = 2.0
GRADIENT_FRO_CEILING: Final = 1.5e-2
#: Below this nobody looks: in float32 the dense path's own error is a matter of the order of sums, and a correct
#: backward had 2.3 times as much (docs/adr/0029). Planted faults and narrower arithmetic lie a hundred times higher.
FRO_FLOOR: Final = 1e-5
#: Largest error of a log-sum-exp, absolute: scores are accumulated in float32 by every path (docs/adr/0029).
LSE_LIMIT: Final = 1e-3


def fro_limit(direction: str, dense_fro: float) -> float:
    """The largest Frobenius error that is parity, dimensionless, given the dense path's own error."""
    factor, ceiling = (
        (GRADIENT_FRO_FACTOR, GRADIENT_FRO_CEILING) if direction == "backward" else (FRO_FACTOR, FRO_CEILING)
    )
    return min(max(factor * dense_fro, FRO_FLOOR), ceiling)


def row_limit(dense_row: float) -> float:
    """The largest error of one row that is parity, dimensionless, given the dense path's own."""
    return ROW_FACTOR * dense_row + ROW_SLACK
